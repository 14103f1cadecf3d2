"""A run of measurements at points: what the commands ``path`` and ``dial`` have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from fuseforget.knowledge import Probe
from fuseforget.records import Record, run_or_memory
from fuseforget.sweep.points import Point, Sweep
from fuseforget.workers import Workers

__all__ = ["record_points"]


def record_points(
    out: str | Path | None, points: Sequence[Point], probes: Sequence[Probe], *, command: str, settings: Record, about: Record,
    template: str | Path, exact: bool = False, compiled: bool = False, workers: Workers | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[Record]:  # fmt: skip
    """Measure what a run does not have yet of points, and return all its measurements.

    Args:
        out: the run's directory; None: nothing is kept.
        points: each with the names of the probes that are asked there.
        command, settings, about: as :class:`fuseforget.records.Run` takes them.
        template, exact, compiled, workers: as :class:`fuseforget.sweep.Sweep` takes them.

    Raises:
        InputError: the directory holds something else or is being written to; a point that cannot be fused.
    """
    with run_or_memory(out, command=command, settings=settings, about=about, say=say) as run:
        sweep = Sweep(template, probes, exact=exact, compiled=compiled, workers=workers)
        for note in sweep.measure(run, points, say=say):
            say(f"note: {note}")
        return [record for record in run.records if record["kind"] == "measurement"]
