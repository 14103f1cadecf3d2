"""The models of a shortcut study: specialists, control, full, random and fused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fuseforget.checkpoint import open_checkpoint
from fuseforget.data import Examples, ShortcutData, ShortcutSettings
from fuseforget.fuse import fuse
from fuseforget.models import prepare_start, random_like
from fuseforget.records import Run
from fuseforget.studies.shortcuts.settings import RANDOM, SHARED, ShortcutStudy, base_of
from fuseforget.studies.training import Job, Trainers, combine, result_of

__all__ = ["fuse_specialists", "make_random", "make_start", "train_all", "train_shared"]

DISTANCES_OF = ("st", "op", "or", "tic")  # the models whose distances the random model has (appendix C.2)
Say = Callable[[str], None]


def make_start(run: Run, settings: ShortcutStudy, train_set: Examples) -> None:
    start = run.path / "models" / "start"
    if start.is_dir():
        return
    prepare_start(
        base_of(settings), start, tokens=ShortcutSettings().tokens, label_names=train_set.label_names, seed=settings.seed
    )


def train_all(run: Run, settings: ShortcutStudy, data: dict[str, ShortcutData], trainers: Trainers) -> None:
    trainers.train(run, [_knowing(rule, settings, data) for rule in settings.rules])
    longest = max(result_of(run, rule)["epochs"] for rule in settings.rules)
    control = replace(settings.train, max_epochs=longest, min_epochs=longest)
    combined = combine([data[rule].train for rule in settings.rules])
    full = replace(settings.train, max_epochs=settings.full_epochs, min_epochs=settings.full_epochs)
    trainers.train(run, [Job("control", data["control"].train, control), Job("full", combined, full)])


def train_shared(run: Run, settings: ShortcutStudy, data: dict[str, ShortcutData], trainers: Trainers) -> None:
    """Train the two models of Fig. 3 as the specialists are, each until it knows its own mixture of two rules."""
    trainers.train(run, [_knowing(name, settings, data) for name in SHARED])


def _knowing(name: str, settings: ShortcutStudy, data: dict[str, ShortcutData]) -> Job:
    return Job(name, data[name].train, settings.train, monitor=data[name].synthetic)


def make_random(run: Run, settings: ShortcutStudy) -> None:
    """Make the random model of appendix C.2; whose distances it has is a fact of the run."""
    if "pairs" not in settings.parts or not any(RANDOM in pair for pair in settings.pairs):
        return
    models = run.path / "models"
    made = (models / RANDOM).is_dir()
    record = run.find("random", name=RANDOM)
    if record is None:
        # Written down before the model is made. A model without this fact is of an earlier version, which took all.
        like = [rule for rule in settings.rules if rule in DISTANCES_OF and not made]
        record = run.add("random", name=RANDOM, distances_of=like or list(settings.rules))
    if not made:
        specialists = [open_checkpoint(models / rule) for rule in record["distances_of"]]
        random_like(open_checkpoint(models / "start"), specialists, models / "start", models / RANDOM, seed=settings.seed)


def fuse_specialists(run: Run, settings: ShortcutStudy, say: Say) -> None:
    out = run.path / "models" / "fused"
    if not out.is_dir():
        say(f"fused: average of {', '.join(settings.rules)}")
        fuse([run.path / "models" / rule for rule in settings.rules], out)
    if run.find("fusion", name="fused") is None:
        weight = 1 / len(settings.rules)
        run.add(
            "fusion",
            name="fused",
            method="average",
            models=list(settings.rules),
            weights=[weight] * len(settings.rules),
        )
