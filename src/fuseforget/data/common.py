"""What the makers of data sets share: random streams, and rows as JSONL."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from fuseforget.errors import InputError

__all__ = ["generator", "read_described", "write_json", "write_rows"]

T = TypeVar("T")


def generator(seed: int, *names: str) -> np.random.Generator:
    """A stream of its own for each use, so that no draw depends on how many another made."""
    return np.random.default_rng([seed, *"/".join(names).encode()])


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line."""
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n", encoding="utf-8")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a description that people read too."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def read_described(directory: str | Path, description: str, kind: str, read: Callable[[Path, dict[str, Any]], T]) -> T:
    """Read a data set that `fuseforget data` wrote as a directory, from its description on.

    Args:
        description: the description's file name.
        kind: of data set, as the command calls it.
        read: makes the data set of the directory and the description.

    Raises:
        InputError: no such data set, a description of something else, and what ``read`` raises.
    """
    path = Path(directory)
    if not (path / description).is_file():
        expected = f"a data set made by `fuseforget data {kind}` ({description})"
        raise InputError(str(directory), expected=expected, found="no such file")
    try:
        return read(path, json.loads((path / description).read_text(encoding="utf-8")))
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        expected = f"the description of a {kind} data set"
        raise InputError(str(path / description), expected=expected, found=repr(error)) from error
