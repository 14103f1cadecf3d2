"""The filter of tables by Fisher information: each value of the mean change is kept as far as the models' texts agree on it.

The Fisher information of a value, summed over the texts that a model was trained on, says how much these texts ask of it. Texts
that all models read add the same to each of them, and a text that one alone read adds to that one's. So with the mean
``m = sum_i alpha_i F_i`` and the variance ``v = sum_i alpha_i (F_i - m)^2`` between the models, a value is kept by

    w = 1 / (1 + b^2 v / m^2),    b = forget / (1 - forget):

half of it where the models' information differs by a share of ``1 / b``. Only ratios count, so that no unit matters, but all
models' information is to be in one. Tables alone are filtered so: the values of a token's row are asked for by the texts that
have the token, those of other matrices by all texts, so that there the models' information does not tell them apart.

It is not continuous where a model's weight becomes zero: a value that this model alone knows of is taken away at any weight, and
kept at none, since nobody who takes part knows of it then.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fuseforget.errors import InputError
from fuseforget.methods.combination import from_base
from fuseforget.methods.group import Block, FuseBlock, Group, weighted_sum
from fuseforget.methods.lengths import Lengths, restoring
from fuseforget.methods.scatter import contrast_rows, contrasts_of, mean_change, odds_of, require_finite

if TYPE_CHECKING:
    import torch

__all__ = ["FilteredValues", "filter_by_information"]


@dataclass(frozen=True, eq=False)
class FilteredValues:
    """The mean change of a table, its values filtered; what is kept of them is computed again when they are fused.

    Attributes:
        numbers: squared lengths.
        group: what the information is read from; None: nothing is filtered, the models are equal.
    """

    numbers: Lengths
    weight: tuple[float, ...]
    lambda_: float
    odds: float
    group: Group | None
    nbytes: int = 0

    def function(self, survey: Sequence[float]) -> FuseBlock:
        scale, group = self.lambda_ * restoring(survey), self.group
        if group is None:
            return from_base([scale * share for share in self.weight])

        def fused(block: Block) -> torch.Tensor:
            kept = _kept(group, block, self.weight, self.odds).to(block.origin.dtype).reshape(-1)
            return block.origin.add(weighted_sum(block.deltas, self.weight).mul_(kept), alpha=scale)

        return fused


def filter_by_information(group: Group, weight: tuple[float, ...], forget: float, lambda_: float) -> FilteredValues:
    """The filter of a table's values.

    Raises:
        InputError: no information about this table, of another shape, or values that are none (negative or not finite).
    """
    import torch

    _require_information(group)
    contrasts, odds = contrasts_of(weight), odds_of(forget)
    sums = [0.0, 0.0, 0.0]
    for block in group.blocks():
        change = mean_change(block, weight, torch.float64)
        apart = sum(float(contrast_rows(block, contrast, torch.float64).square_().sum()) for contrast in contrasts)
        fused = _kept(group, block, weight, odds).mul_(change)
        for place, value in enumerate((float(change.square().sum()), apart, float(fused.square().sum()))):
            sums[place] += value
    of_mean, of_scatter, of_fused = sums
    require_finite(of_mean + of_scatter, group)
    if of_scatter == 0:
        return FilteredValues(Lengths.of(of_mean, 0.0, of_mean, weight, forget), weight, lambda_, odds, None)
    return FilteredValues(Lengths.of(of_mean, of_scatter, of_fused, weight, forget), weight, lambda_, odds, group)


def _kept(group: Group, block: Block, weight: Sequence[float], odds: float) -> torch.Tensor:
    """What is kept of each value of a block, rows x values, in float64; all of it where no model has information."""
    import torch

    used = [(_information(group, model, block), share) for model, share in enumerate(weight) if share != 0]
    mean = weighted_sum([found for found, _ in used], [share for _, share in used])
    # Relative to the mean before it is squared, so that tiny information does not vanish in its square.
    known = mean > 0
    mean = torch.where(known, mean, 1.0)
    varied = torch.zeros_like(mean)
    for found, share in used:
        varied.add_(found.div_(mean).sub_(1.0).square_(), alpha=share)
    return torch.where(known, varied.mul_(odds * odds).add_(1.0).reciprocal_(), 1.0)


def _information(group: Group, model: int, block: Block) -> torch.Tensor:
    """A model's information about a block's values, rows x values; a copy."""
    import torch

    first, last = (at // block.row_length for at in (block.start, block.start + block.origin.numel()))
    if group.transposed:
        # Companions are read by rows, and a block is columns of them, so that each reads the whole table: tables that are wider
        # than high have few tokens.
        found = group.companion(model, 0, block.row_length)[:, first:last].mT
    else:
        found = group.companion(model, first, last)
    found = found.to(torch.float64, copy=True)
    if not bool(((found >= 0) & found.isfinite()).all()):
        kind = "NaN" if bool(found.isnan().any()) else "infinity" if bool(found.isinf().any()) else "negative values"
        raise InputError(f"Fisher of {group.name}, model {model + 1}", expected="finite values, none negative", found=kind)
    return found


def _require_information(group: Group) -> None:
    if not group.companion_shapes:
        raise InputError(
            f"Fisher of {group.name}", expected="one for each model, under this name", found="none",
            action="Measure the base's on the texts that each model was trained on: fuseforget fisher.",
        )  # fmt: skip
    stored = group.shape[::-1] if group.transposed else group.shape
    for number, shape in enumerate(group.companion_shapes, 1):
        if (shape[0], math.prod(shape[1:])) != tuple(stored):
            found = f"{list(shape)} of model {number}'s"
            raise InputError(f"Fisher of {group.name}", expected=f"the tensor's shape, {list(stored)}", found=found)
