"""Records in memory that are found by kind and fields without looking at all of them."""

from __future__ import annotations

from typing import Any

__all__ = ["Found"]

Record = dict[str, Any]
# What a measurement found out; the rest of its fields say what was measured where.
RESULTS = {"value", "low", "high", "n", "values", "answers", "confidences", "cut"}


class Found:
    """Records in order, and an index of them for each combination of kind and fields that was asked for.

    Attributes:
        records: in order; what is appended is found from then on. A record that is in it is not changed.
    """

    def __init__(self) -> None:
        self.records: list[Record] = []
        self._kinds: dict[str, list[Record]] = {}
        self._sorted = 0  # so many records are in the lists of their kinds
        self._tables: dict[tuple[str, tuple[str, ...]], _Table] = {}

    def find(self, kind: str, /, **fields: Any) -> Record | None:
        """Return the first record of a kind whose fields have these values, or None."""
        for record in self.records[self._sorted :]:
            self._kinds.setdefault(record["kind"], []).append(record)
        self._sorted = len(self.records)
        names = tuple(sorted(fields))
        table = self._tables.setdefault((kind, names), _Table(names))
        return table.first(self._kinds.get(kind, []), fields)

    def measured(self, record: Record) -> Record | None:
        """The measurement that is there of what a new one measures; None of other kinds.

        Raises:
            RuntimeError: it found something else.
        """
        if record["kind"] != "measurement":
            return None
        where = {name: value for name, value in record.items() if name not in RESULTS and name != "kind"}
        found = self.find("measurement", **where)
        if found is not None and found != record:
            raise RuntimeError(f"measured twice, with other results: {where}")
        return found


class _Table:
    """The first record of each combination of values of some fields, of the records of one kind that it has seen."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names
        self._seen = 0
        self._first: dict[tuple[Any, ...], Record] = {}

    def first(self, records: list[Record], fields: Record) -> Record | None:
        for record in records[self._seen :]:
            self._first.setdefault(self._key(record), record)
        self._seen = len(records)
        return self._first.get(self._key(fields))

    def _key(self, record: Record) -> tuple[Any, ...]:
        return tuple(_hashable(record.get(name)) for name in self._names)


def _hashable(value: Any) -> Any:
    """Something that is equal where the values are; a list is no tuple."""
    if isinstance(value, list | tuple):
        return (type(value).__name__, *map(_hashable, value))
    if isinstance(value, dict):
        return ("dict", frozenset((name, _hashable(inner)) for name, inner in value.items()))
    return value
