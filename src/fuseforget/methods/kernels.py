"""Compiled loops (numba) of the methods that trim, drop and elect: one pass over a block where array code takes dozens.

Every function works on one block that lies in the core's cache, holds no lock of the interpreter while it runs, and gives the
same bits on every machine: no sum is reordered, no multiplication fused. Compiled code is kept on disk for the next process.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fuseforget.compiling import compiled

__all__ = [
    "count_high", "delta_bits", "elect_and_merge", "gather_low", "keep_between", "keep_by_rank", "keep_random", "kept_sizes",
    "rank_keys", "spread_bits", "uniform",
]  # fmt: skip

Array = npt.NDArray[Any]

MAGNITUDE = np.int32(0x7FFFFFFF)
AT_ONCE = 2048  # values: the rows of a few models fit the first-level cache
LANES = 16  # sums side by side, which the compiler turns into vector operations
U32 = np.uint64(32)
BITS_24 = np.uint64(40)  # what is shifted out to leave the upper 24 of 64 bits
UNIT = np.float32(2.0**-24)


@compiled
def delta_bits(models: Array, base: Array) -> Array:
    """Return, as int32 ``models x values``, the float32 bits of ``|theta_i - theta_base|``: they have the magnitudes' order."""
    count, n = models.shape
    deltas = np.empty((count, n), np.float32)
    bits = deltas.view(np.int32)
    for i in range(count):
        for j in range(n):
            deltas[i, j] = np.float32(models[i, j] - base[j])
        for j in range(n):
            bits[i, j] &= MAGNITUDE
    return bits


@compiled
def spread_bits(models: Array, base: Array) -> Array:
    """Return, as int32 ``1 x values``, the float32 bits of the standard deviation of the task vectors at each value.

    It has the variances' order, and does not underflow where they do.
    """
    count, n = models.shape
    result = np.empty((1, n), np.float32)
    mean, total = np.empty(AT_ONCE), np.empty(AT_ONCE)
    for first in range(0, n, AT_ONCE):
        out, below = result[0, first : first + AT_ONCE], base[first : first + AT_ONCE]
        size = len(out)
        mean[:] = 0.0
        total[:] = 0.0
        for i in range(count):
            model = models[i, first : first + AT_ONCE]
            for j in range(size):
                mean[j] += model[j] - below[j]
        for j in range(size):
            mean[j] /= count
        for i in range(count):
            model = models[i, first : first + AT_ONCE]
            for j in range(size):
                away = model[j] - below[j] - mean[j]
                total[j] += away * away
        for j in range(size):
            out[j] = np.float32(np.sqrt(total[j] / count))
    return result.view(np.int32)


@compiled
def count_high(bits: Array, counts: Array) -> None:
    """Add to ``counts`` (rows x 32,769) how often each upper half of the bits occurs in each row, and how many bits are zero."""
    zeros = counts.shape[1] - 1
    for i in range(bits.shape[0]):
        for j in range(bits.shape[1]):
            counts[i, bits[i, j] >> 16] += 1
            counts[i, zeros] += bits[i, j] == 0


@compiled
def gather_low(bits: Array, high: int) -> Array:
    """Return the lower halves (uint16) of the bits whose upper half is ``high``, in order."""
    n = 0
    for j in range(bits.shape[0]):
        n += (bits[j] >> 16) == high
    found = np.empty(n, np.uint16)
    n = 0
    for j in range(bits.shape[0]):
        if (bits[j] >> 16) == high:
            found[n] = np.uint16(bits[j] & 0xFFFF)
            n += 1
    return found


@compiled
def keep_between(bits: Array, low: int, low_skip: int, high: int, high_skip: int, scale: float, out: Array) -> None:
    """Write ``scale`` where the magnitude is at or above one cut and below another, 0 elsewhere.

    Args:
        low: the lower cut's bits, or -1 for none; of the values equal to it the first ``low_skip`` of the block are below it.
        high: the upper cut's bits, or -1 for none; of the values equal to it the first ``high_skip`` of the block are below it.
    """
    n = bits.shape[0]
    top = high if high >= 0 else np.int64(1) << 40
    equal_low = equal_high = 0
    for j in range(n):
        b = np.int64(bits[j])
        out[j] = scale if low < b < top else 0.0
        equal_low += b == low
        equal_high += b == high
    if equal_low > low_skip:  # some of the equal ones are kept
        seen = 0
        for j in range(n):
            if bits[j] == low:
                if seen >= low_skip and (low < top or (low == top and seen < high_skip)):
                    out[j] = scale
                seen += 1
    if equal_high > 0 and high_skip > 0 and low < high:
        seen = 0
        for j in range(n):
            if bits[j] == high:
                if seen < high_skip:
                    out[j] = scale
                seen += 1


@compiled
def _random24(key: np.uint64, position: np.uint64) -> np.uint64:
    """24 random bits for a position: Widynski's squares (arXiv 2004.06278), four rounds."""
    y = position * key
    z = y + key
    x = y * y + y
    x = (x >> U32) | (x << U32)
    x = x * x + z
    x = (x >> U32) | (x << U32)
    x = x * x + y
    x = (x >> U32) | (x << U32)
    return (x * x + z) >> BITS_24


@compiled
def uniform(key: np.uint64, start: int, out: Array) -> None:
    """Write float32 numbers in [0, 1) for the positions from ``start`` on."""
    k = np.uint64(key)
    for j in range(out.shape[0]):
        out[j] = np.float32(_random24(k, np.uint64(start + j))) * UNIT


