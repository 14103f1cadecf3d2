"""Weighted average of parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["average"]


def average(parts: Sequence[torch.Tensor], weights: Sequence[float], statistics: None = None) -> torch.Tensor:
    """Return ``sum_i alpha_i theta_i`` (Zaman et al. 2023, Eq. 1).

    In float64 the sum of float32 values is so close that rounding it to float32 gives what a float32 sum of two rounded
    once would give, and equal models come back to the bit for any weights that sum to one.

    Args:
        parts: the same values of every model, float64, equal shapes.
        weights: one for each model, summing to one.
        statistics: unused; the method is elementwise.
    """
    total = parts[0] * weights[0]
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        total.add_(part, alpha=weight)
    return total
