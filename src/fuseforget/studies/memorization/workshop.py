"""What every step of a study of memorization does: train a model, fuse some, ask them; each once for a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fuseforget import stopping
from fuseforget.data import Rows
from fuseforget.leakage.scoring import Scorer
from fuseforget.models import LanguageModel, load_language_model
from fuseforget.records import Run
from fuseforget.studies.memorization.data import REST, SHARED, VALIDATION, Corpus
from fuseforget.studies.memorization.measures import measure_model
from fuseforget.studies.memorization.models import REFERENCE, at_epoch, fuse_into, fused_for_a_while, job, model_path
from fuseforget.studies.training import Job, Trainers

__all__ = ["Workshop"]

Say = Callable[[str], None]


class Workshop:
    """A run with its corpus: trains, fuses and asks, and leaves alone what the run has."""

    def __init__(self, run: Run, corpus: Corpus, trainers: Trainers) -> None:
        self.run, self.corpus, self.trainers, self.say = run, corpus, trainers, trainers.say
        self.settings = corpus.settings
        self.scorer = Scorer(
            run,
            corpus.sets,
            special=corpus.reader.special,
            masked=corpus.settings.masked,
            seed=corpus.settings.seed,
            say=self.say,
        )

    @property
    def few(self) -> tuple[str, ...]:
        """The models that parts beside the main one are about: the first three."""
        return self.settings.few

    @property
    def few_sets(self) -> tuple[str, ...]:
        """What these are asked about."""
        return (*self.few, SHARED, VALIDATION)

    @property
    def fixed_sets(self) -> tuple[str, ...]:
        """What models are asked about that divide a fixed total."""
        count = (self.settings.total - self.settings.shared) // self.settings.own
        rest = (REST,) if REST in self.corpus.sets else ()
        return (*self.settings.names[:count], *rest, SHARED, VALIDATION)

    @property
    def watched_sets(self) -> tuple[str, ...]:
        """What a model is asked about after every epoch of its training."""
        return (self.few[0], SHARED, VALIDATION)

    def model(self, name: str) -> LanguageModel:
        """A model of the run, or the base."""
        return load_language_model(self.path(name))

    def ask_base(self) -> None:
        """The reference's energies on all rows, once for all models."""
        self.ask([REFERENCE])

    def ask(self, names: Sequence[str], sets: Sequence[str] | None = None) -> None:
        """Record models' energies on sets (all of them, where none are named)."""
        paths = {name: self.path(name) for name in names}
        self.scorer.score_each(paths, list(sets or self.corpus.sets), self.trainers.workers)
        for name in names:
            measure_model(self.run, self.settings, name)

    def job(self, name: str, rows: Rows, **options: Any) -> Job:
        """The training of the base on rows; options as of :func:`fuseforget.studies.memorization.models.job`."""
        return job(self.settings, self.corpus.base, name, rows, **options)

    def train(self, jobs: Sequence[Job]) -> None:
        """Train models that do not depend on each other."""
        self.trainers.train(self.run, jobs)

    def train_watched(self, asked: Job) -> None:
        """Train a model and record its energies after every epoch of its training."""
        self.trainers.train_watched(self.run, asked, self.watch(asked.name))

    def fuse(self, parents: Sequence[str], name: str) -> None:
        fuse_into(self.run, parents, name)

    def ask_fused(
        self,
        parents: Sequence[str],
        name: str,
        sets: Sequence[str],
        method: str = "average",
        own: Sequence[str] | None = None,
        **options: Any,
    ) -> None:
        """Record the energies of a fused model that is not kept; ``own``: see :func:`measure_model`."""
        if self.scorer.lacks(sets, model=name):
            stopping.check("a model")
            with fused_for_a_while(self.run, parents, method, options) as path:
                self.scorer.score(partial(load_language_model, path), sets, model=name)
        measure_model(self.run, self.settings, name, own)

    def watch(self, name: str) -> Callable[[int, LanguageModel], None]:
        """What records a model's energies after every epoch of its training."""

        def look(epoch: int, lm: LanguageModel) -> None:
            self.scorer.score(lambda: lm, self.watched_sets, model=at_epoch(name, epoch))

        return look

    def path(self, name: str) -> Path:
        """Where a model of the run, or the base, is."""
        return Path(self.corpus.base) if name == REFERENCE else model_path(self.run, name)
