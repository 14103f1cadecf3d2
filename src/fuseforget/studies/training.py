"""A model of a study: trained once, kept in the run, and recorded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from fuseforget.checkpoint import MANIFEST_NAME
from fuseforget.data import Examples, Rows
from fuseforget.records import Record, Run
from fuseforget.train import Timing, TrainSettings
from fuseforget.train.language import Watch, fine_tune_language
from fuseforget.train.trainer import fine_tune

__all__ = ["combine", "record_training", "result_of", "train_language_one", "train_one"]

Say = Callable[[str], None]


def train_one(
    run: Run, name: str, examples: Examples, monitor: Examples | None, settings: TrainSettings, say: Say, *, start: str = "start"
) -> None:
    """Fine-tune the run's model ``start`` into ``name``, unless the run has it, and record how that went."""
    model = run.path / "models" / name
    if not model.is_dir():
        fine_tune(run.path / "models" / start, examples, model, settings, monitor=monitor, say=say)
    record_training(run, name, len(examples))


def train_language_one(
    run: Run, name: str, rows: Rows, settings: TrainSettings, say: Say, *, start: Path, watch: Watch | None = None
) -> None:
    """Fine-tune a language model on rows into the run's model ``name``, unless the run has it, and record how that went."""
    model = run.path / "models" / name
    if not model.is_dir():
        fine_tune_language(start, rows.ids, model, settings, watch=watch, say=say)
    record_training(run, name, len(rows))


def record_training(run: Run, name: str, examples: int) -> None:
    """Record what a trained model's manifest says of its training, unless that is recorded."""
    if run.find("training", name=name) is None:
        made = json.loads((run.path / "models" / name / MANIFEST_NAME).read_text(encoding="utf-8"))
        seconds = Timing.of(made["result"]).seconds
        done = {fact: value for fact, value in made["result"].items() if fact not in ("timing", "seconds")}
        run.add("training", name=name, examples=examples, settings=made["settings"], **done, seconds=seconds)


def result_of(run: Run, name: str) -> Record:
    """The record of a model's training."""
    record = run.find("training", name=name)
    if record is None:
        raise RuntimeError(f"{name} was not trained")
    return record


def combine(sets: list[Examples]) -> Examples:
    """All examples of several sets that number their labels alike, in order."""
    return Examples(
        tuple(text for part in sets for text in part.texts),
        tuple(label for part in sets for label in part.labels),
        sets[0].label_names,
    )
