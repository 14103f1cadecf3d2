"""How well scores tell members of a training set from non-members: ROC AUC, and the true positives at few false ones.

A higher score means "more likely a member". Members and non-members are resampled each among themselves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from fuseforget.errors import InputError
from fuseforget.knowledge.resampling import DRAWN_AT_ONCE, RESAMPLES, draw_units, parts_of
from fuseforget.knowledge.statistics import LEVEL, Interval, exact_limits, percentiles

__all__ = ["Auc", "OperatingPoint", "roc_auc", "tpr_at"]

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Auc(Interval):
    """The area under the ROC curve; ``n`` counts members and non-members.

    Attributes:
        chance: where 95 % of the values lie of scores that say nothing (about .5).
        p: the two-sided p-value that the scores say nothing (Mann and Whitney 1947, normal, corrected for ties).
    """

    members: int
    non_members: int
    chance: tuple[float, float]
    p: float


@dataclass(frozen=True)
class OperatingPoint(Interval):
    """The true positive rate at a false positive rate; ``n`` counts members and non-members.

    Attributes:
        fpr: the greatest false positive rate that was allowed.
        achieved: the one that the threshold has on these non-members, at most that.
        threshold: members are called all rows that are strictly beyond it; infinite where it calls all so.
        resolution: ``1 / non_members``, the least false positive rate that can be told from none.
        resolved: whether ``fpr`` is at least that. If not, the value is the true positive rate above *all* non-members, whose
            own false positive rate may as well be greater than ``fpr``: more non-members are needed.
        chance: where 95 % of the values lie of scores that say nothing.
        p: the one-sided p-value that scores which say nothing find as many members (exact).
    """

    members: int
    non_members: int
    fpr: float
    achieved: float
    threshold: float
    resolution: float
    resolved: bool
    chance: tuple[float, float]
    p: float

    def with_threshold(self, threshold: float) -> OperatingPoint:
        """The same on another scale of the scores."""
        return replace(self, threshold=threshold)


def roc_auc(members: npt.ArrayLike, non_members: npt.ArrayLike, *, seed: int = 0) -> Auc:
    """Return the chance that a member has a higher score than a non-member, ties counted half, with its interval.

    1 is a perfect attack, .5 chance. The interval is a percentile bootstrap that resamples members and non-members. Where no
    resample differs, it is exact: m members and n non-members make min(m, n) independent pairs, and all of them are
    concordant with a probability of at most AUC^min(m, n).

    Args:
        members, non_members: scores, of any length.

    Raises:
        InputError: no members, no non-members, or a score that is NaN or infinite.
    """
    above, below = _scores("members", members), _scores("non-members", non_members)
    # Of each member: the non-members strictly below, and those not above.
    lower, upper = (np.searchsorted(below, above, side=side) for side in ("left", "right"))
    pairs = len(above) * len(below)
    value = float((lower.sum() + upper.sum()) / (2 * pairs))
    draws = _resampled_auc(lower, upper, len(below), seed)
    low, high = percentiles(draws)
    if draws.min() == draws.max():
        reach = exact_limits(0.0, min(len(above), len(below)))[1]
        low, high = (
            (max(0.0, value - reach), min(1.0, value + reach)) if value in (0.0, 1.0) else (0.5 - reach / 2, 0.5 + reach / 2)
        )
    spread = _null_spread(above, below)
    tail = 1.959963984540054 * spread
    p = math.erfc(abs(value - 0.5) / (spread * math.sqrt(2))) if spread else 1.0
    return Auc(value, low, high, len(above) + len(below), len(above), len(below), (max(0.0, 0.5 - tail), min(1.0, 0.5 + tail)), p)


def tpr_at(members: npt.ArrayLike, non_members: npt.ArrayLike, fpr: float, *, seed: int = 0) -> OperatingPoint:
    """Return the greatest true positive rate of a threshold whose false positive rate on the non-members is at most ``fpr``.

    The threshold is the score of the (k + 1)-th highest non-member, k = floor(fpr n): members are the rows strictly above it.

    The interval is for the rate at the threshold that has ``fpr`` in the population, wherever that is: how many of the n
    non-members are above it is binomial. With fewer than 3.7 expected there, there may be none, and how few members are then
    above cannot be told: the interval begins at 0. (Resampled non-members would put the threshold among themselves: in
    simulations such an interval of the rate at 0.1 % of 2,000 non-members is above the truth 12 times of 100.) None or all
    found is no certainty, and reaches at least as far as Clopper and Pearson's limit for the members.

    Args:
        members, non_members: scores, of any length.
        fpr: 0 to 1; 0 asks for no false positive at all.

    Raises:
        InputError: no members, no non-members, a score that is NaN or infinite, or a rate out of range.
    """
    if not 0 <= fpr <= 1:
        raise InputError("false positive rate", expected="0 to 1", found=str(fpr))
    above, below = _scores("members", members), _scores("non-members", non_members)
    n = len(below)
    # 0.29 * 100 is 28.999999999999996.
    allowed = math.floor(fpr * n + 1e-9)
    # The share of members above each non-member, the highest non-member first, and last all of them.
    found = np.append((len(above) - np.searchsorted(above, below[::-1], side="right")) / len(above), 1.0)
    value = float(found[allowed])
    threshold = float(below[::-1][allowed]) if allowed < n else -math.inf
    low, high = (1.0, 1.0) if allowed == n else _limits(found, len(above), fpr, seed)
    if value in (0.0, 1.0) and allowed < n:
        exact = exact_limits(value, len(above))
        low, high = min(low, exact[0]), max(high, exact[1])
    chance, p = _chance(round(value * len(above)), len(above), n, allowed)
    return OperatingPoint(
        value,
        low,
        high,
        len(above) + n,
        members=len(above),
        non_members=n,
        fpr=fpr,
        achieved=float(np.mean(below > threshold)),
        threshold=threshold,
        resolution=1 / n,
        resolved=fpr * n >= 1 - 1e-9,
        chance=chance,
        p=p,
    )


def _scores(thing: str, scores: npt.ArrayLike) -> Values:
    """Sorted scores."""
    array = np.asarray(scores, dtype=np.float64).ravel()
    if array.size == 0:
        raise InputError(f"scores of {thing}", expected="at least one", found="none")
    if not np.isfinite(array).all():
        raise InputError(f"scores of {thing}", expected="finite numbers", found=f"{np.sum(~np.isfinite(array))} that are not")
    return np.sort(array)


def _resampled_auc(lower: npt.NDArray[np.integer], upper: npt.NDArray[np.integer], non_members: int, seed: int) -> Values:
    """AUC of bootstrap resamples, from how many of the sorted non-members are below each member, and not above it."""
    members = len(lower)
    rng = np.random.default_rng([seed, members, non_members])
    draws = []
    for size in parts_of(RESAMPLES, DRAWN_AT_ONCE // (members + non_members)):
        weights = draw_units(rng, members, size)
        counted = np.zeros((size, non_members + 1))
        np.cumsum(draw_units(rng, non_members, size), axis=1, out=counted[:, 1:])
        draws.append(np.einsum("ij,ij->i", weights, counted[:, lower] + counted[:, upper]) / (2 * members * non_members))
    return np.concatenate(draws)


def _limits(found: Values, members: int, fpr: float, seed: int) -> tuple[float, float]:
    """The interval of the true positive rate, from the share of the members above each non-member, highest first, and 1."""
    n = len(found) - 1
    rng = np.random.default_rng([seed, members, n])
    # With j non-members above the true threshold, it lies between the j-th highest and the next.
    above = rng.binomial(n, fpr, RESAMPLES)
    least = np.where(above > 0, found[above - 1], 0.0)
    low, _ = percentiles(rng.binomial(members, least) / members)
    _, high = percentiles(rng.binomial(members, found[above]) / members)
    return low, high


def _null_spread(members: Values, non_members: Values) -> float:
    """The standard deviation of the AUC where members and non-members have the same scores (corrected for ties)."""
    together = np.concatenate([members, non_members])
    total = len(together)
    ties = np.unique(together, return_counts=True)[1].astype(np.float64)
    tied = float(np.sum(ties**3 - ties)) / (total * (total - 1))
    return math.sqrt(max(0.0, total + 1 - tied) / (12 * len(members) * len(non_members)))


def _chance(found: int, members: int, non_members: int, allowed: int) -> tuple[tuple[float, float], float]:
    """Where 95 % of the rates lie, and how probable it is to find so many members, where scores say nothing.

    How many of the members are above the (k + 1)-th highest of n non-members is beta-binomial then; ties make it fewer.
    """
    from scipy.stats import betabinom

    if allowed == non_members:
        return (1.0, 1.0), 1.0
    null = betabinom(members, allowed + 1, non_members - allowed)
    tail = (1 - LEVEL) / 2
    low, high = null.ppf([tail, 1 - tail]) / members
    return (float(low), float(high)), float(null.sf(found - 1))
