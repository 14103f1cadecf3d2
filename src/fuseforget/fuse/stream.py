"""Carry a plan out: spans of tensors go through a few threads from the input files to their place in the output files.

Every thread reads a block of each model, fuses it and writes it, so that reading, computing and writing overlap; a block
stays in the core's cache from the read to the write. What a method needs to know of a whole tensor first (norms, ranks) it
gets from passes of the same kind. Memory is a few blocks a thread, whatever the size of the model or of a tensor.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from fuseforget.checkpoint import DTYPES, TensorSpec
from fuseforget.checkpoint.writer import OutputFiles
from fuseforget.errors import InputError
from fuseforget.fuse.plan import Plan, TensorPlan
from fuseforget.fuse.sources import Scratch, Source, as_bytes
from fuseforget.fuse.stored import stored_group
from fuseforget.methods.combination import Combination
from fuseforget.methods.group import BLOCK, SPAN, Block, FuseBlock, Group, Range, panel_rows, row_length
from fuseforget.methods.method import Method
from fuseforget.methods.rounding import narrow

if TYPE_CHECKING:
    import torch

__all__ = ["Streamed", "memory_needed", "stream", "threads"]

T = TypeVar("T")
Progress = Callable[[int], None]
AHEAD = 4  # spans a thread has waiting
PIECE = 1 << 16  # values that are read at once for columns of a matrix, more for less: reading a piece costs a call
LIBRARIES = 350_000_000  # bytes: torch and the compiler of loops (numba), once they are at work


def threads() -> int:
    """How many threads work: one a core that this process may use."""
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def memory_needed(plan: Plan) -> int:
    """The most bytes of anonymous memory that carrying a plan out takes: this process as it is, libraries, and buffers."""
    return _anonymous() + LIBRARIES + _buffers(plan)


def _buffers(plan: Plan) -> int:
    """The most bytes of values that are held at once."""
    blocks, whole = 0, 0
    for tensor in plan.tensors:
        if tensor.method is None:
            continue
        count = len(tensor.all_sources)
        row = row_length(tensor.spec.shape) if tensor.method.rows else 1
        values = min(max(BLOCK, row), max(1, tensor.spec.nbytes // DTYPES[tensor.spec.dtype].nbytes))
        # As read, widened, differences and masks of each, and a few results: at most 40 bytes a value and source.
        blocks = max(blocks, values * count * 40)
        if tensor.method.in_panels(tensor.spec.shape):
            whole = max(whole, _panels(tensor, tensor.method))
    return blocks * (threads() + 1) + whole


def _panels(tensor: TensorPlan, method: Method) -> int:
    """The most bytes that a matrix in panels takes: matrices of its side, and a panel at work."""
    rows, columns = tensor.spec.shape[:: -1 if method.transposes(tensor.spec.shape, tensor.arguments) else 1]
    values = min(rows, panel_rows(columns)) * columns
    # As read, widened, differences; and, in float64, what is multiplied, its rounding errors, and the result.
    each = sum(DTYPES[source.dtype].nbytes + 2 * _compute_bytes(tensor) for source in tensor.all_sources) + 6 * 8
    return method.squares * columns**2 * 8 + values * each


def _anonymous() -> int:
    """Anonymous memory of this process now, where the system tells."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0)


