"""What attackers find in models, as records say it: scores of rows, word for word extraction, operating points, harm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from fuseforget.knowledge import Auc, Evidence, Harm, OperatingPoint, attack, bootstrap_mean
from fuseforget.knowledge.extraction import verbatim
from fuseforget.models import TokenScores
from fuseforget.records import Record, decode_values, encode_values

__all__ = ["attack_scores", "auc_fields", "extraction_fields", "extraction_scores", "harm_fields", "point_fields"]

SHOWN = 20  # rows of the table of harm


def attack_scores(attacks: Sequence[str], evidence: Evidence) -> dict[str, str]:
    """The rows' scores by attack, encoded."""
    return {one: encode_values(attack(one, evidence)) for one in attacks}


def extraction_scores(tokens: TokenScores, rows: Sequence[Sequence[int]], extract: tuple[int, int], *, seed: int = 0) -> Record:
    """Which rows are continued word for word, encoded, of those that are long enough; nothing where none is.

    Args:
        extract: how many tokens are given, and how many are to follow.
    """
    prefix, suffix = extract
    if not any(len(row) >= prefix + suffix for row in rows):
        return {}
    found = verbatim(tokens.greedy, tokens.offsets, prefix=prefix, suffix=suffix, seed=seed)
    greedy = {"extracted": found.extracted.astype(np.float64), "leading": found.leading / suffix}
    return {"greedy": {name: encode_values(values) for name, values in greedy.items()}, "too_short": found.short}


def extraction_fields(records: Sequence[Record], *, seed: int = 0) -> Record:
    """The shares that :func:`extraction_scores` of several sets amount to together, with their intervals."""
    shares = {name: asdict(bootstrap_mean(_joined(records, name), seed=seed)) for name in ("extracted", "leading")}
    return {**shares, "too_short": sum(record["too_short"] for record in records)}


def auc_fields(found: Auc) -> Record:
    """An AUC as JSON has it."""
    return {**asdict(found), "chance": list(found.chance)}


def point_fields(found: OperatingPoint) -> Record:
    """An operating point as JSON has it: a threshold beyond all scores is none."""
    threshold = found.threshold if np.isfinite(found.threshold) else None
    return {**asdict(found), "chance": list(found.chance), "threshold": threshold}


def harm_fields(found: Harm, parents: Sequence[str], place: Callable[[int], Record]) -> Record:
    """The harm that fusing does, and the rows that it harms most.

    Args:
        parents: what the parents are called.
        place: what a record says of a row by its number.
    """
    rows = [
        {**asdict(row), **place(row.row), "parent": parents[row.parent]}
        for row in found.rows[:SHOWN]
        if row.excess > 0
    ]  # fmt: skip
    controls = None if found.controls is None else asdict(found.controls)
    return {"share": asdict(found.share), "chance": found.chance, "clear": found.clear, "rows": rows, "controls": controls}


def _joined(records: Sequence[Record], name: str) -> npt.NDArray[np.float64]:
    values: list[Any] = [decode_values(record["greedy"][name]) for record in records]
    return np.concatenate(values)
