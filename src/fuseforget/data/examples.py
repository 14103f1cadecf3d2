"""Labelled texts, read from TSV, CSV, JSONL, Parquet, a `datasets` directory or the hub."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fuseforget.data.tables import Names, Table, place, read_columns, require_column, require_splits, text_column
from fuseforget.errors import InputError, require_seed

__all__ = ["Examples", "parse_examples", "read_examples", "read_splits"]

MAX_LABELS = 1000  # more different labels than any classifier's data has: a column of identifiers


@dataclass(frozen=True)
class Examples:
    """Texts and their labels (numbers from 0 up to ``len(label_names) - 1``).

    Attributes:
        label_names: the labels' names; LABEL_0, LABEL_1, ... where the source gave numbers.
        named: the source gave names alone: which number each has was chosen on reading.
    """

    texts: tuple[str, ...]
    labels: tuple[int, ...]
    label_names: tuple[str, ...]
    named: bool = False

    def __post_init__(self) -> None:
        if len(self.texts) != len(self.labels):
            raise InputError("examples", expected=f"{len(self.texts)} labels", found=str(len(self.labels)))

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: Sequence[int] | np.ndarray) -> Examples:
        """Return the examples at these indices, in that order."""
        rows = [int(i) for i in indices]
        texts, labels = tuple(self.texts[i] for i in rows), tuple(self.labels[i] for i in rows)
        return Examples(texts, labels, self.label_names, self.named)

    def sample(self, count: int | None, seed: int) -> Examples:
        """Return ``count`` examples drawn without replacement (all, in order, for None)."""
        require_seed(seed)
        if count is None or count == len(self):
            return self
        if not 0 < count <= len(self):
            raise InputError("number of examples", expected=f"1 to {len(self)}", found=str(count))
        return self.take(np.sort(np.random.default_rng([seed, 0x5A11]).choice(len(self), count, replace=False)))

    @property
    def own_names(self) -> tuple[str, ...]:
        """The names that the source gave its labels; none where it gave numbers."""
        return () if self.label_names == _default_names(len(self.label_names)) else self.label_names

    @property
    def sha256(self) -> str:
        """A digest of texts, labels and label names: what a record needs to say which data it was."""
        content = json.dumps([self.texts, self.labels, self.label_names], ensure_ascii=True)
        return hashlib.sha256(content.encode()).hexdigest()


def read_examples(
    source: str | Path,
    *,
    split: str = "validation",
    text: str | None = None,
    label: str = "label",
    like: Examples | None = None,
) -> Examples:
    """Read labelled texts.

    Args:
        source: a file (.tsv, .csv, .jsonl, .parquet), a directory with one such file a split or saved by ``datasets``, or
            a hub id (``name`` or ``name:configuration``).
        split: which split of a directory or of a hub data set.
        text: the column of the texts (default: ``text`` or ``sentence``).
        label: the column of the labels, whole numbers from 0 or names. `datasets` stores names with its numbers: both
            are kept. Names alone are numbered in sorted order.
        like: examples whose numbering of the labels is taken (those that a model was trained on).

    Raises:
        InputError: nothing there or unreadable, no such split, no rows, a column absent, a text or a label missing (with
            the row's number), more labels than a classifier has, or one that ``like`` does not have.
    """
    table, stored = read_columns(source, split)
    return parse_examples(place(source, split), table, stored, text=text, label=label, like=like)


def parse_examples(
    where: str, table: Table, stored: Names, *, text: str | None = None, label: str = "label", like: Examples | None = None
) -> Examples:
    """The labelled texts of a table that is read already; arguments and errors as of :func:`read_examples`.

    Args:
        where: what messages call the table.
        stored: the names of labels that are stored beside their numbers, by column.
    """
    if not table or not next(iter(table.values())):
        raise InputError(where, expected="at least one example", found="no rows")
    column = text_column(where, table, text)
    label_column = require_column(where, table, label, (label,))
    texts = [_text(where, row, value) for row, value in enumerate(table[column], 1)]
    values = table[label_column]
    _require_labels(where, label_column, values)
    if label_column in stored:
        examples = _with_stored_names(where, texts, values, stored[label_column])
    else:
        examples = _number(where, texts, [str(value).strip() for value in values])
    return examples if like is None else _renumber(where, examples, like)


def read_splits(
    source: str | Path, *, held_out: str = "validation", text: str | None = None, label: str = "label"
) -> tuple[Examples, Examples]:
    """Read a training set and the set that is held out from it, which numbers its labels as the training set does.

    Raises:
        InputError: see :func:`read_examples`; a source without splits, whose one table would be both.
    """
    require_splits(source, held_out)
    train = read_examples(source, split="train", text=text, label=label)
    return train, read_examples(source, split=held_out, text=text, label=label, like=train)


def _text(where: str, row: int, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}, row {row}", expected="a text", found=repr(value))
    return value


def _require_labels(where: str, column: str, values: Sequence[Any]) -> None:
    """Raise unless every row has a label and there are no more of them than a classifier has."""
    missing = [row for row, value in enumerate(values, 1) if value is None or str(value).strip() == ""]
    if missing:
        raise InputError(f"{where}, row {missing[0]}", expected="a label", found=f"none ({len(missing)} rows without)")
    different = len({str(value) for value in values})
    if different > MAX_LABELS or different == len(values) > MAX_LABELS // 10:
        raise _too_many(where, column, f"{different} different values in {len(values)} rows")


def _too_many(where: str, column: str, found: str) -> InputError:
    return InputError(
        where,
        expected=f"at most {MAX_LABELS} different labels, with several texts each, in column {column!r}",
        found=found,
        action="It looks like a column of identifiers: name the column of the labels.",
    )


def _number(where: str, texts: Sequence[str], values: Sequence[str]) -> Examples:
    """Numbers from 0 stay what they are; names are numbered in sorted order."""
    if all(value.isdecimal() for value in values):
        numbers = [int(value) for value in values]
        if max(numbers) >= MAX_LABELS:
            raise InputError(where, expected=f"labels that are whole numbers from 0 to {MAX_LABELS - 1}", found=str(max(numbers)))
        return Examples(tuple(texts), tuple(numbers), _default_names(max(max(numbers) + 1, 2)))
    odd = next((value for value in values if _is_number(value) and not value.isdecimal()), None)
    mixed = [value for value in values if value.isdecimal()]
    if odd is not None or mixed:
        found = repr(odd) if odd is not None else f"both ({mixed[0]!r} among names)"
        raise InputError(where, expected="labels that are whole numbers from 0, or names", found=found)
    names = sorted(set(values))
    number = {name: i for i, name in enumerate(names)}
    return Examples(tuple(texts), tuple(number[value] for value in values), tuple(names), named=True)


def _with_stored_names(where: str, texts: Sequence[str], values: Sequence[Any], names: tuple[str, ...]) -> Examples:
    """Numbers whose names the data set stores; hub test sets say -1 where the label is withheld."""
    odd = next((value for value in values if not 0 <= int(value) < len(names)), None)
    if odd is not None:
        raise InputError(where, expected=f"labels from 0 to {len(names) - 1}, one of {', '.join(names)}", found=str(odd))
    return Examples(tuple(texts), tuple(int(value) for value in values), names)


def _renumber(where: str, examples: Examples, like: Examples) -> Examples:
    """The examples with the labels that ``like`` has, numbered as there."""
    ours, theirs = examples.own_names, like.own_names
    used = sorted(set(examples.labels))
    if ours and theirs:
        number = {name: i for i, name in enumerate(theirs)}
        unknown = [ours[i] for i in used if ours[i] not in number]
    else:
        # Numbers are what they say; names alone have none that could be compared with numbers.
        number = {name: i for i, name in enumerate(examples.label_names)}
        comparable = not (examples.named or like.named)
        unknown = [examples.label_names[i] for i in used if not comparable or i >= len(like.label_names)]
    if unknown:
        raise InputError(
            where,
            expected=f"the labels of the set that it is read with ({', '.join(like.label_names)})",
            found=", ".join(unknown),
        )
    labels = tuple(number[examples.label_names[label]] for label in examples.labels)
    return Examples(examples.texts, labels, like.label_names, like.named)


def _default_names(count: int) -> tuple[str, ...]:
    return tuple(f"LABEL_{i}" for i in range(count))


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True
