"""Filters of a matrix's columns that keep what models' changes have in common, by the definitions, in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["STRICTEST", "agreements", "grams", "kept_directions", "solver", "weighted_mean"]

RIDGE = 1e-10  # of the mean eigenvalue
STRICTEST = 1e-6  # what 1 - forget is at the least


def grams(changes: Sequence[torch.Tensor], shares: Sequence[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """The Gram matrices of the columns of the models' mean change, T, and of the scatter around it, N.

    A direction's share of agreement is ``c = v^T T v / v^T (T + N) v``: 1 where the models changed alike; where one of M models
    changed alone, 1 / M.
    """
    mean = weighted_mean(changes, shares)
    apart = [change - mean for change in changes]
    scatter = [share * (one.T @ one) for share, one in zip(shares, apart, strict=True)]
    return mean.T @ mean, weighted_mean(scatter, (1.0,) * len(scatter))


def agreements(mean: torch.Tensor, scatter: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Generalized eigenvalues of T against T + N, ascending, and the eigenvectors v, of ``v^T (T + N) v = 1``."""
    import torch

    factor = torch.linalg.cholesky(_ridged(mean + scatter))
    whitened = torch.linalg.solve_triangular(factor, torch.linalg.solve_triangular(factor, mean, upper=False).T, upper=False)
    found, turned = torch.linalg.eigh((whitened + whitened.T) / 2)
    return found, torch.linalg.solve_triangular(factor.T, turned, upper=True)


def solver(shape: str, changes: Sequence[torch.Tensor], shares: Sequence[float], setting: float) -> torch.Tensor:
    """K of the filter ``W = K T`` of the columns: ``wiener``'s is ``(T + b N)^-1``; ``hard`` has a threshold of agreement."""
    import torch

    mean, scatter = grams(changes, shares)
    if shape == "wiener":
        noisy = _ridged(mean + setting / max(1 - setting, STRICTEST) * scatter)
        inverse: torch.Tensor = torch.cholesky_inverse(torch.linalg.cholesky(noisy))
        return inverse
    agreement, directions = agreements(mean, scatter)
    weight = torch.where(agreement > setting, 1 / agreement.clamp(min=STRICTEST), 0.0)
    kept: torch.Tensor = (directions * weight) @ directions.T
    return kept


def kept_directions(changes: Sequence[torch.Tensor], shares: Sequence[float], rank: float) -> torch.Tensor:
    """``V w V^T`` of the mean projector on the changes' first right singular vectors, a share ``rank`` of all."""
    import torch

    count, models = max(1, round(rank * min(changes[0].shape))), len(changes)
    first = [torch.linalg.svd(change, full_matrices=False).Vh[:count].T for change in changes]
    # The mean projector's eigenvectors, without that matrix: those of the vectors side by side.
    beside = torch.cat([math.sqrt(share) * one for share, one in zip(shares, first, strict=True)], dim=1)
    directions, roots, _ = torch.linalg.svd(beside, full_matrices=False)
    weight = ((models * roots.square() - 1) / (models - 1)).clamp(min=0)
    kept: torch.Tensor = (directions * weight) @ directions.T
    return kept


def weighted_mean(parts: Sequence[torch.Tensor], shares: Sequence[float]) -> torch.Tensor:
    """The sum of parts, each times its share."""
    total = shares[0] * parts[0]
    for share, part in zip(shares[1:], parts[1:], strict=True):
        total = total + share * part
    return total


def _ridged(gram: torch.Tensor) -> torch.Tensor:
    """With what makes directions in which no model changed harmless."""
    import torch

    size = float(gram.diagonal().mean()) or 1.0
    return gram + RIDGE * size * torch.eye(len(gram), dtype=gram.dtype)
