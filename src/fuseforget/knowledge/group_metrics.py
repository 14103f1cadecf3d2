"""Metrics of a classifier by groups of people: pure functions of how often each answer was given to whom.

The table that they take counts rows: groups x labels x answers, [g, y, a] of which are how many rows of group g and true label
y were answered a. The answers are the labels in their order, and after them what else a model can answer. Leading
axes (resamples, models) are kept. A share of no rows is NaN, never 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from fuseforget.knowledge.calibration import expected_error, greatest_error, group_errors

__all__ = ["FAIRNESS", "GroupMetric", "share"]

Table = npt.NDArray[np.float64]


@dataclass(frozen=True)
class GroupMetric:
    """A number that says how differently, or how badly at worst, a classifier treats groups.

    Attributes:
        formula: its definition, p being shares of rows.
        range: the least and the greatest value.
        ideal: the value of a perfect model.
        chance: the value of a model that answers at random, in words.
        higher_is_better: the direction.
        unit: of the value.
        source: where it is from.
        cells: which rows it takes shares of: ``all``, those of a ``group``, or those of a group and a label (``cell``).
        table: what ``from_counts`` takes: ``answers``, [..., groups, labels, answers] as this module has it; ``calibration``,
            [..., groups, 1 + bins] as :mod:`fuseforget.knowledge.calibration` has it.
        from_counts: the metric of each table, [...].
        gap: of a metric that is the size of differences between groups: what of each table differs, and how large differences
            are; ``from_counts`` is the one of the other.
    """

    name: str
    formula: str
    range: tuple[float, float]
    ideal: float
    chance: str
    higher_is_better: bool
    unit: str
    source: str
    cells: Literal["all", "group", "cell"]
    table: Literal["answers", "calibration"]
    from_counts: Callable[[Table], Table]
    gap: Gap | None = None


@dataclass(frozen=True)
class Gap:
    """Differences between groups and their size, a seminorm: the size of a sum is at most the sum of the sizes."""

    of: Callable[[Table], Table]
    size: Callable[[Table], Table]

    def __call__(self, counts: Table) -> Table:
        return self.size(self.of(counts))


def share(part: Table, whole: Table) -> Table:
    """The part of the whole; NaN where there is none."""
    part, whole = np.broadcast_arrays(np.asarray(part, dtype=np.float64), whole)
    found: Table = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return found


def _right(counts: Table) -> Table:
    """Rows answered rightly, [..., groups, labels]."""
    labels = np.arange(counts.shape[-2])
    right: Table = counts[..., labels, labels]
    return right


def _against_the_rest(part: Table, whole: Table) -> Table:
    """The share in each group less that in all others together; groups are the axis before the last."""
    rest = part.sum(axis=-2, keepdims=True) - part, whole.sum(axis=-2, keepdims=True) - whole
    return share(part, whole) - share(*rest)


def _accuracy(counts: Table) -> Table:
    return share(_right(counts).sum(axis=(-2, -1)), counts.sum(axis=(-3, -2, -1)))


def _f1(counts: Table) -> Table:
    pooled = counts.sum(axis=-3)
    labels = pooled.shape[-2]
    answered = pooled.sum(axis=-2)[..., :labels]
    found: Table = share(2 * _right(pooled), pooled.sum(axis=-1) + answered).mean(axis=-1)
    return found


def _worst_group_accuracy(counts: Table) -> Table:
    found: Table = share(_right(counts).sum(axis=-1), counts.sum(axis=(-2, -1))).min(axis=-1)
    return found


def _worst_cell_accuracy(counts: Table) -> Table:
    found: Table = share(_right(counts), counts.sum(axis=-1)).min(axis=(-2, -1))
    return found


def _selection_gaps(counts: Table) -> Table:
    answered = counts.sum(axis=-2)
    return _against_the_rest(answered, answered.sum(axis=-1, keepdims=True))


def _tpr_gaps(counts: Table) -> Table:
    return _against_the_rest(_right(counts), counts.sum(axis=-1))


def _fpr_gaps(counts: Table) -> Table:
    labels, rows = counts.shape[-2], counts.sum(axis=-1)
    wrongly = counts.sum(axis=-2)[..., :labels] - _right(counts)
    gaps = _against_the_rest(wrongly, rows.sum(axis=-1, keepdims=True) - rows)
    return gaps[..., -1:] if labels == 2 else gaps


def _rates(counts: Table) -> Table:
    """[..., groups, labels x answers]."""
    rates = share(counts, counts.sum(axis=-1, keepdims=True))
    return rates.reshape(*rates.shape[:-2], -1)


def _greatest_sum(gaps: Table) -> Table:
    found: Table = np.abs(gaps).sum(axis=-1).max(axis=-1)
    return found


def _greatest_rms(gaps: Table) -> Table:
    found: Table = np.sqrt(np.mean(gaps**2, axis=-1)).max(axis=-1)
    return found


def _greatest(gaps: Table) -> Table:
    found: Table = np.abs(gaps).max(axis=(-2, -1))
    return found


def _greatest_range(rates: Table) -> Table:
    found: Table = (rates.max(axis=-2) - rates.min(axis=-2)).max(axis=-1)
    return found


def _range(errors: Table) -> Table:
    found: Table = errors.max(axis=-1) - errors.min(axis=-1)
    return found


_DEMOGRAPHIC_PARITY = Gap(_selection_gaps, _greatest_sum)
_TPR_GAP = Gap(_tpr_gaps, _greatest_rms)
_FPR_GAP = Gap(_fpr_gaps, _greatest)
_EQUALIZED_ODDS = Gap(_rates, _greatest_range)
_ECE_GAP = Gap(group_errors, _range)
_EQUAL = "0, as of any model whose answers do not depend on the group"
_GUESS = "the share of the most frequent label, or one over the number of labels"
_ROWS = "share of rows"

_TABLE = (
    GroupMetric(
        "accuracy", "p(yhat = y)", (0.0, 1.0), 1.0, _GUESS, True, _ROWS, "", "all", "answers", _accuracy,
    ),
    GroupMetric(
        "f1",
        "mean over labels y of 2 n(yhat = y, true y) / (n(yhat = y) + n(true y)), macro: a label that is true of some row and "
        "never answered counts 0; neither true nor answered, which only a resample can have, it is undefined",
        (0.0, 1.0), 1.0, "about one over the number of labels", True, "none", "van Rijsbergen 1979", "all", "answers", _f1,
    ),
    GroupMetric(
        "worst_group_accuracy", "min_g p(yhat = y | g)", (0.0, 1.0), 1.0, _GUESS, True, _ROWS,
        "Sagawa et al. 2020, by attribute alone", "group", "answers", _worst_group_accuracy,
    ),
    GroupMetric(
        "worst_cell_accuracy", "min_{g,y} p(yhat = y | g, y)", (0.0, 1.0), 1.0, "0 of a model that always answers the same",
        True, _ROWS, "Sagawa et al. 2020 (their groups are an attribute's value and a label)", "cell", "answers",
        _worst_cell_accuracy,
    ),
    GroupMetric(
        "demographic_parity",
        "max_g sum_y |p(yhat = y | g) - p(yhat = y | not g)|, over all that a model answers; two groups are the same gap seen "
        "from both sides, and with two labels it is twice the difference of selection rates. Where the labels themselves are "
        "shared unequally by the groups, a perfect model has that gap",
        (0.0, 2.0), 0.0, _EQUAL, False, "sum of differences of shares", "Zaman et al. 2023, Eq. 3", "group", "answers",
        _DEMOGRAPHIC_PARITY, _DEMOGRAPHIC_PARITY,
    ),
    GroupMetric(
        "tpr_gap",
        "max_g sqrt(mean_y (TPR_{g,y} - TPR_{not g,y})^2), TPR_{g,y} = p(yhat = y | g, y); two groups are the same gap seen "
        "from both sides",
        (0.0, 1.0), 0.0, _EQUAL, False, "difference of shares", "Zaman et al. 2023, Eq. 4 and 5", "cell", "answers", _TPR_GAP,
        _TPR_GAP,
    ),
    GroupMetric(
        "fpr_gap",
        "max_{g,y} |FPR_{g,y} - FPR_{not g,y}|, FPR_{g,y} = p(yhat = y | g, not y); two labels: of the last label alone "
        "(that of the first is the last one's TPR gap)",
        (0.0, 1.0), 0.0, _EQUAL, False, "difference of shares", "Hardt et al. 2016", "cell", "answers", _FPR_GAP, _FPR_GAP,
    ),
    GroupMetric(
        "equalized_odds",
        "max_{y,a} (max_g p(yhat = a | g, y) - min_g p(yhat = a | g, y)), over labels y and all that a model answers a; two "
        "labels: the greater of the TPR's and the FPR's range",
        (0.0, 1.0), 0.0, _EQUAL, False, "difference of shares", "Hardt et al. 2016; fairlearn's equalized_odds_difference",
        "cell", "answers", _EQUALIZED_ODDS, _EQUALIZED_ODDS,
    ),
    GroupMetric(
        "ece",
        "sum over bins b of |n(yhat = y, b) - sum of confidences in b| / n, the confidence being the probability of the answer, "
        "in 15 bins of equal width; of few rows it is above 0 for any model",
        (0.0, 1.0), 0.0, "depends on how sure it is", False, "difference of probabilities", "Naeini et al. 2015; Guo et al. 2017",
        "all", "calibration", expected_error,
    ),
    GroupMetric(
        "worst_group_ece", "max_g ECE of the rows of g", (0.0, 1.0), 0.0, "depends on how sure it is", False,
        "difference of probabilities", "ECE by group", "group", "calibration", greatest_error,
    ),
    GroupMetric(
        "ece_gap", "max_g ECE_g - min_g ECE_g", (0.0, 1.0), 0.0, "depends on how sure it is", False,
        "difference of probabilities", "ECE by group", "group", "calibration", _ECE_GAP, _ECE_GAP,
    ),
)  # fmt: skip
FAIRNESS = {metric.name: metric for metric in _TABLE}
