"""Intervals and paired tests on per-example values.

Models are compared on the same examples, so every comparison resamples or counts *examples*: what makes an example hard is
hard for all models, and an unpaired test would throw that away.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fuseforget.errors import InputError
from fuseforget.knowledge.resampling import RESAMPLES, resampled_sums

__all__ = [
    "LEVEL",
    "MOST_UNDEFINED",
    "Bound",
    "Interval",
    "bootstrap_mean",
    "check_bound",
    "check_bound_of",
    "exact_limits",
    "holm",
    "knows_more",
    "mcnemar",
    "mean_retention",
    "percentiles",
    "reflected",
    "resampled_means",
    "retention",
    "sign_flip",
]

LEVEL = 0.95
MOST_UNDEFINED = 0.01
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate, its 95 % interval, and the number of examples behind it."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Bound:
    """The check of Eq. 2, ``min_i Psi(theta_i) <= Psi(fused) <= max_i Psi(theta_i)``, for one probe.

    Attributes:
        lowest, highest: the models' least and greatest utilization.
        slack: how far inside the bound the fused model is (negative: outside), with its paired bootstrap interval.
        verdict: ``holds`` (inside), ``within error`` (outside by less than the noise), ``broken``.
    """

    lowest: float
    highest: float
    slack: Interval
    verdict: str


def resampled_means(values: Values, *, seed: int = 0, resamples: int = RESAMPLES) -> Values:
    """Means of bootstrap resamples of examples, the same resamples for every model.

    Args:
        values: per-example values, models x examples.

    Returns:
        resamples x models.
    """
    means: Values = resampled_sums(values.T, seed=seed, resamples=resamples) / values.shape[1]
    return means


def bootstrap_mean(values: npt.ArrayLike, *, seed: int = 0) -> Interval:
    """Return the mean with its percentile bootstrap interval over examples.

    Where all values are equal a bootstrap has no width; for values of 0 and 1 the exact (Clopper-Pearson) interval is
    given then, so that 50 right of 50 do not read as certainty.
    """
    array = _array([values])
    n = array.shape[1]
    mean = float(array.mean())
    if array.min() == array.max():
        low, high = exact_limits(mean, n) if mean in (0.0, 1.0) else (mean, mean)
    else:
        low, high = percentiles(resampled_means(array, seed=seed)[:, 0])
    return Interval(mean, low, high, n)


def mcnemar(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """Return the two-sided exact p-value that two models are right equally often on the same examples (McNemar 1947).

    Args:
        first, second: 0 or 1 for each example.
    """
    from scipy.stats import binomtest

    a, b = _array([first, second])
    only_first, only_second = int(np.sum((a == 1) & (b == 0))), int(np.sum((a == 0) & (b == 1)))
    discordant = only_first + only_second
    return 1.0 if discordant == 0 else float(binomtest(only_first, discordant, 0.5).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm 1979): the familywise error stays at its level."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(p_values))
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return [float(p) for p in adjusted]


def sign_flip(groups: Sequence[npt.ArrayLike], *, seed: int = 0) -> float:
    """Return the two-sided p-value that two models are equally good, from per-example differences between them.

    A permutation test (Fisher 1935): were they equal, each difference might as well have the other sign. The statistic is the
    mean over groups of examples of the mean difference. For one group of right-or-wrong values this is
    :func:`mcnemar` but for the drawing of signs; unlike that it takes means over several models.

    Args:
        groups: the differences on each group's examples.
    """
    arrays = [_array([group])[0] for group in groups]
    rng = np.random.default_rng([seed, sum(len(array) for array in arrays)])
    draws = np.zeros(RESAMPLES)
    for array in arrays:
        # Differences of one size need not be told apart: of how many the sign is kept is binomial.
        sizes, counts = np.unique(np.abs(array[array != 0]), return_counts=True)
        for size, count in zip(sizes, counts, strict=True):
            draws += size * (2 * rng.binomial(count, 0.5, RESAMPLES) - count) / len(array)
    found = abs(sum(float(array.mean()) for array in arrays))
    # Sums of the same numbers in another order differ in rounding: a draw as large as the statistic must count.
    as_large = int(np.sum(np.abs(draws) >= found * (1 - 1e-9) - 1e-12))
    return (1 + as_large) / (1 + RESAMPLES)


def knows_more(specialist: npt.ArrayLike, control: npt.ArrayLike, *, seed: int = 0) -> bool:
    """Return whether a specialist is above the control clearly enough for a :func:`retention`.

    That is in the mean and in 99 % of bootstrap resamples of the examples: where the gap may as well be zero, a share of
    it means nothing.
    """
    values = _array([specialist, control])
    first, second = values.mean(axis=1)
    return bool(first > second) and _share_above(values, seed) >= 1 - MOST_UNDEFINED


def _share_above(values: Values, seed: int) -> float:
    means = resampled_means(values, seed=seed)
    return float(np.mean(means[:, 0] > means[:, 1]))


def retention(fused: npt.ArrayLike, specialist: npt.ArrayLike, control: npt.ArrayLike, *, seed: int = 0) -> Interval:
    """Return how much of a specialist's knowledge the fused model still uses.

    ``(Psi(fused) - Psi(control)) / (Psi(specialist) - Psi(control))`` with a control that never learned it: 1 is all, 0
    is none, below 0 is worse than never having known. The interval is a paired bootstrap over the examples.

    Raises:
        InputError: the specialist is not clearly above the control (:func:`knows_more`): what was never known cannot be
            forgotten.
    """
    return mean_retention([(fused, specialist, control)], seed=seed)


def mean_retention(
    triples: Sequence[tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike]],
    *,
    seed: int = 0,
    drawn: Sequence[Hashable] | None = None,
) -> Interval:
    """Return the mean of :func:`retention` over several pieces of knowledge.

    Args:
        drawn: what the examples of each piece are: those of equal ones are resampled together, and counted once; default: each
            has examples of its own.
    """
    points, draws = [], []
    counts: dict[Hashable, int] = {}
    defined = np.ones(RESAMPLES, dtype=bool)
    names = range(len(triples)) if drawn is None else drawn
    for name, triple in zip(names, triples, strict=True):
        values = _array(triple)
        fused, specialist, control = values.mean(axis=1)
        if specialist <= control:
            raise InputError(
                "retention", expected="a specialist above the control", found=f"{specialist:.3f} against {control:.3f}"
            )
        share = _share_above(values[1:], seed)
        if share < 1 - MOST_UNDEFINED:
            raise InputError(
                "retention",
                expected=f"a specialist above the control in {1 - MOST_UNDEFINED:.0%} of resamples",
                found=f"{share:.1%}",
                action="Use more examples, or a specialist that learned more.",
            )
        points.append((fused - control) / (specialist - control))
        # Another stream for other examples: they are resampled independently.
        counts.setdefault(name, values.shape[1])
        means = resampled_means(values, seed=seed + list(counts).index(name))
        gap = means[:, 1] - means[:, 2]
        defined &= gap > 0
        draws.append((means[:, 0] - means[:, 2]) / np.where(gap > 0, gap, np.nan))
    # A resample in which a specialist is not above the control has no retention; few such leave the interval sound.
    low, high = percentiles(np.mean(draws, axis=0)[defined])
    return Interval(float(np.mean(points)), low, high, sum(counts.values()))


def check_bound(fused: npt.ArrayLike, models: Sequence[npt.ArrayLike], *, seed: int = 0) -> Bound:
    """Check Eq. 2 of Zaman et al. 2023 for one probe, from per-example values on the same examples."""
    values = _array([fused, *models])
    return check_bound_of(values.mean(axis=1), resampled_means(values, seed=seed), values.shape[1])


def check_bound_of(values: Values, draws: Values, n: int) -> Bound:
    """Check Eq. 2 of Zaman et al. 2023 for one probe whose metric is no mean of values.

    Args:
        values: of the fused model, then of each model that it was fused from.
        draws: their values in the same resamples, resamples x models; NaN where a resample leaves one undefined.
        n: the examples behind them.
    """
    lowest, highest = float(values[1:].min()), float(values[1:].max())
    slack = float(min(values[0] - lowest, highest - values[0]))
    # The models that are the ends stay the ends in each resample: a re-chosen minimum would be biased downwards.
    low_model, high_model = 1 + int(values[1:].argmin()), 1 + int(values[1:].argmax())
    below, above = draws[:, 0] - draws[:, low_model], draws[:, high_model] - draws[:, 0]
    low, high = percentiles(below if values[0] - lowest <= highest - values[0] else above)
    verdict = "holds" if slack >= 0 else ("within error" if high >= 0 else "broken")
    return Bound(lowest, highest, Interval(slack, low, high, n), verdict)


def _array(rows: Sequence[npt.ArrayLike]) -> Values:
    arrays = [np.asarray(row, dtype=np.float64).ravel() for row in rows]
    lengths = {len(array) for array in arrays}
    if len(lengths) != 1:
        raise InputError("models on the same examples", expected="equally many values", found=str(sorted(lengths)))
    stacked = np.stack(arrays)
    if stacked.shape[1] == 0:
        raise InputError("examples", expected="at least one", found="none")
    if not np.isfinite(stacked).all():
        raise InputError("per-example values", expected="finite numbers", found="NaN or infinity")
    return stacked


def percentiles(draws: Values) -> tuple[float, float]:
    """The ends of the 95 % percentile interval, of the draws that are defined (no NaN)."""
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(draws[~np.isnan(draws)], [tail, 1 - tail])
    return float(low), float(high)


def reflected(value: float, draws: Values, within: tuple[float, float]) -> tuple[float, float]:
    """The 95 % percentile interval and the basic one (the same reflected at the value) together, cut to a range.

    For what resampling makes greater, or smaller, on the whole: a gap, which is never below 0, or the worst of several. The
    percentile interval of a gap alone would never reach 0, also of a model that treats all alike.
    """
    low, high = percentiles(draws)
    return max(within[0], min(low, 2 * value - high)), min(within[1], max(high, 2 * value - low))


def exact_limits(mean: float, n: int) -> tuple[float, float]:
    """The Clopper-Pearson interval where none (mean 0) or all (mean 1) of n succeed."""
    limit = ((1 - LEVEL) / 2) ** (1 / n)
    return (limit, 1.0) if mean == 1.0 else (0.0, 1 - limit)
