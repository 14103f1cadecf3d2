"""The ways to erase, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy.typing as npt

from fuseforget.erasure.eraser import Eraser
from fuseforget.erasure.inlp import fit_inlp
from fuseforget.erasure.leace import fit_leace
from fuseforget.errors import InputError

__all__ = ["ERASURES", "fit_eraser", "require_erasure"]

ERASURES = ("inlp", "leace")


def fit_eraser(
    method: str,
    features: npt.ArrayLike,
    concepts: Mapping[str, npt.ArrayLike],
    *,
    classifiers: int = 200,
    say: Callable[[str], None] = lambda line: None,
) -> Eraser:
    """Fit an eraser by the method of that name; ``classifiers`` is INLP's.

    Raises:
        InputError: no such method; else see :func:`fit_inlp` and :func:`fit_leace`.
    """
    require_erasure(method)
    if method == "leace":
        return fit_leace(features, concepts)
    return fit_inlp(features, concepts, classifiers=classifiers, say=say).eraser


def require_erasure(method: str) -> None:
    """Raise InputError unless there is a method of that name."""
    if method not in ERASURES:
        raise InputError("method of erasure", expected=" or ".join(ERASURES), found=repr(method))
