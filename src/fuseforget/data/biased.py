"""Biased subsets: one attribute goes with the label in a given share of the rows, the others are balanced.

Zaman et al. 2023, section 5: of the texts with one label 80 % have one value of the attribute and 20 % the other, of those
with the other label the reverse. All proportions are fractions: .6 is three in five, and nothing is rounded before rows are
counted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np

from fuseforget.data.attributes import AttributedExamples
from fuseforget.data.common import generator
from fuseforget.errors import InputError, require_seed

__all__ = ["BiasedSubset", "make_biased", "proportions"]

Cell = tuple[int, int, tuple[int, ...]]  # the codes of a label, of the biased value, and of the balanced values


@dataclass(frozen=True)
class BiasedSubset:
    """A subset with the proportions that were asked for, and those that it has.

    Attributes:
        data: the rows, shuffled.
        achieved: for each label and each combination of values of the biased and the balanced attributes a dictionary
            with ``label`` (its name), ``values`` (by attribute), ``rows``, and ``share`` of the label's rows.
        by_attribute: the same for each label and each value of every single attribute: see :func:`proportions`.
        attribute: the biased one.
        ratio: the share of a label's majority value that was aimed at, as a fraction ("4/5"); with ``as_published`` it may
            differ from the one that was asked for.
        majority: by label name, the value that the ratio is the share of.
        balanced: the attributes that are uniform, jointly, for each label and biased value.
    """

    data: AttributedExamples
    achieved: list[dict[str, Any]]
    by_attribute: list[dict[str, Any]]
    attribute: str
    ratio: str
    majority: dict[str, str]
    balanced: tuple[str, ...]


def make_biased(
    table: AttributedExamples,
    *,
    attribute: str,
    ratio: float | str | Fraction,
    balanced: Sequence[str] = (),
    size: int | None = None,
    seed: int = 0,
    as_published: bool = False,
    favours: Mapping[str, str] | None = None,
) -> BiasedSubset:
    """Draw a subset in which an attribute goes with the label and the others do not.

    Labels have equally many rows. Of each label's rows the share ``ratio`` has the label's majority value, and the others
    share the rest evenly; within each of these cells the balanced attributes are uniform, jointly.

    Args:
        table: the rows to draw from, without replacement; any number of labels and values.
        attribute: the biased one.
        ratio: the share of the majority value, above 0 and below 1, read as the decimal that it is written as.
        balanced: the attributes that are to be uniform.
        size: how many rows; every cell is then within one row of its exact share. Default: as many as the table allows with
            exact proportions.
        seed: of the draw.
        as_published: the ratio of the authors' code, which takes floor(r / (1 - r)) majority rows for each minority row:
            .6 becomes .5, and .8 stays. Two values only.
        favours: the majority value by label name; default: label number i has value number i (modulo their number).

    Raises:
        InputError: a ratio, a size, an attribute or a label that there is not; cells that cannot be filled, all of them,
            with the rows that are missing.
    """
    require_seed(seed)
    labels, values = table.examples.label_names, table.values(attribute)
    _require_attributes(table, attribute, balanced)
    exact = _published(attribute, _fraction(ratio), values) if as_published else _fraction(ratio)
    majority = _majority(labels, values, favours or {})
    shares = [[exact if v == m else (1 - exact) / (len(values) - 1) for v in range(len(values))] for m in majority]
    combinations = list(product(*(range(len(table.values(name))) for name in balanced)))
    rows = _rows_by_cell(table, attribute, balanced)
    if size is None:
        counts = _largest_exact(shares, combinations, {cell: len(r) for cell, r in rows.items()}, table, attribute, balanced)
    else:
        counts = _apportion(size, shares, combinations)
        _require_rows(f"{size} rows", counts, rows, table, attribute, balanced)
    chosen = _draw(counts, rows, seed, attribute)
    data = table.take(chosen)
    return BiasedSubset(
        data=data,
        achieved=_achieved(data, counts, attribute, balanced),
        by_attribute=[row for name in data.attributes for row in proportions(data, name)],
        attribute=attribute,
        ratio=str(exact),
        majority={label: values[m] for label, m in zip(labels, majority, strict=True)},
        balanced=tuple(balanced),
    )


def proportions(data: AttributedExamples, attribute: str) -> list[dict[str, Any]]:
    """How an attribute goes with the label: ``label``, ``attribute``, ``value``, ``rows``, ``share`` of the label's rows.

    Every label and value is listed; the share of a label without rows is None.
    """
    labels, codes = np.array(data.examples.labels), data.codes(attribute)
    found = []
    for i, label in enumerate(data.examples.label_names):
        total = int((labels == i).sum())
        for v, value in enumerate(data.values(attribute)):
            rows = int(((labels == i) & (codes == v)).sum())
            share = rows / total if total else None
            found.append({"label": label, "attribute": attribute, "value": value, "rows": rows, "share": share})
    return found


def _fraction(ratio: float | str | Fraction) -> Fraction:
    try:
        exact = Fraction(str(ratio))  # a float's text, not its value: .8 is 4/5
    except (ValueError, ZeroDivisionError):
        exact = Fraction(0)
    if not 0 < exact < 1:
        raise InputError("ratio", expected="a number above 0 and below 1", found=str(ratio))
    return exact


def _published(attribute: str, ratio: Fraction, values: Sequence[str]) -> Fraction:
    if len(values) != 2:
        raise InputError(f"attribute {attribute!r}", expected="two values, as published", found=", ".join(values))
    whole = math.floor(ratio / (1 - ratio))
    if whole < 1:
        raise InputError("ratio", expected="one half or more, as published", found=str(float(ratio)))
    return Fraction(whole, whole + 1)


def _require_attributes(table: AttributedExamples, attribute: str, balanced: Sequence[str]) -> None:
    if len(table.values(attribute)) < 2:
        raise InputError(f"attribute {attribute!r}", expected="two values or more", found=", ".join(table.values(attribute)))
    for name in balanced:
        table.values(name)
    if len({attribute, *balanced}) != 1 + len(balanced):
        found = ", ".join([attribute, *balanced])
        raise InputError("balanced", expected="each attribute once, and not the biased one", found=found)


def _majority(labels: Sequence[str], values: Sequence[str], favours: Mapping[str, str]) -> list[int]:
    """The code of each label's majority value."""
    for label, value in favours.items():
        if label not in labels or value not in values:
            expected = f"a label ({', '.join(labels)}) and a value ({', '.join(values)})"
            raise InputError("favours", expected=expected, found=f"{label!r}: {value!r}")
    return [values.index(favours[name]) if name in favours else i % len(values) for i, name in enumerate(labels)]


