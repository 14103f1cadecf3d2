"""Which rows fusing exposes more than any of the models that it fused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fuseforget.errors import InputError
from fuseforget.knowledge.statistics import Interval, bootstrap_mean

__all__ = ["Harm", "HarmRow", "more_exposed"]

Values = npt.NDArray[np.float64]
LEVEL = 0.05  # of false discoveries among the rows that are called clear


@dataclass(frozen=True)
class HarmRow:
    """One row and how exposed it is.

    Attributes:
        row: its place.
        fused: its likelihood ratio by the fused model; the lower, the more exposed.
        parent: the place of the parent that exposes it most, and ``lowest`` its likelihood ratio.
        excess: ``lowest - fused``: above 0 the fused model exposes the row more than any parent; in nats (a token).
        p: the share of never-seen rows with as great an excess; None without such rows.
        clear: whether the excess is more than fusing does to rows that no model saw (see :func:`more_exposed`).
    """

    row: int
    fused: float
    parent: int
    lowest: float
    excess: float
    p: float | None
    clear: bool | None


@dataclass(frozen=True)
class Harm:
    """The harm that fusing does to rows.

    Attributes:
        rows: all, the most harmed first.
        share: of the rows that are more exposed than by any parent, with its interval.
        chance: what that share is where the fused model is one more model like its parents: ``1 / (parents + 1)``.
        controls: the same share of the never-seen rows; None without such rows.
        clear: how many rows are clearly harmed; None without never-seen rows.
    """

    rows: tuple[HarmRow, ...]
    share: Interval
    chance: float
    controls: Interval | None
    clear: int | None


def more_exposed(
    fused: npt.ArrayLike,
    parents: npt.ArrayLike,
    *,
    fused_controls: npt.ArrayLike | None = None,
    parents_controls: npt.ArrayLike | None = None,
    seed: int = 0,
) -> Harm:
    """Return which rows have a lower likelihood ratio by the fused model than by *every* parent.

    A fused model generalises better than its parents, and so it finds many rows more likely than any of them does, seen or not.
    That is no harm to privacy. What it does to rows that no model ever saw is the measure: a row's p-value is
    the share of these with at least its excess, itself counted (conformal: were the row like them, it would be below p
    with a chance of at most p). Rows are *clear* where Benjamini and Hochberg's procedure takes them at 5 %, which holds for such
    p-values (Bates et al. 2023): at most one in twenty of those called clear is expected to be none. A p-value is at least
    1 / (controls + 1): to find one row among n takes 20 n never-seen rows, to find the share s of them 20 / s.

    Args:
        fused: likelihood ratios of n rows by the fused model, of one reference and one unit (nats a token, or nats).
        parents: by the models it was fused from, models x n.
        fused_controls, parents_controls: the same of rows that none of the models was trained on, of the same source.

    Raises:
        InputError: no rows or no parents, other rows, values that are not finite, or only one side's controls.
    """
    own, others = _ratios("rows", fused, parents)
    excess, lowest = others.min(axis=0) - own, others.argmin(axis=0)
    p_values: Sequence[float | None] = [None] * len(own)
    clear: Sequence[bool | None] = [None] * len(own)
    controls = None
    if (fused_controls is None) != (parents_controls is None):
        raise InputError("never-seen rows", expected="likelihood ratios by the fused model and by its parents", found="one")
    if fused_controls is not None and parents_controls is not None:
        unseen, by_parents = _ratios("never-seen rows", fused_controls, parents_controls)
        if len(by_parents) != len(others):
            raise InputError("never-seen rows", expected=f"those of {len(others)} parents", found=str(len(by_parents)))
        spared = by_parents.min(axis=0) - unseen
        controls = bootstrap_mean(spared > 0, seed=seed)
        p_values = known = _conformal(excess, spared)
        clear = _discoveries(known)
    order = np.argsort(-excess, kind="stable")
    rows = tuple(
        HarmRow(int(i), float(own[i]), int(lowest[i]), float(others[lowest[i], i]), float(excess[i]), p_values[i], clear[i])
        for i in order
    )
    found = None if controls is None else sum(bool(row.clear) for row in rows)
    return Harm(rows, bootstrap_mean(excess > 0, seed=seed), 1 / (len(others) + 1), controls, found)


def _ratios(thing: str, fused: npt.ArrayLike, parents: npt.ArrayLike) -> tuple[Values, Values]:
    own, others = np.asarray(fused, dtype=np.float64), np.asarray(parents, dtype=np.float64)
    if own.ndim != 1 or own.size == 0 or others.ndim != 2 or others.shape[1] != len(own) or len(others) == 0:
        found = f"shapes {own.shape} and {others.shape}"
        raise InputError(
            f"likelihood ratios of {thing}", expected="n by the fused model and parents x n, n at least 1", found=found
        )
    if not (np.isfinite(own).all() and np.isfinite(others).all()):
        raise InputError(f"likelihood ratios of {thing}", expected="finite numbers", found="NaN or infinity")
    return own, others


def _conformal(excess: Values, controls: Values) -> list[float]:
    """The share of the controls with at least a row's excess, the row itself counted among them."""
    as_great = len(controls) - np.searchsorted(np.sort(controls), excess, side="left")
    return [float(p) for p in (1 + as_great) / (1 + len(controls))]


def _discoveries(p_values: Sequence[float]) -> list[bool]:
    """Which hypotheses Benjamini and Hochberg (1995) reject."""
    values = np.asarray(p_values)
    ranked = np.sort(values)
    passed = np.flatnonzero(ranked <= LEVEL * np.arange(1, len(values) + 1) / len(values))
    limit = ranked[passed[-1]] if passed.size else -1.0
    return [bool(p <= limit) for p in values]
