"""Consensus: what the models' changes have in common is kept, what they disagree about is taken away.

With changes ``D_i = theta_i - theta_base``, weights ``alpha_i`` and their mean ``D = sum_i alpha_i D_i``, the models agree in a
direction as far as the mean is larger there than the scatter around it. For the rows of a matrix both are Gram matrices,

    T = D^T D,    N = sum_i alpha_i (D_i - D)^T (D_i - D),

and the filter W that keeps the mean and suppresses the scatter, ``argmin |D W - D|^2 + b sum_i alpha_i |(D_i - D) W|^2``, is

    W = (T + b N)^-1 T,    b = forget / (1 - forget):

Wiener's, with the models' agreement for the signal. ``b = 0`` is the average; a direction with a share c of scatter keeps about
``1 / (1 + b c)`` of itself, so that with a large b only what is common to all models is left. No singular value decomposition is
needed, one Cholesky factor a side, and every quantity is smooth in the weights.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fuseforget.errors import InputError
from fuseforget.methods.combination import from_base
from fuseforget.methods.group import Block, FuseBlock, Group, from_base_each, weighted_sum
from fuseforget.methods.inner import add_products

if TYPE_CHECKING:
    import torch

__all__ = ["consensus", "spectral_consensus"]

STRICTEST = 1e-6  # what 1 - forget is at the least: at 1 itself nothing but equal changes would be left
LEAST_SIDE = 3  # of a matrix that is filtered: the two rows of a head for two labels have no directions to speak of
RIDGE = 1e-10  # of the mean eigenvalue: directions in which no model changed
# Names of tables that have a row a token or a position: BERT's and Llama's, GPT-2's, T5's, heads that are as large.
EMBEDDINGS = re.compile(r"(?:^|[._])(?:embed|emb[._]|word_emb|tok_emb|wte\b|wpe\b|lm_head\b|shared\.weight|predictions\.decoder)")
EQUAL = 1e-24  # of a squared length: rounding of the contrasts of equal models


def consensus(group: Group, *, weight: Sequence[float], forget: float, lambda_: float) -> FuseBlock:
    """Return ``theta_base + lambda ((1 - forget) D + forget C)``, value by value.

    C is zero where the changes' signs differ, and else the change of smallest magnitude: what every model has at least. Models
    of weight zero do not take part. Ideal use: many models, or where no matrix is to be decomposed; with two models much that is
    unshared agrees in sign by chance.
    """
    import torch

    used = [number for number, share in enumerate(weight) if share != 0]

    def fused(block: Block) -> torch.Tensor:
        changes = torch.stack([block.deltas[number] for number in used])
        agree = (changes.sign() == changes[0].sign()).all(dim=0)
        smallest = changes.abs().argmin(dim=0)
        coefficients = [torch.full_like(block.origin, (1 - forget) * share) for share in weight]
        for place, number in enumerate(used):
            coefficients[number] += forget * (agree & (smallest == place))
        return from_base_each(block, coefficients, lambda_)

    return fused


def spectral_consensus(
    group: Group, *, weight: Sequence[float], forget: float, lambda_: float, embeddings: bool
) -> _Filtered | _Averaged:  # fmt: skip
    """Fuse to ``theta_base + lambda s F``, where F is the matrix of mean changes with their disagreement filtered out.

    The side of a matrix that is not the longer one is filtered, of a square one both: ``F = D W``, or ``F = P D Q`` with
    ``P = D (T + b N)^-1 D^T`` of the columns' Gram matrices and Q, the same of the rows'; both only shorten. One factor s for the
    whole model makes up for it: ``s^2 = ((1 - forget) sum |D|^2 + forget sum sum_i alpha_i |D_i|^2) / sum |F|^2`` over all
    matrices, from the average's own length to that of the models; of matrices that have less in common than others less stays.
    Models that have nothing in common are not told from others: what is left of them by chance is stretched as well.
    Convolutions are matrices of outputs x (inputs x kernel). What is no matrix (vectors, norms), embeddings unless asked for, and
    heads of two labels are averaged, and not scaled.

    ``forget = 0`` is the average, also of single tensors: these are not counted for the others' factor. Equal models come back.

    Args:
        embeddings: filter tables of tokens and positions too: for text that models memorised.

    Returns:
        A :class:`fuseforget.methods.method.Surveyed` whose numbers are squared lengths, wanted and filtered.
    """
    is_table = EMBEDDINGS.search(group.name.lower()) is not None
    if len(group.shape) != 2 or min(group.shape) < LEAST_SIDE or (is_table and not embeddings):
        return _Averaged(tuple(weight), 1.0)
    if forget == 0:
        return _Averaged(tuple(weight), lambda_)
    filtered = _filtered_square if group.shape[0] == group.shape[1] else _filtered_tall
    return filtered(group, tuple(weight), forget, lambda_)


@dataclass(frozen=True)
class _Averaged:
    """A tensor that is not filtered."""

    weight: tuple[float, ...]
    scale: float
    numbers: tuple[float, ...] = (0.0, 0.0)
    nbytes: int = 0

    def function(self, survey: Sequence[float]) -> FuseBlock:
        return from_base([self.scale * share for share in self.weight])


@dataclass(frozen=True, eq=False)
class _Filtered:
    """The filtered mean of a matrix.

    Attributes:
        wanted: the squared length that it would have, were it alone.
        of_fused: ``|F|^2``.
        change: F's values in a block; None: F is the mean.
        nbytes: of what it computes them from.
    """

    wanted: float
    of_fused: float
    weight: tuple[float, ...]
    lambda_: float
    change: Callable[[Block], torch.Tensor] | None = None
    nbytes: int = 0

    @property
    def numbers(self) -> tuple[float, ...]:
        return self.wanted, self.of_fused

    def function(self, survey: Sequence[float]) -> FuseBlock:
        scale = self.lambda_ * _restoring(survey)
        change = self.change
        if change is None:
            return from_base([scale * share for share in self.weight])
        return lambda block: block.origin.add(change(block), alpha=scale)


def _restoring(survey: Sequence[float]) -> float:
    """The factor that gives the filtered changes their length back."""
    wanted, of_fused = survey
    if of_fused == 0:
        return 1.0
    scale = math.sqrt(wanted / of_fused)
    return 1.0 if abs(scale - 1) < 1e-9 else scale  # but for rounding: equal models are to come back to the bit


def _filtered_tall(group: Group, weight: tuple[float, ...], forget: float, lambda_: float) -> _Filtered:
    """A matrix with more rows than columns: its columns' Gram matrices are added up, panel by panel."""
    columns = group.shape[1]
    mean, scatter = _zeros(group, columns), _zeros(group, columns)
    combinations = _contrasts(weight)
    for block in group.blocks():
        add_products(mean, _combined(block, weight))
        for contrast in combinations:
            add_products(scatter, _combined(block, contrast))
    of_mean, of_scatter = _finite(mean.trace(), group), _finite(scatter.trace(), group)
    if of_scatter <= EQUAL * of_mean:
        return _Filtered(of_mean, of_mean, weight, lambda_)
    signal = _whole(mean)
    kept = _solve(mean, scatter, forget, signal)
    of_fused = float((kept * (signal @ kept)).sum())
    mixing = kept.to(group.dtype)

    def change(block: Block) -> torch.Tensor:
        return (weighted_sum(block.deltas, weight).view(-1, columns) @ mixing).view(-1)

    return _Filtered(of_mean + forget * of_scatter, of_fused, weight, lambda_, change, mixing.nbytes)


