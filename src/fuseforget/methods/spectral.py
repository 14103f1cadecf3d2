"""Methods that decompose whole matrices: singular values and least squares. Vectors and the rest are averaged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fuseforget.errors import InputError
from fuseforget.methods.combination import Combination, from_base
from fuseforget.methods.group import FuseBlock, Group, weighted_sum

if TYPE_CHECKING:
    import torch

__all__ = ["iso_c", "regmean", "tsv_m"]


def _is_matrix(group: Group) -> bool:
    return len(group.shape) == 2 and min(group.shape) > 1


def _serve(values: torch.Tensor) -> FuseBlock:
    """Give out a result that was computed whole, block by block."""
    flat = values.reshape(-1)
    return lambda block: flat[block.start : block.start + block.models[0].numel()].clone()


def _averaged(group: Group, weight: Sequence[float], lambda_: float) -> FuseBlock:
    """The mean of the task vectors by the weights' shares: what the papers do with tensors that are no matrices."""
    total = sum(weight)
    shares = [lambda_ * w / total if total else lambda_ / group.models for w in weight]
    return from_base(shares)


def tsv_m(group: Group, *, weight: Sequence[float], lambda_: float) -> FuseBlock:
    """Task singular vectors, merged (Gargiulo et al. 2025, arXiv 2412.00081).

    Each matrix's task vector is cut to the first ``1/T`` of its singular triplets (T models); the left singular vectors of all
    models, side by side, are replaced by the nearest orthonormal ones, and so are the right ones, so that tasks do not
    interfere; ``theta_base + lambda U S V^T``. A weight scales its model's singular values. Triplets of singular value zero
    (a model that did not change the matrix, or changed few ranks) are left out: their vectors are arbitrary, and would turn
    the others'. Ideal use: many unlike tasks.
    """
    import torch

    if not _is_matrix(group):
        return _averaged(group, weight, lambda_)
    if group.models == 1:  # all singular triplets are kept, and are orthonormal: the task vector itself
        return from_base([lambda_ * weight[0]])
    block = group.whole()
    count = max(1, min(group.shape) // group.models)
    left, values, right = [], [], []
    for delta, share in zip(block.deltas, weight, strict=True):
        u, s, vt = torch.linalg.svd(delta.view(group.shape), full_matrices=False)
        kept = count if share != 0 else 0
        kept = min(kept, int(_above_rounding(s, group.shape).sum()))
        left.append(u[:, :kept])
        values.append(s[:kept] * share)
        right.append(vt[:kept])
    if not sum(s.numel() for s in values):
        return lambda block: block.origin.clone()
    u, vt = _nearest_orthonormal(torch.cat(left, dim=1)), _nearest_orthonormal(torch.cat(right, dim=0))
    update = (u * torch.cat(values)) @ vt
    return _serve(block.origin.view(group.shape) + lambda_ * update)


def _above_rounding(singular_values: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Which singular values are not zero but for rounding (numerical rank)."""
    import torch

    return singular_values > singular_values.max() * max(shape) * torch.finfo(singular_values.dtype).eps


def _nearest_orthonormal(matrix: torch.Tensor) -> torch.Tensor:
    """The orthogonal factor ``P Q^T`` of ``P S Q^T`` (orthogonal Procrustes), over the directions that there are."""
    import torch

    p, s, qt = torch.linalg.svd(matrix, full_matrices=False)
    product: torch.Tensor = (p * _above_rounding(s, matrix.shape)) @ qt
    return product


def iso_c(group: Group, *, weight: Sequence[float], lambda_: float) -> FuseBlock:
    """Isotropic merging in the common subspace (Marczak et al. 2025, arXiv 2502.04959).

    The singular values of the sum of task vectors ``sum_i w_i delta_i = U S V^T`` are replaced by their mean:
    ``theta_base + lambda mean(S) U V^T``. Ideal use: many tasks, so that no task's directions dominate.
    """
    import torch

    if not _is_matrix(group):
        return _averaged(group, weight, lambda_)
    block = group.whole()
    total = weighted_sum(block.deltas, weight).view(group.shape)
    u, s, vt = torch.linalg.svd(total, full_matrices=False)
    # Directions without any change have no singular vectors of their own to be raised.
    changed = _above_rounding(s, group.shape)
    return _serve(block.origin.view(group.shape) + lambda_ * s.mean() * (u * changed) @ vt)


def regmean(group: Group, *, weight: Sequence[float], scale: float, input_first: bool) -> FuseBlock:
    """Solve ``min_W sum_i w_i |X_i W_i^T - X_i W^T|^2`` from the inputs' inner products (Jin et al. 2023, arXiv 2212.09849).

    ``W = (sum_i w_i W_i G_i) (sum_i w_i G_i)^-1`` with ``G_i = X_i^T X_i`` of the layer's inputs, off-diagonal elements times
    ``scale``. A statistics checkpoint holds ``G_i`` under the weight's name; tensors without one are averaged. Of several
    solutions (inputs that never occur) it is the one nearest to the weighted average.
    ``input_first``: matrices are stored inputs x outputs (GPT-2's Conv1D).
    """
    import torch

    total = sum(weight)
    if total == 0:
        raise InputError("weights of regmean", expected="a sum other than zero", found=str(list(weight)))
    shares = [w / total for w in weight]
    if not group.companions or len(group.shape) != 2:
        return Combination(tuple(shares))
    inputs = group.shape[0] if input_first else group.shape[1]
    wrong = [tuple(g.shape) for g in group.companions if tuple(g.shape) != (inputs, inputs)]
    if wrong:
        raise InputError(
            f"statistics of {group.name}", expected=f"inner products of {inputs} inputs", found=f"a tensor of shape {wrong[0]}"
        )
    block = group.whole()
    models = torch.stack(block.models).double()
    # Where all models are equal their value stands, without the average's rounding, which the solution would spread.
    average = torch.where((models == models[0]).all(dim=0), models[0], weighted_sum(list(models), shares))
    left = torch.zeros((inputs, inputs), dtype=torch.float64, device=block.models[0].device)
    right = torch.zeros(tuple(reversed(group.shape)) if not input_first else group.shape, dtype=torch.float64, device=left.device)
    for model, products, share in zip(models, group.companions, shares, strict=True):
        g = products.double() * scale
        g.diagonal().copy_(products.double().diagonal())
        matrix = (model - average).view(group.shape)
        left += share * g
        right += share * g @ (matrix if input_first else matrix.T)
    solved = (
        torch.linalg.lstsq(left, right, driver="gelsd").solution if left.device.type == "cpu" else torch.linalg.pinv(left) @ right
    )
    return _serve((average.view(group.shape) + (solved if input_first else solved.T)).to(group.dtype))
