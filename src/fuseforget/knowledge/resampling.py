"""Bootstrap resamples of sums over units, in matrix products."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

__all__ = ["DRAWN_AT_ONCE", "RESAMPLES", "draw_units", "parts_of", "resampled_sums", "swapped_sums"]

RESAMPLES = 10_000
SEVERAL = 1_000  # kinds up to which how often each is drawn is itself drawn
BLOCK = 20_000_000  # counts that are held at once
DRAWN_AT_ONCE = 1_000_000  # numbers of units: they stay in the processor's cache until they are counted
Sums = npt.NDArray[np.floating]


def resampled_sums(contributions: Sums, *, seed: int = 0, resamples: int = RESAMPLES) -> Sums:
    """Sum the contributions of units over bootstrap resamples of the units.

    Args:
        contributions: units x columns, in the precision in which they are to be added. A column may be anything that adds
            up: right answers of a model, rows of a cell.

    Returns:
        resamples x columns. The resamples depend on the seed and the number of units, and on which units contribute alike.
    """
    n = len(contributions)
    rng = np.random.default_rng([seed, n])
    # Units that contribute alike need not be told apart: how often each *kind* is drawn is again multinomial. Right-or-wrong
    # values of a few models make a handful of kinds, in place of thousands of examples.
    kinds, units = np.unique(contributions, axis=0, return_counts=True)
    if len(kinds) <= SEVERAL:
        counts = (rng.multinomial(n, units / n, size=size) for size in parts_of(resamples, BLOCK // len(kinds)))
        return np.concatenate([block.astype(kinds.dtype) @ kinds for block in counts])
    return np.concatenate([draw_units(rng, n, size) @ contributions for size in parts_of(resamples, DRAWN_AT_ONCE // n)])


def swapped_sums(first: Sums, second: Sums, *, seed: int = 0, resamples: int = RESAMPLES) -> tuple[Sums, Sums]:
    """Sum the contributions of two models where each unit's two are swapped with chance one half, independently.

    Args:
        first, second: units x columns.

    Returns:
        Two arrays, resamples x columns.
    """
    # Units whose difference is the same need not be told apart: of how many the two are swapped is binomial.
    differences = first - second
    kinds, units = np.unique(differences, axis=0, return_counts=True)
    if len(kinds) > SEVERAL:
        kinds, units = differences, np.ones(len(differences), dtype=np.int64)
    differ = np.any(kinds != 0, axis=1)
    kinds, units = kinds[differ], units[differ]
    rng = np.random.default_rng([seed, len(first), 1])
    sizes = parts_of(resamples, DRAWN_AT_ONCE // max(1, len(units)))
    moved = np.concatenate([_swapped(rng, units, size).astype(kinds.dtype) @ kinds for size in sizes])
    return first.sum(axis=0) - moved, second.sum(axis=0) + moved


def _swapped(rng: np.random.Generator, units: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.integer]:
    """How many of each kind's units are swapped, size x kinds."""
    if units.size and units.max() > 1:
        return rng.binomial(units, 0.5, size=(size, len(units)))
    bits = np.frombuffer(rng.bytes(-(-size * len(units) // 8)), dtype=np.uint8)
    return np.unpackbits(bits, count=size * len(units)).reshape(size, len(units))


def draw_units(rng: np.random.Generator, n: int, size: int) -> npt.NDArray[np.float32]:
    """How often each of n units is in each resample, size x n."""
    drawn = rng.integers(0, n, size=(size, n), dtype=np.uint16 if n <= 2**16 else np.uint32)
    places = drawn + np.arange(0, size * n, n)[:, None]
    return np.bincount(places.ravel(), minlength=size * n).reshape(size, n).astype(np.float32)


def parts_of(total: int, most: int) -> Iterator[int]:
    """Parts of a total, each as large as may be."""
    most = max(1, most)
    for start in range(0, total, most):
        yield min(most, total - start)
