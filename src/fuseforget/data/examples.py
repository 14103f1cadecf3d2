"""Labelled texts, read from TSV, CSV, JSONL, Parquet, a `datasets` directory or the hub."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fuseforget.errors import InputError

__all__ = ["Examples", "find_source", "read_examples", "read_table"]

Table = dict[str, list[Any]]
TEXT_COLUMNS = ("text", "sentence")
SUFFIXES = (".tsv", ".csv", ".jsonl", ".parquet")
# How a split is spelled in the wild; the first that exists is taken.
SPLIT_NAMES = {"train": ("train",), "validation": ("validation", "valid", "dev", "test")}


@dataclass(frozen=True)
class Examples:
    """Texts and their labels (numbers from 0 up to ``len(label_names) - 1``)."""

    texts: tuple[str, ...]
    labels: tuple[int, ...]
    label_names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.texts) != len(self.labels):
            raise InputError("examples", expected=f"{len(self.texts)} labels", found=str(len(self.labels)))

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: Sequence[int] | np.ndarray) -> Examples:
        """Return the examples at these indices, in that order."""
        rows = [int(i) for i in indices]
        return Examples(tuple(self.texts[i] for i in rows), tuple(self.labels[i] for i in rows), self.label_names)

    def sample(self, count: int | None, seed: int) -> Examples:
        """Return ``count`` examples drawn without replacement (all, in order, for None)."""
        if count is None or count == len(self):
            return self
        if not 0 < count <= len(self):
            raise InputError("number of examples", expected=f"1 to {len(self)}", found=str(count))
        return self.take(np.sort(np.random.default_rng([seed, 0x5A11]).choice(len(self), count, replace=False)))

    @property
    def sha256(self) -> str:
        """A digest of texts, labels and label names: what a record needs to say which data it was."""
        content = json.dumps([self.texts, self.labels, self.label_names], ensure_ascii=True)
        return hashlib.sha256(content.encode()).hexdigest()


def read_examples(source: str | Path, *, split: str = "validation", text: str | None = None, label: str = "label") -> Examples:
    """Read labelled texts.

    Args:
        source: a file (.tsv, .csv, .jsonl, .parquet), a directory with one such file a split or saved by ``datasets``, or
            a hub id (``name`` or ``name:configuration``).
        split: which split of a directory or of a hub data set.
        text: the column of the texts (default: ``text`` or ``sentence``).
        label: the column of the labels, whole numbers from 0 or names.

    Raises:
        InputError: nothing there, no rows, a column absent, a text or a label missing (with the row's number).
    """
    table = read_table(source, split)
    where = f"{source} ({split})" if not Path(source).is_file() else str(source)
    if not table or not next(iter(table.values())):
        raise InputError(where, expected="at least one example", found="no rows")
    column = _column(where, table, text, TEXT_COLUMNS)
    label_column = _column(where, table, label, (label,))
    texts = [_text(where, row, value) for row, value in enumerate(table[column], 1)]
    labels, names = _labels(where, table[label_column])
    return Examples(tuple(texts), tuple(labels), tuple(names))


def read_table(source: str | Path, split: str) -> Table:
    """Read a table column by column, from any of the places of :func:`read_examples`."""
    path = find_source(source, split)
    if path is None:
        return _from_hub(str(source), split)
    if path.is_dir():
        return _from_datasets_directory(path, split)
    try:
        return _READERS[path.suffix](path)
    except (ValueError, csv.Error) as error:
        raise InputError(str(path), expected=f"a {path.suffix[1:]} table", found=str(error)) from error


def find_source(source: str | Path, split: str) -> Path | None:
    """The file (or `datasets` directory) that holds a split, or None where the source can only be a hub id."""
    path = Path(source).expanduser()
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise InputError(str(path), expected=f"a file ending in {', '.join(SUFFIXES)}", found=path.suffix or "none")
        return path
    if path.is_dir():
        if (path / "dataset_dict.json").is_file() or (path / "dataset_info.json").is_file():
            return path
        names = SPLIT_NAMES.get(split, (split,))
        for candidate in (path / f"{name}{suffix}" for name in names for suffix in SUFFIXES):
            if candidate.is_file():
                return candidate
        wanted = " or ".join(f"{name}{{{','.join(SUFFIXES)}}}" for name in names)
        raise InputError(str(path), expected=f"{wanted}, or a directory saved by datasets", found="neither")
    if isinstance(source, Path) or path.suffix in SUFFIXES or str(source).startswith((".", "/", "~")):
        raise InputError(str(source), expected="a file, a directory or a hub id", found="nothing at that path")
    return None


def _read_delimited(path: Path, delimiter: str, quoting: Literal[0, 3]) -> Table:
    with path.open(encoding="utf-8", newline="") as stream:
        reader = csv.reader(stream, delimiter=delimiter, quoting=quoting)
        header = next(reader, [])
        rows = list(reader)
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise ValueError(f"line {number} with {len(row)} fields where the header has {len(header)}")
    return {name: [row[i] for row in rows] for i, name in enumerate(header)}


def _read_jsonl(path: Path) -> Table:
    rows = []
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError(f"line {number} is no JSON object")
                rows.append(row)
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: [row.get(name) for row in rows] for name in names}


def _read_parquet(path: Path) -> Table:
    import pyarrow.parquet

    return dict(pyarrow.parquet.read_table(path).to_pydict())


_READERS = {
    # Tab-separated corpora (GLUE) do not quote: a quotation mark is part of the text.
    ".tsv": lambda path: _read_delimited(path, "\t", csv.QUOTE_NONE),
    ".csv": lambda path: _read_delimited(path, ",", csv.QUOTE_MINIMAL),
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}


def _from_datasets_directory(path: Path, split: str) -> Table:
    import datasets

    loaded = datasets.load_from_disk(str(path))
    if isinstance(loaded, datasets.DatasetDict):
        names = [name for name in SPLIT_NAMES.get(split, (split,)) if name in loaded]
        if not names:
            raise InputError(str(path), expected=f"a split {split!r}", found=", ".join(loaded))
        loaded = loaded[names[0]]
    return {name: list(loaded[name]) for name in loaded.column_names}


def _from_hub(source: str, split: str) -> Table:
    import datasets

    name, _, configuration = source.partition(":")
    try:
        loaded = datasets.load_dataset(name, configuration or None, split=split)
    # The client's errors are of its HTTP library's, of the system's and of its own making; each means: not to be had.
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            source,
            expected="a file, a directory, or a data set on the hub",
            found=f"no such path, and the hub answered: {reason}",
            action="Offline, give a local file or directory.",
        ) from error
    return {column: list(loaded[column]) for column in loaded.column_names}


def _column(where: str, table: Table, wanted: str | None, candidates: Sequence[str]) -> str:
    names = [wanted] if wanted is not None else list(candidates)
    for name in names:
        if name in table:
            return name
    raise InputError(where, expected=f"a column {' or '.join(map(repr, names))}", found=f"columns {', '.join(table)}")


def _text(where: str, row: int, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}, row {row}", expected="a text", found=repr(value))
    return value


def _labels(where: str, values: Sequence[Any]) -> tuple[list[int], list[str]]:
    """Numbers from 0 stay what they are; names are numbered in sorted order."""
    missing = [row for row, value in enumerate(values, 1) if value is None or str(value).strip() == ""]
    if missing:
        raise InputError(f"{where}, row {missing[0]}", expected="a label", found=f"none ({len(missing)} rows without)")
    text = [str(value).strip() for value in values]
    if all(value.isdecimal() for value in text):
        numbers = [int(value) for value in text]
        return numbers, [f"LABEL_{i}" for i in range(max(max(numbers) + 1, 2))]
    if any(_is_number(value) for value in text):
        odd = next(value for value in text if _is_number(value) and not value.isdecimal())
        raise InputError(where, expected="labels that are whole numbers from 0, or names", found=repr(odd))
    names = sorted(set(text))
    number = {name: i for i, name in enumerate(names)}
    return [number[value] for value in text], names


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True
