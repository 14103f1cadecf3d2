"""Fusion methods: pure functions on aligned tensors, and one table of them.

A method is called with the same part of one tensor from every model, in float64, and returns that part fused. Parts are
cut by the engine (:mod:`fuseforget.fuse`) so that memory does not grow with the tensor. A method that must know the whole
tensor first (slerp needs an angle) declares ``statistics``: sums over parts, which the engine adds up before the first
call. Adding a method is one function and one row here. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fuseforget.errors import InputError
from fuseforget.methods.average import average
from fuseforget.methods.slerp import slerp, slerp_statistics

__all__ = ["METHODS", "Method", "get_method"]


@dataclass(frozen=True)
class Method:
    """A row of the table of methods.

    Attributes:
        name: what ``--method`` takes.
        function: ``(parts, weights, statistics) -> part``.
        summary: one line for the user.
        paper: where it comes from.
        models: the least and the largest number of models (None: no limit).
        statistics: ``(parts) -> additive sums`` over the whole tensor, or None where the method is elementwise.
    """

    name: str
    function: Callable[..., Any]
    summary: str
    paper: str
    models: tuple[int, int | None]
    statistics: Callable[..., Any] | None = None

    def check_models(self, count: int) -> None:
        """Raise InputError unless the method takes this many models."""
        least, most = self.models
        if count < least or (most is not None and count > most):
            wanted = f"exactly {least}" if least == most else f"at least {least}"
            raise InputError(f"method {self.name}", expected=f"{wanted} models", found=str(count))


METHODS = {
    method.name: method
    for method in (
        Method(
            "average",
            average,
            "weighted mean of the parameters: sum_i alpha_i theta_i",
            "Wortsman et al. 2022 (arXiv 2203.05482); Zaman et al. 2023, Eq. 1 (arXiv 2311.07682)",
            (1, None),
        ),
        Method(
            "slerp",
            slerp,
            "two models, along the arc between each pair of tensors; the second weight is the position t",
            "Shoemake 1985, Animating rotation with quaternion curves",
            (2, 2),
            slerp_statistics,
        ),
    )
}


def get_method(name: str) -> Method:
    """Return the row of a method, or raise InputError with the nearest name."""
    import difflib

    if name in METHODS:
        return METHODS[name]
    near = difflib.get_close_matches(name, METHODS, n=1)
    hint = f"Did you mean {near[0]}?" if near else "See `fuseforget methods`."
    raise InputError("method", expected=f"one of {', '.join(METHODS)}", found=repr(name), action=hint)
