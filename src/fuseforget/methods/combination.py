"""Linear combinations of whole tensors: what averages and the methods on a sphere come to once their coefficients are known.

A combination says what it does, not only how: an engine may carry it out on the values as they are stored, in one pass, and
get the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fuseforget.methods.group import Block, weighted_sum

if TYPE_CHECKING:
    import torch

__all__ = ["Combination", "from_base"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Combination:
    """Return ``sum_i c_i theta_i + rest theta_base`` of a block; models whose coefficient is zero are left out.

    Attributes:
        coefficients: one a model.
        rest: the base's; 0 where it takes no part.
    """

    coefficients: tuple[float, ...]
    rest: float = 0.0

    def __call__(self, block: Block) -> torch.Tensor:
        if block.stacked.device.type != "cpu":
            with_base = ((), ()) if self.rest == 0 else ((block.origin,), (self.rest,))
            return weighted_sum((*block.models, *with_base[0]), (*self.coefficients, *with_base[1]))
        import torch

        from fuseforget.methods.kernels_linear import combine

        models = block.stacked.numpy()
        base = models[0] if self.rest == 0 else block.origin.numpy()
        fused = np.empty_like(base)
        combine(models, base, *self.numbers(fused.dtype), fused)
        return torch.from_numpy(fused)

    def numbers(self, dtype: npt.DTypeLike) -> tuple[Array, Any]:
        """The coefficients, and the rest, in the type to compute in."""
        wide = np.array([*self.coefficients, self.rest], dtype=dtype)
        return wide[:-1], wide[-1]


def from_base(coefficients: Sequence[float]) -> Combination:
    """Return ``base + sum_i c_i (theta_i - base)`` as ``(1 - sum c) base + sum_i c_i theta_i``.

    Written so, a model that is fused alone, and equal models whose coefficients sum to one, come back to the bit even where
    they are far smaller than the base.
    """
    rest = 1 - math.fsum(coefficients)
    return Combination(tuple(coefficients), 0.0 if abs(rest) < 1e-12 else rest)
