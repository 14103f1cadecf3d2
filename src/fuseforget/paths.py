"""Points on lines and simplices between models, and the probes along them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from fuseforget.checkpoint import Checkpoint, open_checkpoint
from fuseforget.errors import InputError
from fuseforget.knowledge import Probe
from fuseforget.methods import get_method
from fuseforget.records import Record, Run, run_or_memory
from fuseforget.sweep import Resident, as_probes, describe_inputs, describe_sources, record_missing, require_aligned

__all__ = ["path", "points", "walk"]


def points(models: int, steps: int) -> list[tuple[float, ...]]:
    """Weights of a grid on the line (2 models) or the simplex (3 or more) with ``steps`` equal steps an edge.

    A line has steps + 1 points, a triangle (steps + 1)(steps + 2) / 2; all sum to one; the first model's end comes first.
    """
    if models < 2:
        raise InputError("path", expected="two or more models", found=str(models))
    if steps < 1:
        raise InputError("steps", expected="1 or more", found=str(steps))

    def parts(total: int, count: int) -> list[tuple[int, ...]]:
        if count == 1:
            return [(total,)]
        return [(first, *rest) for first in range(total, -1, -1) for rest in parts(total - first, count - 1)]

    return [tuple(part / steps for part in whole) for whole in parts(steps, models)]


def path(
    models: Sequence[str | Path],
    probes: str | Path | Sequence[Probe],
    out: str | Path | None = None,
    *,
    steps: int = 10,
    method: str = "average",
    exact: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> list[Record]:
    """Measure every probe at every point between two models (a line) or three (a triangle).

    Args:
        models: the corners, classifiers of one architecture and tokenizer.
        probes: a probes file, or probes.
        out: a run to keep the measurements in; run again, it resumes where it stopped.
        steps: equal steps along an edge (10: 11 points on a line).

    Returns:
        A record a measurement, with the point's ``weights``.
    """
    asked = as_probes(probes)
    grid = points(len(models), steps)
    get_method(method).check_models(len(models))
    checkpoints = [open_checkpoint(model) for model in models]
    require_aligned(checkpoints)
    settings = {**describe_inputs(checkpoints, asked), "steps": steps, "method": method, "exact": exact}
    name = " - ".join(str(model) for model in models)
    with run_or_memory(out, command="path", settings=settings, about=describe_sources(probes), say=say) as run:
        resident = Resident(models[0], asked, exact=exact)
        walk(run, resident, checkpoints, grid, [p.name for p in asked], name=name, method=method, say=say)
        return [record for record in run.records if record["kind"] == "measurement"]


def walk(
    run: Run,
    resident: Resident,
    endpoints: Sequence[Checkpoint],
    grid: Sequence[tuple[float, ...]],
    probes: Sequence[str],
    *,
    name: str,
    method: str = "average",
    say: Callable[[str], None],
) -> None:
    """Visit the points in order and record the probes that are missing there."""
    for weights in grid:
        where = {"path": name, "weights": list(weights)}
        if all(run.find("measurement", probe=probe, **where) is not None for probe in probes):
            continue
        resident.set_point(endpoints, weights, method)
        record_missing(run, resident, probes, say=say, **where)
