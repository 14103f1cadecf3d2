"""Methods that interpolate along a sphere. Each is a linear combination whose coefficients follow from inner products.

The models, as vectors, span a space of as many dimensions as there are models; every step of these methods stays in it.
So one pass adds up the matrix of inner products (Gram matrix), the coefficients are found from that small matrix alone,
and a second pass combines. A tensor is never held whole, and an iteration (Karcher) costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fuseforget.errors import InputError
from fuseforget.methods.combination import Combination, from_base
from fuseforget.methods.group import Block, FuseBlock, Group, from_base_each

if TYPE_CHECKING:
    import torch

__all__ = ["karcher", "model_stock", "multislerp", "nuslerp", "slerp"]

Array = npt.NDArray[Any]

# Below this sine of the angle, sin(t w) / sin(w) equals t to double precision: there the chord is taken.
SMALLEST_SINE = 1e-8
# Between opposite vectors no arc is defined, and near to it the plane of the arc is rounding and their lengths' difference is
# divided by the sine. The biases of a head for two labels are such, (x, -x) in all models, with a sign of chance: an arc
# between them had 40,000 times their length. Below this cosine the chord is taken, as mergekit's slerp does.
OPPOSITE = -0.9995


def _combine(group: Group, coefficients: Sequence[float]) -> Combination:
    """Combine models by coefficients, from the base where there is one."""
    return from_base(coefficients) if group.has_base else Combination(tuple(coefficients))


def _arc(products: Array, t: float) -> list[float]:
    """Coefficients of the point at ``t`` on the arc between two vectors with these inner products."""
    norm = math.sqrt(products[0, 0] * products[1, 1])
    if norm > 0:
        cosine = max(-1.0, min(1.0, products[0, 1] / norm))
        omega = math.acos(cosine)
        if cosine > OPPOSITE and math.sin(omega) > SMALLEST_SINE:
            return [math.sin((1 - t) * omega) / math.sin(omega), math.sin(t * omega) / math.sin(omega)]
    return [1 - t, t]


def slerp(group: Group, *, weight: Sequence[float]) -> FuseBlock:
    """Return ``(sin((1 - t) w) a + sin(t w) b) / sin w`` with ``w`` the angle between the tensors and ``t = weight[1]``.

    Shoemake 1985. The angle is that of the flattened tensors; their lengths enter as they are, so that the ends are
    returned exactly. Where no arc is defined (equal tensors, zero, and opposite ones: a cosine below -.9995) the result is the
    weighted average.
    """
    if weight[1] in (0, 1):
        return Combination(tuple(weight))
    return Combination(tuple(_arc(group.products(), weight[1])))


def nuslerp(group: Group, *, weight: Sequence[float], flatten: bool, row_wise: bool) -> FuseBlock:
    """Slerp with any two weights (``t = w_2 / (w_1 + w_2)``), of task vectors where a base is given.

    mergekit's NuSLERP. ``flatten`` takes the tensor as one vector; otherwise each output unit (row) is a vector of its
    own or, with ``row_wise`` (mergekit's word, which means the other axis), each input's column. As in :func:`slerp` opposite
    vectors are averaged, where mergekit's NuSLERP divides by the sine.
    """
    total = sum(weight)
    t = weight[1] / total if total != 0 else 0.5
    if flatten or len(group.shape) < 2:
        return _combine(group, _arc(group.products(), t))
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
    cosine = (ab / torch.where(norm > 0, norm, 1)).clamp(-1, 1)
    omega = cosine.acos()
    sine = omega.sin()
    curved = (norm > 0) & (cosine > OPPOSITE) & (sine > SMALLEST_SINE)
    safe = torch.where(curved, sine, 1)
    first = torch.where(curved, ((1 - t) * omega).sin() / safe, 1 - t)
    return first, torch.where(curved, (t * omega).sin() / safe, t)


def _by_coefficients(block: Block, coefficients: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Combine rows by coefficients that differ from row to row or from column to column."""
    shape = (-1, block.row_length)
    a, b = block.models
    first, second = (c.to(a.dtype).expand_as(a.view(shape)).reshape(-1) for c in coefficients)
    return first * a + second * b if block.base is None else from_base_each(block, [first, second])


def _units(group: Group) -> tuple[Array, Array]:
    """Inner products of the unit vectors, and the lengths."""
    products = group.products()
    lengths = np.sqrt(products.diagonal().clip(min=0))
    safe = np.where(lengths > 0, lengths, 1)
    return products / np.outer(safe, safe), lengths


def multislerp(group: Group, *, weight: Sequence[float], normalize: bool) -> FuseBlock:
    """The normalised weighted mean of the directions, with the weighted mean of the lengths.

    Goddard 2025 (mergekit's Multi-SLERP). There the mean ``m`` of the unit vectors ``u_i`` is followed by a step along the
    weighted mean of the tangents ``u_i - (u_i . m) m``; as ``m`` is along ``sum_i w_i u_i``, that step is always zero. Two
    models whose directions cancel are averaged; more than two are an error.
    """
    products, lengths = _units(group)
    shares = np.array(weight, dtype=np.float64)
    if normalize:
        total = math.fsum(weight)
        if total == 0:
            raise InputError("weights of multislerp", expected="a sum other than zero", found=str(list(weight)))
        shares /= total
    present = (lengths > 0) & (shares != 0)
    if not present.any():
        return _combine(group, shares.tolist())
    mean = np.where(present, shares, 0)
    length = _length(mean, products)
    if length < SMALLEST_SINE:
        if group.models == 2:
            return _combine(group, shares.tolist())
        raise InputError(
            f"multislerp of {group.name or 'a tensor'}",
            expected="directions whose weighted mean is not zero",
            found="directions that cancel",
            action="Use other weights.",
        )
    return _combine(group, _over_lengths(mean / length, lengths, float(shares @ lengths)))


def karcher(group: Group, *, weight: Sequence[float], max_iter: int, tol: float) -> FuseBlock:
    """The Riemannian centre of mass of the directions, with the weighted mean of the lengths (Karcher 1977).

    The mean ``m`` solves ``sum_i w_i log_m(u_i) = 0`` on the unit sphere; it is found by following the mean tangent until that
    is shorter than ``tol``. Zero tensors have no direction and take part in the length alone. A step costs nothing here, so the
    defaults reach double precision (mergekit stops after 10 steps, or at 1e-5).
    """
    products, lengths = _units(group)
    shares = np.array(weight, dtype=np.float64) / math.fsum(weight)
    present = (lengths > 0) & (shares != 0)
    if not present.any():
        return _combine(group, shares.tolist())
    active = np.where(present, shares, 0)
    active /= active.sum()
    length = _length(active, products)
    if length < SMALLEST_SINE:  # directions that cancel: start from the first
        mean = np.zeros_like(active)
        mean[int(present.argmax())] = 1.0
    else:
        mean = active / length
    for _ in range(max_iter):
        tangent = _mean_tangent(products, mean, active)
        angle = _length(tangent, products)
        if angle < tol:
            break
        mean = math.cos(angle) * mean + math.sin(angle) / angle * tangent
        mean = mean / _length(mean, products)
    return _combine(group, _over_lengths(mean, lengths, float(shares @ lengths)))


def _length(coefficients: Array, products: Array) -> float:
    """The length of a combination of vectors with these inner products."""
    return math.sqrt(max(float(coefficients @ products @ coefficients), 0.0))


def _mean_tangent(products: Array, mean: Array, shares: Array) -> Array:
    """``sum_i w_i log_mean(u_i)`` as coefficients of the unit vectors."""
    dots = (products @ mean).clip(-1, 1)
    angles = np.arccos(dots)
    stretch: Array = shares * np.where(angles > SMALLEST_SINE, angles / np.sin(angles).clip(min=SMALLEST_SINE), 1)
    return stretch - float((stretch * dots).sum()) * mean


def _over_lengths(direction: Array, lengths: Array, scale: float) -> list[float]:
    """Coefficients of the vectors themselves from coefficients of their unit vectors."""
    return [scale * float(c) / float(n) if n > 0 else 0.0 for c, n in zip(direction, lengths, strict=True)]


def model_stock(group: Group, *, weight: Sequence[float], filter_wise: bool) -> FuseBlock:
    """Return ``t mean(theta) + (1 - t) theta_base`` with ``t = N cos / (1 + (N - 1) cos)`` (Jang et al. 2024, arXiv 2403.19522).

    ``cos`` is the mean cosine between the models' task vectors, of the whole tensor or, ``filter_wise``, of each output unit.
    Ideal use: few fine-tunes on one task with different seeds. At the pole of ``t`` the base is kept.
    """
    count = group.models
    if not filter_wise:
        return from_base([float(_stock_ratio(group.products())) / count] * count)

    def fused(block: Block) -> torch.Tensor:
        import torch

        ratios = torch.from_numpy(_stock_ratio(_row_products(block)) / count).to(block.origin)
        return from_base_each(block, [ratios.repeat_interleave(block.row_length)] * count)

    return fused


def _row_products(block: Block) -> Array:
    """Inner products of the task vectors, row by row: ``rows x models x models``, float64."""
    import torch

    rows = torch.stack([delta.double().view(-1, block.row_length) for delta in block.deltas], dim=1)
    return (rows @ rows.mT).cpu().numpy()


def _stock_ratio(products: Array) -> Array:
    """``t`` of Model Stock from inner products of task vectors, for one group of vectors or many."""
    count = products.shape[-1]
    lengths = np.sqrt(np.diagonal(products, axis1=-2, axis2=-1).clip(min=0))
    norms = lengths[..., :, None] * lengths[..., None, :]
    cosines = np.where(norms > 0, products / np.where(norms > 0, norms, 1), 0).clip(-1, 1)
    first, second = np.triu_indices(count, 1)
    mean = cosines[..., first, second].mean(-1)
    below = 1 + (count - 1) * mean
    finite = np.abs(below) > SMALLEST_SINE
    return np.where(finite, count * mean / np.where(finite, below, 1), 0)
