"""Which setting forgets best what is not shared, and what the average does that is only shrunk to where another method is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log

import numpy as np
import numpy.typing as npt

from fuseforget.studies.forgetting.fusions import Fusion
from fuseforget.studies.memorization.data import SHARED

__all__ = ["Candidate", "Equal", "Shrunk", "at_equal", "choose_beyond_shrinking", "choose_least_memorised"]

ROUNDING = 1e-6  # of a value: the same model computed in another way differs by less
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Candidate:
    """A contender's setting: its ALR on rows that one model has and on those that all have, and its perplexity."""

    fusion: Fusion
    unshared: float
    shared: float
    perplexity: float

    def excess(self, average: Candidate) -> float:
        """By which factor, in its logarithm, shared ALR or perplexity is worse than the average's, whichever is more so."""
        return max(log(self.shared / average.shared), log(self.perplexity / average.perplexity))


@dataclass(frozen=True)
class Shrunk:
    """The average moved towards the base.

    Attributes:
        scale: of its change from the base: 0 is the base, 1 the average.
        measured: ``perplexity``, and the ALR on ``shared`` rows.
        rows: ``exp(LR)`` of each unshared row, of which ALR is the mean.
    """

    scale: float
    measured: dict[str, float]
    rows: Values


@dataclass(frozen=True)
class Equal:
    """Where the shrunk average is as good as another model in one respect: at what scale, and its rows there."""

    scale: float
    rows: Values


def choose_least_memorised(candidates: Sequence[Candidate], average: Candidate) -> tuple[Candidate, bool]:
    """The candidate with the highest unshared ALR among those whose shared ALR and perplexity are no worse than the average's.

    Where there is none, the nearest to being so: the one with the least :meth:`Candidate.excess`. Returned with whether there
    was one.
    """
    sound = [one for one in candidates if one.excess(average) <= ROUNDING]
    if sound:
        return max(sound, key=lambda one: one.unshared), True
    return min(candidates, key=lambda one: one.excess(average)), False


def choose_beyond_shrinking(
    candidates: Sequence[Candidate], average: Candidate, curve: Sequence[Shrunk]
) -> Candidate | None:  # fmt: skip
    """The candidate that forgets most beyond the average shrunk to the same ALR on shared rows.

    Of those whose perplexity is no worse than the average's: a broken model forgets all. None: there is none to which
    shrinking leads.

    Args:
        curve: on the rows that the candidates were measured on.
    """
    whole = [one for one in candidates if one.perplexity <= average.perplexity * (1 + ROUNDING)]
    gains = [(one, at_equal(curve, SHARED, one.shared)) for one in whole]
    found = [(one.unshared - float(equal.rows.mean()), one) for one, equal in gains if equal is not None]
    return max(found, key=lambda pair: pair[0])[1] if found else None


def at_equal(curve: Sequence[Shrunk], on: str, target: float) -> Equal | None:
    """The shrunk average where it has a value of ``perplexity`` or ``shared``; None: no scale of the curve has it.

    Between two scales the value and the unshared rows are taken to be linear. Where several have it, the one that memorised
    least: the average is given its best.

    Args:
        curve: by ascending scale.
    """
    found = list(_crossings(curve, on, target))
    return max(found, key=lambda one: float(one.rows.mean())) if found else None


def _crossings(curve: Sequence[Shrunk], on: str, target: float) -> Iterator[Equal]:
    for first, second in pairwise(curve):
        start, end = first.measured[on], second.measured[on]
        if min(start, end) * (1 - ROUNDING) <= target <= max(start, end) * (1 + ROUNDING):
            share = min(1.0, max(0.0, (target - start) / (end - start))) if end != start else 1.0
            scale = first.scale + share * (second.scale - first.scale)
            yield Equal(scale, first.rows + share * (second.rows - first.rows))
