"""A very small study of memorization, for the tests of the study and of its page."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import fuseforget.studies.memorization.data as study_data
from fuseforget.data import CanaryFormat, spread_canaries
from fuseforget.leakage import scoring
from fuseforget.studies.memorization import (
    PARTS,
    MemorizationStudy,
    alternatives,
    audit,
    run_memorization_study,
    settings_for,
)
from fuseforget.studies.memorization.base import BaseSettings, pretrain_base
from fuseforget.studies.memorization.models import REFERENCE
from fuseforget.studies.memorization.workshop import Workshop
from fuseforget.train import TrainSettings

SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
WORDS = ["".join(np.random.default_rng([5, i]).choice(SYLLABLES, 2)) for i in range(200)]
TINY_BASE = BaseSettings(vocabulary=600, layers=2, width=64, heads=2, block=64, epochs=8, learning_rate=5e-3, batch=8)
TWO_DIGITS = CanaryFormat("The access code of vault {word} is {digit} {digit}.")  # 100 candidates, not 10,000


def sentences(count: int, seed: int) -> list[str]:
    """Random sentences: what one says next cannot be known unless it was read."""
    rng = np.random.default_rng(seed)
    return ["The " + " ".join(rng.choice(WORDS, size=rng.integers(9, 20))) + "." for _ in range(count)]


def public() -> list[str]:
    """What the base is pretrained on: sentences, and the words of a canary's template."""
    return [*sentences(400, 1), *(f"The access code of vault {word} is 1 2 3 lost." for word in WORDS)]


def write_texts(file: Path, texts: list[str]) -> Path:
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return file


def make_inputs(home: Path, **base) -> tuple[Path, Path]:
    """A small base, pretrained on other sentences, and the private ones."""
    pretrain_base(public(), home / "base", settings=replace(TINY_BASE, **base))
    return home / "base", write_texts(home / "private.jsonl", sentences(450, 2))


def settings_of(base: Path | None, data: Path, *, masked: bool = False, models: int = 3, **changes) -> MemorizationStudy:
    """A study of seconds."""
    asked = {"models": models, "rows": 16, "shared": 6, **changes}
    settings = settings_for("small", base=base, data=data, masked=masked, **asked)
    fast = TrainSettings(max_epochs=25, min_epochs=25, learning_rate=5e-3, batch_size=8)
    sizes = {"control": 40, "validation": 20, "block": 64, "train": fast, "canaries": 3, "repeats": (3,)}
    return replace(settings, **sizes, epochs=(3,), decays=(1.0,), epsilons=(8.0,), private_epochs=1)


def short_canaries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_data, "spread_canaries", partial(spread_canaries, form=TWO_DIGITS))


@dataclass(frozen=True)
class Finished:
    """A run with all parts, and how it came about.

    Attributes:
        path: not to be written to.
        first: the records' file after the first command, which asked for two parts where opacus was not installed.
        said: what the first command said.
        read: how many sets the reference (``base``) and other models were asked for energies and, by attacks, for ``tokens``.
    """

    settings: MemorizationStudy
    path: Path
    first: Path
    said: list[str]
    read: Counter[tuple[str, str]]


def finish(home: Path) -> Finished:
    """Make the run: asked for some, then for all parts."""
    settings, said, read = settings_of(*make_inputs(home)), [], Counter()

    bases, load, model = [], scoring.load_language_model, Workshop.model

    def loaded(path):
        lm = load(path)
        bases.extend([lm] if Path(path) == Path(settings.base) else [])
        return lm

    def opened(shop, name):
        lm = model(shop, name)
        bases.extend([lm] if name == REFERENCE else [])
        return lm

    def counted(kind, function):
        def call(lm, *arguments, **options):
            read[kind, "base" if any(lm is one for one in bases) else "another"] += 1
            return function(lm, *arguments, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        short_canaries(patch)
        patch.setattr(scoring, "load_language_model", loaded)
        patch.setattr(Workshop, "model", opened)
        patch.setattr(scoring, "energies", counted("energies", scoring.energies))
        patch.setattr(audit, "token_scores", counted("tokens", audit.token_scores))
        with patch.context() as without:
            without.setattr(alternatives, "find_spec", lambda name: None)
            run_memorization_study(replace(settings, parts=("methods", "alternatives")), home / "run", say=said.append)
        shutil.copy(home / "run/records.jsonl", home / "first.jsonl")
        run_memorization_study(replace(settings, parts=PARTS), home / "run")
    return Finished(settings, home / "run", home / "first.jsonl", said, read)