class Streamed(Group):
    """One tensor of all models, read block by block from files."""

    def __init__(self, tensor: TensorPlan, run: _Run) -> None:
        self.name, self.shape, self.seed = tensor.spec.name, tensor.spec.shape, run.plan.recipe.seed
        self.models, self.has_base = len(tensor.sources), tensor.base is not None
        self.device = run.device
        self.whole_rows = tensor.method is not None and tensor.method.rows
        self._tensor, self._run = tensor, run
        if tensor.method is not None and tensor.method.in_panels(self.shape):
            self.panels, self.transposed = True, tensor.method.transposes(self.shape, tensor.arguments)
        self.stored = None if self.panels or run.device != "cpu" else stored_group(tensor, run.scratch)
        # Inner products are not read in blocks, but as companions.
        beside = [s for s in tensor.statistics if s.shape == self.shape and not self.panels]
        self.shape = self.shape[::-1] if self.transposed else self.shape
        self._sources = (*tensor.sources, *([] if tensor.base is None else [tensor.base]), *beside)
        self._looked_at: set[int] = set()  # blocks that were found finite

    def alone(self, model: int) -> Streamed:
        part = copy.copy(self)
        one = slice(model, model + 1)
        part.models, part._looked_at = 1, set()
        sources, readers = self._tensor.sources[one], self._tensor.readers[one]
        part._tensor = dataclasses.replace(self._tensor, sources=sources, readers=readers, statistics=())
        part._sources = part._tensor.all_sources
        return part

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]  # torch is imported where it is used
        import torch

        return torch.float32 if _compute_bytes(self._tensor) == 4 else torch.float64

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
            _require_finite(values, self.name, reader)
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
                _require_finite(one, self.name, self._reader(slot))

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


def stream(plan: Plan, outputs: OutputFiles, *, device: str = "cpu", progress: Progress | None = None) -> None:
    """Fuse every tensor of a plan into the output files.

    Args:
        progress: called, in this thread, with the number of input bytes whose work is done.

    Raises:
        InputError: an input is not finite, changed meanwhile, or integers differ; the files are then unfinished.
        OSError: the disk.
    """
    with ThreadPoolExecutor(threads(), "fuse") as pool:
        run = _Run(plan, pool, device, progress)
        try:
            for tensor in plan.tensors:
                _fuse_tensor(run, tensor, outputs)
            run.finish()
        except BaseException:
            run.cancel()
            raise
        finally:
            run.restore_threads()


class _Run:
    """The threads of one fusion, and what they share."""

    def __init__(self, plan: Plan, pool: ThreadPoolExecutor, device: str, progress: Progress | None) -> None:
        self.plan, self.device = plan, device
        self.scratch = Scratch()
        self._pool, self._progress = pool, progress
        self._limit = AHEAD * threads()
        self._writing: deque[tuple[Future[None], int]] = deque()
        self._alone = threading.local()
        self._before: int | None = None
        self._lock = threading.Lock()

    def one_thread(self) -> None:
        """Have torch use one thread in this thread: these threads are the parallelism."""
        if getattr(self._alone, "set", False):
            return
        import torch

        with self._lock:
            if self._before is None:
                self._before = torch.get_num_threads()
            torch.set_num_threads(1)
        self._alone.set = True

    def all_threads(self) -> None:
        """Have torch use all cores in this thread: for a decomposition, which is one call."""
        import torch

        self.one_thread()
        torch.set_num_threads(threads())

    def restore_threads(self) -> None:
        if self._before is not None:
            import torch

            torch.set_num_threads(self._before)

    def in_order(self, work: Callable[[Sequence[Range]], T], spans: Sequence[Sequence[Range]]) -> Iterator[T]:
        """Do the work of each span in the threads, and yield the results in the order of the spans."""
        if len(spans) == 1:
            yield work(spans[0])  # here: a hand-over would cost more than it gains
            return
        waiting: deque[Future[T]] = deque()
        for span in spans:
            if len(waiting) >= self._limit:
                yield waiting.popleft().result()
            waiting.append(self._pool.submit(work, span))
        while waiting:
            yield waiting.popleft().result()

    def submit(self, work: Callable[[], None], nbytes: int) -> None:
        """Do work in the threads, some time; wait where too much is waiting."""
        while len(self._writing) >= self._limit:
            self._finish_one()
        self._writing.append((self._pool.submit(work), nbytes))

    def finish(self) -> None:
        while self._writing:
            self._finish_one()

    def cancel(self) -> None:
        for future, _ in self._writing:
            future.cancel()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _finish_one(self) -> None:
        future, nbytes = self._writing.popleft()
        future.result()
        self.done(nbytes)

    def done(self, nbytes: int) -> None:
        if self._progress is not None:
            self._progress(nbytes)


