"""What an unfinished run lacks: how many of how many, and which."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

__all__ = ["NOT_BEGUN", "counted", "missing_measurements"]

Record = dict[str, Any]
SHOWN = 6  # of what is missing, for each sort
NOT_BEGUN = "the parts that it was asked for (it stopped before it wrote them down)"


def counted(names: Sequence[str], of: int, what: str) -> list[str]:
    """In words, what is missing of a sort, the first few by name; nothing where nothing is."""
    more = ", ..." if len(names) > SHOWN else ""
    return [f"{len(names)} of {of} {what} ({', '.join(names[:SHOWN])}{more})"] if names else []


def missing_measurements(description: Record, records: Sequence[Record]) -> list[str]:
    """What a run of ``probe``, ``path`` or ``dial`` lacks of what its settings ask for."""
    settings, command = description["settings"], description["command"]
    names: dict[Any, str] = {}
    if command == "path":
        names |= {
            place: f"at {', '.join(f'{w:g}' for w in place)}" for place in _grid(len(settings["models"]), settings["steps"])
        }
    if command == "dial":
        names |= {at: f"at {at:g}" for at in settings["forget"]}
    if command != "path":
        names |= {model: f"on {model}" for model in settings.get("alone", settings["models"])}
    measured = {(_place(r), r["probe"]) for r in records if r["kind"] == "measurement"}
    wanted = [(place, probe) for place in names for probe in settings["probes"]]
    lacking = [f"{probe} {names[place]}" for place, probe in wanted if (place, probe) not in measured]
    return counted(lacking, len(wanted), "measurements")


def _place(record: Record) -> Any:
    """Where it was measured: a path's weights, a dial's setting, or a model."""
    return tuple(record["weights"]) if "weights" in record else record.get("forget", record.get("model"))


def _grid(models: int, steps: int) -> Iterator[tuple[float, ...]]:
    """The points of a line or a simplex, in the order in which they are measured."""

    def parts(total: int, count: int) -> Iterator[tuple[int, ...]]:
        if count == 1:
            yield (total,)
            return
        for first in range(total, -1, -1):
            yield from ((first, *rest) for rest in parts(total - first, count - 1))

    return (tuple(part / steps for part in whole) for whole in parts(steps, models))
