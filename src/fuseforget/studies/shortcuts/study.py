"""A shortcut study from its data to its conclusions, step by step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fuseforget.checkpoint import open_checkpoint
from fuseforget.records import Record, Run
from fuseforget.studies.shortcuts.conclusions import conclude
from fuseforget.studies.shortcuts.data import describe, make_data, probes_of, read_texts, save_data, titles
from fuseforget.studies.shortcuts.measuring import interpolate, measure_models
from fuseforget.studies.shortcuts.models import fuse_specialists, make_random, make_start, train_all
from fuseforget.studies.shortcuts.settings import RATIO, ShortcutStudy, base_of
from fuseforget.sweep import Resident

__all__ = ["run_shortcut_study"]

Say = Callable[[str], None]


def run_shortcut_study(settings: ShortcutStudy, out: Path, *, say: Say = lambda line: None) -> list[Record]:
    """Run or resume the study and return all its records."""
    texts = read_texts(settings, say)
    base = open_checkpoint(base_of(settings))
    made = make_data(settings, texts, out)
    run = Run(
        out, command="study shortcuts", settings=describe(settings, texts, base), about={"titles": titles(settings)},
        # Runs of before there was a choice: all with the paper's ratio.
        assumed={"ratio": RATIO}, say=say,
    )  # fmt: skip
    with run:
        make_start(run, settings, texts["train"])
        data = save_data(run, settings, made)
        train_all(run, settings, data, say)
        make_random(run, settings)
        fuse_specialists(run, settings, say)
        resident = Resident(run.path / "models" / "start", probes_of(data, settings.rules))
        measure_models(run, settings, resident, say)
        interpolate(run, settings, resident, say)
        conclude(run, settings)
        return list(run.records)