def _fuse_tensor(run: _Run, tensor: TensorPlan, outputs: OutputFiles) -> None:
    if tensor.method is None:
        _copy_integers(run, tensor, outputs)
        return
    group = Streamed(tensor, run)
    if group.numel == 0:
        return
    if group.panels:
        run.all_threads()
    function = tensor.method.function(group, weight=tensor.weights, **tensor.arguments)
    stored = group.stored

    def write(span: Sequence[Range]) -> None:
        if stored is not None and isinstance(function, Combination):
            stored.combine(function, span, outputs, group.check)
        else:
            _write(group, function, span, tensor.spec, outputs, finite=not run.plan.recipe.allow_nonfinite)

    spans = group.spans()
    share = tensor.nbytes_to_read / group.numel
    for span in spans:
        nbytes = round(share * (span[-1][1] - span[0][0]))
        if group.panels:
            write(span)
            run.done(nbytes)
        else:
            run.submit(lambda span=span: write(span), nbytes)  # type: ignore[misc]


def _write_columns(outputs: OutputFiles, spec: TensorSpec, first: int, columns: torch.Tensor) -> None:
    """Write columns of a matrix, given as rows, from column ``first`` on."""
    for row, values in enumerate(columns.T.contiguous()):
        outputs.write(spec, row * spec.shape[1] + first, as_bytes(values))


def _write(
    group: Streamed, function: FuseBlock, span: Sequence[Range], spec: TensorSpec, outputs: OutputFiles, *, finite: bool
) -> None:
    """Fuse the blocks of a span, round them and write them."""
    import torch

    for block in group.load(span):
        rounded = narrow(function(block), getattr(torch, DTYPES[spec.dtype].torch_name))
        if finite:
            _require_finite(rounded, spec.name, "the result")
        rounded = rounded.cpu()
        if group.transposed:
            _write_columns(outputs, spec, block.start // block.row_length, rounded.view(-1, block.row_length))
        else:
            outputs.write(spec, block.start, as_bytes(rounded.contiguous()))


def _copy_integers(run: _Run, tensor: TensorPlan, outputs: OutputFiles) -> None:
    """Copy a tensor of whole numbers, which must be equal in all models."""
    count = tensor.spec.nbytes // DTYPES[tensor.spec.dtype].nbytes
    for start in range(0, count, BLOCK * SPAN):
        stop = min(start + BLOCK * SPAN, count)
        first, *others = (source.read_bytes(start, stop, run.scratch, slot) for slot, source in enumerate(tensor.sources))
        for reader, other in zip(tensor.readers[1:], others, strict=True):
            if first != other:
                raise InputError(
                    f"tensor {tensor.spec.name} ({tensor.spec.dtype})",
                    expected=f"the values of {tensor.readers[0]}, since whole numbers cannot be averaged",
                    found=f"other values in {reader}",
                )
        outputs.write(tensor.spec, start, first)


def _is_finite(values: torch.Tensor) -> bool:
    # One sum instead of a look at each value: it is finite where all are, unless it overflows.
    return math.isfinite(float(values.sum()))


def _require_finite(values: torch.Tensor, name: str, where: str) -> None:
    import torch

    if values.dtype.itemsize < 4:
        values = values.float()  # sums of 16 bits overflow soon, and 8 bits have none
    if _is_finite(values) or bool(torch.isfinite(values).all()):
        return
    raise _not_finite(name, where, "NaN" if bool(torch.isnan(values).any()) else "infinity")


def _not_finite(name: str, where: str, kind: str) -> InputError:
    hint = "Pass --allow-nonfinite to fuse it all the same."
    return InputError(f"tensor {name}", expected=f"finite values in {where}", found=kind, action=hint)


def _compute_bytes(tensor: TensorPlan) -> int:
    return 4 if all(DTYPES[source.dtype].nbytes <= 2 for source in tensor.all_sources) else 8
