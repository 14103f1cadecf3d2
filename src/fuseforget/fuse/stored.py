"""Linear combinations of tensors as they are stored: values go from the file's type to the file's type in one compiled pass.

Averages and the methods on a sphere spend their time in reading, widening and rounding. Here a block is read, combined and
rounded without a copy in a wider type between, and without torch, whose import alone takes a third of such a fusion. The
results are those of the general way, to the bit: the same values are combined in the same type and order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fuseforget.fuse.plan import TensorPlan
from fuseforget.fuse.sources import Scratch, Stored
from fuseforget.methods.combination import Combination
from fuseforget.methods.group import Range

if TYPE_CHECKING:
    from fuseforget.fuse.stream import Outputs

__all__ = ["StoredGroup", "stored_group"]

Array = npt.NDArray[Any]
# Called with the first source that holds a value that is not finite (one past them: the result), or -1, and with the range.
Check = Callable[[int, int, int], None]
# The types that are combined as they are stored: how numpy holds them, and the type to compute in (see group.compute_dtype).
FORMS: dict[str, tuple[np.dtype[Any], np.dtype[Any]]] = {
    "BF16": (np.dtype(np.uint16), np.dtype(np.float32)),
    "F32": (np.dtype(np.float32), np.dtype(np.float64)),
}


class StoredGroup:
    """One tensor of all models and the base, all of one stored type, which the output has too.

    Args:
        sources: the models', then the base's where there is one.
        scratch: the threads' buffers.
    """

    def __init__(self, tensor: TensorPlan, sources: Sequence[Stored], scratch: Scratch) -> None:
        self._tensor, self._sources, self._scratch = tensor, sources, scratch
        self._models = len(tensor.sources)
        self._stored, self._wide = FORMS[tensor.spec.dtype]

    def add_products(self, span: Sequence[Range], check: Check) -> Array:
        """Return the span's part of :meth:`fuseforget.methods.Group.products`."""
        from fuseforget.methods.kernels_linear import products

        sums = np.zeros((self._models, self._models))
        centred = len(self._sources) > self._models
        for start, stop in span:
            rows = self._read(start, stop, len(self._sources))
            check(products(rows[: self._models], rows[-1], centred, np.empty(0, self._wide), sums), start, stop)
        return sums

    def combine(self, combination: Combination, span: Sequence[Range], outputs: Outputs, check: Check) -> None:
        """Write the span's values of a combination."""
        from fuseforget.methods.kernels_linear import combine

        coefficients, rest = combination.numbers(self._wide)
        count = self._models + (combination.rest != 0)  # a base that takes no part is not read
        for start, stop in span:
            rows = self._read(start, stop, count)
            fused = self._scratch.array("fused", stop - start, self._stored)
            check(combine(rows[: self._models], rows[-1], coefficients, rest, fused), start, stop)
            outputs.write(self._tensor.spec, start, memoryview(fused.view(np.uint8).data))

    def _read(self, start: int, stop: int, count: int) -> Array:
        rows = self._scratch.array("stored", count * (stop - start), self._stored).reshape(count, stop - start)
        for row, source in zip(rows, self._sources, strict=False):
            source.read_into(start, stop, row)
        return rows


def stored_group(tensor: TensorPlan, scratch: Scratch) -> StoredGroup | None:
    """The tensor as one that is combined as it is stored; None where it is not of such a kind."""
    sources = [*tensor.sources, *([] if tensor.base is None else [tensor.base])]
    plain = [source for source in sources if isinstance(source, Stored) and source.dtype == tensor.spec.dtype]
    if tensor.statistics or len(plain) < len(sources) or tensor.spec.dtype not in FORMS:
        return None
    return StoredGroup(tensor, plain, scratch)
