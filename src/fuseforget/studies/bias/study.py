"""A study of social bias from its data to its conclusions, step by step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fuseforget.checkpoint import Checkpoint, open_checkpoint
from fuseforget.data import AttributedExamples
from fuseforget.paths import points
from fuseforget.records import Record, Run
from fuseforget.studies.bias.answers import ask_model, ask_path, grouped, probes_of
from fuseforget.studies.bias.baselines import erase_attributes
from fuseforget.studies.bias.conclusions import CENTRE, choose, conclude, measure_answers
from fuseforget.studies.bias.data import Subsets, describe, read_splits_of, record_data, save_splits
from fuseforget.studies.bias.models import at_ratio, fuse_chosen, make_start, model_path, seeds_of, train_biased, train_full
from fuseforget.studies.bias.settings import BiasStudy, base_of
from fuseforget.sweep import Resident

__all__ = ["run_bias_study"]

SETS = ("validation", "test")
HALF = [(0.5, 0.5)]
Say = Callable[[str], None]


def run_bias_study(settings: BiasStudy, out: Path, *, say: Say = lambda line: None) -> list[Record]:
    """Run or resume the study and return all its records."""
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
        for seed in seeds_of(settings):
            make_start(run, settings, splits, tokens, seed)
            for attribute in settings.pair:
                train_biased(run, settings, subsets, seed, attribute, settings.ratio, say)
            train_full(run, settings, subsets, seed, say)
        resident = Resident(model_path(run, settings.seed, "start"), sets)
        for seed in seeds_of(settings):
            ask_models(run, settings, resident, seed, say)
        measure_answers(run, settings, splits)
        choose(run, settings)
        ask_fused(run, settings, resident, say)
        do_parts(run, settings, subsets, splits, resident, say)
        measure_answers(run, settings, splits)
        conclude(run, settings, splits)
        return list(run.records)


def begin(run: Run, settings: BiasStudy) -> None:
    """Record what the run is asked for, before it is done: what is missing is counted from these records."""
    asked = {"seeds": list(seeds_of(settings)), "parts": list(settings.parts)}
    before = [r for r in run.records if r["kind"] == "asked"]
    if not before or {key: before[-1][key] for key in asked} != asked:
        run.add("asked", **asked)


def ask_models(run: Run, settings: BiasStudy, resident: Resident, seed: int, say: Say) -> None:
    """The biased and full models, and the path between the biased ones."""
    for name in (*settings.pair, "full"):
        ask_model(run, resident, open_checkpoint(model_path(run, seed, name)), SETS, say, seed=seed, model=name)
    ask_path(run, resident, _checkpoints(run, seed, settings.pair), points(2, settings.steps), SETS, say, seed=seed)


def ask_fused(run: Run, settings: BiasStudy, resident: Resident, say: Say) -> None:
    """Write each seed's fused model, at the chosen weight, and ask it."""
    for seed in seeds_of(settings):
        chosen = run.find("choice", seed=seed)
        assert chosen is not None
        fuse_chosen(run, settings, seed, chosen["nearest"])
        ask_model(run, resident, open_checkpoint(model_path(run, seed, "fused")), SETS, say, seed=seed, model="fused")


def do_parts(
    run: Run, settings: BiasStudy, subsets: Subsets, splits: Mapping[str, AttributedExamples], resident: Resident, say: Say
) -> None:
    """Do the parts that the run is asked for; what of them it has stays."""
    for part in settings.parts:
        for seed in seeds_of(settings):
            if part == "baselines":
                erase_attributes(run, settings, subsets, splits, seed, say)
            elif part == "ratios":
                vary_ratio(run, settings, subsets, resident, seed, say)
            else:
                walk_triangle(run, settings, subsets, resident, seed, say)


def vary_ratio(run: Run, settings: BiasStudy, subsets: Subsets, resident: Resident, seed: int, say: Say) -> None:
    """Biased models at the other ratios, and their average."""
    for ratio in settings.ratios:
        names = [at_ratio(attribute, ratio) for attribute in settings.pair]
        for attribute, name in zip(settings.pair, names, strict=True):
            train_biased(run, settings, subsets, seed, attribute, ratio, say)
            ask_model(run, resident, open_checkpoint(model_path(run, seed, name)), ["test"], say, seed=seed, model=name)
        ask_path(run, resident, _checkpoints(run, seed, names), HALF, ["test"], say, seed=seed)


def walk_triangle(run: Run, settings: BiasStudy, subsets: Subsets, resident: Resident, seed: int, say: Say) -> None:
    """A third biased model, and the averages of all three over the simplex."""
    corners = settings.attributes[:3]
    train_biased(run, settings, subsets, seed, corners[2], settings.ratio, say)
    ends = _checkpoints(run, seed, corners)
    ask_model(run, resident, ends[corners[2]], ["test"], say, seed=seed, model=corners[2])
    grid = points(3, settings.triangle_steps)
    ask_path(run, resident, ends, [*grid, *([CENTRE] if CENTRE not in grid else [])], ["test"], say, seed=seed)


def _checkpoints(run: Run, seed: int, names: Sequence[str]) -> dict[str, Checkpoint]:
    return {name: open_checkpoint(model_path(run, seed, name)) for name in names}
