"""How a model treats each group: its rates, with intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fuseforget.knowledge.calibration import group_errors
from fuseforget.knowledge.group_metrics import share
from fuseforget.knowledge.grouped import Codes, Grouped, Sums, Values, require_defined, tables, unit_sums
from fuseforget.knowledge.resampling import resampled_sums
from fuseforget.knowledge.statistics import Interval, exact_limits, percentiles, reflected

__all__ = ["GroupRow", "group_rows"]


@dataclass(frozen=True)
class GroupRow:
    """How a model treats one group.

    Attributes:
        n: the rows of the group.
        selection: the share of its rows that are answered so, by answer (of two labels, the last is what is usually meant).
        tpr: of its rows of a label, the share answered so, by label.
        fpr: of its rows of any other label, the share answered so, by label; empty where there is one label alone.
        ece: the expected calibration error; None where no confidences were given.
    """

    group: str
    n: int
    accuracy: Interval
    selection: dict[str, Interval]
    tpr: dict[str, Interval]
    fpr: dict[str, Interval]
    ece: Interval | None


def group_rows(
    data: Grouped, predictions: npt.ArrayLike, *, confidences: npt.ArrayLike | None = None, seed: int = 0
) -> list[GroupRow]:
    """Return how a model treats each group, with 95 % percentile intervals over the units.

    Raises:
        InputError: as :func:`fairness_draws`.
    """
    answered = np.asarray(predictions)[None]
    units = unit_sums("answers", data, answered, None)
    draws = tables("answers", data, 1, resampled_sums(units, seed=seed))[:, 0]
    found = tables("answers", data, 1, units.sum(axis=0)[None])[0, 0]
    errors: list[Interval] | None = None
    if confidences is not None:
        sums = unit_sums("calibration", data, answered, np.asarray(confidences)[None])
        errors = _calibration_intervals(data, sums, seed)
    return [
        _group_row(data, group, found[group], draws[:, group], None if errors is None else errors[group])
        for group in range(len(data.group_names))
    ]


def _group_row(data: Grouped, group: int, found: Values, draws: Values, error: Interval | None) -> GroupRow:
    """One group's row from its labels x answers table and the resamples of it."""
    independent, answers = data.independent[group], np.arange(len(data.answers))
    every: Codes = np.arange(len(data.label_names))

    def rate(of: Codes, taken: npt.NDArray[np.bool_]) -> Interval:
        """The share of the rows of these labels whose label and answer are taken (labels x answers)."""
        mask = np.zeros(found.shape, dtype=bool)
        mask[of] = True
        value, drawn = (
            share((t * (taken & mask)).sum(axis=(-2, -1)), (t * mask).sum(axis=(-2, -1))) for t in (found, draws)
        )  # fmt: skip
        require_defined(f"rates of {data.group_names[group]}", np.isnan(drawn), data)
        one = float(value)
        low, high = exact_limits(one, int(independent[of].sum())) if one in (0.0, 1.0) else percentiles(drawn)
        return Interval(one, low, high, int((found * mask).sum()))

    so = {name: np.broadcast_to(answers == a, found.shape) for a, name in enumerate(data.answers)}
    others = [every[every != y] for y in every]
    return GroupRow(
        group=data.group_names[group],
        n=int(found.sum()),
        accuracy=rate(every, every[:, None] == answers),
        selection={name: rate(every, taken) for name, taken in so.items()},
        tpr={name: rate(every[y : y + 1], so[name]) for y, name in enumerate(data.label_names)},
        fpr={name: rate(others[y], so[name]) for y, name in enumerate(data.label_names) if len(others[y])},
        ece=error,
    )


def _calibration_intervals(data: Grouped, units: Sums, seed: int) -> list[Interval]:
    """The calibration error of each group; the interval as :func:`fuseforget.knowledge.statistics.reflected` has it."""
    found = group_errors(tables("calibration", data, 1, units.sum(axis=0)[None])[0, 0])
    draws = group_errors(tables("calibration", data, 1, resampled_sums(units, seed=seed))[:, 0])
    intervals = []
    for group, value in enumerate(found):
        low, high = reflected(float(value), draws[:, group], (0.0, 1.0))
        intervals.append(Interval(float(value), low, high, int(data.rows[group].sum())))
    return intervals
