"""The ALR and the perplexity of the study's models, from energies that are recorded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict

from fuseforget.knowledge import alr, perplexity
from fuseforget.leakage.scoring import energies_of, join_energies
from fuseforget.records import Run
from fuseforget.studies.memorization.data import CONTROL, REST, SHARED, VALIDATION
from fuseforget.studies.memorization.models import REFERENCE
from fuseforget.studies.memorization.settings import MemorizationStudy

__all__ = ["OTHERS", "OWN", "measure_model", "measure_models", "members"]

OWN, OTHERS = "own", "others"  # rows that a model was trained on and not all others; that others were trained on, not it


def measure_models(run: Run, settings: MemorizationStudy) -> None:
    """Record the ALR and the perplexity of every model whose energies the run has."""
    for model in dict.fromkeys(record["model"] for record in run.records if record["kind"] == "energies"):
        measure_model(run, settings, model)


def measure_model(run: Run, settings: MemorizationStudy, model: str, own: Sequence[str] | None = None) -> None:
    """Record a model's ALR on every set that it was asked about, and its perplexity on validation rows.

    Args:
        own: the sets that it was trained on, or its parents were; default: what its name or its record says (:func:`members`).
    """
    sets = [record["set"] for record in run.records if record["kind"] == "energies" and record["model"] == model]
    for name, parts in _groups(tuple(own) if own else members(run, settings, model), sets).items():
        if run.find("alr", model=model, on=name) is None:
            of, reference = (join_energies([energies_of(run, part, model=m) for part in parts]) for m in (model, REFERENCE))
            run.add("alr", model=model, on=name, **asdict(alr(of, reference)))
    if VALIDATION in sets and run.find("perplexity", model=model) is None:
        held = energies_of(run, VALIDATION, model=model)
        run.add("perplexity", model=model, **asdict(perplexity(held.sums, held.tokens)))


def members(run: Run, settings: MemorizationStudy, model: str) -> tuple[str, ...] | None:
    """The sets of rows that a model was trained on beside the shared ones, or was fused from models that were.

    None where these are no whole sets: of one model among several that share a fixed total.
    """
    made = run.find("method", model=model)
    if made is not None:
        return tuple(made["parents"])
    name = re.split(r"[@:,]", model)[0]
    if name in settings.names:
        return (name,)
    if name == REFERENCE or re.fullmatch(r"[A-Z]-of-\d+", name):
        return None
    found = re.fullmatch(r"(?:full|fused)-([A-Z]+)", name)
    count = (settings.total - settings.shared) // settings.own
    return tuple(found[1]) if found else (*settings.names[:count], REST)


def _groups(own: tuple[str, ...] | None, sets: Sequence[str]) -> dict[str, list[str]]:
    """The sets that a model's ALR is computed on: each one, all that it was trained on, and all that others were."""
    asked = [name for name in sets if name != VALIDATION]
    groups = {name: [name] for name in asked}
    if own is None:
        return groups
    rows = [name for name in asked if name not in (SHARED, CONTROL)]
    mine, theirs = [name for name in rows if name in own], [name for name in rows if name not in own and name != REST]
    return {**groups, **({OWN: mine} if mine else {}), **({OTHERS: theirs} if theirs else {})}
