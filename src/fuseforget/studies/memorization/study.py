"""A study of memorization from its articles to its conclusions, step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from fuseforget.records import Record, Run
from fuseforget.studies.memorization.alternatives import train_alternatives
from fuseforget.studies.memorization.audit import audit_models
from fuseforget.studies.memorization.conclusions import conclude
from fuseforget.studies.memorization.data import describe, read_corpus, record_data
from fuseforget.studies.memorization.methods import fuse_by_methods
from fuseforget.studies.memorization.models import at_epochs, full_name, fused_name, of_fixed
from fuseforget.studies.memorization.settings import MemorizationStudy
from fuseforget.studies.memorization.workshop import Workshop
from fuseforget.studies.training import Trainers
from fuseforget.workers import Here, Workers

__all__ = ["run_memorization_study"]

Say = Callable[[str], None]


def run_memorization_study(
    settings: MemorizationStudy, out: Path, *, workers: Workers | None = None, threads: int = 1, say: Say = lambda line: None
) -> list[Record]:
    """Run or resume the study, or its recipe, and return all its records.

    Args:
        workers: who trains; default: this process. The records are the same.
        threads: that a training computes with; see :class:`fuseforget.studies.training.Trainers`.
    """
    corpus = read_corpus(settings, say)
    parts = settings.parts
    settings = corpus.settings
    with Run(out, command="study memorization", settings=describe(corpus), say=say) as run:
        record_data(run, corpus)
        asked = [part for r in run.records if r["kind"] == "asked" for part in r["parts"]]
        if not set(parts) <= set(asked) or run.find("asked") is None:
            run.add("asked", parts=list(parts))
        shop = Workshop(run, corpus, Trainers(workers or Here(), threads, say))
        shop.ask_base()
        train_models(shop, settings.numbers if settings.recipe is None else [settings.models])
        audit_models(shop)
        for part in parts:
            PARTS_DONE[part](shop)
        conclude(run, replace(settings, parts=tuple(dict.fromkeys([*asked, *parts]))))
        return list(run.records)


def train_models(shop: Workshop, numbers: Sequence[int]) -> None:
    """Each model alone; and for each number of models, the one trained on the rows of all, and their average."""
    names = shop.settings.names
    several = [names[:number] for number in numbers]
    full = {full_name(some): shop.job(full_name(some), shop.corpus.trained_on(some)) for some in several}
    # What alternatives are compared along; a recipe has none.
    watched = full.pop(full_name(shop.few), None) if shop.settings.recipe is None else None
    shop.train([*(shop.job(name, shop.corpus.trained_on([name])) for name in names), *full.values()])
    if watched is not None:
        shop.train_watched(watched)
    for name in names:
        shop.ask(name)
    for some in several:
        shop.ask(full_name(some))
        shop.fuse(some, fused_name(some))
        shop.ask(fused_name(some))


def vary_epochs(shop: Workshop) -> None:
    """Table 6: the same models after other numbers of epochs, each with a schedule of its own."""
    rows = {**{name: shop.corpus.trained_on([name]) for name in shop.few}, full_name(shop.few): shop.corpus.trained_on(shop.few)}
    shop.train([shop.job(at_epochs(n, e), own, epochs=e) for e in shop.settings.epochs for n, own in rows.items()])
    for epochs in shop.settings.epochs:
        for name in rows:
            shop.ask(at_epochs(name, epochs), shop.few_sets)
        singles = [at_epochs(name, epochs) for name in shop.few]
        shop.ask_fused(singles, at_epochs(fused_name(shop.few), epochs), shop.few_sets)


def divide_fixed_total(shop: Workshop) -> None:
    """Fig. 11 and 12: the same rows divided among more and more models, beside one that is trained on all of them."""
    corpus = shop.corpus
    # The models of the main table where they read the same.
    parts = {
        number: {
            name if atoms == corpus.own(name) else of_fixed(name, number): atoms
            for name, atoms in zip(shop.settings.names, corpus.of_fixed(number), strict=False)
        }
        for number in shop.settings.numbers
    }
    every = {single: atoms for singles in parts.values() for single, atoms in singles.items()}
    everything = tuple(atom for atoms in corpus.of_fixed(2) for atom in atoms)
    if everything != tuple(atom for name in shop.few for atom in corpus.own(name)):
        every["full-of-fixed"] = everything
    shop.train([shop.job(single, corpus.made.trained_on(*atoms)) for single, atoms in every.items()])
    for single in every:
        shop.ask(single, shop.fixed_sets)
    for number, singles in parts.items():
        shop.ask_fused(list(singles), of_fixed("fused", number), shop.fixed_sets)


PARTS_DONE = {
    "epochs": vary_epochs,
    "fixed": divide_fixed_total,
    "methods": fuse_by_methods,
    "alternatives": train_alternatives,
}
