"""Methods that interpolate along a sphere. Each is a linear combination whose coefficients follow from inner products.

The models, as vectors, span a space of as many dimensions as there are models; every step of these methods stays in it.
So one pass adds up the matrix of inner products (Gram matrix), the coefficients are found from that small matrix alone,
and a second pass combines. A tensor is never held whole, and an iteration (Karcher) costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fuseforget.errors import InputError
from fuseforget.methods.group import Block, FuseBlock, Group, from_base, from_base_each, weighted_sum

if TYPE_CHECKING:
    import torch

__all__ = ["karcher", "model_stock", "multislerp", "nuslerp", "slerp"]

# Below this sine of the angle, sin(t w) / sin(w) equals t to double precision, and for opposite vectors no arc is defined:
# there the chord is taken.
SMALLEST_SINE = 1e-8


def gram(vectors: Sequence[torch.Tensor], row_length: int | None = None) -> torch.Tensor:
    """Return inner products, float64: ``models x models``, or ``rows x models x models`` with a row length."""
    import torch

    wide = [v.double() if row_length is None else v.double().view(-1, row_length) for v in vectors]
    count = len(wide)
    result = torch.empty((*wide[0].shape[:-1], count, count), dtype=torch.float64, device=wide[0].device)
    for i in range(count):
        for j in range(i + 1):
            result[..., i, j] = result[..., j, i] = wide[i] @ wide[j] if row_length is None else (wide[i] * wide[j]).sum(-1)
    return result


def _whole_gram(group: Group) -> torch.Tensor:
    return group.reduce(lambda block: gram(block.deltas))


def _combine(group: Group, coefficients: Sequence[float]) -> FuseBlock:
    """Combine models by coefficients, from the base where there is one."""
    if group.has_base:
        return lambda block: from_base(block, coefficients)
    return lambda block: weighted_sum(block.models, coefficients)


def _arc(aa: float, bb: float, ab: float, t: float) -> list[float]:
    """Coefficients of the point at ``t`` on the arc between vectors with these inner products."""
    norm = math.sqrt(aa * bb)
    if norm > 0:
        omega = math.acos(max(-1.0, min(1.0, ab / norm)))
        if math.sin(omega) > SMALLEST_SINE:
            return [math.sin((1 - t) * omega) / math.sin(omega), math.sin(t * omega) / math.sin(omega)]
    return [1 - t, t]


def slerp(group: Group, *, weight: Sequence[float]) -> FuseBlock:
    """Return ``(sin((1 - t) w) a + sin(t w) b) / sin w`` with ``w`` the angle between the tensors and ``t = weight[1]``.

    Shoemake 1985. The angle is that of the flattened tensors; their lengths enter as they are, so that the ends are
    returned exactly. Where no arc is defined (equal, opposite or zero tensors) the result is the weighted average.
    """
    if weight[1] in (0, 1):
        return lambda block: weighted_sum(block.models, weight)
    products = group.reduce(lambda block: gram(block.models))
    coefficients = _arc(float(products[0, 0]), float(products[1, 1]), float(products[0, 1]), weight[1])
    return lambda block: weighted_sum(block.models, coefficients)


def nuslerp(group: Group, *, weight: Sequence[float], flatten: bool, row_wise: bool) -> FuseBlock:
    """Slerp with any two weights (``t = w_2 / (w_1 + w_2)``), of task vectors where a base is given.

    mergekit's NuSLERP. ``flatten`` takes the tensor as one vector; otherwise each output unit (row) is a vector of its
    own or, with ``row_wise`` (mergekit's word, which means the other axis), each input's column.
    """
    total = sum(weight)
    t = weight[1] / total if total != 0 else 0.5
    if flatten or len(group.shape) < 2:
        products = _whole_gram(group)
        return _combine(group, _arc(float(products[0, 0]), float(products[1, 1]), float(products[0, 1]), t))
    if row_wise:
        length = group.row_length
        sums = group.reduce(lambda block: _products(block, length).sum(0))
        return lambda block: _by_coefficients(block, _arcs(sums, t))
    return lambda block: _by_coefficients(block, _arcs(_products(block, group.row_length).sum(-1, keepdim=True), t))


def _products(block: Block, length: int) -> torch.Tensor:
    """``rows x 3 x columns``: a.a, b.b and a.b, value by value, float64 (not yet added up)."""
    import torch

    a, b = (delta.double().view(-1, length) for delta in block.deltas)
    return torch.stack([a * a, b * b, a * b], dim=1)


def _arcs(products: torch.Tensor, t: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The coefficients of :func:`_arc` for many pairs at once; ``products[..., 0:3, :]`` as of :func:`_products`."""
    import torch

    aa, bb, ab = products.unbind(-2)
    norm = (aa * bb).sqrt()
    omega = (ab / torch.where(norm > 0, norm, 1)).clamp(-1, 1).acos()
    sine = omega.sin()
    curved = (norm > 0) & (sine > SMALLEST_SINE)
    safe = torch.where(curved, sine, 1)
    first = torch.where(curved, ((1 - t) * omega).sin() / safe, 1 - t)
    return first, torch.where(curved, (t * omega).sin() / safe, t)


def _by_coefficients(block: Block, coefficients: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Combine rows by coefficients that differ from row to row or from column to column."""
    shape = (-1, block.row_length)
    a, b = block.models
    first, second = (c.to(a.dtype).expand_as(a.view(shape)).reshape(-1) for c in coefficients)
    return first * a + second * b if block.base is None else from_base_each(block, [first, second])


def _units(group: Group, weight: Sequence[float]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inner products of the unit vectors, the lengths, and the weights divided by their sum; float64."""
    import torch

    products = _whole_gram(group).cpu()
    lengths = products.diagonal().clamp(min=0).sqrt()
    shares = torch.tensor(weight, dtype=torch.float64)
    safe = torch.where(lengths > 0, lengths, 1)
    return products / torch.outer(safe, safe), lengths, shares


def multislerp(group: Group, *, weight: Sequence[float], normalize: bool) -> FuseBlock:
    """The normalised weighted mean of the directions, with the weighted mean of the lengths.

    Goddard 2025 (mergekit's Multi-SLERP). There the mean ``m`` of the unit vectors ``u_i`` is followed by a step along the
    weighted mean of the tangents ``u_i - (u_i . m) m``; as ``m`` is along ``sum_i w_i u_i``, that step is always zero. Two
    models whose directions cancel are averaged; more than two are an error.
    """
    import torch

    products, lengths, shares = _units(group, weight)
    if normalize:
        total = float(shares.sum())
        if total == 0:
            raise InputError("weights of multislerp", expected="a sum other than zero", found=str(list(weight)))
        shares = shares / total
    present = (lengths > 0) & (shares != 0)
    if not bool(present.any()):
        return _combine(group, shares.tolist())
    mean = torch.where(present, shares, 0)
    length = math.sqrt(max(float(mean @ products @ mean), 0.0))
    if length < SMALLEST_SINE:
        if group.models == 2:
            return _combine(group, shares.tolist())
        raise InputError(
            f"multislerp of {group.name or 'a tensor'}",
            expected="directions whose weighted mean is not zero",
            found="directions that cancel",
            action="Use other weights.",
        )
    return _combine(group, _over_lengths(mean / length, lengths, float((shares * lengths).sum())))


def karcher(group: Group, *, weight: Sequence[float], max_iter: int, tol: float) -> FuseBlock:
    """The Riemannian centre of mass of the directions, with the weighted mean of the lengths (Karcher 1977).

    The mean ``m`` solves ``sum_i w_i log_m(u_i) = 0`` on the unit sphere; it is found by following the mean tangent until that
    is shorter than ``tol``. Zero tensors have no direction and take part in the length alone. A step costs nothing here, so the
    defaults reach double precision (mergekit stops after 10 steps, or at 1e-5).
    """
    import torch

    products, lengths, shares = _units(group, weight)
    shares = shares / shares.sum()
    present = (lengths > 0) & (shares != 0)
    if not bool(present.any()):
        return _combine(group, shares.tolist())
    active = torch.where(present, shares, 0)
    active = active / active.sum()
    mean = active.clone()
    length = math.sqrt(max(float(mean @ products @ mean), 0.0))
    if length < SMALLEST_SINE:  # directions that cancel: start from the first
        mean = torch.zeros_like(mean)
        mean[int(present.nonzero()[0])] = 1.0
    else:
        mean = mean / length
    for _ in range(max_iter):
        tangent = _mean_tangent(products, mean, active)
        angle = math.sqrt(max(float(tangent @ products @ tangent), 0.0))
        if angle < tol:
            break
        mean = math.cos(angle) * mean + math.sin(angle) / angle * tangent
        mean = mean / math.sqrt(float(mean @ products @ mean))
    return _combine(group, _over_lengths(mean, lengths, float((shares * lengths).sum())))


def _mean_tangent(products: torch.Tensor, mean: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """``sum_i w_i log_mean(u_i)`` as coefficients of the unit vectors."""
    import torch

    dots = (products @ mean).clamp(-1, 1)
    angles = dots.acos()
    stretch = shares * torch.where(angles > SMALLEST_SINE, angles / angles.sin().clamp(min=SMALLEST_SINE), 1)
    return stretch - float((stretch * dots).sum()) * mean


def _over_lengths(direction: torch.Tensor, lengths: torch.Tensor, scale: float) -> list[float]:
    """Coefficients of the vectors themselves from coefficients of their unit vectors."""
    return [scale * float(c) / float(n) if n > 0 else 0.0 for c, n in zip(direction, lengths, strict=True)]


def model_stock(group: Group, *, weight: Sequence[float], filter_wise: bool) -> FuseBlock:
    """Return ``t mean(theta) + (1 - t) theta_base`` with ``t = N cos / (1 + (N - 1) cos)`` (Jang et al. 2024, arXiv 2403.19522).

    ``cos`` is the mean cosine between the models' task vectors, of the whole tensor or, ``filter_wise``, of each output unit.
    Ideal use: few fine-tunes on one task with different seeds. At the pole of ``t`` the base is kept.
    """
    import torch

    count = group.models

    def ratio(products: torch.Tensor) -> torch.Tensor:
        lengths = products.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
        norms = lengths.unsqueeze(-1) * lengths.unsqueeze(-2)
        cosines = torch.where(norms > 0, products / torch.where(norms > 0, norms, 1), 0).clamp(-1, 1)
        pairs = torch.ones(count, count, dtype=torch.bool, device=products.device).triu(1)
        mean = cosines[..., pairs].mean(-1)
        below = 1 + (count - 1) * mean
        finite = below.abs() > SMALLEST_SINE
        return torch.where(finite, count * mean / torch.where(finite, below, 1), 0)

    if not filter_wise:
        t = float(ratio(_whole_gram(group)))
        return lambda block: from_base(block, [t / count] * count)

    def fused(block: Block) -> torch.Tensor:
        each = ratio(gram(block.deltas, block.row_length)).to(block.origin.dtype) / count
        return from_base_each(block, [each.repeat_interleave(block.row_length)] * count)

    return fused
