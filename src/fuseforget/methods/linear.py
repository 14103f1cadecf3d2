"""Methods that combine models value by value: averages, and rules on single differences. All are elementwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fuseforget.methods.combination import Combination, from_base
from fuseforget.methods.group import Block, FuseBlock, Group, from_base_each, weighted_sum

if TYPE_CHECKING:
    import torch

__all__ = ["average", "fisher", "geometric_mean", "nearswap", "negmerge", "passthrough", "ram", "task_arithmetic"]


def average(group: Group, *, weight: Sequence[float]) -> FuseBlock:
    """Return ``sum_i alpha_i theta_i`` (Wortsman et al. 2022; Zaman et al. 2023, Eq. 1).

    Ideal use: models of one base whose shared knowledge should stay. The weights are convex, so equal models come back.
    """
    return Combination(tuple(weight))


def geometric_mean(group: Group, *, weight: Sequence[float]) -> FuseBlock:
    """Return ``s prod_i |theta_i|^alpha_i`` where all models have the sign ``s``, and zero where their signs differ.

    The weighted geometric mean of magnitudes, continued by zero so that it is continuous in every value. Ideal use: keep
    only what every model has; a single model near zero pulls a value to zero, where the average halves it.
    """
    import torch

    def fused(block: Block) -> torch.Tensor:
        used = [(part, share) for part, share in zip(block.models, weight, strict=True) if share != 0]
        signs = torch.stack([part.sign() for part, _ in used])
        agree = (signs == signs[0]).all(dim=0)
        logs = weighted_sum([part.abs().log() for part, _ in used], [share for _, share in used])  # log 0 = -inf: exp is 0
        return torch.where(agree, signs[0] * logs.exp(), 0.0)

    return fused


def passthrough(group: Group, *, weight: Sequence[float], scale: float) -> FuseBlock:
    """Return ``scale theta`` of the one model: to copy, to scale, or to stack slices of layers by a recipe."""
    return Combination((scale,))


def task_arithmetic(group: Group, *, weight: Sequence[float], normalize: bool, lambda_: float) -> FuseBlock:
    """Return ``theta_base + lambda sum_i w_i (theta_i - theta_base)`` (Ilharco et al. 2023, arXiv 2212.04089).

    ``normalize`` divides the weights by their sum. Ideal use: add skills (positive weights) or take them away (negative).
    """
    total = sum(weight)
    divisor = total if normalize and total != 0 else 1.0
    return from_base([lambda_ * share / divisor for share in weight])


def nearswap(group: Group, *, weight: Sequence[float], t: float) -> FuseBlock:
    """Return ``theta_base + clip(theta - theta_base, -t, t)``: moves every value towards the model by at most ``t``.

    The interpolation of alchemonaut's QuartetAnemoi (weight ``t / |difference|``, at most one) written out. Ideal use: take from
    the model only what is near the base already. ``t`` is in units of the parameters.
    """
    return lambda block: block.models[0].clamp(block.origin - t, block.origin + t)


def ram(group: Group, *, weight: Sequence[float], epsilon: float, r: float, alpha: float) -> FuseBlock:
    """Return the base plus, at each value, the mean of the differences that exceed ``epsilon`` there (arXiv 2601.13572).

    Reinforced Agent Merging: where one model alone changed a value its change is kept whole, where several did they are
    averaged. With ``r`` above zero (RAM+, tensor-local) a change of model i alone is scaled by
    ``1 + r min(rho_i, alpha)``, where ``rho_i`` is the number of values that i shares over the number it has alone.
    """
    import torch

    def active(block: Block) -> torch.Tensor:
        return torch.stack([delta.abs() > epsilon for delta in block.deltas])

    scales = [1.0] * group.models
    if r > 0:

        def counts(block: Block) -> torch.Tensor:
            mine = active(block)
            shared = mine & (mine.sum(dim=0) > 1)
            return torch.stack([shared.sum(dim=1), mine.sum(dim=1)]).double()

        shared, every = group.reduce(counts)
        alone = (every - shared).clamp(min=1)
        scales = (1 + r * (shared / alone).clamp(0, alpha)).tolist()

    def fused(block: Block) -> torch.Tensor:
        mine = active(block).to(block.origin.dtype)
        count = mine.sum(dim=0)
        share = 1 / count.clamp(min=1)
        return from_base_each(block, [here * torch.where(count == 1, s, share) for here, s in zip(mine, scales, strict=True)])

    return fused


def negmerge(group: Group, *, weight: Sequence[float], lambda_: float) -> FuseBlock:
    """Return ``theta_base - lambda sum_i w_i delta_i`` where all differences have one sign, and the base elsewhere.

    NegMerge (Kim et al. 2024, arXiv 2410.05583), for unlearning: the models were fine-tuned, with different settings, on
    what is to be forgotten; what all of them changed in the same direction is taken away from the base.
    """
    import torch

    def fused(block: Block) -> torch.Tensor:
        signs = torch.stack([delta.sign() for delta in block.deltas])
        agree = (signs == signs[0]).all(dim=0)
        return block.origin - torch.where(agree, lambda_ * weighted_sum(block.deltas, weight), 0.0)

    return fused


def fisher(group: Group, *, weight: Sequence[float]) -> FuseBlock:
    """Return ``sum_i w_i F_i theta_i / sum_i w_i F_i`` (Matena and Raffel 2022, arXiv 2111.09832, Eq. 5).

    ``F_i`` is the diagonal Fisher information of model i, an ordinary checkpoint with the model's names. Where no model has
    information the weighted average is taken. Ideal use: each value from the models whose predictions depend on it.
    """
    import torch

    share = [w / sum(weight) for w in weight] if sum(weight) else list(weight)

    def fused(block: Block) -> torch.Tensor:
        plain = weighted_sum(block.models, share)
        if not block.statistics:
            return plain
        # Relative information: the largest is one, so that tiny Fishers do not vanish in the products.
        information = torch.stack(block.statistics)
        peak = information.amax(dim=0)
        relative = information / torch.where(peak > 0, peak, 1)
        total = weighted_sum(list(relative), weight)
        parts = weighted_sum([f * part for f, part in zip(relative, block.models, strict=True)], weight)
        known = (peak > 0) & (total != 0)
        return torch.where(known, parts / torch.where(known, total, 1), plain)

    return fused
