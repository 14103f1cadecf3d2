"""A shortcut study from its data to its conclusions, step by step."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

from fuseforget.checkpoint import open_checkpoint
from fuseforget.data import ShortcutData
from fuseforget.records import Record, Run
from fuseforget.studies.shortcuts.comparisons import forecast_pairs, fuse_by_methods
from fuseforget.studies.shortcuts.conclusions import conclude, conclude_shared
from fuseforget.studies.shortcuts.data import describe, make_data, probes_of, read_texts, save_data, titles
from fuseforget.studies.shortcuts.growth import chosen_subsets, conclude_growth, measure_growth
from fuseforget.studies.shortcuts.measuring import interpolate, interpolate_shared, measure_models, walk_triangle
from fuseforget.studies.shortcuts.models import fuse_specialists, make_random, make_start, train_all, train_shared
from fuseforget.studies.shortcuts.settings import RATIO, SHARED, TRIANGLE, ShortcutStudy, base_of, left_out
from fuseforget.studies.training import Trainers
from fuseforget.sweep import Sweep
from fuseforget.workers import Here, Workers

__all__ = ["run_shortcut_study"]

Say = Callable[[str], None]


def run_shortcut_study(
    settings: ShortcutStudy, out: Path, *, workers: Workers | None = None, threads: int = 1, say: Say = lambda line: None
) -> list[Record]:
    """Run or resume the study and return all its records.

    Args:
        workers: who trains and measures; default: this process. The records are the same.
        threads: that a training computes with; see :class:`fuseforget.studies.training.Trainers`.
    """
    for line in left_out(settings):
        say(f"note: {line}")
    texts = read_texts(settings, say)
    base = open_checkpoint(base_of(settings))
    made = make_data(settings, texts, out)
    run = Run(
        out, command="study shortcuts", settings=describe(settings, texts, base), about={"titles": titles(settings)},
        # Runs of before there was a choice: all with the paper's ratio.
        assumed={"ratio": RATIO}, dropped=("pairs",), say=say,
    )  # fmt: skip
    with run:
        make_start(run, settings, texts["train"])
        data = save_data(run, settings, made)
        begin_parts(run, settings)
        trainers = Trainers(workers or Here(), threads, say)
        train_all(run, settings, data, trainers)
        make_random(run, settings)
        fuse_specialists(run, settings, say)
        sweep = Sweep(run.path / "models" / "start", probes_of(data, settings.rules), workers=workers)
        measure_models(run, settings, sweep, say)
        conclude(run, settings)
        do_parts(run, settings, data, sweep, trainers)
        return list(run.records)


def begin_parts(run: Run, settings: ShortcutStudy) -> None:
    """Record what the run is asked for, before it is done: what is missing is counted from these records."""
    about: dict[str, Record] = {
        "pairs": {"pairs": [list(pair) for pair in settings.pairs]},
        "shared": {"models": list(SHARED)},
        "triangle": {"models": list(TRIANGLE)},
        "growth": {"subsets": [list(subset) for subset in chosen_subsets(settings.rules, settings.seed)]},
        "forecast": {"pairs": [list(pair) for pair in combinations(settings.rules, 2)]},
        "methods": {},
    }
    for part in settings.parts:
        if run.find("part", name=part, **about[part]) is None:
            run.add("part", name=part, **about[part])


def do_parts(run: Run, settings: ShortcutStudy, data: dict[str, ShortcutData], sweep: Sweep, trainers: Trainers) -> None:
    """Do the parts that the run is asked for; what of them it has stays."""
    say = trainers.say
    if "pairs" in settings.parts:
        interpolate(run, settings, sweep, say)
    if "shared" in settings.parts:
        train_shared(run, settings, data, trainers)
        interpolate_shared(run, settings, sweep, say)
        conclude_shared(run)
    if "triangle" in settings.parts:
        walk_triangle(run, settings, sweep, say)
    if "growth" in settings.parts:
        measure_growth(run, settings, sweep, say)
        conclude_growth(run, settings)
    if "forecast" in settings.parts:
        forecast_pairs(run, settings, data, sweep, say)
    if "methods" in settings.parts:
        fuse_by_methods(run, settings, sweep, say)
