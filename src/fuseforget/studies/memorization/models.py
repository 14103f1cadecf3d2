"""The models of a study of memorization: single, full and fused ones."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from fuseforget.data import Rows
from fuseforget.fuse import fuse
from fuseforget.records import Run
from fuseforget.studies.memorization.settings import MemorizationStudy
from fuseforget.studies.training import Job
from fuseforget.train import TrainSettings

__all__ = [
    "REFERENCE",
    "at_epoch",
    "at_epochs",
    "full_name",
    "fuse_into",
    "fused_for_a_while",
    "fused_name",
    "job",
    "model_path",
    "of_fixed",
]

REFERENCE = "base"  # what runs call the pretrained model, against which all others are compared


def full_name(names: Sequence[str]) -> str:
    """What the model is called that is trained on the rows of several models at once."""
    return f"full-{''.join(names)}"


def fused_name(names: Sequence[str]) -> str:
    """What the average of several models is called."""
    return f"fused-{''.join(names)}"


def at_epochs(name: str, epochs: int) -> str:
    """The name of a model that was trained for another number of epochs than the study's."""
    return f"{name}@{epochs}"


def at_epoch(name: str, epoch: int) -> str:
    """What the records call a model as it was after an epoch of its training."""
    return f"{name}:{epoch}"


def of_fixed(name: str, number: int) -> str:
    """The name of one of so many models that share a fixed total of rows."""
    return f"{name}-of-{number}"


def model_path(run: Run, name: str) -> Path:
    return run.path / "models" / name


def job(settings: MemorizationStudy, base: Path, name: str, rows: Rows, *, epochs: int | None = None, **changes: Any) -> Job:
    """The training of the base on rows into the run's model ``name``.

    Args:
        epochs: other than the study's.
        changes: of :class:`fuseforget.train.TrainSettings`.
    """
    return Job(name, rows, training(settings, epochs, **changes), start=base)


def training(settings: MemorizationStudy, epochs: int | None = None, **changes: Any) -> TrainSettings:
    """How a model is trained: as the study's are, but for these changes."""
    passes = settings.train.max_epochs if epochs is None else epochs
    return replace(settings.train, max_epochs=passes, min_epochs=passes, seed=settings.seed, **changes)


def fuse_into(run: Run, parents: Sequence[str], name: str) -> None:
    """Write the average of the run's models as its model ``name``, unless it has it."""
    if not model_path(run, name).is_dir():
        fuse([model_path(run, parent) for parent in parents], model_path(run, name))


@contextmanager
def fused_for_a_while(
    run: Run, parents: Sequence[str], method: str = "average", options: Mapping[str, Any] | None = None
) -> Iterator[Path]:
    """The run's models fused into a checkpoint that is there inside the block."""
    out = run.path / "scratch"  # one name: what a killed run left here is replaced, not added to
    fuse([model_path(run, parent) for parent in parents], out, method, overwrite=True, **(options or {}))
    try:
        yield out
    finally:
        shutil.rmtree(out)
