"""A divided corpus as a directory: JSONL for each part, and ``memorization.json``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fuseforget.data.canaries import Canary, CanaryFormat
from fuseforget.data.common import read_described, write_json, write_rows
from fuseforget.data.memorization import MemorizationData
from fuseforget.data.rows import Rows
from fuseforget.data.tables import Table, read_table
from fuseforget.errors import InputError

__all__ = ["is_memorization_data", "load_memorization", "save_memorization"]

DESCRIPTION = "memorization.json"


def save_memorization(data: MemorizationData, directory: Path) -> None:
    """Write each part as JSONL (ids, documents, and text where a row is one article) and ``memorization.json``."""
    for name, part in data.parts.items():
        write_rows(directory / f"{name}.jsonl", _lines(part, data.texts.get(name)))
    formats: list[CanaryFormat] = []
    for canary in data.canaries:
        formats += [] if canary.format in formats else [canary.format]
    description = {
        "kind": "memorization",
        "settings": dict(data.settings),
        "counts": dict(data.counts),
        "formats": [vars(form) for form in formats],
        "canaries": [{**vars(canary), "format": formats.index(canary.format)} for canary in data.canaries],
        "parts": {
            name: {"rows": len(part), "tokens": part.tokens, "cut": part.cut, "rest": part.rest, "sha256": part.sha256}
            for name, part in data.parts.items()
        },
    }
    write_json(directory / DESCRIPTION, description)


def is_memorization_data(directory: str | Path) -> bool:
    """Whether a directory holds a corpus that :func:`save_memorization` wrote."""
    return (Path(directory) / DESCRIPTION).is_file()


def load_memorization(directory: str | Path) -> MemorizationData:
    """Read what :func:`save_memorization` wrote.

    Raises:
        InputError: no such data set, or files that are not those that were written.
    """
    return read_described(directory, DESCRIPTION, "memorization", _read)


def _lines(part: Rows, texts: tuple[str, ...] | None) -> Iterator[dict[str, Any]]:
    for i, (ids, documents) in enumerate(zip(part.ids, part.documents, strict=True)):
        yield {"ids": ids, "documents": documents, **({} if texts is None else {"text": texts[i]})}


def _read(path: Path, about: Mapping[str, Any]) -> MemorizationData:
    tables = {name: read_table(path / f"{name}.jsonl", "") for name in about["parts"]}
    parts = {name: _read_part(path / f"{name}.jsonl", tables[name], part) for name, part in about["parts"].items()}
    texts = {} if about["settings"]["block"] is not None else {n: tuple(t.get("text", ())) for n, t in tables.items()}
    canaries = _read_canaries(about)
    return MemorizationData(parts, canaries, about["settings"], about["counts"], texts)


def _read_canaries(about: Mapping[str, Any]) -> tuple[Canary, ...]:
    """The canaries, each with the format that it refers to."""
    formats = [CanaryFormat(form["template"], {k: tuple(v) for k, v in form["slots"].items()}) for form in about["formats"]]
    canaries = [{**canary, "fill": tuple(canary["fill"])} for canary in about["canaries"]]
    return tuple(Canary(**{**canary, "format": formats[canary["format"]]}) for canary in canaries)


def _read_part(file: Path, table: Table, about: Mapping[str, Any]) -> Rows:
    try:
        ids, documents = (tuple(map(tuple, table.get(name, ()))) for name in ("ids", "documents"))
        part = Rows(ids, documents, cut=about["cut"], rest=about["rest"])
        found = part.sha256
    except (TypeError, ValueError):  # InputError too: numbers of rows that differ, or rows that are no lists of numbers
        found = ""
    if found != about["sha256"]:
        raise InputError(
            str(file), expected=f"what {DESCRIPTION} was written with", found="other rows", action="Make the data set again."
        )
    return part
