"""RegMean: least squares on what the layers' inputs were."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from fuseforget.errors import InputError
from fuseforget.methods.combination import Combination
from fuseforget.methods.group import Block, FuseBlock, Group, panel_rows, weighted_sum
from fuseforget.methods.inner import eigen

if TYPE_CHECKING:
    import torch

__all__ = ["regmean"]


def regmean(group: Group, *, weight: Sequence[float], scale: float, input_first: bool) -> FuseBlock:
    """Solve ``min_W sum_i w_i |X_i W_i^T - X_i W^T|^2`` from the inputs' inner products (Jin et al. 2023, arXiv 2212.09849).

    ``W = (sum_i w_i W_i G_i) (sum_i w_i G_i)^-1`` with ``G_i = X_i^T X_i`` of the layer's inputs, off-diagonal elements times
    ``scale``. A statistics checkpoint holds ``G_i`` under the weight's name; tensors without one are averaged. Of several
    solutions (inputs that never occur) it is the one nearest to the weighted average.
    ``input_first``: matrices are stored inputs x outputs (GPT-2's Conv1D); they come transposed here.
    """
    total = sum(weight)
    if total == 0:
        raise InputError("weights of regmean", expected="a sum other than zero", found=str(list(weight)))
    shares = [w / total for w in weight]
    if not group.companion_shapes or len(group.shape) != 2 or group.numel == 0:
        return Combination(tuple(shares))
    inputs = group.shape[1]
    wrong = [shape for shape in group.companion_shapes if shape != (inputs, inputs)]
    if wrong:
        raise InputError(
            f"statistics of {group.name}", expected=f"inner products of {inputs} inputs", found=f"a tensor of shape {wrong[0]}"
        )
    inverse = _Inverse(group, shares, scale)

    def fuse(block: Block) -> torch.Tensor:
        models = [model.double() for model in block.models]
        average = _average(models, shares)
        right = _right(group, [model.sub_(average).view(-1, inputs) for model in models], shares, scale)
        return inverse.times(right).view(-1).add_(average).to(group.dtype)

    return fuse


def _average(models: Sequence[torch.Tensor], shares: Sequence[float]) -> torch.Tensor:
    """The weighted average; where all models are equal their value, without rounding, which the solution would spread."""
    import torch

    same = torch.ones_like(models[0], dtype=torch.bool)
    for model in models[1:]:
        same &= model == models[0]
    return torch.where(same, models[0], weighted_sum(models, shares))


def _right(group: Group, changes: Sequence[torch.Tensor], shares: Sequence[float], scale: float) -> torch.Tensor:
    """``sum_i w_i D_i G_i`` of rows ``D_i``, from pieces of the inner products."""
    import torch

    right = torch.zeros_like(changes[0])
    for model, (change, share) in enumerate(zip(changes, shares, strict=True)):
        if share != 0:
            for first, piece in _pieces(group, model, scale):
                right.addmm_(change[:, first : first + len(piece)], piece, alpha=share)
    return right


def _pieces(group: Group, model: int, scale: float) -> Iterator[tuple[int, torch.Tensor]]:
    """Rows of a model's inner products in float64, off-diagonal elements times ``scale``, and where they begin."""
    import torch

    inputs = group.shape[1]
    step = panel_rows(inputs)
    for first in range(0, inputs, step):
        # A copy: what is read may be the caller's own.
        piece = group.companion(model, first, min(first + step, inputs)).to(torch.float64, copy=True)
        diagonal = piece.diagonal(first).clone()
        piece.mul_(scale).diagonal(first).copy_(diagonal)
        yield first, piece


class _Inverse:
    """The inverse of ``sum_i w_i G_i``: a triangular factor, or eigenvectors where the sum is singular or nearly so."""

    def __init__(self, group: Group, shares: Sequence[float], scale: float) -> None:
        import torch

        left = _sum(group, shares, scale)
        self._factor = _Factor.of(left)
        if self._factor is None:
            del left  # it has been overwritten
            values, vectors = eigen(_sum(group, shares, scale), group.name)
            there = values.abs() > values.abs().max() * len(values) * torch.finfo(values.dtype).eps
            self._values, self._vectors = values[there], vectors[there]

    def times(self, right: torch.Tensor) -> torch.Tensor:
        """``right`` times the inverse, or times the pseudo-inverse, which gives the least of several solutions."""
        if self._factor is not None:
            return self._factor.solve(right)
        return (right @ self._vectors.T).div_(self._values) @ self._vectors


class _Factor:
    """The Cholesky factor of a symmetric matrix that was scaled to a diagonal of one."""

    def __init__(self, lower: torch.Tensor, roots: torch.Tensor) -> None:
        self._lower, self._roots = lower, roots

    @classmethod
    def of(cls, matrix: torch.Tensor) -> _Factor | None:
        """Factorise a matrix in its place; None where it is not positive or so near singular that solutions are arbitrary."""
        import torch

        diagonal = matrix.diagonal()
        # An input that never occurs has zeros alone, also on the right side: with any diagonal its solution is no change.
        diagonal[torch.count_nonzero(matrix, dim=0) == 0] = 1.0
        if not bool((diagonal > 0).all()):
            return None
        roots = diagonal.sqrt()
        matrix.div_(roots).div_(roots[:, None])
        # The matrix is symmetric; in parts, since absolute values are a copy.
        largest = max(float(rows.abs().sum(dim=1).max()) for rows in torch.split(matrix, panel_rows(len(matrix))))
        info = torch.empty((), dtype=torch.int32, device=matrix.device)
        # In place: LAPACK gives columns, which are the rows here.
        torch.linalg.cholesky_ex(matrix.T, out=(matrix.T, info))
        factor = cls(matrix.T, roots)
        if int(info) or largest * factor._inverse_norm() * len(matrix) * torch.finfo(matrix.dtype).eps > 1:
            return None
        return factor

    def _inverse_norm(self) -> float:
        """The spectral norm of the scaled matrix's inverse, from below, by inverse iteration: near singular it shows at once."""
        import torch

        count = len(self._roots)
        vector = 1 + torch.arange(count, dtype=self._roots.dtype, device=self._roots.device) / count
        vector[1::2].neg_()  # as LAPACK begins: near orthogonal to nothing that is common
        norm = 1.0
        for _ in range(5):
            vector = self._solved((vector / vector.norm())[None])[0]
            norm = float(vector.norm())
        return norm

    def solve(self, right: torch.Tensor) -> torch.Tensor:
        """``right`` times the inverse of the matrix as it was; right is overwritten."""
        return self._solved(right.div_(self._roots)).div_(self._roots)

    def _solved(self, right: torch.Tensor) -> torch.Tensor:
        """``right`` times the inverse of the scaled matrix, in its place."""
        import torch

        if right.device.type != "cpu":
            return torch.cholesky_solve(right.T, self._lower).T
        from scipy.linalg.lapack import dpotrs

        # LAPACK itself: torch would copy the factor at every call. Rows here are its columns.
        solved, info = dpotrs(self._lower.numpy(), right.numpy().T, lower=1, overwrite_b=1)
        if info:
            raise RuntimeError(f"dpotrs: argument {-info} is not valid")
        return torch.from_numpy(solved.T)


def _sum(group: Group, shares: Sequence[float], scale: float) -> torch.Tensor:
    """``sum_i w_i G_i``."""
    import torch

    left = torch.zeros((group.shape[1], group.shape[1]), dtype=torch.float64, device=group.device)
    for model, share in enumerate(shares):
        if share != 0:
            for first, piece in _pieces(group, model, scale):
                left[first : first + len(piece)].add_(piece, alpha=share)
    return left
