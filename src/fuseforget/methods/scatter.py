"""The mean of the models' changes, and the scatter around it, of blocks of one tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fuseforget.errors import InputError
from fuseforget.methods.group import Block, Group, weighted_sum

if TYPE_CHECKING:
    import torch

__all__ = ["contrast_rows", "contrasts_of", "mean_change", "odds_of", "require_finite"]

STRICTEST = 1e-6  # what 1 - forget is at the least: at 1 itself nothing but equal changes would be left


def odds_of(forget: float) -> float:
    """b: how many times as much scatter counts as what is lost of the mean."""
    return forget / max(1 - forget, STRICTEST)


def contrasts_of(weight: Sequence[float]) -> list[tuple[float, ...]]:
    """Combinations of the models whose inner products sum to the scatter around their weighted mean.

    With ``R_i = sqrt(alpha_i) D_i`` and ``a = sqrt(alpha)``, of length one, the mean is ``a^T R`` and the scatter
    ``R^T (1 - a a^T) R``: of the rows of an orthonormal matrix whose first is a (Householder's), all but the first. So there is
    one fewer than there are models.
    """
    roots = [math.sqrt(share) for share in weight if share != 0]
    reflected = [roots[0] + 1, *roots[1:]]  # a + e_1, which is never short
    size = math.fsum(value * value for value in reflected)
    found = []
    for row in range(1, len(roots)):
        values = iter((float(row == at) - 2 * reflected[row] * reflected[at] / size) * roots[at] for at in range(len(roots)))
        found.append(tuple(next(values) if share != 0 else 0.0 for share in weight))
    return found


def mean_change(block: Block, weight: Sequence[float], dtype: torch.dtype) -> torch.Tensor:
    """Rows of the mean change."""
    return weighted_sum([delta.to(dtype) for delta in block.deltas], weight).view(-1, block.row_length)


def contrast_rows(block: Block, contrast: Sequence[float], dtype: torch.dtype) -> torch.Tensor:
    """Rows of a contrast, as differences from one model, since its coefficients sum to zero: zero where all models are equal."""
    used = [(model.to(dtype), share) for model, share in zip(block.models, contrast, strict=True) if share != 0]
    found = block.origin.new_zeros(block.origin.shape, dtype=dtype)
    for model, share in used[1:]:
        found.add_(model - used[0][0], alpha=share)
    return found.view(-1, block.row_length)


def require_finite(squares: float, group: Group) -> None:
    """Raise where a sum of a tensor's squared changes is not a number.

    Raises:
        InputError: naming the tensor.
    """
    if not math.isfinite(squares):
        raise InputError(f"tensor {group.name}", expected="changes whose squares are finite", found="NaN or infinity")
