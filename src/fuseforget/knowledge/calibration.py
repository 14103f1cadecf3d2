"""The expected calibration error: how far a classifier's confidence is from how often it is right.

Its table holds sums over rows: groups x (1 + bins), first the number of rows, then for each bin of the confidence the sum of
(1 if right else 0) - confidence. Leading axes (resamples, models) are kept. The error of no rows is NaN, never 0.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["BINS", "bin_numbers", "expected_error", "greatest_error", "group_errors"]

BINS = 15
Table = npt.NDArray[np.float64]


def bin_numbers(confidences: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """The bin of each confidence: (b / 15, (b + 1) / 15], as Guo et al. 2017 have them; 0 is in the first."""
    numbers: npt.NDArray[np.int64] = np.clip(np.ceil(confidences * BINS) - 1, 0, BINS - 1).astype(np.int64)
    return numbers


def group_errors(table: Table) -> Table:
    """The expected calibration error of each group, [..., groups]."""
    rows, off = table[..., 0], np.abs(table[..., 1:]).sum(axis=-1)
    found: Table = np.divide(off, rows, out=np.full(rows.shape, np.nan), where=rows > 0)
    return found


def expected_error(table: Table) -> Table:
    """That of all rows together, [...]."""
    return group_errors(table.sum(axis=-2, keepdims=True))[..., 0]


def greatest_error(table: Table) -> Table:
    """The greatest of the groups' errors, [...]."""
    found: Table = group_errors(table).max(axis=-1)
    return found