def _rows_by_cell(table: AttributedExamples, attribute: str, balanced: Sequence[str]) -> dict[Cell, list[int]]:
    """The rows of each cell that has any, in the table's order."""
    biased, others = table.codes(attribute).tolist(), [table.codes(name).tolist() for name in balanced]
    rows: dict[Cell, list[int]] = {}
    for row, label in enumerate(table.examples.labels):
        rows.setdefault((label, biased[row], tuple(codes[row] for codes in others)), []).append(row)
    return rows


def _largest_exact(
    shares: Sequence[Sequence[Fraction]],
    combinations: Sequence[tuple[int, ...]],
    available: Mapping[Cell, int],
    table: AttributedExamples,
    attribute: str,
    balanced: Sequence[str],
) -> dict[Cell, int]:
    """The counts of the largest subset whose proportions are exact."""
    unit = {
        (label, value, rest): share / (len(shares) * len(combinations))
        for label, row in enumerate(shares)
        for value, share in enumerate(row)
        for rest in combinations
    }
    smallest = math.lcm(*(share.denominator for share in unit.values()))
    step = {cell: int(share * smallest) for cell, share in unit.items()}
    times = min(available.get(cell, 0) // count for cell, count in step.items())
    if times == 0:
        what = f"{smallest} rows, the fewest with exact proportions"
        _require_rows(what, step, {cell: range(n) for cell, n in available.items()}, table, attribute, balanced)
    return {cell: times * count for cell, count in step.items()}


def _apportion(size: int, shares: Sequence[Sequence[Fraction]], combinations: Sequence[tuple[int, ...]]) -> dict[Cell, int]:
    """Counts with a given sum, each the floor or the ceiling of its exact one, as are those of labels and of values in them.

    Largest remainders from the top down: what a cell has is the floor or the ceiling of the exact number, so the floors of
    its parts sum to no more and the ceilings to no less. Ties are broken in turn, lest the first always win.
    """
    if size < 1:
        raise InputError("size", expected="one row or more", found=str(size))
    counts: dict[Cell, int] = {}
    turns = [0, 0]
    of_labels = _round([Fraction(size, len(shares))] * len(shares), size, 0)
    for label, rows in enumerate(of_labels):
        exact = [Fraction(size, len(shares)) * share for share in shares[label]]
        of_values = _round(exact, rows, turns[0])
        turns[0] += rows - sum(map(math.floor, exact))
        for value, within in enumerate(of_values):
            parts = [exact[value] / len(combinations)] * len(combinations)
            of_parts = _round(parts, within, turns[1])
            turns[1] += within - sum(map(math.floor, parts))
            counts.update({(label, value, rest): n for rest, n in zip(combinations, of_parts, strict=True)})
    return counts


def _round(exact: Sequence[Fraction], total: int, turn: int) -> list[int]:
    """Floors and ceilings that sum to a total; the largest remainders are rounded up, ties from number ``turn`` on."""
    floors = [math.floor(e) for e in exact]
    order = sorted(range(len(exact)), key=lambda i: (floors[i] - exact[i], (i - turn) % len(exact)))
    up = set(order[: total - sum(floors)])
    return [n + (i in up) for i, n in enumerate(floors)]


def _require_rows(
    what: str,
    counts: Mapping[Cell, int],
    rows: Mapping[Cell, Sequence[int]],
    table: AttributedExamples,
    attribute: str,
    balanced: Sequence[str],
) -> None:
    lacking = {cell: (n, len(rows.get(cell, ()))) for cell, n in counts.items() if n > len(rows.get(cell, ()))}
    if lacking:
        cells = "; ".join(
            f"label {_describe(table, cell, attribute, balanced)}: {has} of {n}, {n - has} missing"
            for cell, (n, has) in lacking.items()
        )
        raise InputError(
            f"biased subset by {attribute!r}",
            expected=f"enough rows in every cell for {what}",
            found=f"too few in {len(lacking)} ({cells})",
            action="Give a smaller size, balance fewer attributes, or choose another ratio.",
        )


def _describe(table: AttributedExamples, cell: Cell, attribute: str, balanced: Sequence[str]) -> str:
    values = _values(table, cell, attribute, balanced)
    return ", ".join([table.examples.label_names[cell[0]], *(f"{name} {value}" for name, value in values.items())])


def _values(table: AttributedExamples, cell: Cell, attribute: str, balanced: Sequence[str]) -> dict[str, str]:
    codes = (cell[1], *cell[2])
    return {name: table.values(name)[code] for name, code in zip((attribute, *balanced), codes, strict=True)}


def _draw(counts: Mapping[Cell, int], rows: Mapping[Cell, Sequence[int]], seed: int, attribute: str) -> list[int]:
    chosen: list[int] = []
    for cell, count in counts.items():
        if count:
            # A stream for each cell: what is drawn from one depends on no other.
            rng = generator(seed, "biased", attribute, str(cell))
            chosen += rng.choice(np.array(rows[cell]), count, replace=False).tolist()
    return [int(i) for i in generator(seed, "biased", attribute, "order").permutation(np.array(sorted(chosen), dtype=np.int64))]


def _achieved(data: AttributedExamples, cells: Iterable[Cell], attribute: str, balanced: Sequence[str]) -> list[dict[str, Any]]:
    """Counted in what was drawn, not taken from the plan."""
    rows, totals = _rows_by_cell(data, attribute, balanced), Counter(data.examples.labels)
    return [
        {
            "label": data.examples.label_names[cell[0]],
            "values": _values(data, cell, attribute, balanced),
            "rows": len(rows.get(cell, ())),
            "share": len(rows.get(cell, ())) / totals[cell[0]] if totals[cell[0]] else None,
        }
        for cell in cells
    ]
