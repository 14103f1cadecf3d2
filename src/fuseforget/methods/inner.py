"""Matrices by their columns' inner products: sums over panels of rows, eigenvectors, and which of them are there at all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fuseforget.errors import InputError
from fuseforget.methods.group import Group, weighted_sum

if TYPE_CHECKING:
    import torch

__all__ = ["add_products", "eigen", "inner_products", "inverse_root", "singular"]

STRIPES = 8  # in which the lower triangle is added up: 9/16 of the work of the whole


def inner_products(group: Group, weight: Sequence[float]) -> tuple[torch.Tensor, float]:
    """Add up ``D^T D`` of a change ``D = sum_i w_i (theta_i - theta_base)``, and how large its rounding errors are.

    A change is known only up to the rounding of the models. A value as it is stored is off by up to half a spacing of its
    type, ``eps |theta| / 2``, and a change that was added to the base (an adapter's product) by about a spacing of its own,
    ``eps |delta|``; values that are the base's count as exact. Such errors are independent, and those of several models add
    up by squares. A matrix of independent errors of sizes ``b`` has a spectral norm of about its largest row norm plus its
    largest column norm, at most (Bandeira and van Handel 2016, arXiv 1408.6185).

    Returns:
        The lower triangle, columns x columns in float64, and that norm.
    """
    import torch

    _, columns = group.shape
    products = torch.zeros((columns, columns), dtype=torch.float64, device=group.device)
    across = torch.zeros(columns, dtype=torch.float64, device=group.device)
    along = 0.0
    for block in group.blocks():
        deltas = block.deltas
        add_products(products, weighted_sum(deltas, weight).view(-1, columns).double())
        errors = torch.zeros_like(block.stacked[0], dtype=torch.float64)
        for model, delta, share, spacing in zip(block.models, deltas, weight, group.spacings, strict=True):
            half = share * spacing / 2
            off = model.abs().add_(delta.abs(), alpha=2).mul_(delta != 0)
            errors.add_(off.double().square_(), alpha=half * half)
        squares = errors.view(-1, columns)
        across += squares.sum(dim=0)
        along = max(along, float(squares.sum(dim=1).max()))
    return products, math.sqrt(along) + math.sqrt(float(across.max()))


def add_products(products: torch.Tensor, rows: torch.Tensor) -> None:
    """Add ``rows^T rows`` to the lower triangle of products."""
    step = max(256, -(-len(products) // STRIPES))
    for first in range(0, len(products), step):
        products[first:, first : first + step].addmm_(rows[:, first:].T, rows[:, first : first + step])


def eigen(products: torch.Tensor, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Decompose a symmetric matrix of which the lower triangle is given.

    Returns:
        Eigenvalues, ascending, and eigenvectors as rows, in the place of the matrix.
    """
    import torch

    if not bool(torch.isfinite(products.sum())):
        raise InputError(
            f"tensor {name}", expected="finite values whose squares are finite, to decompose it", found="NaN or infinity"
        )
    values = torch.empty(len(products), dtype=products.dtype, device=products.device)
    # In place: LAPACK takes and gives columns, which are the rows here, and the lower triangle is then the upper.
    torch.linalg.eigh(products.T, UPLO="U", out=(values, products.T))
    return values, products


def singular(group: Group, weight: Sequence[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Singular values of ``D = sum_i w_i (theta_i - theta_base)``, ascending, and right singular vectors as rows.

    Left are those that stand above the rounding of the models (:func:`inner_products`), or above half the largest: what a
    model changed by a spacing here and there is a change. And above that of the inner products, which square the values:
    ``sqrt(n eps)`` of the largest, n the longer side, 7e-7 of it for 2,048.
    """
    import torch

    products, rounding = inner_products(group, weight)
    squares, vectors = eigen(products, group.name)
    values = squares.clamp_(min=0).sqrt_()
    largest = float(values[-1])
    floor = largest * math.sqrt(max(group.shape) * torch.finfo(values.dtype).eps)
    there = values > max(min(rounding, largest / 2), floor)
    gone = len(values) - int(there.sum())
    return values[gone:], vectors[gone:]


def inverse_root(products: torch.Tensor, length: int, name: str) -> torch.Tensor:
    """The inverse root of a symmetric matrix whose lower triangle is given, over the directions that there are.

    ``A (A^T A)^(-1/2)`` is the orthonormal matrix nearest to A (its polar factor).

    Args:
        length: how many rows A has: rounding errors of the products grow with it.
    """
    import torch

    values, vectors = eigen(products, name)
    there = values > values[-1] * length * torch.finfo(values.dtype).eps
    gone = len(values) - int(there.sum())
    kept = vectors[gone:].mul_(values[gone:, None] ** -0.25)
    return kept.T @ kept
