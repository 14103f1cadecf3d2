"""Compiled loops of the Fisher: squares of sums of outer products, without a product that is written down."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fuseforget.compiling import compiled_contracting

__all__ = ["add_squared_outer"]

Array = npt.NDArray[Any]
ROWS = 32  # of the total that stay in the second-level cache while all examples are added to them; even


def add_squared_outer(total: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, spans: list[tuple[int, int]]) -> None:
    """Add ``sum_b (sum_t rows_bt (x) columns_bt)^2`` to the total, in place, on as many cores as torch uses.

    Args:
        total: height x width, contiguous, in the main memory.
        rows, columns: examples x uses x height, and x width.
        spans: for each example its first use, and the one behind its last; what lies outside is zero.
    """
    # Of each row's numbers, those of one example lie together: they are read one at a time.
    turned = rows.transpose(1, 2).contiguous().numpy()
    read, limits, out = columns.contiguous().numpy(), np.array(spans, dtype=np.int64), total.numpy()
    parts = range(0, len(out), ROWS)
    work = [(out[top : top + ROWS], turned[:, top : top + ROWS], read, limits) for top in parts]
    workers = min(torch.get_num_threads(), len(work))
    if workers <= 1:
        for part in work:
            _add(*part)
    else:
        list(_pool(workers, os.getpid()).map(lambda part: _add(*part), work))


@cache
def _pool(workers: int, process: int) -> ThreadPoolExecutor:
    """Threads of this process: a forked one has none of its parent's."""
    return ThreadPoolExecutor(workers, f"fisher-{process}")


@compiled_contracting
def _add(total: Array, rows: Array, columns: Array, spans: Array) -> None:
    """Two rows and four uses at a time: each number that is read is used twice, each sum that is held four times."""
    height, width = total.shape
    left, right = np.empty(width, total.dtype), np.empty(width, total.dtype)
    for b in range(columns.shape[0]):
        first, end = spans[b, 0], spans[b, 1]
        own, c = rows[b], columns[b]
        for i in range(0, height, 2):
            k = min(i + 1, height - 1)
            r, s = own[i], own[k]
            left[:] = 0
            right[:] = 0
            t = first
            while t + 4 <= end:
                r0, r1, r2, r3 = r[t], r[t + 1], r[t + 2], r[t + 3]
                s0, s1, s2, s3 = s[t], s[t + 1], s[t + 2], s[t + 3]
                c0, c1, c2, c3 = c[t], c[t + 1], c[t + 2], c[t + 3]
                for j in range(width):
                    # In steps that are a multiplication and an addition each.
                    x, y = left[j] + r0 * c0[j], right[j] + s0 * c0[j]
                    x, y = x + r1 * c1[j], y + s1 * c1[j]
                    x, y = x + r2 * c2[j], y + s2 * c2[j]
                    left[j], right[j] = x + r3 * c3[j], y + s3 * c3[j]
                t += 4
            while t < end:
                r0, s0, c0 = r[t], s[t], c[t]
                for j in range(width):
                    left[j] += r0 * c0[j]
                    right[j] += s0 * c0[j]
                t += 1
            for j in range(width):
                total[i, j] += left[j] * left[j]
            if k > i:
                for j in range(width):
                    total[k, j] += right[j] * right[j]
