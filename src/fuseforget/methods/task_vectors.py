"""The family of task-vector methods: a way to thin task vectors (sparsify) times a way to settle signs (consensus).

Every member computes, value by value,

    theta_base + lambda sum_i c_i delta_i,    c_i = w_i s_i m_i [/ sum_i w_i m_i  where normalised]

with task vectors ``delta_i = theta_i - theta_base``, masks ``m_i`` from the sparsifier and the consensus, and scales ``s_i`` that
make up for what the sparsifier dropped. It is evaluated as ``(1 - lambda sum c_i) theta_base + lambda sum c_i theta_i``, so that
one model, or equal models, come back to the bit where nothing is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fuseforget.errors import InputError
from fuseforget.methods import rng
from fuseforget.methods.group import Block, FuseBlock, Group
from fuseforget.methods.linear import task_arithmetic
from fuseforget.methods.selection import keep_between, order_statistics

if TYPE_CHECKING:
    import torch

__all__ = ["breadcrumbs", "breadcrumbs_ties", "dare_linear", "dare_ties", "della", "della_linear", "sce", "ties"]

Array = npt.NDArray[Any]
# From a block, ``models x values`` numbers: 0 where a value is dropped, what makes up for the dropped ones where it is kept.
# None where nothing is dropped.
Thin = Callable[[Block], "Array | None"]


def ties(
    group: Group, *, weight: Sequence[float], density: Sequence[float], normalize: bool, rescale: bool, lambda_: float
) -> FuseBlock:
    """Trim, elect sign and merge (Yadav et al. 2023, arXiv 2306.01708).

    Of each task vector the ``density`` share of largest magnitude is kept (exactly; of equal ones the last of the tensor); at
    each value the sign with the larger weighted sum is elected; those that have it are averaged. Ideal use: several tasks that
    interfere.
    """
    thin = _largest(group, density, [0.0] * group.models, rescale=rescale)
    return _merge(group, weight, thin, elect=True, normalize=normalize, lambda_=lambda_)


def dare_linear(
    group: Group, *, weight: Sequence[float], density: Sequence[float], normalize: bool, rescale: bool, lambda_: float
) -> FuseBlock:
    """Drop each value of a task vector with probability ``1 - density``, rescale by ``1 / density``, add (Yu et al. 2024).

    arXiv 2311.03099. In expectation over seeds this is task arithmetic. Ideal use: large fine-tunes with small changes.
    """
    thin = _random(group, density, rescale=rescale)
    return _merge(group, weight, thin, elect=False, normalize=normalize, lambda_=lambda_)


def dare_ties(
    group: Group, *, weight: Sequence[float], density: Sequence[float], normalize: bool, rescale: bool, lambda_: float
) -> FuseBlock:
    """DARE's random drop with TIES' election of signs (Yu et al. 2024, arXiv 2311.03099)."""
    thin = _random(group, density, rescale=rescale)
    return _merge(group, weight, thin, elect=True, normalize=normalize, lambda_=lambda_)


def della(
    group: Group, *, weight: Sequence[float], density: Sequence[float], epsilon: Sequence[float], normalize: bool,
    rescale: bool, lambda_: float,
) -> FuseBlock:  # fmt: skip
    """Drop by magnitude rank, elect signs, average (Deep et al. 2024, arXiv 2406.11617).

    Within each output unit a value of rank r (of n, ascending) is kept with probability
    ``p = density - epsilon + 2 epsilon r / (n - 1)`` and scaled by ``1 / p``.
    """
    thin = _by_rank(group, density, epsilon, rescale=rescale)
    return _merge(group, weight, thin, elect=True, normalize=normalize, lambda_=lambda_)


def della_linear(
    group: Group, *, weight: Sequence[float], density: Sequence[float], epsilon: Sequence[float], normalize: bool,
    rescale: bool, lambda_: float,
) -> FuseBlock:  # fmt: skip
    """DELLA's drop by magnitude rank, then task arithmetic (Deep et al. 2024, arXiv 2406.11617)."""
    thin = _by_rank(group, density, epsilon, rescale=rescale)
    return _merge(group, weight, thin, elect=False, normalize=normalize, lambda_=lambda_)


