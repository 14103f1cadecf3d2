"""What fusing must be told apart from: models that fuse no weights. Pure functions of tensors and of logits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from fuseforget.errors import InputError

if TYPE_CHECKING:
    import torch

__all__ = ["Truncated", "ensemble", "inner", "length", "task_vector", "truncate", "truncated_specialist"]

NEARLY = 1e-9  # of a squared norm: rounding of the eigenvalues' sum
Tensors = Mapping[str, "torch.Tensor"]
Floats = npt.NDArray[np.float64]


class Truncated(NamedTuple):
    """A task vector of fewer ranks.

    Attributes:
        tensors: its tensors, float32.
        ranks: of each matrix, what is kept and what it could be.
    """

    tensors: dict[str, torch.Tensor]
    ranks: dict[str, tuple[int, int]]


def ensemble(logits: Iterable[npt.ArrayLike]) -> Floats:
    """Return the mean of models' probabilities: of logits, examples x labels each, the mean of the softmaxes."""
    total, count = None, 0
    for one in logits:
        wide = np.asarray(one, dtype=np.float64)
        shares = np.exp(wide - wide.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        total, count = shares if total is None else total + shares, count + 1
    if total is None:
        raise InputError("ensemble", expected="one model or more", found="none")
    mean: Floats = total / count
    return mean


def task_vector(model: Tensors, start: Tensors) -> dict[str, torch.Tensor]:
    """Return ``theta - theta_start`` of the floating tensors (Ilharco et al. 2023), float32, in the start's names."""
    return {
        name: (model[name].cpu().double() - start[name].double()).float()
        for name in start
        if name in model and start[name].is_floating_point()
    }


def inner(first: Tensors, second: Tensors) -> float:
    """Return the inner product of two task vectors, added up in float64."""
    return sum(float(first[name].double().view(-1) @ second[name].double().view(-1)) for name in first)


def length(vector: Tensors) -> float:
    """Return the norm of a task vector."""
    return math.sqrt(inner(vector, vector))


def truncate(matrix: torch.Tensor, share: float) -> tuple[torch.Tensor, int]:
    """Return the matrix cut to its first singular triplets, so that ``share`` of its Frobenius norm is left, and their number.

    As few triplets as hold the share (Eckart and Young 1936); the last of them is scaled so that the norm is met: in fine-tuned
    models the first alone may hold more than is wanted. By the eigenvectors of the smaller Gram matrix. A matrix of zeros has
    rank 0 and stays.
    """
    import torch

    wide = matrix.double()
    tall = wide.shape[0] >= wide.shape[1]
    values, vectors = torch.linalg.eigh(wide.T @ wide if tall else wide @ wide.T)  # ascending
    energies = values.clamp(min=0).flip(0)
    sums = energies.cumsum(0)  # squared norms of the first 1, 2, ... triplets
    if float(sums[-1]) == 0:
        return matrix.clone(), 0
    wanted = min(share, 1.0) ** 2 * float(sums[-1])
    before = int((sums < wanted * (1 - NEARLY)).sum())  # triplets that are kept whole
    rank = min(before + 1, len(sums))
    rest = wanted - (float(sums[before - 1]) if before else 0.0)
    factors = torch.ones(rank, dtype=torch.float64)
    factors[-1] = min(1.0, math.sqrt(max(rest, 0.0) / float(energies[rank - 1])))
    kept = vectors[:, -rank:].flip(1)
    low = ((wide @ kept) * factors) @ kept.T if tall else (kept * factors) @ (kept.T @ wide)
    return low.to(matrix.dtype), rank


def truncated_specialist(start: Tensors, vector: Tensors, share: float) -> Truncated:
    """Return the start plus a specialist's task vector cut to ``share`` of its norm by fewer ranks.

    Each matrix is cut (:func:`truncate`) to that share of its own norm; vectors and other tensors, which have no ranks, are
    scaled by it. So every tensor is moved as far as in a specialist that is shrunk by the same share.
    """
    tensors, ranks = {}, {}
    for name in start:
        moved = vector.get(name)
        if moved is None:
            tensors[name] = start[name]
            continue
        if moved.ndim == 2 and min(moved.shape) > 1:
            low, rank = truncate(moved, share)
            ranks[name] = (rank, min(moved.shape))
        else:
            low = share * moved
        tensors[name] = (start[name].double() + low.double()).float()
    return Truncated(tensors, ranks)
