"""Carry a plan out: spans of tensors go through a few threads from the input files to their place in the output files.

Every thread reads a block of each model, fuses it and writes it, so that reading, computing and writing overlap; a block
stays in the core's cache from the read to the write. What a method needs to know of a whole tensor first (norms, ranks) it
gets from passes of the same kind. Memory is a few blocks a thread, whatever the size of the model or of a tensor.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from fuseforget.checkpoint import DTYPES, TensorSpec
from fuseforget.errors import InputError
from fuseforget.fuse.plan import Plan, TensorPlan
from fuseforget.fuse.sources import Scratch, Source
from fuseforget.methods.group import BLOCK, SPAN, Block, Group, Range, row_length
from fuseforget.methods.rounding import narrow

if TYPE_CHECKING:
    import torch

__all__ = ["Streamed", "memory_needed", "stream", "threads"]

T = TypeVar("T")
Progress = Callable[[int], None]
AHEAD = 4  # spans a thread has waiting
LIBRARIES = 350_000_000  # bytes: torch and the compiler of loops (numba), once they are at work


class Outputs(Protocol):
    """Where results go: files, or tensors in memory. Threads may write at once."""

    def write(self, spec: TensorSpec, start: int, values: torch.Tensor) -> None:
        """Take consecutive values of a tensor, from its flat position ``start`` on."""


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
        if tensor.method.whole and len(tensor.spec.shape) == 2:
            rows, columns = tensor.spec.shape
            # A matrix of each model, its factors, and the work space of the decomposition, in the compute type.
            whole = max(whole, (rows * columns * (2 * count + 6) + 4 * min(rows, columns) ** 2) * _compute_bytes(tensor))
    return blocks * (threads() + 1) + whole


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
        import torch

        self.name, self.shape, self.seed = tensor.spec.name, tensor.spec.shape, run.plan.recipe.seed
        self.models, self.has_base = len(tensor.sources), tensor.base is not None
        self.dtype = torch.float32 if _compute_bytes(tensor) == 4 else torch.float64
        self.device = run.device
        self.whole_rows = tensor.method is not None and tensor.method.rows
        self._tensor, self._run = tensor, run
        # Statistics of another shape (inner products) are not read in blocks, but whole (companions).
        beside = [s for s in tensor.statistics if s.shape == self.shape]
        self._sources = (*tensor.sources, *([] if tensor.base is None else [tensor.base]), *beside)
        self._looked_at: set[int] = set()  # blocks that were found finite

    @property
    def companions(self) -> tuple[torch.Tensor, ...]:
        return tuple(self._everything(source) for source in self._tensor.statistics)

    def load(self, span: Sequence[Range]) -> Iterator[Block]:
        for start, stop in span:
            yield self._block(start, stop, self._run.scratch)

    def whole(self) -> Block:
        return self._block(0, self.numel, Scratch())  # buffers of its own, that go with the block

    def each(self, work: Callable[[Sequence[Range]], T]) -> Iterator[T]:
        return self._run.in_order(work, self.spans())

    def _block(self, start: int, stop: int, scratch: Scratch) -> Block:
        sources = self._sources
        wide = scratch.get("wide", len(sources) * (stop - start), self.dtype).view(len(sources), stop - start)
        for slot, source in enumerate(sources):
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

    def _everything(self, source: Source) -> torch.Tensor:
        count = 1
        for size in source.shape:
            count *= size
        return source.read(0, count, Scratch(), 0).view(source.shape).to(self.device)

    def _reader(self, slot: int) -> str:
        readers = [*self._tensor.readers, *(["the base"] if self.has_base else [])]
        return readers[slot] if slot < len(readers) else f"the statistics of {readers[slot - len(readers)]}"


def stream(plan: Plan, outputs: Outputs, *, device: str = "cpu", progress: Progress | None = None) -> None:
    """Fuse every tensor of a plan into the outputs.

    Args:
        progress: called, in this thread, with the number of input bytes whose work is done.

    Raises:
        InputError: an input is not finite, changed meanwhile, or integers differ; the outputs are then unfinished.
        OSError: the disk.
    """
    with _workers() as pool:
        run = _Run(plan, pool, device, progress)
        try:
            for tensor in plan.tensors:
                _fuse_tensor(run, tensor, outputs)
            run.finish()
        except BaseException:
            run.cancel()
            raise


class _Run:
    """The threads of one fusion, and what they share."""

    def __init__(self, plan: Plan, pool: ThreadPoolExecutor, device: str, progress: Progress | None) -> None:
        self.plan, self.device = plan, device
        self.scratch = Scratch()
        self._pool, self._progress = pool, progress
        self._limit = AHEAD * threads()
        self._writing: deque[tuple[Future[None], int]] = deque()

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
        if self._progress is not None:
            self._progress(nbytes)


def _fuse_tensor(run: _Run, tensor: TensorPlan, outputs: Outputs) -> None:
    if tensor.method is None:
        _copy_integers(run, tensor, outputs)
        return
    import torch

    group = Streamed(tensor, run)
    if group.numel == 0:
        return
    if tensor.method.whole:
        torch.set_num_threads(threads())  # of this thread: a decomposition is one call, which all cores share
    function = tensor.method.function(group, weight=tensor.weights, **tensor.arguments)
    dtype = getattr(torch, DTYPES[tensor.spec.dtype].torch_name)
    finite = not run.plan.recipe.allow_nonfinite

    def write(span: Sequence[Range]) -> None:
        for block in group.load(span):
            fused = function(block)
            rounded = narrow(fused, dtype)
            if finite:
                _require_finite(rounded, tensor.spec.name, "the result")
            outputs.write(tensor.spec, block.start, rounded.cpu())

    spans = group.spans()
    share = tensor.nbytes_to_read / group.numel
    for span in spans:
        run.submit(lambda span=span: write(span), round(share * (span[-1][1] - span[0][0])))  # type: ignore[misc]
    if tensor.method.whole:
        run.finish()  # its result is held whole until it is written


def _copy_integers(run: _Run, tensor: TensorPlan, outputs: Outputs) -> None:
    """Copy a tensor of whole numbers, which must be equal in all models."""
    import torch

    count = tensor.spec.nbytes // DTYPES[tensor.spec.dtype].nbytes
    for start in range(0, count, BLOCK * SPAN):
        stop = min(start + BLOCK * SPAN, count)
        first, *others = (source.read(start, stop, run.scratch, slot) for slot, source in enumerate(tensor.sources))
        for reader, other in zip(tensor.readers[1:], others, strict=True):
            if not torch.equal(first, other):
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
    kind = "NaN" if bool(torch.isnan(values).any()) else "infinity"
    hint = "Pass --allow-nonfinite to fuse it all the same."
    raise InputError(f"tensor {name}", expected=f"finite values in {where}", found=kind, action=hint)


def _compute_bytes(tensor: TensorPlan) -> int:
    return 4 if all(DTYPES[source.dtype].nbytes <= 2 for source in tensor.all_sources) else 8


@contextmanager
def _workers() -> Iterator[ThreadPoolExecutor]:
    """Threads in which torch uses one thread each: they are the parallelism."""
    import torch

    before = torch.get_num_threads()
    one: Any = torch.set_num_threads
    with ThreadPoolExecutor(threads(), "fuse", initializer=one, initargs=(1,)) as pool:
        try:
            torch.set_num_threads(1)
            yield pool
        finally:
            torch.set_num_threads(before)
