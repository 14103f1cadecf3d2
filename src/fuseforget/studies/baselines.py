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
    """Return the best approximation of that rank whose Frobenius norm is nearest to ``share`` of the matrix's, and the rank.

    A truncated singular value decomposition (Eckart and Young 1936), by the eigenvectors of the smaller Gram matrix; at least
    one singular triplet is kept. A matrix of zeros has rank 0 and stays.
    """
    import torch

    wide = matrix.double()
    tall = wide.shape[0] >= wide.shape[1]
    values, vectors = torch.linalg.eigh(wide.T @ wide if tall else wide @ wide.T)  # ascending
    norms = values.clamp(min=0).flip(0).cumsum(0).sqrt()  # of the first 1, 2, ... triplets
    if float(norms[-1]) == 0:
        return matrix.clone(), 0
    rank = 1 + int((norms - share * norms[-1]).abs().argmin())
    kept = vectors[:, -rank:]
    low = (wide @ kept) @ kept.T if tall else kept @ (kept.T @ wide)
    return low.to(matrix.dtype), rank


def truncated_specialist(start: Tensors, vector: Tensors, share: float) -> Truncated:
    """Return the start plus a specialist's task vector cut to about ``share`` of its norm by fewer ranks.

    Each matrix is truncated to the rank nearest to that share of its own norm; vectors and other tensors, which have no ranks,
    are scaled by the share. So every tensor is moved as far as in a specialist that is shrunk by the same share.
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
