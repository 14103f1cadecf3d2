"""Random numbers that depend on what they are for, not on when they are drawn.

A draw is a function of (seed, tensor name, model, position): the "squares" generator of Widynski (2020, arXiv
2004.06278), a counter that goes through four rounds of squaring. So no result depends on the order of tensors, on how a
tensor is cut into blocks, or on the number of threads.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["key", "uniform"]


def key(seed: int, name: str, model: int) -> int:
    """Return an odd 64-bit key for a model's tensor."""
    digest = hashlib.sha256(f"{seed}\0{name}\0{model}".encode()).digest()
    return int.from_bytes(digest[:8], "little") | 1


def uniform(key: int, start: int, count: int) -> torch.Tensor:
    """Return numbers in [0, 1), float32 with 24 random bits, for the positions ``start`` to ``start + count``."""
    import numpy as np
    import torch

    from fuseforget.methods import kernels

    numbers = torch.empty(count)
    kernels.uniform(np.uint64(key), start, numbers.numpy())
    return numbers
