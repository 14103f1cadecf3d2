"""A study of social bias from its data to its conclusions, step by step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fuseforget.checkpoint import Checkpoint, open_checkpoint
from fuseforget.data import AttributedExamples
from fuseforget.paths import points
from fuseforget.records import Record, Run
from fuseforget.studies.bias.answers import ask_models_on, ask_path, grouped, probes_of
from fuseforget.studies.bias.baselines import erase_attributes
from fuseforget.studies.bias.conclusions import CENTRE, choose, conclude, measure_answers
from fuseforget.studies.bias.data import Subsets, describe, read_splits_of, record_data, save_splits
from fuseforget.studies.bias.models import at_ratio, biased, full, fuse_chosen, make_start, model_path, seeds_of
from fuseforget.studies.bias.settings import BiasStudy, base_of
from fuseforget.studies.training import Trainers
from fuseforget.sweep import Sweep
from fuseforget.workers import Here, Workers

__all__ = ["run_bias_study"]

SETS = ("validation", "test")
HALF = [(0.5, 0.5)]
Say = Callable[[str], None]


def run_bias_study(
    settings: BiasStudy, out: Path, *, workers: Workers | None = None, threads: int = 1, say: Say = lambda line: None
) -> list[Record]:
    """Run or resume the study and return all its records.

    Args:
        workers: who trains and measures; default: this process. The records are the same.
        threads: that a training computes with; see :class:`fuseforget.studies.training.Trainers`.
    """
    splits, tokens = read_splits_of(settings, say)
    base = open_checkpoint(base_of(settings))
    subsets = Subsets(settings, splits["train"], say)
    # Data that do not allow a training set, or leave a metric undefined, are refused before there is a run.
    subsets.check()
    sets = probes_of(splits, SETS)
    for name in SETS:
        for attribute in settings.attributes:
            grouped(splits[name], attribute)
    run = Run(out, command="study bias", settings=describe(settings, splits, base), say=say)
    with run:
        save_splits(run, splits)
        begin(run, settings)
        record_data(run, settings, subsets)
        trainers = Trainers(workers or Here(), threads, say)
        train_models(run, settings, subsets, splits, tokens, trainers)
        sweep = Sweep(model_path(run, settings.seed, "start"), sets, workers=workers)
        ask_models(run, settings, sweep, say)
        measure_answers(run, settings, splits)
        choose(run, settings)
        ask_fused(run, settings, sweep, say)
        do_parts(run, settings, subsets, splits, sweep, trainers)
        measure_answers(run, settings, splits)
        conclude(run, settings, splits)
        return list(run.records)


def begin(run: Run, settings: BiasStudy) -> None:
    """Record what the run is asked for, before it is done: what is missing is counted from these records."""
    asked = {"seeds": list(seeds_of(settings)), "parts": list(settings.parts)}
    before = [r for r in run.records if r["kind"] == "asked"]
    if not before or {key: before[-1][key] for key in asked} != asked:
        run.add("asked", **asked)


def train_models(
    run: Run, settings: BiasStudy, subsets: Subsets, splits: Mapping[str, AttributedExamples], tokens: tuple[str, ...],
    trainers: Trainers,
) -> None:  # fmt: skip
    """The biased and full models of all seeds."""
    jobs = []
    for seed in seeds_of(settings):
        make_start(run, settings, splits, tokens, seed)
        jobs += [biased(settings, subsets, run, seed, attribute, settings.ratio) for attribute in settings.pair]
        jobs.append(full(settings, subsets, run, seed))
    trainers.train(run, jobs)


def ask_models(run: Run, settings: BiasStudy, sweep: Sweep, say: Say) -> None:
    """The biased and full models, and the path between the biased ones."""
    for seed in seeds_of(settings):
        ask_named(run, sweep, seed, (*settings.pair, "full"), SETS, say)
        ask_path(run, sweep, _checkpoints(run, seed, settings.pair), points(2, settings.steps), SETS, say, seed=seed)


def ask_fused(run: Run, settings: BiasStudy, sweep: Sweep, say: Say) -> None:
    """Write each seed's fused model, at the chosen weight, and ask it."""
    for seed in seeds_of(settings):
        chosen = run.find("choice", seed=seed)
        assert chosen is not None
        fuse_chosen(run, settings, seed, chosen["nearest"])
        ask_named(run, sweep, seed, ["fused"], SETS, say)


def do_parts(
    run: Run, settings: BiasStudy, subsets: Subsets, splits: Mapping[str, AttributedExamples], sweep: Sweep, trainers: Trainers
) -> None:
    """Do the parts that the run is asked for; what of them it has stays."""
    for part in settings.parts:
        if part == "baselines":
            for seed in seeds_of(settings):
                erase_attributes(run, settings, subsets, splits, seed, trainers.say)
        elif part == "ratios":
            vary_ratio(run, settings, subsets, sweep, trainers)
        else:
            walk_triangle(run, settings, subsets, sweep, trainers)


def vary_ratio(run: Run, settings: BiasStudy, subsets: Subsets, sweep: Sweep, trainers: Trainers) -> None:
    """Biased models at the other ratios, and their average."""
    cases = [(seed, ratio) for seed in seeds_of(settings) for ratio in settings.ratios]
    trainers.train(run, [biased(settings, subsets, run, seed, a, ratio) for seed, ratio in cases for a in settings.pair])
    for seed, ratio in cases:
        names = [at_ratio(attribute, ratio) for attribute in settings.pair]
        ask_named(run, sweep, seed, names, ["test"], trainers.say)
        ask_path(run, sweep, _checkpoints(run, seed, names), HALF, ["test"], trainers.say, seed=seed)


def walk_triangle(run: Run, settings: BiasStudy, subsets: Subsets, sweep: Sweep, trainers: Trainers) -> None:
    """A third biased model, and the averages of all three over the simplex."""
    corners, grid = settings.attributes[:3], points(3, settings.triangle_steps)
    trainers.train(run, [biased(settings, subsets, run, seed, corners[2], settings.ratio) for seed in seeds_of(settings)])
    for seed in seeds_of(settings):
        ask_named(run, sweep, seed, [corners[2]], ["test"], trainers.say)
        visited = [*grid, *([CENTRE] if CENTRE not in grid else [])]
        ask_path(run, sweep, _checkpoints(run, seed, corners), visited, ["test"], trainers.say, seed=seed)


def ask_named(run: Run, sweep: Sweep, seed: int, names: Sequence[str], sets: Sequence[str], say: Say) -> None:
    """Models of a seed, alone."""
    ask_models_on(run, sweep, {name: model_path(run, seed, name) for name in names}, sets, say, seed=seed)


def _checkpoints(run: Run, seed: int, names: Sequence[str]) -> dict[str, Checkpoint]:
    return {name: open_checkpoint(model_path(run, seed, name)) for name in names}
