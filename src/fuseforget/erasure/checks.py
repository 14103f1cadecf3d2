"""What features and codes must be before anything is fitted to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fuseforget.errors import InputError

__all__ = ["Codes", "Features", "require_codes", "require_concepts", "require_features", "require_l2"]

Features = npt.NDArray[np.floating[Any]]
Codes = npt.NDArray[np.int64]


def require_features(features: npt.ArrayLike) -> Features:
    """Return features as an array (examples x dimensions) of float32 or float64.

    Raises:
        InputError: another shape, fewer than two examples, values that are no finite numbers.
    """
    array = np.asarray(features)
    if array.ndim != 2 or array.shape[0] < 2 or array.shape[1] < 1:
        raise InputError("features", expected="two examples or more, by dimensions", found=f"shape {array.shape}")
    if not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
        raise InputError("features", expected="real numbers", found=f"values of type {array.dtype}")
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float32 if array.dtype == np.float16 else np.float64)
    bad = ~np.isfinite(array).all(axis=1)
    if bad.any():
        found = f"{np.count_nonzero(bad)} examples with NaN or infinite values, the first at {int(np.argmax(bad))}"
        raise InputError("features", expected="finite numbers", found=found)
    return array


def require_codes(name: str, codes: npt.ArrayLike, examples: int) -> Codes:
    """Return an attribute's or a label's codes: a whole number from 0 an example, two different values or more.

    Raises:
        InputError: another number of them, no whole numbers, a negative one, one value alone.
    """
    array = np.asarray(codes)
    if array.shape != (examples,):
        raise InputError(name, expected=f"{examples} values, one an example", found=f"shape {array.shape}")
    if not np.issubdtype(array.dtype, np.integer) and array.dtype != np.bool_:
        raise InputError(name, expected="codes, whole numbers from 0", found=f"values of type {array.dtype}")
    array = array.astype(np.int64)
    if array.min() < 0:
        raise InputError(name, expected="codes, whole numbers from 0", found=str(array.min()))
    if array.min() == array.max():
        raise InputError(name, expected="two values or more", found=f"{array.min()} in all {examples} examples")
    return array


def require_concepts(concepts: Mapping[str, npt.ArrayLike], examples: int) -> dict[str, Codes]:
    """Return each attribute's codes, numbered without gaps; raise InputError as :func:`require_codes`, or for no attribute."""
    if not concepts:
        raise InputError("concepts", expected="an attribute or more to erase", found="none")
    checked = {name: require_codes(name, codes, examples) for name, codes in concepts.items()}
    # A value that no example has is nothing that these features could tell.
    return {name: np.unique(codes, return_inverse=True)[1].astype(np.int64) for name, codes in checked.items()}


def require_l2(l2: float) -> None:
    """Raise InputError unless the penalty is a positive number: without one, separable examples have no classifier."""
    if not 0 < l2 < float("inf"):
        raise InputError("l2", expected="a positive number", found=str(l2))