def _filtered_square(group: Group, weight: tuple[float, ...], forget: float, lambda_: float) -> _Filtered:
    """A square matrix: both sides' Gram matrices, and so the whole of it at once."""
    side = group.shape[0]
    mean = _gathered(group, weight)
    rows, columns = _zeros(group, side), _zeros(group, side)
    for contrast in _contrasts(weight):
        apart = _gathered(group, contrast)
        add_products(columns, apart)
        add_products(rows, apart.T)
    of_mean, of_scatter = _finite(mean.square().sum(), group), _finite(columns.trace(), group)
    if of_scatter <= EQUAL * of_mean:
        return _Filtered(of_mean, of_mean, weight, lambda_)
    signal = _zeros(group, side)
    add_products(signal, mean)
    kept = mean @ _solve(signal, columns, forget, _whole(signal))
    signal.zero_()
    add_products(signal, mean.T)
    fused = (kept @ mean.T) @ _solve(signal, rows, forget, mean)
    of_fused = float(fused.square().sum())
    flat = fused.to(group.dtype).view(-1)

    def change(block: Block) -> torch.Tensor:
        return flat[block.start : block.start + block.origin.numel()]

    return _Filtered(of_mean + forget * of_scatter, of_fused, weight, lambda_, change, flat.nbytes)


def _solve(mean: torch.Tensor, scatter: torch.Tensor, forget: float, right: torch.Tensor) -> torch.Tensor:
    """``(T + b N)^-1 right``; of T and N the lower triangles are given, and N is used up."""
    import torch

    noisy = scatter.mul_(forget / max(1 - forget, STRICTEST)).add_(mean)
    noisy.diagonal().add_(RIDGE * float(noisy.diagonal().mean()))
    return torch.cholesky_solve(right, torch.linalg.cholesky(noisy))


def _contrasts(weight: Sequence[float]) -> list[tuple[float, ...]]:
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


def _combined(block: Block, coefficients: Sequence[float]) -> torch.Tensor:
    """Rows of a combination of the changes, in float64."""
    return weighted_sum([delta.double() for delta in block.deltas], coefficients).view(-1, block.row_length)


def _gathered(group: Group, coefficients: Sequence[float]) -> torch.Tensor:
    """The whole of it."""
    import torch

    return torch.cat([_combined(block, coefficients) for block in group.blocks()])


def _zeros(group: Group, side: int) -> torch.Tensor:
    import torch

    return torch.zeros((side, side), dtype=torch.float64, device=group.device)


def _whole(lower: torch.Tensor) -> torch.Tensor:
    """A symmetric matrix from its lower triangle; what is above the diagonal is not looked at."""
    return lower.tril() + lower.tril(-1).T


def _finite(square: torch.Tensor, group: Group) -> float:
    found = float(square)
    if not math.isfinite(found):
        raise InputError(f"tensor {group.name}", expected="changes whose squares are finite", found="NaN or infinity")
    return found
