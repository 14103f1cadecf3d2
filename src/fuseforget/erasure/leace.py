"""LEACE: the least change of features after which no linear classifier reads a concept (Belrose et al. 2023)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fuseforget.erasure.checks import Codes, Features, require_concepts, require_features
from fuseforget.erasure.eraser import Eraser

__all__ = ["fit_leace"]

# Below this a correlation is rounding. The library's own .01 would leave correlations of up to that size in the features.
NO_CORRELATION = 1e-8


def fit_leace(features: npt.ArrayLike, concepts: Mapping[str, npt.ArrayLike]) -> Eraser:
    """Fit LEACE by concept-erasure, for one attribute or several at once, in float64.

    On the features that it is fitted to erasure is exact: the features no longer covary with any value of any of the
    attributes, so that no linear classifier with a convex loss does better than a constant one, and among all affine maps with
    that property this changes the features least, in mean squared distance (Belrose et al. 2023, theorems 3.1 and 4.3).

    Of the library's defaults three are for other ends and are turned off: the truncation of small correlations, shrinkage
    of the covariance (the change would be the least for another covariance than the features'), and the limit on the trace,
    which the least change never reaches: it only takes variance away.

    Args:
        features: examples x dimensions.
        concepts: by attribute, a code an example (whole numbers from 0).

    Raises:
        InputError: features that are no finite numbers, fewer than two; an attribute of another length or with one value alone.
    """
    import torch

    x = require_features(features)
    checked = require_concepts(concepts, len(x))
    mean = x.mean(axis=0, dtype=np.float64)
    centred = x - mean
    axes = _told_from_rounding(centred, x)
    if not axes.shape[1]:  # features that do not differ tell nothing
        return Eraser(np.empty((x.shape[1], 0)), np.empty((0, x.shape[1])), mean, "leace", tuple(checked), {"n": len(x)})
    indicators = torch.from_numpy(np.hstack([_indicators(codes) for codes in checked.values()]))
    fitter = _fitter().fit(
        torch.from_numpy(centred @ axes), indicators, shrinkage=False, constrain_cov_trace=False, svd_tol=NO_CORRELATION
    )
    found = fitter.eraser
    left, right = found.proj_left.numpy(), found.proj_right.numpy()
    kept = np.abs(right).max(axis=1) > 0  # the library leaves what it truncated as zeros
    return Eraser(axes @ left[:, kept], right[kept] @ axes.T, mean, "leace", tuple(checked), {"n": len(x)})


def _told_from_rounding(centred: npt.NDArray[np.float64], features: Features) -> npt.NDArray[np.float64]:
    """The principal axes on which features differ by more than the rounding of their own type, dimensions x how many.

    Whitening would blow up the rest (saturated units of a pooler, say) until rounding decided what is erased.
    """
    variances, axes = np.linalg.eigh(centred.T @ centred / len(centred))
    rounding = (10 * np.finfo(features.dtype).eps) ** 2 * np.mean(np.square(features, dtype=np.float64))
    unresolved = len(variances) * np.finfo(np.float64).eps * variances[-1]
    return np.asarray(axes[:, variances > max(rounding, unresolved)])


def _fitter() -> Any:
    """The library's fitter; parts of the library that are not used here compile themselves in a way that torch now warns of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from concept_erasure import LeaceFitter
    return LeaceFitter


def _indicators(codes: Codes) -> npt.NDArray[np.float64]:
    """Of each value but the last, whether an example has it; the last is what is left (one column more would say nothing)."""
    return np.asarray(codes[:, None] == np.arange(codes.max()), dtype=np.float64)
