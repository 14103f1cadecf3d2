"""What is asked of the models of a shortcut study, and of the points between them."""

from __future__ import annotations

from collections.abc import Callable

from fuseforget.checkpoint import open_checkpoint
from fuseforget.paths import points, walk
from fuseforget.records import Run
from fuseforget.studies.shortcuts.settings import RANDOM, TASK, ShortcutStudy
from fuseforget.sweep import Resident, record_missing

__all__ = ["interpolate", "measure_models"]

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
