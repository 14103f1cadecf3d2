"""What is asked of the models of a shortcut study, and of the points between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from fuseforget.checkpoint import Checkpoint, open_checkpoint
from fuseforget.paths import path_points, points
from fuseforget.records import Run
from fuseforget.studies.shortcuts.settings import PARTS, RANDOM, SHARED, TASK, TRIANGLE, ShortcutStudy
from fuseforget.sweep import Point, Sweep

__all__ = ["interpolate", "interpolate_shared", "measure_models", "walk_triangle"]

Say = Callable[[str], None]


def measure_models(run: Run, settings: ShortcutStudy, sweep: Sweep, say: Say) -> None:
    names = (*settings.rules, "control", "full", "fused")
    sweep.measure(run, [_model(run, name, [*settings.rules, TASK]) for name in names], say=say)


def interpolate(run: Run, settings: ShortcutStudy, sweep: Sweep, say: Say) -> None:
    visited = []
    for pair in settings.pairs:
        probes = [*(name for name in pair if name != RANDOM), TASK]
        visited += path_points(_open(run, pair), points(2, settings.steps), probes, name="-".join(pair))
    sweep.measure(run, visited, say=say)


def interpolate_shared(run: Run, settings: ShortcutStudy, sweep: Sweep, say: Say) -> None:
    """Fig. 3: the two models that share a rule, asked alone and on the line between them for each pure rule and the task."""
    probes = [*PARTS["shared"], TASK]
    alone = [_model(run, name, probes) for name in SHARED]
    between = path_points(_open(run, SHARED), points(2, settings.steps), probes, name="-".join(SHARED))
    sweep.measure(run, [*alone, *between], say=say)


def walk_triangle(run: Run, settings: ShortcutStudy, sweep: Sweep, say: Say) -> None:
    """Fig. 7 and 8: three specialists over the simplex, each one's shortcut and the task."""
    grid = points(3, settings.steps)
    sweep.measure(run, path_points(_open(run, TRIANGLE), grid, [*TRIANGLE, TASK], name="-".join(TRIANGLE)), say=say)


def _open(run: Run, names: Iterable[str]) -> list[Checkpoint]:
    return [open_checkpoint(run.path / "models" / name) for name in names]


def _model(run: Run, name: str, probes: Sequence[str]) -> Point:
    return Point({"model": name}, (str(run.path / "models" / name),), (1.0,), tuple(probes))
