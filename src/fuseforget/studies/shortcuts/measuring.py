"""What is asked of the models of a shortcut study, and of the points between them."""

from __future__ import annotations

from collections.abc import Callable

from fuseforget.checkpoint import open_checkpoint
from fuseforget.paths import points, walk
from fuseforget.records import Run
from fuseforget.studies.shortcuts.settings import PARTS, RANDOM, SHARED, TASK, TRIANGLE, ShortcutStudy
from fuseforget.sweep import Resident, record_missing

__all__ = ["interpolate", "interpolate_shared", "measure_models", "walk_triangle"]

Say = Callable[[str], None]


def measure_models(run: Run, settings: ShortcutStudy, resident: Resident, say: Say) -> None:
    probes = [*settings.rules, TASK]
    for name in (*settings.rules, "control", "full", "fused"):
        if any(run.find("measurement", model=name, probe=probe) is None for probe in probes):
            resident.set_point([open_checkpoint(run.path / "models" / name)], [1.0])
            record_missing(run, resident, probes, say=say, model=name)


def interpolate(run: Run, settings: ShortcutStudy, resident: Resident, say: Say) -> None:
    for pair in settings.pairs:
        endpoints = [open_checkpoint(run.path / "models" / name) for name in pair]
        probes = [*(name for name in pair if name != RANDOM), TASK]
        grid = points(2, settings.steps)
        walk(run, resident, endpoints, grid, probes, name="-".join(pair), say=say)


def interpolate_shared(run: Run, settings: ShortcutStudy, resident: Resident, say: Say) -> None:
    """Fig. 3: the two models that share a rule, asked alone and on the line between them for each pure rule and the task."""
    probes = [*PARTS["shared"], TASK]
    endpoints = {name: open_checkpoint(run.path / "models" / name) for name in SHARED}
    for name, endpoint in endpoints.items():
        if any(run.find("measurement", model=name, probe=probe) is None for probe in probes):
            resident.set_point([endpoint], [1.0])
            record_missing(run, resident, probes, say=say, model=name)
    walk(run, resident, list(endpoints.values()), points(2, settings.steps), probes, name="-".join(SHARED), say=say)


def walk_triangle(run: Run, settings: ShortcutStudy, resident: Resident, say: Say) -> None:
    """Fig. 7 and 8: three specialists over the simplex, each one's shortcut and the task."""
    endpoints = [open_checkpoint(run.path / "models" / name) for name in TRIANGLE]
    walk(run, resident, endpoints, points(3, settings.steps), [*TRIANGLE, TASK], name="-".join(TRIANGLE), say=say)
