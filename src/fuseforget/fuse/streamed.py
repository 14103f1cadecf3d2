"""A tensor of all models as a method sees it, read from files block by block."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from fuseforget.checkpoint import DTYPES
from fuseforget.errors import InputError
from fuseforget.fuse.memory import compute_bytes
from fuseforget.fuse.plan import TensorPlan
from fuseforget.fuse.sources import Scratch, Source
from fuseforget.fuse.stored import stored_group
from fuseforget.fuse.workers import Workers
from fuseforget.methods.group import Block, Group, Range, row_length

if TYPE_CHECKING:
    import torch

__all__ = ["Streamed", "require_finite"]

T = TypeVar("T")
PIECE = 1 << 18  # values that are read at once for columns of a matrix, more for less: reading a piece costs a call


class Streamed(Group):
    """One tensor of all models, read block by block from files."""

    def __init__(self, tensor: TensorPlan, run: Workers) -> None:
        self.name, self.shape, self.seed = tensor.spec.name, tensor.spec.shape, run.plan.recipe.seed
        self.models, self.has_base = len(tensor.sources), tensor.base is not None
        self.device = run.device
        self.whole_rows = tensor.method is not None and tensor.method.rows
        self._tensor, self._run = tensor, run
        if tensor.method is not None and tensor.method.in_panels(self.shape):
            self.panels, self.transposed = True, tensor.method.transposes(self.shape, tensor.arguments)
            self.shape = tensor.method.matrix_shape(self.shape)
        self.stored = None if self.panels or run.device != "cpu" else stored_group(tensor, run.scratch)
        # Inner products are not read in blocks, but as companions.
        beside = [s for s in tensor.statistics if s.shape == self.shape and not self.panels]
        self.shape = self.shape[::-1] if self.transposed else self.shape
        self._sources = (*tensor.sources, *([] if tensor.base is None else [tensor.base]), *beside)
        self._looked_at: set[int] = set()  # blocks that were found finite

    def alone(self, model: int) -> Streamed:
        part = copy.copy(self)
        one = slice(model, model + 1)
        part.models, part._looked_at, part.stored = 1, set(), None
        sources, readers = self._tensor.sources[one], self._tensor.readers[one]
        part._tensor = dataclasses.replace(self._tensor, sources=sources, readers=readers, statistics=())
        part._sources = part._tensor.all_sources
        return part

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]  # torch is imported where it is used
        import torch

        return torch.float32 if compute_bytes(self._tensor) == 4 else torch.float64

    @property
    def spacings(self) -> tuple[float, ...]:  # type: ignore[override]
        import torch

        return tuple(torch.finfo(getattr(torch, DTYPES[source.dtype].torch_name)).eps for source in self._tensor.sources)

    @property
    def companion_shapes(self) -> tuple[tuple[int, ...], ...]:
        return tuple(source.shape for source in self._tensor.statistics)

    def companion(self, model: int, first: int, last: int) -> torch.Tensor:
        source = self._tensor.statistics[model]
        columns = row_length(source.shape)
        values = source.read(first * columns, last * columns, self._run.scratch, len(self._sources))
        reader = f"the statistics of {self._tensor.readers[model]}"
        if not self._run.plan.recipe.allow_nonfinite:
            require_finite(values, self.name, reader)
        return values.view(last - first, columns).to(self.device)

    def load(self, span: Sequence[Range]) -> Iterator[Block]:
        for start, stop in span:
            yield self._block(start, stop, self._run.scratch)

    def each(self, work: Callable[[Sequence[Range]], T]) -> Iterator[T]:
        return self._run.in_order(work, self.spans())

    def products(self) -> npt.NDArray[np.float64]:
        stored = self.stored
        if stored is None:
            return super().products()
        total = np.zeros((self.models, self.models))
        for part in self.each(lambda span: stored.add_products(span, self.check)):
            total += part
        return total

    def check(self, odd: int, start: int, stop: int) -> None:
        """Raise where ``odd`` says that a value in the range is not finite (see :data:`fuseforget.fuse.stored.Check`)."""
        if odd >= 0 and not self._run.plan.recipe.allow_nonfinite:
            self._block(start, stop, Scratch())  # raises, and says what it is, where it is an input
            raise _not_finite(self.name, "the result", "infinity")

    def _block(self, start: int, stop: int, scratch: Scratch) -> Block:
        self._run.one_thread()
        sources = self._sources
        wide = scratch.get("wide", len(sources) * (stop - start), self.dtype).view(len(sources), stop - start)
        for slot, source in enumerate(sources):
            if self.transposed:
                self._read_columns(source, start // self.row_length, wide[slot].view(-1, self.row_length))
            else:
                wide[slot].copy_(source.read(start, stop, scratch, slot))
        if start not in self._looked_at:
            self._require_finite(wide)
            self._looked_at.add(start)
        if self.device != "cpu":
            wide = wide.to(self.device)
        rest = list(wide[self.models :].unbind())
        base = rest.pop(0) if self.has_base else None
        return Block(start, wide[: self.models], base, tuple(rest), self.row_length)

    def _require_finite(self, values: torch.Tensor) -> None:
        if not self._run.plan.recipe.allow_nonfinite and not _is_finite(values):
            for slot, one in enumerate(values):
                require_finite(one, self.name, self._reader(slot))

    def _read_columns(self, source: Source, first: int, into: torch.Tensor) -> None:
        """Fill a block (columns of the stored matrix, as rows): from pieces of a few rows, or of each row of a long one."""
        columns, rows = self.shape
        width = len(into)
        step = max(1, PIECE // columns)
        for top in range(0, rows, step):
            bottom = min(top + step, rows)
            piece = source.read(top * columns + first, (bottom - 1) * columns + first + width, self._run.scratch, 0)
            into[:, top:bottom].copy_(piece.as_strided((width, bottom - top), (1, columns), piece.storage_offset()))

    def _reader(self, slot: int) -> str:
        readers = [*self._tensor.readers, *(["the base"] if self.has_base else [])]
        return readers[slot] if slot < len(readers) else f"the statistics of {readers[slot - len(readers)]}"


def _is_finite(values: torch.Tensor) -> bool:
    # One sum instead of a look at each value: it is finite where all are, unless it overflows.
    return math.isfinite(float(values.sum()))


def require_finite(values: torch.Tensor, name: str, where: str) -> None:
    """Raise InputError where a value is NaN or infinite."""
    import torch

    if values.dtype.itemsize < 4:
        values = values.float()  # sums of 16 bits overflow soon, and 8 bits have none
    if _is_finite(values) or bool(torch.isfinite(values).all()):
        return
    raise _not_finite(name, where, "NaN" if bool(torch.isnan(values).any()) else "infinity")


def _not_finite(name: str, where: str, kind: str) -> InputError:
    hint = "Pass --allow-nonfinite to fuse it all the same."
    return InputError(f"tensor {name}", expected=f"finite values in {where}", found=kind, action=hint)
