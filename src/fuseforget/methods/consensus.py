"""Consensus: what the models' changes have in common is kept, what they disagree about is taken away.

With changes ``D_i = theta_i - theta_base``, weights ``alpha_i`` and their mean ``D = sum_i alpha_i D_i``, the models agree in a
direction as far as the mean is larger there than the scatter around it. For the rows of a matrix both are Gram matrices,

    T = D^T D,    N = sum_i alpha_i (D_i - D)^T (D_i - D),

and the filter W that keeps the mean and suppresses the scatter, ``argmin |D W - D|^2 + b sum_i alpha_i |(D_i - D) W|^2``, is

    W = (T + b N)^-1 T,    b = forget / (1 - forget):

Wiener's, with the models' agreement for the signal. ``b = 0`` is the average; a direction whose scatter is n times its signal
keeps ``1 / (1 + b n)`` of itself, so that with a large b only what is common to all models is left. No singular value
decomposition is needed, one Cholesky factor a side.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fuseforget.methods.combination import from_base
from fuseforget.methods.fisher_filter import filter_by_information
from fuseforget.methods.group import Block, FuseBlock, Group, from_base_each, weighted_sum
from fuseforget.methods.inner import add_products
from fuseforget.methods.lengths import NOTHING, Lengths, restoring
from fuseforget.methods.scatter import contrast_rows, contrasts_of, mean_change, odds_of, require_finite
from fuseforget.methods.token_filter import filter_tokens, is_table

if TYPE_CHECKING:
    import torch

    from fuseforget.methods.method import Surveyed

    FilterTable = Callable[[Group, tuple[float, ...], float, float], Surveyed]

__all__ = ["consensus", "fisher_consensus", "spectral_consensus"]

LEAST_SIDE = 3  # of a matrix that is filtered: the two rows of a head for two labels have no directions to speak of
RIDGE = 1e-10  # of the mean eigenvalue: directions in which no model changed
# In float32, what a column has of its own, beside those before it, is known to a few roundings (6e-8) of its square. Where it is
# a smaller share than this in some column, the matrix is taken in float64. A rule of thumb: it sees all that training makes, as
# far as tried, but not every matrix that is made to deceive it (Kahan's).
OWN = 1e-4
STEP = 256  # rows that are mirrored at once: a transpose of all of them would leave the cache
SMALL, LARGE = 1e-25, 1e30  # sums of squares that float32 takes


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
) -> Surveyed:  # fmt: skip
    """Fuse to ``theta_base + lambda s F``, where F is the matrix of mean changes with their disagreement filtered out.

    The side of a matrix that is not the longer one is filtered, of a square one both: ``F = D W``, or ``F = P D Q`` with
    ``P = D (T + b N)^-1 D^T`` of the columns' Gram matrices and Q, the same of the rows'; both only shorten. One factor s for the
    whole model makes up for it: ``s^2 = ((1 - forget) sum |D|^2 + forget r^2 sum sum_i alpha_i |D_i|^2) / sum |F|^2`` over all
    matrices, from the average's own length to that of the models (:mod:`fuseforget.methods.lengths`). The share r of that is all
    where at least a quarter of the changes is common to all models, and falls to nothing with what is. Of matrices that have less
    in common than others less stays. Convolutions are matrices of outputs x (inputs x kernel). What is no matrix (vectors,
    norms), embeddings unless asked for, and heads of two labels are averaged, and not scaled.

    ``forget = 0`` is the average, also of single tensors: these are not counted for the others' factor. Equal models come back.

    Args:
        embeddings: filter tables of tokens and positions too, each row by itself (:mod:`fuseforget.methods.token_filter`):
            for text that models memorised.

    Returns:
        A :class:`fuseforget.methods.method.Surveyed` whose numbers are :class:`fuseforget.methods.lengths.Lengths`.
    """
    return _fused(group, tuple(weight), forget, lambda_, filter_tokens if embeddings else None)


def fisher_consensus(group: Group, *, weight: Sequence[float], forget: float, lambda_: float) -> Surveyed:
    """Fuse matrices as :func:`spectral_consensus` does, and filter tables of tokens and positions value by value.

    A value of a table is kept as far as the models' Fisher information about it agrees (:mod:`fuseforget.methods.fisher_filter`);
    matrices and tables share one length. Ideal use: text that models memorised. What a model alone read is in the information
    about its tokens, where what several read is in that of each of them.

    The information of each model is a checkpoint with the tables' names: the diagonal Fisher of the *base* on the texts that the
    model was trained on, summed over these (:func:`fuseforget.fisher.language_fisher`). Of the model itself it would say little,
    since texts that it knows by heart ask for nothing more.

    Raises:
        InputError: a table that is filtered has no such information.
    """
    return _fused(group, tuple(weight), forget, lambda_, filter_by_information)


def _fused(group: Group, weight: tuple[float, ...], forget: float, lambda_: float, table: FilterTable | None) -> Surveyed:
    """What becomes of a tensor by its kind; ``table`` filters those of tokens and positions, None: they are averaged."""
    import torch

    is_one = is_table(group.name)
    if len(group.shape) != 2 or min(group.shape) < LEAST_SIDE:
        return _Averaged(weight, 1.0)
    if is_one and table is None:
        return _Averaged(weight, 1.0, NOTHING._replace(averaged=forget * _squares(group, weight) if forget else 0.0))
    if forget == 0:
        return _Averaged(weight, lambda_)
    if is_one:
        assert table is not None
        return table(group, weight, forget, lambda_)
    filtered = _filtered_square if group.shape[0] == group.shape[1] else _filtered_tall
    with contextlib.suppress(_Imprecise):
        return filtered(group, weight, forget, lambda_, group.dtype)
    return filtered(group, weight, forget, lambda_, torch.float64)


def _squares(group: Group, weight: Sequence[float]) -> float:
    """The models' squared changes, their weighted mean."""
    import torch

    return math.fsum(
        share * float(delta.square().sum(dtype=torch.float64))
        for block in group.blocks() for delta, share in zip(block.deltas, weight, strict=True) if share != 0
    )  # fmt: skip


