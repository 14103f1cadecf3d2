"""What a finished study of memorization left: its rows, its base, and models of it fused in memory and read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from fuseforget.checkpoint import file_sha256, open_checkpoint
from fuseforget.data import Rows, load_memorization
from fuseforget.errors import InputError
from fuseforget.fuse import InPlace
from fuseforget.models import Energies, LanguageModel, Masks, energies, load_language_model, read_text_reader, weight_slots
from fuseforget.records import Record, read_run
from fuseforget.studies.memorization.data import Corpus
from fuseforget.studies.memorization.settings import MemorizationStudy
from fuseforget.train import TrainSettings

__all__ = ["COMMAND", "FusedReader", "Reading", "open_corpus"]

COMMAND = "study memorization"


def open_corpus(path: Path) -> Corpus:
    """The rows and the base of a study of memorization, as its run has them.

    Raises:
        InputError: another study, or one without shared rows or with one model; a base or rows that are not those that its
            models were trained from.
    """
    about = read_run(path)
    if about["command"] != COMMAND:
        raise InputError(str(path), expected=f"a run of {COMMAND}", found=f"a run of {about['command']}")
    settings = _settings(about["settings"])
    if settings.shared == 0 or settings.models < 2:
        found = f"{settings.models} models, {settings.shared} shared rows"
        raise InputError(str(path), expected="a study of two models or more that share rows", found=found)
    base = open_checkpoint(path / "base" if settings.base is None else settings.base)
    if [file_sha256(file) for file in base.files] != about["settings"]["base_sha256"]:
        raise InputError(str(base.path), expected=f"the base of {path}", found="other weights")
    made = load_memorization(path / "data")
    if made.sha256 != about["settings"]["rows_sha256"]:
        raise InputError(str(path / "data"), expected="the rows that its models were trained on", found="others")
    return Corpus(settings, base.path, made, read_text_reader(base.path, str(base.path)), settings.block)


@dataclass(frozen=True)
class Reading:
    """A fusion, and what the fused model is to read.

    Attributes:
        name: what records call the fused model.
        models, base: directories.
        sets: of rows, by name.
        statistics: directories, a model each, where the method takes them.
    """

    name: str
    models: tuple[str, ...]
    method: str
    base: str | None
    weights: tuple[float, ...] | None
    sets: tuple[str, ...]
    seed: int = 0
    parameters: Mapping[str, Any] = field(default_factory=dict)
    statistics: tuple[str, ...] = ()


class FusedReader:
    """Computes the energies of fusions, which are made in one resident model and not written; it is sent to workers.

    Args:
        template: a checkpoint of the models' architecture.
        rows, masks: by set; masks are None for decoders.
    """

    def __init__(self, template: Path, rows: Mapping[str, Rows], masks: Mapping[str, Masks | None]) -> None:
        self._template, self._rows, self._masks = template, dict(rows), dict(masks)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lm"}

    @cached_property
    def _lm(self) -> LanguageModel:
        return load_language_model(self._template)

    def __call__(self, reading: Reading) -> dict[str, Energies]:
        slots = weight_slots(self._lm.model, open_checkpoint(reading.models[0]))
        fusion = InPlace(
            reading.models, reading.method, base=reading.base, seed=reading.seed, parameters=dict(reading.parameters),
            statistics=reading.statistics,
        )  # fmt: skip
        fusion.into(slots, reading.weights)
        return {name: energies(self._lm, self._rows[name].ids, masks=self._masks[name]) for name in reading.sets}


def _settings(described: Record) -> MemorizationStudy:
    """A study's settings from its run's description, which lists are tuples of."""
    known = {one.name for one in fields(MemorizationStudy)}
    plain = {name: _tuple(value) for name, value in described.items() if name in known and name != "train"}
    return MemorizationStudy(**plain, train=TrainSettings(**described["train"]))


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
