"""Compile loops (numba), for rooms whose time goes into what array code takes many passes for. Imports nothing of the package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

__all__ = ["compiled", "compiled_contracting"]

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile on the first call; keep the result on disk where there is a place for it.

    The function holds no lock of the interpreter while it runs, and gives the same bits on every machine: no sum is reordered,
    no multiplication fused.
    """
    return _compiled(function, fastmath=False)


def compiled_contracting(function: F) -> F:
    """The same, but a multiplication and an addition may become one operation, which rounds once."""
    return _compiled(function, fastmath={"contract"})


def _compiled(function: F, *, fastmath: Any) -> F:
    options = {"nogil": True, "error_model": "numpy", "fastmath": fastmath}
    try:
        return numba.njit(cache=True, **options)(function)  # type: ignore[no-any-return]
    except RuntimeError:  # neither beside the source nor in the user's cache may be written
        return numba.njit(**options)(function)  # type: ignore[no-any-return]
