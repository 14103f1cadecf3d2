"""The study of memorization end to end on a very small base: rows are memorised, fused away, attacked, killed and reported."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fuseforget.studies.memorization import MemorizationStudy, settings_for
from fuseforget.studies.memorization.base import BaseSettings, pretrain_base
from fuseforget.train import TrainSettings

WORDS = "river stone light market winter paper engine garden signal harbor copper window bridge letter forest ticket".split()  # noqa: SIM905
TINY_BASE = BaseSettings(vocabulary=400, layers=2, width=64, heads=2, block=64, epochs=2, learning_rate=3e-3, batch=8)


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


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A small base, pretrained on other sentences, and the private ones."""
    home = tmp_path_factory.mktemp("inputs")
    pretrain_base(public(), home / "base", settings=TINY_BASE)
    return home / "base", write_texts(home / "private.jsonl", sentences(900, 2))


def settings_of(base: Path, data: Path, **changes) -> MemorizationStudy:
    settings = settings_for("small", base=base, data=data, models=3, **changes)
    fast = TrainSettings(max_epochs=12, min_epochs=12, learning_rate=3e-3, batch_size=8)
    sizes = {"control": 60, "validation": 20, "block": 64, "train": fast, "canaries": 3, "repeats": (1, 4)}
    return replace(settings, **sizes, epochs=(2,), decays=(1.0,), epsilons=(8.0,))
