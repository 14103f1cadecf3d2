"""Fairness of a classifier on a set of examples: metrics by group, their intervals, and paired tests between models.

What is resampled and swapped are *units*: the tweets of an author or the copies of a sentence are not independent of each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
import numpy.typing as npt

from fuseforget.errors import InputError
from fuseforget.knowledge.group_metrics import FAIRNESS, GroupMetric
from fuseforget.knowledge.group_rows import GroupRow, group_rows
from fuseforget.knowledge.grouped import Grouped, Values, require_defined, tables, unit_sums
from fuseforget.knowledge.resampling import resampled_sums, swapped_sums
from fuseforget.knowledge.statistics import LEVEL, Interval, check_bound_of, exact_limits, percentiles, reflected

__all__ = [
    "FAIRNESS",
    "Difference",
    "GroupMetric",
    "GroupRow",
    "Grouped",
    "check_bound_of",
    "compare_fairness",
    "fairness",
    "fairness_draws",
    "fairness_intervals",
    "group_rows",
]

PLAIN = ("accuracy", "f1")  # whose resamples scatter about them, not to one side alone
TABLES = ("answers", "calibration")


@dataclass(frozen=True)
class Difference:
    """The first model's metric less the second's, its paired 95 % interval, a two-sided p-value, and the rows behind it."""

    value: float
    low: float
    high: float
    p: float
    n: int


def fairness(
    metric: str, data: Grouped, predictions: npt.ArrayLike, *, seed: int = 0, confidences: npt.ArrayLike | None = None
) -> Interval:
    """Return one model's metric with its 95 % interval (:func:`fairness_intervals`).

    Args:
        metric: a name in :data:`FAIRNESS`.
        predictions: what the model answered, a place in ``data.answers`` for each row.
        confidences: the probability of each answer, 0 to 1; for metrics of calibration.

    Raises:
        InputError: see :func:`fairness_draws`.
    """
    given = None if confidences is None else np.asarray(confidences)[None]
    return fairness_intervals([metric], data, np.asarray(predictions)[None], seed=seed, confidences=given)[0][0]


def fairness_intervals(
    metrics: Sequence[str],
    data: Grouped,
    predictions: npt.ArrayLike,
    *,
    seed: int = 0,
    confidences: npt.ArrayLike | None = None,
) -> list[list[Interval]]:
    """Return metrics of models with their 95 % intervals over the units, models x metrics.

    Accuracy and F1: the percentile interval. A gap is never below 0 and the worst of several is chosen anew in each resample:
    resamples of those scatter about a worse value than the one found, and a percentile interval of a gap would never reach 0,
    also of a model that treats all alike. So a gap's interval begins at most at the gap less the 95 % quantile of the size
    of what resampling changes (a gap is a seminorm of the differences between groups, and as wrong as those at most), and
    that of the worst of several, and of calibration errors, is the :func:`fuseforget.knowledge.statistics.reflected` one. Where
    no resample differs (all are right) the other end is as far as Clopper and Pearson's for the smallest group or cell: 20
    right of 20 are no certainty.

    Raises:
        InputError: see :func:`fairness_draws`.
    """
    asked, point, drawn = _resampled(metrics, data, predictions, confidences, seed)
    return [
        [
            _interval(metric, data, {k: t[0, m] for k, t in point.items()}, {k: t[:, m] for k, t in drawn.items()})
            for metric in asked
        ]
        for m in range(len(np.asarray(predictions)))
    ]


def _interval(metric: GroupMetric, data: Grouped, point: Mapping[str, Values], drawn: Mapping[str, Values]) -> Interval:
    """One model's metric from its tables, and those of the resamples."""
    found, tables_drawn = point[metric.table], drawn[metric.table]
    value, draws = float(metric.from_counts(found)), metric.from_counts(tables_drawn)
    require_defined(metric.name, np.isnan(draws), data)
    known = draws[~np.isnan(draws)]
    least, greatest = metric.range
    low, high = percentiles(known)
    if known.min() == known.max() and value in metric.range:
        reach = (greatest - least) * exact_limits(0.0, _fewest(metric, data))[1]
        low, high = (value, value + reach) if value == least else (value - reach, value)
    elif metric.gap is not None:
        changed = metric.gap.size(metric.gap.of(tables_drawn) - metric.gap.of(found))
        low = max(least, min(low, value - float(np.nanquantile(changed, LEVEL))))
    elif metric.name not in PLAIN:
        low, high = reflected(value, known, metric.range)
    return Interval(value, low, high, len(data))