@dataclass(frozen=True)
class _Averaged:
    """A tensor that is not filtered."""

    weight: tuple[float, ...]
    scale: float
    numbers: Lengths = NOTHING
    nbytes: int = 0

    def function(self, survey: Sequence[float]) -> FuseBlock:
        return from_base([self.scale * share for share in self.weight])


@dataclass(frozen=True, eq=False)
class _Filtered:
    """The filtered mean of a matrix.

    Attributes:
        numbers: squared lengths.
        kept: what F is computed from: itself (square), or the filter W (tall); None: F is the mean.
        sizes: of the columns, if W is kept as if these were all of one size: ``W_ij sizes_i / sizes_j``, since 16 bits would
            lose values of W where columns differ by many orders.
    """

    numbers: Lengths
    weight: tuple[float, ...]
    lambda_: float
    kept: _Kept | None = None
    sizes: torch.Tensor | None = None

    @property
    def nbytes(self) -> int:
        return 0 if self.kept is None else self.kept.values.nbytes

    def function(self, survey: Sequence[float]) -> FuseBlock:
        scale = self.lambda_ * restoring(survey)
        kept, weight, sizes = self.kept, self.weight, self.sizes
        if kept is None:
            return from_base([scale * share for share in weight])
        if sizes is None:
            return lambda block: block.origin.add(kept.part(block.start, block.origin.numel()), alpha=scale)
        mixing = kept.part(0, kept.values.numel()).view(kept.values.shape).mul_(sizes).div_(sizes[:, None])

        def fused(block: Block) -> torch.Tensor:
            change = weighted_sum(block.deltas, weight).view(-1, block.row_length) @ mixing
            return block.origin.add(change.view(-1), alpha=scale)

        return fused


@dataclass(frozen=True, eq=False)
class _Kept:
    """A matrix that is held, by the CPU, until the whole model is surveyed: ``unit * values``."""

    values: torch.Tensor
    unit: float
    dtype: torch.dtype
    device: str

    @classmethod
    def of(cls, matrix: torch.Tensor, group: Group) -> _Kept:
        """In 16 bits, where float32 was precise enough for it; otherwise as it is.

        Of such a matrix F was seen to be off by 1e-3 of itself at most, by 2e-4 at .99, where rounding the result to
        bfloat16 is 2e-2 of a fine-tuned change; and twice as many matrices can be held, the others being computed again.
        """
        import torch

        if matrix.dtype == torch.float64:
            return cls(matrix.to("cpu", group.dtype).contiguous(), 1.0, group.dtype, group.device)
        unit = float(matrix.abs().max()) or 1.0
        return cls(matrix.div_(unit).to("cpu", torch.float16).contiguous(), unit, group.dtype, group.device)

    def part(self, start: int, count: int) -> torch.Tensor:
        """Consecutive values, as they were."""
        return self.values.view(-1)[start : start + count].to(self.device, self.dtype) * self.unit


class _Imprecise(Exception):
    """Float32 has too few digits for this matrix."""