@compiled
def keep_random(key: np.uint64, start: int, share: float, scale: float, out: Array) -> None:
    """Write ``scale`` with the probability ``share``, 0 otherwise, for the positions from ``start`` on."""
    k = np.uint64(key)
    for j in range(out.shape[0]):
        number = np.float32(_random24(k, np.uint64(start + j))) * UNIT
        out[j] = scale if number < share else 0.0


@compiled
def rank_keys(bits: Array, row_length: int) -> Array:
    """Return uint64 ``rows x row_length`` of (magnitude, place in the row), whose order is that of stable ranks."""
    rows = bits.shape[0] // row_length
    keys = np.empty((rows, row_length), np.uint64)
    for r in range(rows):
        for j in range(row_length):
            keys[r, j] = (np.uint64(bits[r * row_length + j]) << U32) | np.uint64(j)
    return keys


@compiled
def keep_by_rank(keys: Array, key: np.uint64, start: int, lowest: float, step: float, rescale: bool, out: Array) -> None:
    """From sorted :func:`rank_keys`, keep a value of rank ``r`` with probability ``p = lowest + r step``.

    What is kept gets ``1 / p``, or 1; what is not gets 0.
    """
    rows, length = keys.shape
    chances, scales, numbers = np.empty(length), np.empty(length), np.empty(length, np.float32)
    for j in range(length):
        chances[j] = lowest + j * step
        scales[j] = 1.0 / chances[j] if rescale else 1.0
    for r in range(rows):
        uniform(key, start + r * length, numbers)
        row, into = keys[r], out[r * length : (r + 1) * length]
        for j in range(length):
            place = np.uint32(row[j])  # the lower half
            into[place] = scales[j] * (numbers[place] < chances[j])  # no branch: half of them would be guessed wrong


@compiled
def kept_sizes(models: Array, base: Array, scales: Array, squared: bool, out: Array) -> None:
    """Add to ``out`` (models x 2, float64) the sums of all magnitudes and of the kept ones, or of their squares.

    Sums are taken in ``LANES`` parts side by side.
    """
    every, kept = np.empty(LANES), np.empty(LANES)
    n = len(base)
    for i in range(models.shape[0]):
        every[:] = 0.0
        kept[:] = 0.0
        for first in range(0, n, LANES):
            model, below, scale = models[i, first : first + LANES], base[first : first + LANES], scales[i, first : first + LANES]
            for j in range(len(below)):
                size = abs(float(model[j]) - float(below[j]))
                size = size * size if squared else size
                every[j] += size
                kept[j] += size if scale[j] != 0 else 0.0
        for j in range(LANES):
            out[i, 0] += every[j]
            out[i, 1] += kept[j]


@compiled
def elect_and_merge(
    models: Array, base: Array, scales: Array, weight: Array, votes: Array, elect: bool, numbers: Array, out: Array
) -> None:
    """Write ``(1 - lam sum c_i) theta_base + lam sum c_i theta_i`` with ``c_i = w_i s_i [agrees] / divisor``.

    Args:
        scales: ``models x values``: 0 where a value was dropped.
        weight, votes: of each model, in the merge and in the election of signs.
        elect: whether values whose change does not have the elected sign (of the larger sum of votes; plus in a tie) are left
            out.
        numbers: 0 and 1; what the sums are divided by, or 0 for the sum of the weights that take part at each value; ``lam``;
            and how small a rest of the base is taken for none. An array, so that all arithmetic is of one type.
    """
    count, n = models.shape
    zero, one, divisor, lam, nearly = numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]
    sign, total = np.empty(AT_ONCE, base.dtype), np.empty(AT_ONCE, base.dtype)
    parts, shares = np.empty(AT_ONCE, base.dtype), np.empty(AT_ONCE, base.dtype)
    for first in range(0, n, AT_ONCE):
        below, fused = base[first : first + AT_ONCE], out[first : first + AT_ONCE]
        size = len(fused)
        sign[:], total[:], parts[:], shares[:] = zero, zero, zero, zero
        if elect:
            for i in range(count):
                model, scale, vote = models[i, first : first + AT_ONCE], scales[i, first : first + AT_ONCE], votes[i]
                for j in range(size):
                    sign[j] += (model[j] - below[j]) * (scale[j] * vote)
            for j in range(size):
                sign[j] = one if sign[j] >= zero else -one
        for i in range(count):
            model, scale = models[i, first : first + AT_ONCE], scales[i, first : first + AT_ONCE]
            w, vote = weight[i], votes[i]
            if elect:
                for j in range(size):
                    change = (model[j] - below[j]) * (scale[j] * vote)
                    agrees = one if change * sign[j] > zero else zero
                    coefficient = scale[j] * w * agrees
                    total[j] += coefficient * model[j]
                    parts[j] += coefficient
                    shares[j] += w * agrees
            else:
                for j in range(size):
                    coefficient = scale[j] * w
                    total[j] += coefficient * model[j]
                    parts[j] += coefficient
        for j in range(size):
            under = divisor if divisor != zero else shares[j]
            factor = lam / under if under != zero else lam
            rest = one - factor * parts[j]
            rest = zero if abs(rest) < nearly else rest
            fused[j] = rest * below[j] + factor * total[j]
