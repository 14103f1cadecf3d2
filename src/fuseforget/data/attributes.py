"""Labelled texts with protected attributes: who wrote a text, or whom it is about."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fuseforget.data.examples import Examples, parse_examples
from fuseforget.data.tables import Names, Table, place, read_columns, require_column, text_column
from fuseforget.errors import InputError, some_names

__all__ = ["AttributedExamples", "read_attributed"]

Codes = npt.NDArray[np.int64]
MAX_VALUES = 100  # more different values than any protected attribute has: a column of identifiers
FEW_ROWS = 10  # so few rows may all differ


@dataclass(frozen=True)
class AttributedExamples:
    """Labelled texts and, for each row, the values of its protected attributes.

    Attributes:
        attributes: the value of each row, by the attribute's name.
        units: what rows that are not independent of each other share (an author, a sentence); empty: every row is its own.
        value_names: all values of an attribute in the order of its codes, those without a row included; default: the values
            that occur, sorted. Taking rows leaves them as they are.

    Raises:
        InputError: attributes or units of another length than the texts, or a value that is none of the attribute's.
    """

    examples: Examples
    attributes: Mapping[str, tuple[str, ...]]
    units: tuple[str, ...] = ()
    value_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        named = {name: tuple(self.value_names.get(name) or sorted(set(rows))) for name, rows in self.attributes.items()}
        object.__setattr__(self, "value_names", named)  # frozen for its users, not yet while it is made
        for name, rows in self.attributes.items():
            _require_length(f"attribute {name}", len(self), len(rows))
            unknown = sorted(set(rows) - set(named[name]))
            if unknown:
                raise InputError(f"attribute {name}", expected=f"one of {', '.join(named[name])}", found=", ".join(unknown))
        if self.units:
            _require_length("units", len(self), len(self.units))

    def __len__(self) -> int:
        return len(self.examples)

    def take(self, indices: Sequence[int] | npt.NDArray[Any]) -> AttributedExamples:
        """Return the rows at these indices, in that order; values keep their codes."""
        rows = [int(i) for i in indices]
        return AttributedExamples(
            self.examples.take(rows),
            {name: tuple(values[i] for i in rows) for name, values in self.attributes.items()},
            tuple(self.units[i] for i in rows) if self.units else (),
            self.value_names,
        )

    def values(self, name: str) -> tuple[str, ...]:
        """The values of an attribute in the order of its codes."""
        if name not in self.attributes:
            raise InputError("attribute", expected=f"one of {', '.join(self.attributes)}", found=repr(name))
        return self.value_names[name]

    def codes(self, name: str) -> Codes:
        """The number of each row's value in :meth:`values`, an array of length n."""
        number = {value: i for i, value in enumerate(self.values(name))}
        return np.array([number[value] for value in self.attributes[name]], dtype=np.int64)

    def unit_codes(self) -> Codes | None:
        """A number for each row, equal where rows share a unit; None where every row is its own."""
        if not self.units:
            return None
        return np.unique(np.array(self.units), return_inverse=True)[1].reshape(-1).astype(np.int64)

    @property
    def sha256(self) -> str:
        """A digest of texts, labels, attributes and units: what a record needs to say which data it was."""
        attributes = {name: [self.attributes[name], self.value_names[name]] for name in sorted(self.attributes)}
        content = json.dumps([self.examples.sha256, attributes, self.units], ensure_ascii=True)
        return hashlib.sha256(content.encode()).hexdigest()