def breadcrumbs(
    group: Group, *, weight: Sequence[float], density: Sequence[float], gamma: Sequence[float], normalize: bool,
    rescale: bool, lambda_: float,
) -> FuseBlock:  # fmt: skip
    """Keep a ``density`` share of each task vector, but not the ``gamma`` share of largest magnitude.

    Davari and Belilovsky 2024, arXiv 2312.06795. The small values are noise and the largest outliers harm; the share between
    them is kept and added.
    """
    thin = _largest(group, density, gamma, rescale=rescale)
    return _merge(group, weight, thin, elect=False, normalize=normalize, lambda_=lambda_)


def breadcrumbs_ties(
    group: Group, *, weight: Sequence[float], density: Sequence[float], gamma: Sequence[float], normalize: bool,
    rescale: bool, lambda_: float,
) -> FuseBlock:  # fmt: skip
    """Breadcrumbs' masks with TIES' election of signs."""
    thin = _largest(group, density, gamma, rescale=rescale)
    return _merge(group, weight, thin, elect=True, normalize=normalize, lambda_=lambda_)


def sce(group: Group, *, weight: Sequence[float], select_topk: float) -> FuseBlock:
    """Select, calculate, erase (Wan et al. 2024, arXiv 2408.07990).

    Of the values at which the task vectors differ, the ``select_topk`` share of largest variance is kept; each model's share is
    the mean square of what is kept of it; signs are elected by the plain sum, and what has the other one is erased. Ideal use:
    models of different strength.
    """
    thin = _most_spread(group, select_topk)

    def squares(block: Block) -> torch.Tensor:
        return _sizes(block, thin(block), squared=True)

    kept = group.reduce(squares)[:, 1]
    # Shares are ratios, so that scaling all task vectors by one number changes none.
    shares = (kept / kept.sum()).tolist() if float(kept.sum()) > 0 else [1 / group.models] * group.models
    return _merge(group, shares, thin, elect=True, normalize=True, lambda_=1.0, votes=[1.0] * group.models)


def _most_spread(group: Group, share: float) -> Thin:
    """Keep the share of largest variance, of the values whose variance is not zero, in all models alike."""
    from fuseforget.methods import kernels

    if share >= 1:
        return lambda block: None

    def bits(block: Block) -> Array:
        return kernels.spread_bits(*_arrays(block))

    def first_kept(zeros: list[int]) -> list[list[int]]:
        count = int((group.numel - zeros[0]) * share)
        return [[group.numel - count] if count else []]

    cut = next(iter(order_statistics(group, bits, first_kept)[0]), None)

    def thin(block: Block) -> Array:
        models, _ = _arrays(block)
        scales = np.zeros_like(models)
        if cut is not None:
            keep_between(bits(block)[0], block.start, cut, None, 1.0, scales[0])
            scales[1:] = scales[0]
        return scales

    return thin


def _largest(group: Group, density: Sequence[float], gamma: Sequence[float], *, rescale: bool) -> Thin:
    """Keep the ``density`` share of largest magnitude below the ``gamma`` share of very largest."""
    from fuseforget.methods import kernels

    n = group.numel
    ranks = [_kept_ranks(n, share, top) for share, top in zip(density, gamma, strict=True)]
    if all(pair == (0, n) for pair in ranks):
        return lambda block: None
    wanted = [[rank for rank in pair if 0 < rank < n] if pair is not None else [] for pair in ranks]

    def bits(block: Block) -> Array:
        return kernels.delta_bits(*_arrays(block))

    found = order_statistics(group, bits, lambda zeros: wanted) if any(wanted) else [[] for _ in wanted]
    cuts = [dict(zip(w, f, strict=True)) for w, f in zip(wanted, found, strict=True)]

    def keep(block: Block, factors: Sequence[float]) -> Array:
        scales = np.zeros_like(_arrays(block)[0])
        for pair, cut, factor, mine, out in zip(ranks, cuts, factors, bits(block), scales, strict=True):
            if pair is not None:
                keep_between(mine, block.start, cut.get(pair[0]), cut.get(pair[1]), factor, out)
        return scales

    factors = [1.0] * group.models
    if rescale:
        sums = group.reduce(lambda block: _sizes(block, keep(block, [1.0] * group.models), squared=False))
        factors = [float(every / kept) if kept > 0 else 1.0 for every, kept in sums]
    return lambda block: keep(block, factors)


