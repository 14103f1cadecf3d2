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

__all__ = ["run_memorization_study"]

Say = Callable[[str], None]


def run_memorization_study(settings: MemorizationStudy, out: Path, *, say: Say = lambda line: None) -> list[Record]:
    """Run or resume the study, or its recipe, and return all its records."""
    corpus = read_corpus(settings, say)
    parts = settings.parts
    settings = corpus.settings
    with Run(out, command="study memorization", settings=describe(corpus), say=say) as run:
        record_data(run, corpus)
        asked = [part for r in run.records if r["kind"] == "asked" for part in r["parts"]]
        if not set(parts) <= set(asked) or run.find("asked") is None:
            run.add("asked", parts=list(parts))
        shop = Workshop(run, corpus, say)
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
    for name in names:
        shop.train(name, shop.corpus.trained_on([name]))
        shop.ask(name)
    for number in numbers:
        some = names[:number]
        # What alternatives are compared along; a recipe has none.
        watched = shop.watch(full_name(some)) if some == shop.few and shop.settings.recipe is None else None
        shop.train(full_name(some), shop.corpus.trained_on(some), watch=watched)
        shop.ask(full_name(some))
        shop.fuse(some, fused_name(some))
        shop.ask(fused_name(some))


def vary_epochs(shop: Workshop) -> None:
    """Table 6: the same models after other numbers of epochs, each with a schedule of its own."""
    for epochs in shop.settings.epochs:
        singles = [at_epochs(name, epochs) for name in shop.few]
        for name, single in zip(shop.few, singles, strict=True):
            shop.train(single, shop.corpus.trained_on([name]), epochs=epochs)
            shop.ask(single, shop.few_sets)
        full = at_epochs(full_name(shop.few), epochs)
        shop.train(full, shop.corpus.trained_on(shop.few), epochs=epochs)
        shop.ask(full, shop.few_sets)
        shop.ask_fused(singles, at_epochs(fused_name(shop.few), epochs), shop.few_sets)


def divide_fixed_total(shop: Workshop) -> None:
    """Fig. 11 and 12: the same rows divided among more and more models, beside one that is trained on all of them."""
    corpus = shop.corpus
    for number in shop.settings.numbers:
        parts = corpus.of_fixed(number)
        singles = []
        for name, atoms in zip(shop.settings.names, parts, strict=False):
            # The models of the main table where they read the same.
            single = name if atoms == corpus.own(name) else of_fixed(name, number)
            shop.train(single, corpus.made.trained_on(*atoms))
            shop.ask(single, shop.fixed_sets)
            singles.append(single)
        shop.ask_fused(singles, of_fixed("fused", number), shop.fixed_sets)
    everything = tuple(atom for atoms in corpus.of_fixed(2) for atom in atoms)
    of_few = tuple(atom for name in shop.few for atom in corpus.own(name))
    if everything != of_few:
        shop.train("full-of-fixed", corpus.made.trained_on(*everything))
        shop.ask("full-of-fixed", shop.fixed_sets)


PARTS_DONE = {
    "epochs": vary_epochs,
    "fixed": divide_fixed_total,
    "methods": fuse_by_methods,
    "alternatives": train_alternatives,
}
