"""Tables read column by column from TSV, CSV, JSONL, Parquet, a `datasets` directory or the hub."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from fuseforget.errors import InputError, some_names

__all__ = [
    "Names",
    "Table",
    "find_source",
    "has_split",
    "place",
    "read_columns",
    "read_table",
    "require_column",
    "require_splits",
    "text_column",
]

Table = dict[str, list[Any]]
Names = dict[str, tuple[str, ...]]
TEXT_COLUMNS = ("text", "sentence")
SUFFIXES = (".tsv", ".csv", ".jsonl", ".parquet")
# How a split is spelled in the wild; the first that exists is taken. A test set is another split, not a spelling.
SPLIT_NAMES = {"train": ("train",), "validation": ("validation", "valid", "dev")}


def require_splits(source: str | Path, held_out: str) -> None:
    """Raise unless a source can have a training set and one that is held out."""
    path = Path(source).expanduser()
    if path.is_file() or (path / "dataset_info.json").is_file():
        raise InputError(
            str(source),
            expected=f"a directory or a hub id with the splits train and {held_out}",
            found="one table, which would be both",
        )


def has_split(source: str | Path, split: str) -> bool:
    """Whether a directory or a hub data set has a split; nothing of it is read."""
    path, names = Path(source).expanduser(), SPLIT_NAMES.get(split, (split,))
    if (path / "dataset_dict.json").is_file():
        return any((path / name).is_dir() for name in names)
    if path.exists():
        return any((path / f"{name}{suffix}").is_file() for name in names for suffix in SUFFIXES)
    import datasets

    name, _, configuration = str(source).partition(":")
    with _hub_asked(str(source)):
        return split in datasets.get_dataset_split_names(name, configuration or None)


def read_table(source: str | Path, split: str) -> Table:
    """Read a table column by column, from any of the places of :func:`fuseforget.data.read_examples`."""
    return read_columns(source, split)[0]


def place(source: str | Path, split: str) -> str:
    """What messages call a split of a source; a file has no splits."""
    return str(source) if Path(source).is_file() else f"{source} ({split})"


def read_columns(source: str | Path, split: str) -> tuple[Table, Names]:
    """A table, and the names of labels that are stored beside their numbers, by column."""
    path = find_source(source, split)
    if path is None:
        return _from_hub(str(source), split)
    if path.is_dir():
        return _from_datasets_directory(path, split)
    try:
        return _READERS[path.suffix](path), _names_in_parquet(path) if path.suffix == ".parquet" else {}
    except (ValueError, csv.Error, OSError) as error:
        found = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
        raise InputError(str(path), expected=f"a {path.suffix[1:]} table", found=found) from error


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
        others = sorted(file.name for file in path.iterdir() if file.suffix in SUFFIXES)
        found = f"{some_names(others)} alone" if others else "neither"
        action = f"To take another split in place of {split}, say so by its name." if others else ""
        raise InputError(str(path), expected=f"{wanted}, or a directory saved by datasets", found=found, action=action)
    if isinstance(source, Path) or path.suffix in SUFFIXES or str(source).startswith((".", "/", "~")):
        raise InputError(str(source), expected="a file, a directory or a hub id", found="nothing at that path")
    return None


def _read_delimited(path: Path, delimiter: str, quoting: Literal[0, 3]) -> Table:
    with path.open(encoding="utf-8-sig", newline="") as stream:  # spreadsheets write a byte order mark first
        reader = csv.reader(stream, delimiter=delimiter, quoting=quoting)
        header = next(reader, [])
        rows = list(reader)
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise ValueError(f"line {number} with {len(row)} fields where the header has {len(header)}")
    return {name: [row[i] for row in rows] for i, name in enumerate(header)}


def _read_jsonl(path: Path) -> Table:
    rows = []
    with path.open(encoding="utf-8-sig") as stream:
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

    try:
        return dict(pyarrow.parquet.read_table(path, page_checksum_verification=True).to_pydict())
    except pyarrow.ArrowException as error:  # only some of them are ValueErrors
        raise ValueError(str(error)) from error


def _names_in_parquet(path: Path) -> Names:
    """The names of labels that `datasets` puts into a file's metadata."""
    import pyarrow.parquet

    metadata = pyarrow.parquet.read_schema(path).metadata or {}
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        return {name: tuple(f["names"]) for name, f in features.items() if f.get("_type") == "ClassLabel"}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("damaged metadata of datasets") from error


_READERS = {
    # Tab-separated corpora (GLUE) do not quote: a quotation mark is part of the text.
    ".tsv": lambda path: _read_delimited(path, "\t", csv.QUOTE_NONE),
    ".csv": lambda path: _read_delimited(path, ",", csv.QUOTE_MINIMAL),
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}


def _from_datasets_directory(path: Path, split: str) -> tuple[Table, Names]:
    import datasets
    import pyarrow

    try:
        loaded = datasets.load_from_disk(str(path))
        if isinstance(loaded, datasets.DatasetDict):
            names = [name for name in SPLIT_NAMES.get(split, (split,)) if name in loaded]
            if not names:
                raise InputError(
                    str(path),
                    expected=f"a split {split!r}",
                    found=", ".join(loaded),
                    action=f"To take another split in place of {split}, say so by its name.",
                )
            loaded = loaded[names[0]]
        return _columns(loaded)
    except InputError:
        raise
    # Reading its JSON, its Arrow files and its features goes wrong in as many ways.
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pyarrow.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            str(path), expected="a directory saved by datasets", found=f"a damaged one ({type(error).__name__}: {reason:.200})"
        ) from error


def _from_hub(source: str, split: str) -> tuple[Table, Names]:
    import datasets

    name, _, configuration = source.partition(":")
    with _hub_asked(source):
        return _columns(datasets.load_dataset(name, configuration or None, split=split))


@contextmanager
def _hub_asked(source: str) -> Iterator[None]:
    import datasets

    try:
        yield
    # The client's errors are of its HTTP library's, of the system's and of its own making; each means: not to be had.
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            source,
            expected="a file, a directory, or a data set on the hub",
            found=f"no such path, and the hub answered: {reason}",
            action="Offline, give a local file or directory.",
        ) from error


def _columns(loaded: Any) -> tuple[Table, Names]:
    import datasets

    stored = {name: tuple(f.names) for name, f in loaded.features.items() if isinstance(f, datasets.ClassLabel)}
    return {name: list(loaded[name]) for name in loaded.column_names}, stored


def text_column(where: str, table: Table, wanted: str | None) -> str:
    """The column of the texts: the one that is wanted, else the first of the usual ones."""
    return require_column(where, table, wanted, TEXT_COLUMNS)


def require_column(where: str, table: Table, wanted: str | None, candidates: Sequence[str]) -> str:
    """The name of the first column that is there, or InputError with those that are."""
    names = [wanted] if wanted is not None else list(candidates)
    for name in names:
        if name in table:
            return name
    raise InputError(where, expected=f"a column {' or '.join(map(repr, names))}", found=f"columns {', '.join(table)}")