def _kept_ranks(n: int, density: float, gamma: float) -> tuple[int, int] | None:
    """The ascending ranks from which, and before which, values are kept; None where none is."""
    if density >= 1:
        return 0, n
    kept = int(density * n)
    if gamma == 0 and density > 0:
        kept = max(1, kept)
    if kept == 0:
        return None
    lowest = max(0, n - kept - int(gamma * n))  # fewer outliers go where density would not be reached otherwise
    return lowest, lowest + kept


def _random(group: Group, density: Sequence[float], *, rescale: bool) -> Thin:
    """Keep each value with probability ``density``."""
    from fuseforget.methods import kernels

    if all(share >= 1 for share in density):
        return lambda block: None
    keys = [rng.key(group.seed, group.name, i) for i in range(group.models)]

    def thin(block: Block) -> Array:
        scales = np.empty_like(_arrays(block)[0])
        for share, key, out in zip(density, keys, scales, strict=True):
            kernels.keep_random(np.uint64(key), block.start, share, 1 / share if rescale and share > 0 else 1.0, out)
        return scales

    return thin


def _by_rank(group: Group, density: Sequence[float], epsilon: Sequence[float], *, rescale: bool) -> Thin:
    """Keep each value with a probability that grows with the rank of its magnitude in its row."""
    from fuseforget.methods import kernels

    for share, width in zip(density, epsilon, strict=True):
        if 0 < share < 1 and not (share - width > 0 and share + width < 1):
            raise InputError(
                "parameters density and epsilon", expected="density - epsilon and density + epsilon inside (0, 1)",
                found=f"density {share:g}, epsilon {width:g}",
            )  # fmt: skip
    if all(share >= 1 for share in density):
        return lambda block: None
    keys = [rng.key(group.seed, group.name, i) for i in range(group.models)]
    last = group.row_length - 1

    def thin(block: Block) -> Array:
        models, base = _arrays(block)
        scales = np.empty_like(models)
        for bits, share, width, key, out in zip(kernels.delta_bits(models, base), density, epsilon, keys, scales, strict=True):
            if not 0 < share < 1:
                out[:] = float(share >= 1)
                continue
            placed = kernels.rank_keys(bits, block.row_length)
            placed.sort(axis=1)
            lowest, step = (share - width, 2 * width / last) if last else (share, 0.0)
            kernels.keep_by_rank(placed, np.uint64(key), block.start, lowest, step, rescale, out)
        return scales

    return thin


def _merge(
    group: Group, weight: Sequence[float], thin: Thin, *, elect: bool, normalize: bool, lambda_: float,
    votes: Sequence[float] | None = None,
) -> FuseBlock:  # fmt: skip
    """Put what is kept, the election of signs (by weight, or by other votes), weights and normalisation together.

    See the head of this file.
    """
    from fuseforget.methods import kernels

    shares = np.array(weight, dtype=np.float64)
    ballots = shares if votes is None else np.array(votes, dtype=np.float64)
    total = float(shares.sum())
    divisor = 1.0 if not normalize else 0.0 if elect else total or 1.0
    plain = task_arithmetic(group, weight=weight, normalize=normalize, lambda_=lambda_)

    def fused(block: Block) -> torch.Tensor:
        scales = thin(block)
        if scales is None and not elect:
            return plain(block)
        models, base = _arrays(block)
        out = np.empty_like(base)
        kept = np.ones_like(models) if scales is None else scales
        # Sums of shares such as 1/3 miss one by a few roundings; a base much larger than the models would make that visible.
        nearly = 16 * np.finfo(base.dtype).eps
        numbers = np.array([0, 1, divisor, lambda_, nearly], base.dtype)
        w, v = shares.astype(base.dtype), ballots.astype(base.dtype)
        kernels.elect_and_merge(models, base, kept, w, v, elect, numbers, out)
        return _as_tensor(out)

    return fused


def _sizes(block: Block, scales: Array | None, *, squared: bool) -> torch.Tensor:
    """For each model, the sum of its magnitudes (or their squares) and of the kept ones, float64."""
    from fuseforget.methods import kernels

    models, base = _arrays(block)
    sums = np.zeros((len(models), 2))
    kernels.kept_sizes(models, base, np.ones_like(models) if scales is None else scales, squared, sums)
    return _as_tensor(sums)


def _arrays(block: Block) -> tuple[Array, Array]:
    """The block as arrays: ``models x values`` and the base."""
    return block.stacked.numpy(), block.origin.numpy()


def _as_tensor(array: Array) -> torch.Tensor:
    import torch

    return torch.from_numpy(array)
