"""What the makers of data sets share: random streams, and rows as JSONL."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["generator", "write_json", "write_rows"]


def generator(seed: int, *names: str) -> np.random.Generator:
    """A stream of its own for each use, so that no draw depends on how many another made."""
    return np.random.default_rng([seed, *"/".join(names).encode()])


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line."""
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n", encoding="utf-8")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a description that people read too."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
