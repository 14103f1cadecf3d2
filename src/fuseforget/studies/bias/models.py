"""The models of a study of bias: starts, biased and full models, and the same with an attribute erased."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from fuseforget.data import AttributedExamples, Examples
from fuseforget.fuse import fuse
from fuseforget.models import prepare_start
from fuseforget.records import Run
from fuseforget.studies.bias.data import Subsets
from fuseforget.studies.bias.settings import BiasStudy, base_of
from fuseforget.studies.training import Job, combine

__all__ = ["at_ratio", "biased", "full", "fuse_chosen", "make_start", "model_path", "seeds_of"]


def seeds_of(settings: BiasStudy) -> range:
    """The seeds of subsets, heads and the order of training."""
    return range(settings.seed, settings.seed + settings.seeds)


def model_path(run: Run, seed: int, name: str) -> Path:
    return run.path / "models" / f"seed{seed}" / name


def at_ratio(attribute: str, ratio: float) -> str:
    """The name of the model biased in an attribute with another ratio than the study's."""
    return f"{attribute}@{ratio:g}"


def make_start(
    run: Run, settings: BiasStudy, splits: Mapping[str, AttributedExamples], tokens: tuple[str, ...], seed: int
) -> None:
    """Write what the models of a seed start from, unless the run has it."""
    start = model_path(run, seed, "start")
    if not start.is_dir():
        prepare_start(base_of(settings), start, tokens=tokens, label_names=splits["train"].examples.label_names, seed=seed)


def biased(settings: BiasStudy, subsets: Subsets, run: Run, seed: int, attribute: str, ratio: float) -> Job:
    """The training of a model that is biased in an attribute."""
    name = attribute if ratio == settings.ratio else at_ratio(attribute, ratio)
    return _job(settings, run, seed, name, subsets(attribute, ratio, seed).examples)


def full(settings: BiasStudy, subsets: Subsets, run: Run, seed: int) -> Job:
    """The training of a model on the training sets of both biased models together."""
    sets = [subsets(attribute, settings.ratio, seed).examples for attribute in settings.pair]
    return _job(settings, run, seed, "full", combine(sets))


def _job(settings: BiasStudy, run: Run, seed: int, name: str, examples: Examples) -> Job:
    return Job(f"seed{seed}/{name}", examples, replace(settings.train, seed=seed), start=model_path(run, seed, "start"))


def fuse_chosen(run: Run, settings: BiasStudy, seed: int, weight: float) -> None:
    """Write the fused model at the second model's weight, unless the run has it."""
    out = model_path(run, seed, "fused")
    if not out.is_dir():
        fuse([model_path(run, seed, name) for name in settings.pair], out, weights=[1 - weight, weight])
