"""Exact order statistics of a tensor too large to sort: count, then look closer, in two passes.

The magnitude of a float32 number, read as an integer, has the order of the magnitude itself. Its upper 16 bits take
32,768 values, so the first pass counts them; the bin that holds the wanted rank is then known, and the second pass looks at
the lower 16 bits of the few values in that bin. Time is linear, memory does not grow with the tensor, and the result is exact
down to which of several equal values are meant: they rank in the order of the tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fuseforget.methods.group import Block, Group

if TYPE_CHECKING:
    import torch

__all__ = ["OrderStatistic", "keep_between", "magnitude_bits", "order_statistics"]

Array = npt.NDArray[Any]
Counted = tuple[Array, Array]  # lower halves, and how often each occurs

HIGH_VALUES = 1 << 15  # of the upper half of a magnitude's bits
LOW_VALUES = 1 << 16
LONG = 1 << 13  # low halves kept as they are up to this number a block, as counts beyond


@dataclass(frozen=True)
class OrderStatistic:
    """The value at one rank (ascending, from 0) of a tensor's magnitudes.

    Attributes:
        bits: the value's float32 bits.
        before: how many equal values come before the one at the rank, in the order of the tensor.
        earlier: for each block that has equal values, by its start, how many there are before the block.
    """

    bits: int
    before: int
    earlier: dict[int, int]

    @property
    def value(self) -> float:
        import struct

        return float(struct.unpack("<f", struct.pack("<i", self.bits))[0])


def magnitude_bits(values: torch.Tensor) -> Array:
    """Return the bits of ``|values|`` in float32 as an int32 array ``1 x values``: they have the order of the magnitudes."""
    import torch

    return (values.float().view(torch.int32) & 0x7FFFFFFF).numpy()[None]


def order_statistics(
    group: Group, magnitudes: Callable[[Block], Array], ranks: Callable[[list[int]], Sequence[Sequence[int]]]
) -> list[list[OrderStatistic]]:
    """Find the values at the given ranks (ascending, from 0) in each of several quantities.

    Args:
        magnitudes: from a block, int32 ``quantities x values``: the float32 bits of magnitudes.
        ranks: from how many values of each quantity are zero, the ranks wanted of each.
    """
    import torch

    from fuseforget.methods import kernels

    def count_high(block: Block) -> torch.Tensor:
        bits = magnitudes(block)
        counts = np.zeros((len(bits), HIGH_VALUES + 1), np.int64)
        kernels.count_high(bits, counts)
        return torch.from_numpy(counts)

    counts = group.reduce(count_high).numpy()
    asked = ranks(counts[:, -1].tolist())
    ends = counts[:, :-1].cumsum(axis=1)
    bins = [[int(np.searchsorted(ends[q], rank, side="right")) for rank in wanted] for q, wanted in enumerate(asked)]
    if not any(asked):
        return [[] for _ in asked]

    def look_closer(block: Block) -> list[dict[int, Counted]]:
        bits = magnitudes(block)
        return [{high: _counted(kernels.gather_low(bits[q], high)) for high in set(bins[q])} for q in range(len(asked))]

    starts = [start for span in group.spans() for start, _ in span]
    found = list(zip(starts, group.map(look_closer), strict=True))
    return [
        [
            _in_bin(high, rank - int(ends[q, high] - counts[q, high]), [(start, block[q][high]) for start, block in found])
            for rank, high in zip(wanted, bins[q], strict=True)
        ]
        for q, wanted in enumerate(asked)
    ]


def _counted(low: Array) -> Counted:
    """Lower halves and how often each occurs: as they are where they are few."""
    if len(low) > LONG:
        values, often = np.unique(low, return_counts=True)
        return values, often
    return low, np.ones(len(low), dtype=np.int64)


def _in_bin(high: int, rank: int, found: Sequence[tuple[int, Counted]]) -> OrderStatistic:
    """The value at a rank within one bin, from what every block has there."""
    counts = np.zeros(LOW_VALUES, dtype=np.int64)
    for _, (low, often) in found:
        np.add.at(counts, low, often)
    ends = counts.cumsum()
    low_half = int(np.searchsorted(ends, rank, side="right"))
    earlier, seen = {}, 0
    for start, (low, often) in found:
        here = int(often[low == low_half].sum())
        if here:
            earlier[start] = seen
            seen += here
    return OrderStatistic((high << 16) | low_half, rank - int(ends[low_half] - counts[low_half]), earlier)


def keep_between(
    bits: Array, start: int, low: OrderStatistic | None, high: OrderStatistic | None, scale: float, out: Array
) -> None:
    """Write ``scale`` where the block at ``start`` has the lower cut's rank or a higher one, but not the upper cut's; else 0.

    Equal values are ranked in the order of the tensor.
    """
    from fuseforget.methods import kernels

    kernels.keep_between(bits, *_cut(low, start), *_cut(high, start), scale, out)


def _cut(statistic: OrderStatistic | None, start: int) -> tuple[int, int]:
    """A cut's bits, and how many of a block's values equal to it rank below it."""
    if statistic is None:
        return -1, 0
    return statistic.bits, max(0, statistic.before - statistic.earlier.get(start, 0))
