"""Compiled loops of linear combinations and inner products, on values as they are stored: no copy in a wider type is made.

Values are float32 or float64, or the bits of bfloat16 as uint16. All arithmetic is in the type of the coefficients (products:
float64), tile by tile in the first-level cache, in one order on every machine.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from numba.extending import overload

from fuseforget.compiling import compiled

__all__ = ["combine", "products"]

Array = npt.NDArray[Any]
TILE_BYTES = 1 << 14  # in the type of the arithmetic: a part and the sum stay in the first-level cache
LANES = 512  # sums side by side, each of every 512th value, which the compiler turns into vector operations
LINE = 64  # bytes of a line of the cache
ALL_FINITE = -1
HALF, ONE = np.uint32(0x7FFF), np.uint32(1)
U16 = np.uint32(16)
# Of values of so many bits: the type of their bits, the bits of the magnitude, and the magnitude of infinity.
BITS: dict[int, tuple[Any, Any, Any]] = {
    16: (np.uint16, np.uint16(0x7FFF), np.uint16(0x7F80)),
    32: (np.uint32, np.uint32(0x7FFFFFFF), np.uint32(0x7F800000)),
    64: (np.uint64, np.uint64(0x7FFFFFFFFFFFFFFF), np.uint64(0x7FF0000000000000)),
}


def _widen(stored: Array, wide: Array) -> None:
    """Write stored values in a wider type, exactly."""
    raise NotImplementedError  # compiled code takes the overload


def _narrow(wide: Array, stored: Array) -> None:
    """Round to nearest, ties to even; infinities and NaN stay what they are."""
    raise NotImplementedError


def _all_finite(stored: Array) -> bool:
    """Whether no value is infinite or NaN, by the exponents' bits."""
    raise NotImplementedError


@overload(_widen)
def _widen_typed(stored: Any, wide: Any) -> Any:
    if stored.dtype == numba.types.uint16:

        def bfloat16(stored: Any, wide: Any) -> Any:
            bits = wide.view(np.uint32)
            for j in range(stored.shape[0]):
                bits[j] = np.uint32(stored[j]) << U16

        return bfloat16

    def plain(stored: Any, wide: Any) -> Any:
        for j in range(stored.shape[0]):
            wide[j] = stored[j]

    return plain


@overload(_narrow)
def _narrow_typed(wide: Any, stored: Any) -> Any:
    if stored.dtype == numba.types.uint16:

        def bfloat16(wide: Any, stored: Any) -> Any:
            bits = wide.view(np.uint32)
            for j in range(stored.shape[0]):
                b = bits[j]
                rounded = (b + HALF + ((b >> U16) & ONE)) >> U16
                # A NaN whose upper bits would be carried away, or rounded to an infinity, becomes the plain NaN.
                stored[j] = np.uint16(0x7FC0) if wide[j] != wide[j] else np.uint16(rounded)

        return bfloat16

    def plain(wide: Any, stored: Any) -> Any:
        for j in range(stored.shape[0]):
            stored[j] = wide[j]

    return plain


@overload(_all_finite)
def _all_finite_typed(stored: Any) -> Any:
    # The largest magnitude's bits, as whole numbers, whose maximum the compiler can take side by side.
    bits, mask, infinite = BITS[stored.dtype.bitwidth]

    def finite(stored: Any) -> Any:
        top = bits(0)
        view = stored.view(bits)
        for j in range(stored.shape[0]):
            top = max(top, view[j] & mask)
        return top < infinite

    return finite


@compiled
def _aligned(count: int, like: Array) -> Array:
    """Return room for values of another array's type from the start of a cache line: vectors across two lines cost twice."""
    room = np.empty(count + LINE // like.itemsize, like.dtype)
    begin = -room.ctypes.data % LINE // like.itemsize
    return room[begin : begin + count]


@compiled
def _first_not_finite(models: Array, base: Array, with_base: bool) -> int:
    """Return the first model that holds a value that is not finite, the number of models for the base, -1 where there is none."""
    count = models.shape[0]
    for i in range(count):
        if not _all_finite(models[i]):
            return i
    return count if with_base and not _all_finite(base) else ALL_FINITE


@compiled
def combine(models: Array, base: Array, coefficients: Array, rest: float, out: Array) -> int:
    """Write ``sum_i c_i theta_i + rest theta_base``; parts whose coefficient is zero are left out.

    Args:
        models, base, out: ``models x values``, values, values, as stored.
        coefficients, rest: their type is the one that is computed in.

    Returns:
        -1, or the first that holds a value that is not finite: a model's number, one more for the base, two more for the result.
    """
    count, n = models.shape
    tile = TILE_BYTES // coefficients.itemsize
    part, total = _aligned(tile, coefficients), _aligned(tile, coefficients)
    odd = _first_not_finite(models, base, rest != 0)
    for first in range(0, n, tile):
        result = out[first : first + tile]
        size = len(result)
        total[:] = 0
        begun = False
        for i in range(count + 1):
            if i == count and rest == 0:
                continue
            stored = models[i, first : first + tile] if i < count else base[first : first + tile]
            factor = coefficients[i] if i < count else rest
            if factor == 0:
                continue
            _widen(stored, part)
            if begun:
                for j in range(size):
                    total[j] += part[j] * factor
            else:  # not added to zero: minus zero stays
                for j in range(size):
                    total[j] = part[j] * factor
                begun = True
        _narrow(total, result)
    return count + 1 if odd == ALL_FINITE and not _all_finite(out) else odd


@compiled
def products(models: Array, base: Array, centred: bool, wide: Array, sums: Array) -> int:
    """Add to ``sums`` (models x models, float64) inner products of the models, ``centred``: of their differences from the base.

    Args:
        models, base: ``models x values`` and values, as stored.
        wide: an array of the type to widen to and to take differences in.

    Returns:
        -1, or the first that holds a value that is not finite: a model's number, one more for the base.
    """
    count, n = models.shape
    part, below = _aligned(LANES, wide), _aligned(LANES, wide)
    below[:] = 0
    deltas = _aligned(count * LANES, sums).reshape(count, LANES)
    lanes = _aligned(count * (count + 1) // 2 * LANES, sums).reshape(-1, LANES)
    lanes[:] = 0
    for first in range(0, n, LANES):
        size = min(LANES, n - first)
        if centred:
            _widen(base[first : first + size], below)
        for i in range(count):
            _widen(models[i, first : first + size], part)
            delta = deltas[i]
            for j in range(size):
                delta[j] = part[j] - below[j]
        pair = 0
        for i in range(count):
            for k in range(i + 1):
                left, right, sides = deltas[i], deltas[k], lanes[pair]
                for j in range(size):
                    sides[j] += left[j] * right[j]
                pair += 1
    pair = 0
    for i in range(count):
        for k in range(i + 1):
            total = 0.0
            for j in range(LANES):
                total += lanes[pair, j]
            pair += 1
            sums[i, k] += total
            if k < i:
                sums[k, i] += total
    return _first_not_finite(models, base, centred)
