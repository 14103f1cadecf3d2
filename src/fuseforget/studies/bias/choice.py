"""Where on the path two biases are equally weak: the choice of the fused model's weight (section 5, footnote 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fuseforget.errors import InputError

__all__ = ["Choice", "choose_weight", "crossing"]


@dataclass(frozen=True)
class Choice:
    """A weight on the path from a first to a second biased model.

    Attributes:
        crossings: by metric, the weight of the second model at which both attributes have the same value; None where
            the curves do not cross.
        at: the mean of these; where no metric's curves cross, the grid point whose worse value is the least.
        against: by attribute, the weight to use against its bias: of the two grid points around ``at``, the one at which
            the first metric is lower for this attribute.
        nearest: the grid point nearest to ``at``.
    """

    crossings: dict[str, float | None]
    at: float
    against: dict[str, float]
    nearest: float


def choose_weight(grid: Sequence[float], curves: Mapping[str, Mapping[str, Sequence[float]]]) -> Choice:
    """Choose the weight of the second model near the crossing of the two attributes' curves.

    The authors took "the values closest to their intersection points that minimize the bias in question", the same
    for both of their metrics.

    Args:
        grid: weights of the second model, ascending.
        curves: by metric, by attribute (two of them), the metric's value at each point of the grid.

    Raises:
        InputError: not two attributes, or curves of another length than the grid.
    """
    for metric, of in curves.items():
        if len(of) != 2 or any(len(values) != len(grid) for values in of.values()):
            raise InputError(f"curves of {metric}", expected=f"two attributes' values at {len(grid)} points", found=str(dict(of)))
    found = {metric: crossing(grid, *of.values()) for metric, of in curves.items()}
    known = [place for place in found.values() if place is not None]
    first = next(iter(curves.values()))
    # Where one bias is always the stronger there is no crossing: the weight whose stronger bias is the least.
    least_worst = float(grid[int(np.argmin(np.max(list(first.values()), axis=0)))])
    at = float(np.mean(known)) if known else least_worst
    above = min(int(np.searchsorted(grid, at - 1e-9)), len(grid) - 1)
    below = above if abs(grid[above] - at) < 1e-9 else max(above - 1, 0)
    against = {name: float(grid[below if values[below] <= values[above] else above]) for name, values in first.items()}
    nearest = float(grid[below if at - grid[below] <= grid[above] - at else above])
    return Choice(found, at, against, nearest)


def crossing(grid: Sequence[float], first: Sequence[float], second: Sequence[float]) -> float | None:
    """The place at which two curves, straight between the grid's points, are equal; None where they never are.

    Of several places the one at which the curves are lowest: a crossing at high values is of no use.
    """
    difference = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    places: list[tuple[float, float]] = []  # (value, place)
    for i, gap in enumerate(difference):
        if gap == 0:
            places.append((float(first[i]), float(grid[i])))
        elif i + 1 < len(difference) and gap * difference[i + 1] < 0:
            share = gap / (gap - difference[i + 1])
            value = first[i] + share * (first[i + 1] - first[i])
            places.append((float(value), float(grid[i] + share * (grid[i + 1] - grid[i]))))
    return min(places)[1] if places else None
