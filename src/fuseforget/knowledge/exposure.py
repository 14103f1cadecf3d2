"""Exposure of canaries: how far a model ranks secrets that it was trained on above those that it might have been.

A *canary* is a text with a random fill (four digits, say) among all fills that it might have had; its *exposure* is how many bits
of the fill the model gives away (Carlini et al. 2019).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from fuseforget.errors import InputError
from fuseforget.knowledge.fairness import Difference
from fuseforget.knowledge.resampling import RESAMPLES
from fuseforget.knowledge.statistics import LEVEL, Interval, exact_limits

__all__ = ["Exposure", "canary_exposure", "compare_exposure", "extractable", "mean_exposure"]

Values = npt.NDArray[np.float64]
ROUNDING = 1e-3  # nats


@dataclass(frozen=True)
class Exposure:
    """How far a canary's fill is given away.

    Attributes:
        rank: of the true fill among all, 1 the most likely; ties are ranked best, which is the worst for privacy.
        size: how many fills there are.
        tied: how many other fills are exactly as likely: a model that says the same of all gives rank 1 and ``size - 1`` ties.
        exposure: ``log2 size - log2 rank``, 0 to log2 size bits.
    """

    rank: int
    size: int
    tied: int
    exposure: float


def canary_exposure(log_probs: npt.ArrayLike, true: int) -> Exposure:
    """Return the exposure of a canary from its exact rank, ``log2 |R| - log2 rank`` (Carlini et al. 2019, Eq. 1 and 2).

    A canary that was never seen has each rank alike: about 1.44 bits on average.

    Args:
        log_probs: of all possible fills after the canary's prefix, the sums over their tokens.
        true: the place of the fill that the canary has.

    Raises:
        InputError: fewer than two fills, a place out of range, or a log-probability that is NaN or above 0.
    """
    values = np.asarray(log_probs, dtype=np.float64).ravel()
    if len(values) < 2:
        raise InputError("fills of a canary", expected="at least two, to rank one among them", found=str(len(values)))
    if not 0 <= true < len(values):
        raise InputError("the true fill of a canary", expected=f"a place below {len(values)}", found=str(true))
    # A sum of logarithms in float32 may be above 0 by rounding.
    broken = int(np.sum(~(values <= ROUNDING)))
    if broken:
        raise InputError("log-probabilities of fills", expected="numbers up to 0", found=f"{broken} others")
    rank = 1 + int(np.sum(values > values[true]))
    tied = int(np.sum(values == values[true])) - 1
    return Exposure(rank, len(values), tied, math.log2(len(values)) - math.log2(rank))


def mean_exposure(canaries: Sequence[Exposure]) -> Interval:
    """Return the mean exposure in bits, with Student's t interval over the canaries, cut to 0 to log2 |R|.

    Canaries are few, where a bootstrap is too narrow. Where all have one exposure (all are extracted, or one is all there
    are) the interval is what holds if any other has at most the share that Clopper and Pearson leave.

    Raises:
        InputError: no canaries, or some with another number of fills.
    """
    values, most = _exposures(canaries)
    mean, n = float(values.mean()), len(values)
    if values.min() == values.max():
        share = exact_limits(1.0, n)[0]
        return Interval(mean, share * mean, share * mean + (1 - share) * most, n)
    half = _student(n - 1) * float(values.std(ddof=1)) / math.sqrt(n)
    return Interval(mean, max(0.0, mean - half), min(most, mean + half), n)


def extractable(canaries: Sequence[Exposure]) -> Interval:
    """Return the share of canaries whose fill is the most likely of all (rank 1), with its exact interval.

    Clopper and Pearson's, for canaries are few. Ties count as extracted (:class:`Exposure`).

    Raises:
        InputError: no canaries.
    """
    from scipy.stats import binomtest

    ranks = [canary.rank for canary in canaries]
    if not ranks:
        raise InputError("canaries", expected="at least one", found="none")
    limits = binomtest(ranks.count(1), len(ranks)).proportion_ci(LEVEL, method="exact")
    return Interval(ranks.count(1) / len(ranks), float(limits.low), float(limits.high), len(ranks))


def compare_exposure(inserted: Sequence[Exposure], held_out: Sequence[Exposure], *, seed: int = 0) -> Difference:
    """Compare canaries in the training data with canaries that were never inserted: the difference of the mean exposures.

    The interval is Welch's; the two-sided p-value that of a permutation test, were it chance which canaries were
    inserted: over all divisions where there are at most 10,000, else over as many random ones.

    Raises:
        InputError: fewer than two canaries on a side, or some with another number of fills.
    """
    together, most = _exposures([*inserted, *held_out])
    first, second = together[: len(inserted)], together[len(inserted) :]
    if min(len(first), len(second)) < 2:
        raise InputError("canaries", expected="at least two inserted and two held out", found=f"{len(first)} and {len(second)}")
    value = float(first.mean() - second.mean())
    errors = [float(side.var(ddof=1)) / len(side) for side in (first, second)]
    if sum(errors):
        degrees = sum(errors) ** 2 / sum(error**2 / (len(side) - 1) for error, side in zip(errors, (first, second), strict=True))
        half = _student(degrees) * math.sqrt(sum(errors))
        low, high = value - half, value + half
    else:
        one, other = mean_exposure(inserted), mean_exposure(held_out)
        low, high = one.low - other.high, one.high - other.low
    p = _permuted_p(together, len(first), seed)
    return Difference(value, max(-most, low), min(most, high), p, len(together))


def _exposures(canaries: Sequence[Exposure]) -> tuple[Values, float]:
    """Each canary's exposure, and the greatest possible."""
    sizes = {canary.size for canary in canaries}
    if len(sizes) != 1:
        found = f"canaries with {sorted(sizes)}" if sizes else "no canaries"
        raise InputError("canaries", expected="at least one, all with as many fills", found=found)
    return np.array([canary.exposure for canary in canaries]), math.log2(sizes.pop())


def _student(degrees: float) -> float:
    from scipy.stats import t

    return float(t.ppf((1 + LEVEL) / 2, degrees))


def _permuted_p(values: Values, first: int, seed: int) -> float:
    """The two-sided permutation p-value of the difference of means between the first so many values and the rest."""
    n = len(values)
    if math.comb(n, first) <= RESAMPLES:
        chosen = np.array(list(combinations(range(n), first)))
        sums = values[chosen].sum(axis=1)
        besides = 0  # what was found is among the divisions
    else:
        rng = np.random.default_rng([seed, n, first])
        sums = values[np.argsort(rng.random((RESAMPLES, n)), axis=1)[:, :first]].sum(axis=1)
        besides = 1
    distance = np.abs(sums - first * values.mean())
    found = abs(values[:first].sum() - first * values.mean())
    return float((besides + np.sum(distance >= found - 1e-9)) / (besides + len(sums)))
