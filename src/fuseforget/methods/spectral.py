"""Methods on singular values of matrices; vectors and the rest are averaged.

Matrices come in panels of rows, transposed where they are wider than high. No singular value decomposition of one is formed:
right singular vectors V and values are those of the inner products ``D^T D = V S^2 V^T``, which one pass adds up in float64,
and the left ones, ``D V S^-1``, are made panel by panel. So memory is a few matrices of the shorter side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fuseforget.methods.combination import from_base
from fuseforget.methods.group import Block, FuseBlock, Group, weighted_sum
from fuseforget.methods.inner import add_products, inverse_root, singular

if TYPE_CHECKING:
    import torch

__all__ = ["iso_c", "tsv_m"]


def _is_matrix(group: Group) -> bool:
    return len(group.shape) == 2 and min(group.shape) > 1


def _averaged(group: Group, weight: Sequence[float], lambda_: float) -> FuseBlock:
    """The mean of the task vectors by the weights' shares: what the papers do with tensors that are no matrices."""
    total = sum(weight)
    shares = [lambda_ * w / total if total else lambda_ / group.models for w in weight]
    return from_base(shares)


def _moved(block: Block, rows: torch.Tensor, mixing: torch.Tensor, lambda_: float) -> torch.Tensor:
    """``theta_base + lambda rows mixing``, flat."""
    return block.origin.view(-1, block.row_length).addmm(rows, mixing, alpha=lambda_).view(-1)


def tsv_m(group: Group, *, weight: Sequence[float], lambda_: float) -> FuseBlock:
    """Task singular vectors, merged (Gargiulo et al. 2025, arXiv 2412.00081).

    Each matrix's task vector is cut to the first ``1/T`` of its singular triplets (T models); the left singular vectors of all
    models, side by side, are replaced by the nearest orthonormal ones, and so are the right ones, so that tasks do not
    interfere; ``theta_base + lambda U S V^T``. A weight scales its model's singular values. Triplets that a model does not
    have (it did not change the matrix, or changed few ranks, but for rounding) are left out: their vectors are arbitrary, and
    would turn the others'. Ideal use: many unlike tasks.
    """
    if not _is_matrix(group):
        return _averaged(group, weight, lambda_)
    if group.models == 1:  # all singular triplets are kept, and are orthonormal: the task vector itself
        return from_base([lambda_ * weight[0]])
    tasks = _Tasks(group, weight)
    if not len(tasks.right):
        return lambda block: block.origin.clone()
    mixing = tasks.mixing(group).to(group.dtype)
    tasks.to(group.dtype)
    return lambda block: _moved(block, tasks.left(block), mixing, lambda_)


class _Tasks:
    """The first singular triplets of each model's change, side by side.

    Attributes:
        values: their singular values, each times its model's weight.
        right: their right singular vectors, as rows.
    """

    def __init__(self, group: Group, weight: Sequence[float]) -> None:
        import torch

        columns = group.shape[1]
        count = max(1, columns // group.models)
        self.right = torch.empty((count * group.models, columns), dtype=torch.float64, device=group.device)
        self._parts: list[tuple[int, slice, torch.Tensor]] = []
        self.values, end = self.right.new_empty(0), 0
        for model, share in enumerate(weight):
            if share == 0:
                continue
            values, vectors = singular(group.alone(model), [1.0])
            values = values[-count:]
            part = slice(end, end + len(values))
            self.right[part] = vectors[-count:]
            self._parts.append((model, part, values))
            self.values, end = torch.cat([self.values, values * share]), part.stop
        self.right = self.right[:end]

    def to(self, dtype: torch.dtype) -> None:
        """Compute left singular vectors in another type."""
        self.right = self.right.to(dtype)
        self._parts = [(model, part, values.to(dtype)) for model, part, values in self._parts]

    def left(self, block: Block) -> torch.Tensor:
        """Rows of the left singular vectors: each ``D v / s``."""
        left = self.right.new_empty((block.models[0].numel() // block.row_length, len(self.right)))
        for model, part, values in self._parts:
            change = (block.models[model] - block.origin).view(-1, block.row_length).to(self.right.dtype)
            left[:, part] = (change @ self.right[part].T).div_(values)
        return left

    def mixing(self, group: Group) -> torch.Tensor:
        """What the left singular vectors are multiplied by: ``(L^T L)^(-1/2) S (R R^T)^(-1/2) R``, triplets x columns.

        The first factor makes the left vectors L orthonormal, the last ones are the right vectors R made so.
        """
        count = len(self.right)
        products = self.right.new_zeros((count, count))
        add_products(products, self.right.T)
        mixed = inverse_root(products, group.shape[1], group.name).mul_(self.values[:, None])
        products.zero_()
        for block in group.blocks():
            add_products(products, self.left(block))
        mixed = inverse_root(products, group.shape[0], group.name) @ mixed
        del products
        return mixed @ self.right


def iso_c(group: Group, *, weight: Sequence[float], lambda_: float) -> FuseBlock:
    """Isotropic merging in the common subspace (Marczak et al. 2025, arXiv 2502.04959).

    The singular values of the sum of task vectors ``sum_i w_i delta_i = U S V^T`` are replaced by their mean:
    ``theta_base + lambda mean(S) U V^T``. Directions that the models did not change, or only by rounding, count as zeros in
    the mean, and are not raised: they have no singular vectors of their own. Ideal use: many tasks, so that no task's
    directions dominate.
    """
    if not _is_matrix(group):
        return _averaged(group, weight, lambda_)
    values, vectors = singular(group, weight)
    if not len(values):
        return lambda block: block.origin.clone()
    mean = values.sum() / group.shape[1]
    vectors.mul_((mean / values).sqrt_()[:, None])
    mixing = (vectors.T @ vectors).to(group.dtype)
    del vectors
    return lambda block: _moved(block, weighted_sum(block.deltas, weight).view(-1, block.row_length), mixing, lambda_)
