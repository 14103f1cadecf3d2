"""Points on lines and simplices between models, and the probes along them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fuseforget.checkpoint import Checkpoint, open_checkpoint
from fuseforget.errors import InputError
from fuseforget.fuse import require_no_statistics
from fuseforget.knowledge import Probe
from fuseforget.methods import get_method
from fuseforget.records import Record
from fuseforget.sweep import Point, as_probes, describe_inputs, describe_models, describe_sources, record_points, require_aligned
from fuseforget.workers import Workers

__all__ = ["path", "path_points", "points"]


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
    base: str | Path | None = None,
    seed: int = 0,
    exact: bool = False,
    compiled: bool = False,
    workers: Workers | None = None,
    say: Callable[[str], None] = lambda line: None,
    **parameters: Any,
) -> list[Record]:
    """Measure every probe at every point between two models (a line) or three (a triangle).

    A point is what ``fuse`` would write as float32 with the point's weights, to the bit; nothing is written.

    Args:
        models: the corners, classifiers of one architecture and tokenizer.
        probes: a probes file, or probes.
        out: a run to keep the measurements in; run again, it resumes where it stopped.
        steps: equal steps along an edge (10: 11 points on a line).
        method: a name in :data:`fuseforget.methods.METHODS`, of a method that takes weights and needs no statistics.
        base: the pretrained model, where the method takes one.
        seed: of random methods; every point draws the same numbers, so that only the weights differ along a path.
        exact: compute in float32 throughout.
        compiled: have torch compile the forward pass (see :class:`fuseforget.sweep.Sweep`).
        workers: who measures (see :func:`fuseforget.workers.open_workers`); default: this process. The records are the same.
        parameters: of the method, as ``fuse`` takes them.

    Returns:
        A record a measurement, with the point's ``weights``.

    Raises:
        InputError: models, a method, a base or parameters that cannot be used.
    """
    asked = as_probes(probes)
    grid = points(len(models), steps)
    _check_method(method, len(models), base is not None)
    checkpoints = [open_checkpoint(model) for model in models]
    origin = None if base is None else open_checkpoint(base)
    require_aligned(checkpoints)
    settings = {
        **describe_inputs(checkpoints, asked), "steps": steps, "method": method, "exact": exact,
        # What is not given is not written down, as in runs of before it could be.
        **_given(compiled=compiled, base=None if origin is None else describe_models([origin]), parameters=parameters, seed=seed),
    }  # fmt: skip
    name = " - ".join(str(model) for model in models)
    visited = path_points(
        checkpoints, grid, [p.name for p in asked], name=name, method=method, base=origin, seed=seed, parameters=parameters
    )
    return record_points(
        out, visited, asked, command="path", settings=settings, about=describe_sources(probes), template=models[0], exact=exact,
        compiled=compiled, workers=workers, say=say,
    )  # fmt: skip


def _check_method(method: str, models: int, base: bool) -> None:
    """Raise InputError for a method along whose weights nothing moves, or whose inputs are not those given."""
    row = get_method(method)
    require_no_statistics(method)
    if row.weights == "no":
        raise InputError(
            f"path by {method}", expected="a method that takes weights, which are what changes along a path",
            found="one that takes all models alike", action="Fuse the models once and probe the result.",
        )  # fmt: skip
    row.check_models(models)
    row.check_base(base)


def _given(**settings: Any) -> Record:
    return {name: value for name, value in settings.items() if value}


def path_points(
    endpoints: Sequence[Checkpoint],
    grid: Sequence[tuple[float, ...]],
    probes: Sequence[str],
    *,
    name: str,
    method: str = "average",
    base: Checkpoint | None = None,
    seed: int = 0,
    parameters: Mapping[str, Any] | None = None,
) -> list[Point]:
    """The points of a path that records call ``name``, to be asked for probes."""
    models, origin = tuple(str(one.path) for one in endpoints), None if base is None else str(base.path)
    return [
        Point({"path": name, "weights": list(weights)}, models, weights, tuple(probes), method, origin, seed, parameters or {})
        for weights in grid
    ]
