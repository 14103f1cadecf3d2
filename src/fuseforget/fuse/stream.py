"""Carry a plan out: spans of tensors go through a few threads from the input files to their place in the output files.

Every thread reads a block of each model, fuses it and writes it, so that reading, computing and writing overlap; a block
stays in the core's cache from the read to the write. What a method needs to know of a whole tensor first (norms, ranks) it
gets from passes of the same kind. Memory is a few blocks a thread, whatever the size of the model or of a tensor.
"""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

from fuseforget.checkpoint import DTYPES, TensorSpec
from fuseforget.errors import InputError
from fuseforget.fuse.memory import KEPT, threads
from fuseforget.fuse.plan import Plan, TensorPlan
from fuseforget.fuse.sources import as_bytes
from fuseforget.fuse.streamed import Streamed, require_finite
from fuseforget.fuse.workers import Progress, Workers
from fuseforget.methods import Surveyed
from fuseforget.methods.combination import Combination
from fuseforget.methods.group import BLOCK, SPAN, FuseBlock, Range, row_length
from fuseforget.methods.rounding import narrow

if TYPE_CHECKING:
    import torch

__all__ = ["Outputs", "stream"]


class Outputs(Protocol):
    """Where results go: files, or tensors in memory. Threads may write at once."""

    def write(self, spec: TensorSpec, start: int, values: memoryview) -> None:
        """Take the bytes of consecutive values of a tensor, from its flat position ``start`` on."""


def stream(
    plan: Plan, outputs: Outputs, *, wanted: Container[str] | None = None, device: str = "cpu", progress: Progress | None = None
) -> tuple[float, ...]:  # fmt: skip
    """Fuse every tensor of a plan into the outputs.

    Args:
        wanted: names of the tensors that are fused; default: all. A method that surveys all tensors does so in any case.
        progress: called, in this thread, with the number of input bytes whose work is done.

    Returns:
        The sums of what the method surveyed; none where it surveys nothing.

    Raises:
        InputError: an input is not finite, changed meanwhile, or integers differ; the outputs are then unfinished.
        OSError: the disk.
    """
    with ThreadPoolExecutor(threads(), "fuse") as pool:
        run = Workers(plan, pool, device, progress)
        try:
            surveys = _Surveys(run)
            for tensor in plan.tensors:
                if wanted is None or tensor.spec.name in wanted:
                    _fuse_tensor(run, tensor, outputs, surveys)
            run.finish()
        except BaseException:
            run.cancel()
            raise
        finally:
            run.restore_threads()
    return surveys.sums


class _Surveys:
    """What the method has to know of all tensors before the first is fused, added up in their order; of some, all it found."""

    def __init__(self, run: Workers) -> None:
        numbers, room = [], KEPT
        self._kept: dict[str, Surveyed] = {}
        for tensor in run.plan.tensors:
            if tensor.method is None or not tensor.method.surveys or 0 in tensor.spec.shape:
                continue
            found: Surveyed = _function(tensor, Streamed(tensor, run), run)
            numbers.append(found.numbers)
            if found.nbytes <= room:
                self._kept[tensor.spec.name] = found
                room -= found.nbytes
            run.done(tensor.nbytes_to_read // 2)
        self.sums = tuple(map(math.fsum, zip(*numbers, strict=True)))

    def function(self, tensor: TensorPlan, group: Streamed, run: Workers) -> FuseBlock:
        """What fuses the blocks of a surveyed tensor; what was found is let go."""
        name = tensor.spec.name
        found: Surveyed = self._kept.pop(name) if name in self._kept else _function(tensor, group, run)
        return found.function(self.sums)


def _function(tensor: TensorPlan, group: Streamed, run: Workers) -> Any:
    """What the method makes of a tensor."""
    assert tensor.method is not None
    if group.panels:
        run.threads_for(group.numel)
    return tensor.method.function(group, weight=tensor.weights, **tensor.arguments)


def _fuse_tensor(run: Workers, tensor: TensorPlan, outputs: Outputs, surveys: _Surveys) -> None:
    if tensor.method is None:
        _copy_integers(run, tensor, outputs)
        return
    group = Streamed(tensor, run)
    if group.numel == 0:
        return
    surveyed = tensor.method.surveys
    function: FuseBlock = surveys.function(tensor, group, run) if surveyed else _function(tensor, group, run)
    stored = group.stored

    def write(span: Sequence[Range]) -> None:
        if stored is not None and isinstance(function, Combination):
            stored.combine(function, span, outputs, group.check)
        else:
            _write(group, function, span, tensor.spec, outputs, finite=not run.plan.recipe.allow_nonfinite)

    spans = group.spans()
    # Of a tensor that was surveyed, half of the work is done.
    share = tensor.nbytes_to_read / group.numel / (2 if surveyed else 1)
    for span in spans:
        nbytes = round(share * (span[-1][1] - span[0][0]))
        if group.panels:
            write(span)
            run.done(nbytes)
        else:
            run.submit(lambda span=span: write(span), nbytes)  # type: ignore[misc]


def _write_columns(outputs: Outputs, spec: TensorSpec, first: int, columns: torch.Tensor) -> None:
    """Write columns of a matrix, given as rows, from column ``first`` on."""
    import torch

    # A clone, since the transpose of a single column counts as contiguous whatever its strides.
    for row, values in enumerate(columns.T.clone(memory_format=torch.contiguous_format)):
        outputs.write(spec, row * row_length(spec.shape) + first, as_bytes(values))


def _write(
    group: Streamed, function: FuseBlock, span: Sequence[Range], spec: TensorSpec, outputs: Outputs, *, finite: bool
) -> None:
    """Fuse the blocks of a span, round them and write them."""
    import torch

    for block in group.load(span):
        rounded = narrow(function(block), getattr(torch, DTYPES[spec.dtype].torch_name))
        if finite:
            require_finite(rounded, spec.name, "the result")
        rounded = rounded.cpu()
        if group.transposed:
            _write_columns(outputs, spec, block.start // block.row_length, rounded.view(-1, block.row_length))
        else:
            outputs.write(spec, block.start, as_bytes(rounded.contiguous()))


def _copy_integers(run: Workers, tensor: TensorPlan, outputs: Outputs) -> None:
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