def read_attributed(
    source: str | Path,
    *,
    split: str = "validation",
    text: str | None = None,
    label: str = "label",
    attributes: Sequence[str] | Mapping[str, Sequence[str]],
    unit: str | None = None,
    like: Examples | AttributedExamples | None = None,
) -> AttributedExamples:
    """Read labelled texts with protected attributes.

    Args:
        source, split, text, label: as in :func:`fuseforget.data.read_examples`.
        attributes: the columns of the attributes; as a mapping, with the values that each may have. An attribute's values
            are then those, in sorted order, whether or not a row has them.
        unit: the column of what rows that are not independent share (the author), if any.
        like: examples whose numbering of the labels is taken, and whose values, where they have the attributes.

    Raises:
        InputError: see :func:`fuseforget.data.read_examples`; a column that is absent, named twice, or that of texts or
            labels too; an attribute that a row lacks, that is constant, that has unexpected values, or more of them than
            an attribute has.
    """
    where = place(source, split)
    if not attributes or isinstance(attributes, str):
        raise InputError("attributes", expected="the names of one or more columns", found=repr(attributes))
    table, stored = read_columns(source, split)
    examples = parse_examples(
        where, table, stored, text=text, label=label, like=like.examples if isinstance(like, AttributedExamples) else like
    )
    taken = {"texts": text_column(where, table, text), "labels": label, **({"units": unit} if unit is not None else {})}
    _require_own_columns(where, list(attributes), taken)
    expected = _expected_values(attributes, like)
    columns = {name: _attribute(where, table, stored, name, expected.get(name)) for name in attributes}
    units = () if unit is None else _strings(where, table, stored, unit)
    return AttributedExamples(examples, columns, units, {k: v for k, v in expected.items() if k in columns})


def _expected_values(
    attributes: Sequence[str] | Mapping[str, Sequence[str]], like: Examples | AttributedExamples | None
) -> dict[str, tuple[str, ...]]:
    known = dict(like.value_names) if isinstance(like, AttributedExamples) else {}
    if isinstance(attributes, Mapping):
        known.update({name: tuple(sorted(values)) for name, values in attributes.items()})
    return known


def _require_own_columns(where: str, attributes: Sequence[str], taken: Mapping[str, str]) -> None:
    """Raise unless each attribute is named once and has a column that nothing else is read from."""
    for name in attributes:
        use = next((use for use, column in taken.items() if column == name), None)
        if use is not None or attributes.count(name) > 1:
            found = f"{name!r} twice" if use is None else f"{name!r}, the column of the {use}"
            raise InputError(where, expected="a column of its own for each attribute", found=found)


def _attribute(where: str, table: Table, stored: Names, name: str, expected: Sequence[str] | None) -> tuple[str, ...]:
    values = _strings(where, table, stored, name)
    found = sorted(set(values))
    if expected is not None:
        odd = [value for value in values if value not in expected]
        if odd:
            which = some_names(f"{value!r} ({odd.count(value)} rows)" for value in sorted(set(odd)))
            raise InputError(f"{where}, column {name!r}", expected=f"one of {', '.join(expected)}", found=which)
    if len(found) > MAX_VALUES or len(found) == len(values) > FEW_ROWS:
        raise InputError(
            f"{where}, column {name!r}",
            expected=f"an attribute: at most {MAX_VALUES} values, with several rows each",
            found=f"{len(found)} different values in {len(values)} rows",
            action="It looks like a column of identifiers: name the column of the attribute.",
        )
    if len(found) == 1:
        raise InputError(f"{where}, column {name!r}", expected="two values or more", found=f"{found[0]!r} in every row")
    return values


def _strings(where: str, table: Table, stored: Names, name: str) -> tuple[str, ...]:
    """A column as stripped strings, numbers with stored names as those names."""
    column = table[require_column(where, table, name, (name,))]
    if name in stored:  # -1 is how `datasets` says that a row has none
        names = stored[name]
        column = [names[int(v)] if v is not None and 0 <= int(v) < len(names) else None for v in column]
    strings = ["" if value is None or value != value else str(value).strip() for value in column]  # only NaN differs from itself
    missing = [row for row, value in enumerate(strings, 1) if not value]
    if missing:
        raise InputError(
            f"{where}, column {name!r}, row {missing[0]}", expected="a value", found=f"none ({len(missing)} rows without)"
        )
    return tuple(strings)


def _require_length(what: str, expected: int, found: int) -> None:
    if expected != found:
        raise InputError(what, expected=f"{expected} rows, as there are texts", found=str(found))