def _filtered_tall(group: Group, weight: tuple[float, ...], forget: float, lambda_: float, dtype: torch.dtype) -> _Filtered:
    """A matrix with more rows than columns: its columns' Gram matrices are added up, panel by panel."""
    import torch

    columns = group.shape[1]
    mean, noisy = (torch.zeros((columns, columns), dtype=dtype, device=group.device) for _ in range(2))
    contrasts = contrasts_of(weight)
    differ = False
    for block in group.blocks():
        add_products(mean, mean_change(block, weight, dtype))
        for contrast in contrasts:
            apart = contrast_rows(block, contrast, dtype)
            if bool(apart.any()):
                differ = True
                add_products(noisy, apart)
    of_mean, of_scatter = (float(part.diagonal().sum(dtype=torch.float64)) for part in (mean, noisy))
    _require_normal(of_mean + of_scatter, differ, dtype, group)
    if not differ:
        return _Filtered(Lengths.of(of_mean, 0.0, of_mean, weight, forget), weight, lambda_)
    root = _root(noisy.mul_(odds_of(forget)).add_(mean))
    sizes = noisy.diagonal().sqrt()
    half = torch.linalg.solve_triangular(root, _whole(mean), upper=False)
    mixing = torch.linalg.solve_triangular(root.mT, half, upper=True)
    # |D W|^2 = <W, T W>, and T W = T (T + b N)^-1 T is symmetric.
    of_fused = float((mixing * _product(half)).sum(dtype=torch.float64))
    kept = _Kept.of(mixing.mul_(sizes[:, None]).div_(sizes), group)
    lengths = Lengths.of(of_mean, of_scatter, of_fused, weight, forget)
    return _Filtered(lengths, weight, lambda_, kept, sizes.to(group.dtype))


def _filtered_square(group: Group, weight: tuple[float, ...], forget: float, lambda_: float, dtype: torch.dtype) -> _Filtered:
    """A square matrix: both sides' Gram matrices, and so the whole of it at once."""
    import torch

    side = group.shape[0]
    mean, apart, columns, rows = (torch.zeros((side, side), dtype=dtype, device=group.device) for _ in range(4))
    differ = False
    for number, contrast in enumerate(contrasts_of(weight) or [(0.0,) * len(weight)]):
        for block in group.blocks():
            panel = slice(block.start // side, (block.start + block.origin.numel()) // side)
            if number == 0:
                mean[panel] = mean_change(block, weight, dtype)
            apart[panel] = contrast_rows(block, contrast, dtype)
        if bool(apart.any()):
            differ = True
            add_products(columns, apart)
            add_products(rows, apart.mT)
    del apart
    of_mean = float(mean.square().sum(dtype=torch.float64))
    of_scatter = float(columns.diagonal().sum(dtype=torch.float64))
    _require_normal(of_mean + of_scatter, differ, dtype, group)
    if not differ:
        return _Filtered(Lengths.of(of_mean, 0.0, of_mean, weight, forget), weight, lambda_)
    fused = _projector(columns, mean.mT, forget) @ mean @ _projector(rows, mean, forget)
    of_fused = float(fused.square().sum(dtype=torch.float64))
    lengths = Lengths.of(of_mean, of_scatter, of_fused, weight, forget)
    return _Filtered(lengths, weight, lambda_, _Kept.of(fused, group))


def _projector(scatter: torch.Tensor, signal: torch.Tensor, forget: float) -> torch.Tensor:
    """``S^T (S S^T + b N)^-1 S``; of N the lower triangle is given, and it is used up."""
    import torch

    noisy = scatter.mul_(odds_of(forget))
    add_products(noisy, signal.mT)
    return _product(torch.linalg.solve_triangular(_root(noisy), signal, upper=False))


def _root(noisy: torch.Tensor) -> torch.Tensor:
    """Cholesky's factor of a matrix of which the lower triangle is given; its diagonal is raised a little."""
    import torch

    diagonal = noisy.diagonal()
    diagonal.add_(RIDGE * float(diagonal.mean()))
    root: torch.Tensor
    root, failed = torch.linalg.cholesky_ex(noisy, check_errors=noisy.dtype == torch.float64)
    if noisy.dtype == torch.float64:
        return root
    if int(failed) or not float((root.diagonal().square() / diagonal).min()) > OWN:
        raise _Imprecise
    return root


def _product(rows: torch.Tensor) -> torch.Tensor:
    """``rows^T rows``, for as many rows as columns."""
    import torch

    products = torch.zeros_like(rows)
    add_products(products, rows)
    return _whole(products)


def _whole(lower: torch.Tensor) -> torch.Tensor:
    """Make a symmetric matrix of its lower triangle, in place; what is above the diagonal is not looked at."""
    for first in range(0, len(lower), STEP):
        last = first + STEP
        corner = lower[first:last, first:last].tril_()
        corner += corner.tril(-1).mT
        lower[first:last, last:] = lower[last:, first:last].mT
    return lower


def _require_normal(squares: float, differ: bool, dtype: torch.dtype, group: Group) -> None:
    """Raise where a sum of squares is out of range: of float32, or at all."""
    import torch

    if dtype == torch.float64:
        require_finite(squares, group)
    elif not squares < LARGE or (differ and squares < SMALL):
        raise _Imprecise
