"""The memory that a fusion takes, known before the work, and the cores that it may use."""

from __future__ import annotations

import os
from pathlib import Path

from fuseforget.checkpoint import DTYPES
from fuseforget.fuse.plan import Plan, TensorPlan
from fuseforget.methods.group import BLOCK, panel_rows, row_length
from fuseforget.methods.method import Method

__all__ = ["compute_bytes", "memory_needed", "threads"]

# Bytes of what surveys found that are held until the tensors are fused; the rest is computed again. Enough for models of 1.1
# billion parameters in 16 bits, where no matrix needs float64: nothing of these is computed twice.
KEPT = 1 << 30
LIBRARIES = 350_000_000  # bytes: torch and the compiler of loops (numba), once they are at work


def threads() -> int:
    """How many threads work: one a core that this process may use."""
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def memory_needed(plan: Plan) -> int:
    """The most bytes of anonymous memory that carrying a plan out takes: this process as it is, libraries, and buffers."""
    return _anonymous() + LIBRARIES + _buffers(plan)


def _buffers(plan: Plan) -> int:
    """The most bytes of values that are held at once."""
    blocks, whole, kept = 0, 0, 0
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
            kept += _kept(tensor, tensor.method)
    return blocks * (threads() + 1) + whole + min(kept, KEPT)


def _panels(tensor: TensorPlan, method: Method) -> int:
    """The most bytes that a matrix in panels takes: matrices of its side, and a panel at work."""
    shape = method.matrix_shape(tensor.spec.shape)
    rows, columns = shape[:: -1 if method.transposes(shape, tensor.arguments) else 1]
    values = min(rows, panel_rows(columns)) * columns
    # As read, widened, differences; and, in float64, what is multiplied, its rounding errors, and the result.
    each = sum(DTYPES[source.dtype].nbytes + 2 * compute_bytes(tensor) for source in tensor.all_sources) + 6 * 8
    return method.squares * columns**2 * 8 + values * each


def _kept(tensor: TensorPlan, method: Method) -> int:
    """The most bytes that a survey of a matrix leaves: a square of its side."""
    side = min(method.matrix_shape(tensor.spec.shape))
    return side**2 * compute_bytes(tensor) if method.surveys else 0


def _anonymous() -> int:
    """Anonymous memory of this process now, where the system tells."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0)


def compute_bytes(tensor: TensorPlan) -> int:
    """Bytes of a value in the type that the tensor is fused in: of statistics only where they are read block by block too."""
    beside = () if tensor.method is not None and tensor.method.in_panels(tensor.spec.shape) else tensor.statistics
    values = (*tensor.sources, *([] if tensor.base is None else [tensor.base]), *beside)
    return 4 if all(DTYPES[source.dtype].nbytes <= 2 for source in values) else 8
