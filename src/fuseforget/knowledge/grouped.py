"""The truth and a protected attribute of a set of examples, and what each unit of it adds to the metrics' tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fuseforget.errors import InputError
from fuseforget.knowledge.calibration import BINS, bin_numbers
from fuseforget.knowledge.statistics import MOST_UNDEFINED

__all__ = ["Codes", "Grouped", "Sums", "Values", "require_defined", "tables", "unit_sums"]

Codes = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]
Sums = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Grouped:
    """The truth and one protected attribute of a set of examples.

    Attributes:
        labels: the true label of each row, a place in ``label_names``.
        groups: whom it is from or about, a place in ``group_names``.
        units: a number for each row, the same where rows are not independent; None: every row is its own.
        other_answers: what a model can answer besides, numbered after the labels; no row has it as its label.

    Raises:
        InputError: lengths that differ, a number without a name, fewer than two groups, or a group without a row of a label:
            there the metrics are undefined.
    """

    labels: Codes
    groups: Codes
    label_names: tuple[str, ...]
    group_names: tuple[str, ...]
    units: Codes | None = None
    other_answers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        labels, groups = np.asarray(self.labels), np.asarray(self.groups)
        units = np.arange(len(labels)) if self.units is None else np.asarray(self.units)
        for thing, array in (("groups", groups), ("units", units)):
            if array.shape != labels.shape or labels.ndim != 1:
                raise InputError(thing, expected=f"one a label, {labels.shape}", found=str(array.shape))
        _require_numbers("labels", labels, len(self.label_names))
        _require_numbers("groups", groups, len(self.group_names))
        if len(self.group_names) < 2:
            raise InputError("groups", expected="two or more", found=", ".join(self.group_names) or "none")
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "groups", groups)
        object.__setattr__(self, "units", None if self.units is None else units)
        rows = self.rows
        empty = [f"{self.group_names[g]} has no row of label {self.label_names[y]}" for g, y in np.argwhere(rows == 0)]
        if empty:
            raise InputError(
                "groups", expected="rows of every label in every group", found="; ".join(empty),
                action="Metrics by group are undefined there, not 0: add such rows, or leave the group or the label out.",
            )  # fmt: skip

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def answers(self) -> tuple[str, ...]:
        """What a model can answer, by number."""
        return (*self.label_names, *self.other_answers)

    @property
    def rows(self) -> Codes:
        """How many rows there are, groups x labels."""
        return self._count(self.groups * len(self.label_names) + self.labels)

    @property
    def independent(self) -> Codes:
        """How many units have rows, groups x labels."""
        cells = self.groups * len(self.label_names) + self.labels
        return self.rows if self.units is None else self._count(np.unique(np.stack([cells, self.units]), axis=1)[0])

    @property
    def unit_places(self) -> Codes:
        """The number of each row's unit, from 0 on without a gap."""
        if self.units is None:
            return np.arange(len(self))
        return np.unique(self.units, return_inverse=True)[1].reshape(-1)

    def _count(self, cells: Codes) -> Codes:
        shape = len(self.group_names), len(self.label_names)
        return np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape)


def unit_sums(kind: str, data: Grouped, predictions: npt.ArrayLike, confidences: npt.ArrayLike | None) -> Sums:
    """What each unit adds to the models' tables, units x (models x a table's entries)."""
    answered = _answers(data, predictions)
    models = len(answered)
    if kind == "answers":
        shape = len(data.group_names), len(data.label_names), len(data.answers)
        places = np.ravel_multi_index((data.groups, data.labels, answered), shape)
        return _add_up(data, [(places, None)], models, int(np.prod(shape)))
    sure = _confidences(data, models, confidences)
    first = np.broadcast_to(data.groups * (1 + BINS), sure.shape)
    off = (answered == data.labels) - sure
    return _add_up(data, [(first, None), (first + 1 + bin_numbers(sure), off)], models, len(data.group_names) * (1 + BINS))


def _add_up(data: Grouped, parts: Sequence[tuple[Codes, Values | None]], models: int, entries: int) -> Sums:
    """Add weights (1 where None) at places (both models x rows) of each unit's tables."""
    units = data.unit_places
    count, width = int(units.max()) + 1, models * entries
    start = units * width + np.arange(models)[:, None] * entries
    total = np.zeros(count * width, dtype=np.float32)
    for places, weights in parts:
        given = None if weights is None else weights.ravel()
        total += np.bincount((start + places).ravel(), given, minlength=count * width).astype(np.float32)
    return total.reshape(count, width)


def tables(kind: str, data: Grouped, models: int, sums: npt.NDArray[np.floating]) -> Values:
    """Sums over units as tables, [..., models, groups, ...]."""
    groups = len(data.group_names)
    shape = (groups, len(data.label_names), len(data.answers)) if kind == "answers" else (groups, 1 + BINS)
    return sums.astype(np.float64).reshape(len(sums), models, *shape)


def _answers(data: Grouped, predictions: npt.ArrayLike) -> Codes:
    answered = np.asarray(predictions)
    if answered.ndim != 2 or answered.shape[1] != len(data):
        raise InputError("predictions", expected=f"one for each of {len(data)} rows", found=f"shape {answered.shape[1:]}")
    _require_numbers("predictions", answered, len(data.answers))
    return answered


def _confidences(data: Grouped, models: int, confidences: npt.ArrayLike | None) -> Values:
    if confidences is None:
        raise InputError("calibration", expected="the confidence of each answer", found="none", action="Give confidences.")
    sure = np.asarray(confidences, dtype=np.float64)
    if sure.shape != (models, len(data)):
        raise InputError("confidences", expected=f"one for each of {len(data)} rows", found=f"shape {sure.shape[1:]}")
    if not ((sure >= 0) & (sure <= 1)).all():
        raise InputError("confidences", expected="probabilities from 0 to 1", found="others, or NaN")
    return sure


def _require_numbers(thing: str, numbers: npt.NDArray[np.generic], names: int) -> None:
    """Raise unless these are whole numbers from 0, each with a name."""
    if not np.issubdtype(numbers.dtype, np.integer):
        raise InputError(thing, expected="whole numbers", found=str(numbers.dtype))
    if numbers.size == 0 or int(numbers.min()) < 0 or int(numbers.max()) >= names:
        found = "none" if numbers.size == 0 else f"{numbers.min()} to {numbers.max()}"
        raise InputError(thing, expected=f"0 to {names - 1}, a name each", found=found)


def require_defined(thing: str, undefined: npt.ArrayLike, data: Grouped) -> None:
    """Raise InputError where more than 1 % of the resamples leave something undefined; few such leave its interval sound."""
    lacking = float(np.asarray(undefined, dtype=np.float64).mean())
    if lacking <= MOST_UNDEFINED:
        return
    group, label = np.unravel_index(data.independent.argmin(), data.independent.shape)
    where = f"{data.group_names[group]}, label {data.label_names[label]}"
    raise InputError(
        thing, expected=f"at least {1 - MOST_UNDEFINED:.0%} of resamples with rows of every group and label",
        found=f"{1 - lacking:.1%}: {data.independent[group, label]} independent of {where}",
        action="Use more rows of that group and label.",
    )  # fmt: skip
