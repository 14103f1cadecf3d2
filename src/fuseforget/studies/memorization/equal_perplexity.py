"""Fusing against its alternatives at equal perplexity: how much each memorises once it models held-out text as well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log

from fuseforget.records import Record, Run
from fuseforget.studies.memorization.data import SHARED
from fuseforget.studies.memorization.models import at_epoch, fused_name
from fuseforget.studies.memorization.settings import MemorizationStudy

__all__ = ["Point", "at_perplexity", "compare_at_equal_perplexity"]


@dataclass(frozen=True)
class Point:
    """A model on the curve of a training: after so many epochs, its perplexity, and its ALR by set."""

    epoch: float
    perplexity: float
    alr: dict[str, float]


def compare_at_equal_perplexity(run: Run, settings: MemorizationStudy) -> None:
    """Record for each alternative what it memorises where its perplexity is that of the average of the first models."""
    few = settings.few
    target = run.find("perplexity", model=fused_name(few))
    assert target is not None
    sets = (few[0], *((SHARED,) if settings.shared else ()))
    for record in [r for r in run.records if r["kind"] == "alternative"]:
        model = record["model"]
        if run.find("equal_perplexity", model=model) is not None:
            continue
        watched = [e for e in range(1, settings.train.max_epochs + 1) if run.find("perplexity", model=at_epoch(model, e))]
        curve = [_point(run, at_epoch(model, epoch), epoch, sets) for epoch in watched]
        found = at_perplexity([_point(run, "base", 0, sets), *curve], target["value"])
        fields: Record = {"model": model, "family": record["family"], "target": target["value"]}
        run.add("equal_perplexity", **fields, **(
            {"reached": False, "epoch": None, "alr": None} if found is None
            else {"reached": True, "epoch": found.epoch, "alr": found.alr}
        ))  # fmt: skip


def at_perplexity(curve: Sequence[Point], target: float) -> Point | None:
    """The point of a training's curve at a perplexity, between two epochs linearly in its logarithm; None: it is never reached.

    Where it is reached more than once, the last time: a practitioner stops as late as the perplexity allows.
    """
    for first, second in reversed(list(pairwise(curve))):
        low, high = sorted((first.perplexity, second.perplexity))
        if low <= target <= high:
            span = log(second.perplexity) - log(first.perplexity)
            share = 1.0 if span == 0 else (log(target) - log(first.perplexity)) / span
            mixed = {name: first.alr[name] + share * (second.alr[name] - first.alr[name]) for name in first.alr}
            return Point(first.epoch + share * (second.epoch - first.epoch), target, mixed)
    return None


def _point(run: Run, model: str, epoch: int, sets: Sequence[str]) -> Point:
    held = run.find("perplexity", model=model)
    assert held is not None
    found = {name: run.find("alr", model=model, on=name) for name in sets}
    return Point(epoch, held["value"], {name: float(r["value"]) for name, r in found.items() if r is not None})
