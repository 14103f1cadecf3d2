"""Arcee Fusion: take the important changes only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fuseforget.methods.group import Block, FuseBlock, Group
from fuseforget.methods.selection import magnitude_bits, order_statistics

if TYPE_CHECKING:
    import torch

__all__ = ["arcee_fusion"]

SMOOTHING = 1e-8  # of mergekit's softmax


def arcee_fusion(group: Group, *, weight: Sequence[float]) -> FuseBlock:
    """Take the model's value where its importance reaches ``median + 1.5 (Q3 - Q1)``, and the base's elsewhere.

    Importance is ``|theta - theta_base|`` times the Kullback-Leibler divergence of the row's softmax from the base's (mergekit's
    Arcee Fusion). Quartiles are exact (mergekit samples a million values); divergences are taken in float64. Ideal use: an
    update of a model in which few large changes matter.
    """
    import torch

    def importance(block: Block) -> torch.Tensor:
        model, base = (part.double().view(-1, block.row_length) for part in (block.models[0], block.origin))
        change, q = model - base, base.softmax(-1)
        # x = p / q - 1 from the change itself, and the sum's terms p log(p / q) - p + q, which are not negative: the
        # divergence of small changes is of second order, and as a plain sum it drowns in rounding.
        x = (change - (q * change.expm1()).sum(-1, keepdim=True).log1p()).expm1()
        small = change.abs().amax(-1, keepdim=True) < 1  # of others the exponentials may overflow, and nothing drowns
        x = torch.where(small, x * q, model.softmax(-1) - q) / (q + SMOOTHING)
        divergence = ((q + SMOOTHING) * ((1 + x) * x.log1p() - x)).sum(-1, keepdim=True)
        return (change.abs() * divergence).reshape(-1)

    last = group.numel - 1
    wanted = [[int(share * last) for share in (0.25, 0.5, 0.75)]]
    first, median, third = order_statistics(group, lambda block: magnitude_bits(importance(block)), lambda zeros: wanted)[0]
    threshold = median.value + 1.5 * (third.value - first.value)

    def fused(block: Block) -> torch.Tensor:
        taken = importance(block).float() >= threshold
        return torch.where(taken, block.models[0], block.origin)

    return fused
