"""An orthonormal basis that grows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["Basis"]

Matrix = npt.NDArray[np.float64]
# A direction of which less than this is new is rounding of what is there.
NEW = 1e-8


class Basis:
    """An orthonormal basis of the span of all rows that were added, extended by Gram-Schmidt, each vector twice.

    Twice is enough: what the first pass leaves of the old directions by rounding the second takes away (Giraud et al. 2005).
    """

    def __init__(self, dimensions: int) -> None:
        self._store = np.empty((dimensions, min(dimensions, 16)), order="F")
        self.rank = 0

    @property
    def vectors(self) -> Matrix:
        """Dimensions x rank; a view."""
        return self._store[:, : self.rank]

    def add(self, rows: Matrix) -> Matrix:
        """Extend the span by that of some rows (rows x dimensions); return the new vectors (dimensions x how many)."""
        left = self._without(self._without(rows.T))
        directions, sizes, _ = np.linalg.svd(left, full_matrices=False)
        new = directions[:, sizes > NEW * max(float(np.linalg.norm(rows)), np.finfo(np.float64).tiny)]
        new = new[:, : len(self._store) - self.rank]
        # What was left may be small beside the rows, and its share of the old directions large beside it.
        new = np.linalg.qr(self._without(new))[0]
        self._reserve(self.rank + new.shape[1])
        self._store[:, self.rank : self.rank + new.shape[1]] = new
        self.rank += new.shape[1]
        return new

    def _without(self, columns: Matrix) -> Matrix:
        return np.asarray(columns - self.vectors @ (self.vectors.T @ columns))

    def _reserve(self, columns: int) -> None:
        dimensions, room = self._store.shape
        if columns > room:
            larger = np.empty((dimensions, min(dimensions, max(columns, 2 * room))), order="F")
            larger[:, : self.rank] = self.vectors
            self._store = larger
