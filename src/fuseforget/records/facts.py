"""What of a run is the same whenever its command is run: all but what was timed, and where it was resumed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

__all__ = ["add_timing", "facts"]

Record = dict[str, Any]
PASSING = ("timing", "resumed")  # kinds
TIMED = {"training": ("seconds",)}  # fields, by kind


class _Adds(Protocol):
    def add(self, kind: str, /, **fields: Any) -> Record: ...


def add_timing(run: _Adds, name: str, seconds: float, /, **fields: Any) -> Record:
    """Record how long something took, in a record of the kind ``timing``, which no two runs have alike.

    Args:
        name: of what took so long.
        seconds: rounded to milliseconds.
        fields: what else belongs to the speed: tokens, steps, threads.
    """
    return run.add("timing", name=name, seconds=round(seconds, 3), **fields)


def facts(records: Iterable[Record]) -> list[Record]:
    """The records that two runs of one command share, to the bit and in order.

    Left out are the kinds ``timing`` and ``resumed``, and the seconds that a ``training`` took.
    """
    return [
        {name: value for name, value in record.items() if name not in TIMED.get(record["kind"], ())}
        for record in records
        if record["kind"] not in PASSING
    ]
