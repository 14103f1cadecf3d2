"""How fast trainings were, beside what they did."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fuseforget.records import Record

__all__ = ["SPEED", "speeds"]

SPEED = ["padding", "tokens/s", "of the peak", "time"]


def speeds(records: Sequence[Record]) -> Callable[[Record], list[str]]:
    """What tells the cells of :data:`SPEED` of a training's record; empty where an earlier version did not count.

    Padding is the share of the computed tokens that only filled shorter texts up; the peak is the machine's matrix product in
    the training's precision on as many threads.
    """
    timed = {record["name"]: record for record in records if record["kind"] == "timing"}

    def cells(training: Record) -> list[str]:
        timing = {**training, **timed.get(training["name"], {})}
        rate, share = timing.get("tokens_per_second"), timing.get("peak_share")
        return [
            "" if training.get("padding") is None else f"{training['padding']:.1%}",
            "" if rate is None else f"{rate:,.0f}",
            "" if share is None else f"{share:.0%}",
            "" if "seconds" not in timing else f"{timing['seconds']:.0f} s",
        ]

    return cells
