"""How results and progress are printed."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["print_json", "print_table", "progress_lines", "size_text"]


def print_json(value: Any) -> None:
    """Print the result as one JSON document on stdout."""
    print(json.dumps(value, indent=2, default=str))


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """Print an aligned table on stdout; plain text, so that it can be read, piped and diffed alike."""
    widths = [max(len(str(row[i])) for row in [header, *rows]) for i in range(len(header))]
    if title:
        print(title)
    for row in [header, ["-" * width for width in widths], *rows]:
        print("  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def size_text(nbytes: int) -> str:
    """A number of bytes as people read it: 1.43 MB, 2.2 GB."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= size:
            return f"{nbytes / size:.3g} {unit}"
    return f"{nbytes} bytes"


def progress_lines() -> Callable[[str], None]:
    """Return a function that prints a line of progress on stderr with the seconds since the start."""
    start = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - start:6.1f} s] {line}", file=sys.stderr, flush=True)

    return say
