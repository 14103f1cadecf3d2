"""Spherical linear interpolation of two models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["slerp", "slerp_statistics"]

# Below this angle sin(t omega) / sin(omega) equals t to double precision, and at zero (equal models, a zero tensor) or at
# pi (opposite models) the arc is not defined: there the chord is taken.
SMALLEST_SINE = 1e-8


def slerp_statistics(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return ``[a.a, b.b, a.b]`` of two parts, to be added over the parts of a tensor."""
    a, b = parts
    return a.new_tensor([float(a @ a), float(b @ b), float(a @ b)])


def slerp(parts: Sequence[torch.Tensor], weights: Sequence[float], statistics: torch.Tensor) -> torch.Tensor:
    """Return ``(sin((1 - t) w) a + sin(t w) b) / sin w`` with ``w`` the angle between the whole tensors and t = weights[1].

    Shoemake 1985. The angle is that of the flattened tensors; their lengths enter as they are, so that the end points
    are returned exactly. Where the arc is undefined (see ``SMALLEST_SINE``) the result is the weighted average.

    Args:
        parts: the same flat values of both models, float64.
        weights: ``[1 - t, t]``.
        statistics: the sums of :func:`slerp_statistics` over the whole tensor.
    """
    a, b = parts
    coefficients = list(weights)
    norm = math.sqrt(float(statistics[0]) * float(statistics[1]))
    if norm > 0:
        omega = math.acos(max(-1.0, min(1.0, float(statistics[2]) / norm)))
        if math.sin(omega) > SMALLEST_SINE:
            coefficients = [math.sin(weight * omega) / math.sin(omega) for weight in weights]
    return a * coefficients[0] + b * coefficients[1]
