"""Records as lines, each with a checksum, and what a crash or later damage made of them."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuseforget.errors import InputError

__all__ = ["Lines", "encode", "load"]

Record = dict[str, Any]
START = '{{"crc":"{:08x}",'
PREFIX = len(START.format(0))


@dataclass(frozen=True)
class Lines:
    """The whole lines of a file of records.

    Attributes:
        records: of the lines, in order.
        size: how many bytes hold them.
        ended: whether the last of them has its newline; a crash may have torn off just that.
        torn: whether something that is no whole line follows.
    """

    records: list[Record] = field(default_factory=list)
    size: int = 0
    ended: bool = True
    torn: bool = False


def encode(record: Record) -> bytes:
    """A record's line: JSON whose first member is the checksum of the rest."""
    body = json.dumps(record, separators=(",", ":"), allow_nan=False)
    return f"{START.format(zlib.crc32(body.encode()))}{body[1:]}\n".encode()


def load(file: Path) -> Lines:
    """Read a file of records; none where there is no file.

    What follows the last whole line is what a crash tore, since each line is synced before the next one begins.

    Raises:
        InputError: something else than a file, or a damaged line before the last one.
    """
    if not file.exists():
        return Lines()
    if not file.is_file():
        raise InputError(str(file), expected="a file of records", found="a directory" if file.is_dir() else "no regular file")
    *lines, tail = file.read_bytes().split(b"\n")
    records: list[Record] = []
    for number, line in enumerate(lines, 1):
        record = _decode(line)
        if record is None:
            if number < len(lines) or tail:
                raise InputError(f"{file}, line {number}", expected="a record with its checksum", found="a damaged line")
            return Lines(records, sum(map(len, lines[:-1])) + len(records), torn=True)
        records.append(record)
    size = sum(map(len, lines)) + len(lines)
    last = _decode(tail)
    if last is not None:
        return Lines([*records, last], size + len(tail), ended=False)
    return Lines(records, size, torn=bool(tail))


def _decode(line: bytes) -> Record | None:
    """The record of a line, or None where the line is not whole."""
    body = b"{" + line[PREFIX:]
    if not line.startswith(START.format(zlib.crc32(body)).encode()):
        return None
    record = json.loads(body)
    return record if isinstance(record, dict) and "kind" in record else None
