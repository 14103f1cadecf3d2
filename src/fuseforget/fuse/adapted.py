"""The matrices of adapters, computed as they are read."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from fuseforget.checkpoint import LowRank, TensorInfo
from fuseforget.fuse.sources import Files, Scratch, Source

if TYPE_CHECKING:
    import torch

__all__ = ["Adapted"]

ROWS_AT_ONCE = 1 << 18  # values


class Adapted(Source):
    """A base's matrix with its adapter, computed by rows as it is read, in float32 or wider."""

    def __init__(self, files: Files, base: Source, adapter: LowRank) -> None:
        self.nominal, self.shape = base.nominal, base.shape
        self.dtype = "F64" if base.dtype == "F64" else "F32"
        self.nbytes = base.nbytes + adapter.a.nbytes + adapter.b.nbytes
        self.adapter = adapter
        self._base, self._files = base, files
        self._lock = threading.Lock()
        self._lengths: torch.Tensor | None = None

    @property
    def files(self) -> set[Path]:
        return {*self._base.files, self.adapter.a.file}

    def read(self, start: int, stop: int, scratch: Scratch, slot: int) -> torch.Tensor:
        columns = self.shape[1]
        first, last = start // columns, -(-stop // columns)
        rows = self._with_delta(first, last, scratch, slot)
        if self.adapter.magnitude is not None:
            rows = rows * self._factors(first, last, rows)
        return rows.reshape(-1)[start - first * columns : stop - first * columns]

    def delta(self, first: int, last: int) -> torch.Tensor:
        """Rows of ``s B A``, as they lie in the matrix."""
        a, b = self._factor(self.adapter.a), self._factor(self.adapter.b)
        product = a[:, first:last].T @ b.T if self.adapter.transposed else b[first:last] @ a
        return product.mul_(self.adapter.scale)

    def _with_delta(self, first: int, last: int, scratch: Scratch, slot: int) -> torch.Tensor:
        columns = self.shape[1]
        stored = self._base.read(first * columns, last * columns, scratch, slot)
        return stored.to(self._dtype).view(last - first, columns) + self.delta(first, last)

    @property
    def _dtype(self) -> torch.dtype:
        import torch

        return torch.float64 if self.dtype == "F64" else torch.float32

    def _factor(self, info: TensorInfo) -> torch.Tensor:
        return self._files.whole(info).to(self._dtype)

    def _factors(self, first: int, last: int, rows: torch.Tensor) -> torch.Tensor:
        """DoRA: the learned length over the length that the output units have."""
        import torch

        assert self.adapter.magnitude is not None
        learned = self._factor(self.adapter.magnitude).reshape(-1)
        if not self.adapter.transposed:
            lengths: torch.Tensor = torch.linalg.vector_norm(rows, dim=1)
            return (learned[first:last] / lengths).unsqueeze(1)
        return learned / self._column_lengths()

    def _column_lengths(self) -> torch.Tensor:
        """Lengths of the columns, which are the output units of a transposed matrix: one pass over it."""
        import torch

        with self._lock:
            if self._lengths is None:
                total = torch.zeros(self.shape[1], dtype=torch.float64)
                step = max(1, ROWS_AT_ONCE // self.shape[1])
                for first in range(0, self.shape[0], step):
                    rows = self._with_delta(first, min(first + step, self.shape[0]), Scratch(), 0)
                    total += rows.double().square().sum(dim=0)
                self._lengths = total.sqrt().to(self._dtype)
            return self._lengths