def fairness_draws(
    metrics: Sequence[str],
    data: Grouped,
    predictions: npt.ArrayLike,
    *,
    seed: int = 0,
    confidences: npt.ArrayLike | None = None,
) -> tuple[Values, Values]:
    """Return metrics of models and their values in bootstrap resamples of the units, the same for all models and metrics.

    Args:
        predictions, confidences: as :func:`fairness` takes them, models x rows.

    Returns:
        Values, models x metrics, and draws, resamples x models x metrics; NaN where a resample lacks the rows that a metric is
        a share of.

    Raises:
        InputError: a metric that there is not, predictions or confidences of another length or out of range, a metric of
            calibration without confidences, or one that more than 1 % of the resamples leave undefined.
    """
    asked, point, drawn = _resampled(metrics, data, predictions, confidences, seed)
    values, draws = (np.stack([m.from_counts(t[m.table]) for m in asked], axis=-1) for t in (point, drawn))
    for number, metric in enumerate(asked):
        require_defined(metric.name, np.isnan(draws[..., number]).any(axis=1), data)
    return values[0], draws


def compare_fairness(
    metric: str,
    data: Grouped,
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    *,
    seed: int = 0,
    confidences: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
) -> Difference:
    """Compare two models on the same rows: the first's metric less the second's.

    The interval is over resamples of the units (of a difference of gaps, as of the worst of several, the
    :func:`fuseforget.knowledge.statistics.reflected` one); the p-value is from a paired randomisation test
    (Fisher 1935): were the models alike, the two answers to a unit might as well be swapped.

    Args:
        first, second: the models' predictions; ``confidences``: those of both, for metrics of calibration.

    Raises:
        InputError: see :func:`fairness_draws`.
    """
    asked = _metric(metric)
    pair = np.stack(_same_length(data, [first, second]))
    sure = None if confidences is None else np.stack(_same_length(data, confidences))
    values, draws = fairness_draws([metric], data, pair, seed=seed, confidences=sure)
    value = float(values[0, 0] - values[1, 0])
    drawn = draws[:, 0, 0] - draws[:, 1, 0]
    low, high = percentiles(drawn) if metric in PLAIN else reflected(value, drawn, (-math.inf, math.inf))
    sides = [unit_sums(asked.table, data, pair[m : m + 1], None if sure is None else sure[m : m + 1]) for m in (0, 1)]
    swapped = [
        asked.from_counts(tables(asked.table, data, 1, sums)[:, 0]) for sums in swapped_sums(*sides, seed=seed)
    ]  # fmt: skip
    # The same counts give the same metric but for rounding: a draw as large as what was found must count.
    as_large = int(np.sum(np.abs(swapped[0] - swapped[1]) >= abs(value) * (1 - 1e-5) - 1e-7))
    return Difference(value, low, high, (1 + as_large) / (1 + len(swapped[0])), len(data))


def _resampled(
    metrics: Sequence[str], data: Grouped, predictions: npt.ArrayLike, confidences: npt.ArrayLike | None, seed: int
) -> tuple[list[GroupMetric], dict[str, Values], dict[str, Values]]:
    """The metrics, the tables that they take by kind, [1, models, ...], and those of resamples, [resamples, models, ...]."""
    asked = [_metric(name) for name in metrics]
    kinds = [kind for kind in TABLES if any(metric.table == kind for metric in asked)]
    parts = [unit_sums(kind, data, predictions, confidences) for kind in kinds]
    ends = np.cumsum([part.shape[1] for part in parts])[:-1]
    units = np.concatenate(parts, axis=1)
    point, drawn = (
        {kind: tables(kind, data, len(np.asarray(predictions)), part) for kind, part in zip(kinds, split, strict=True)}
        for split in (
            np.split(sums, ends, axis=1) for sums in (units.sum(axis=0, dtype=np.float64)[None], resampled_sums(units, seed=seed))
        )
    )
    return asked, point, drawn


def _same_length(data: Grouped, rows: Sequence[npt.ArrayLike]) -> list[npt.NDArray[np.generic]]:
    arrays = [np.asarray(row) for row in rows]
    for array in arrays:
        if array.shape != data.labels.shape:
            raise InputError("predictions", expected=f"one for each of {len(data)} rows", found=f"shape {array.shape}")
    return arrays


def _metric(name: str) -> GroupMetric:
    if name not in FAIRNESS:
        near = get_close_matches(name, FAIRNESS, n=3)
        action = f"Did you mean {' or '.join(near)}?" if near else ""
        raise InputError("metric", expected=f"one of {', '.join(FAIRNESS)}", found=repr(name), action=action)
    return FAIRNESS[name]


def _fewest(metric: GroupMetric, data: Grouped) -> int:
    """The independent units in the smallest of what a metric takes shares of."""
    if metric.cells == "all":
        return int(data.unit_places.max()) + 1
    cells = data.independent
    return int(cells.min() if metric.cells == "cell" else cells.sum(axis=1).min())
