"""Models of a study: each trained once, by whoever is there, kept in the run, and recorded."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fuseforget.checkpoint import MANIFEST_NAME
from fuseforget.data import Examples, Rows
from fuseforget.models import cores, device, intra_op
from fuseforget.records import Record, Run, add_timing
from fuseforget.train import Timing, TrainSettings
from fuseforget.train.language import Watch, fine_tune_language
from fuseforget.train.trainer import fine_tune
from fuseforget.workers import Here, Workers
from fuseforget.workers import say as worker_say

__all__ = ["Job", "Trainers", "combine", "record_training", "result_of"]

Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """A model to train.

    Attributes:
        name: the run's model.
        data: what it is trained on: labelled texts, or rows of a language model.
        start: where it starts; default: the run's model ``start``.
        monitor: examples whose accuracy ends the training early.
    """

    name: str
    data: Examples | Rows
    settings: TrainSettings
    start: Path | None = None
    monitor: Examples | None = None


@dataclass(frozen=True)
class Trainers:
    """Who trains the models of a study.

    Attributes:
        workers: who trains those that do not depend on each other.
        threads: that each training computes with. Its last bits depend on them, and so they do not depend on the workers.
    """

    workers: Workers = field(default_factory=Here)
    threads: int = 1
    say: Say = lambda line: None

    def train(self, run: Run, jobs: Sequence[Job]) -> None:
        """Train the models that the run lacks, and record, in the order of the jobs, how that went."""
        lacking = [(_place(run, job), job) for job in jobs if not _place(run, job).is_dir()]
        self._say_idle(len(lacking))
        done = self.workers.each(_Train(run.path / "models" / "start", self.threads, self._heard), lacking, name=_name)
        names = {job.name for _, job in lacking}
        for job in jobs:
            if job.name in names:
                next(done)
            record_training(run, job.name, len(job.data), threads=self.threads)

    def train_watched(self, run: Run, job: Job, watch: Watch | None) -> None:
        """Train one language model here, where it can be looked at after each epoch."""
        if not _place(run, job).is_dir():
            _Train(run.path / "models" / "start", self.threads, self.say)((_place(run, job), job), watch=watch)
        record_training(run, job.name, len(job.data), threads=self.threads)

    def _say_idle(self, jobs: int) -> None:
        """Say what workers would do with cores that one training after another leaves idle."""
        at_once = min(jobs, cores() // self.threads)
        if at_once > 1 and isinstance(self.workers, Here) and device().type == "cpu":
            self.say(f"note: each training takes {self.threads} of {cores()} cores; --workers {at_once} trains {at_once} at once")

    @property
    def _heard(self) -> Say | None:
        """What hears of a training's progress: a worker in another process has its own."""
        return self.say if isinstance(self.workers, Here) else None


class _Train:
    """Trains a job's model, wherever it is called, and publishes it."""

    def __init__(self, start: Path, threads: int, say: Say | None) -> None:
        self._start, self._threads, self._say = start, threads, say

    def __call__(self, asked: tuple[Path, Job], *, watch: Watch | None = None) -> None:
        out, job = asked
        start, say = job.start or self._start, self._say or worker_say
        with intra_op(self._threads):
            if isinstance(job.data, Examples):
                fine_tune(start, job.data, out, job.settings, monitor=job.monitor, say=say)
            else:
                fine_tune_language(start, job.data.ids, out, job.settings, watch=watch, say=say)


def _place(run: Run, job: Job) -> Path:
    return run.path / "models" / job.name


def _name(asked: tuple[Path, Job]) -> str:
    return f"the training of {asked[1].name}"


def record_training(run: Run, name: str, examples: int, *, threads: int) -> None:
    """Record what a trained model's manifest says of its training, and apart from that how fast it was; each once."""
    made = json.loads((run.path / "models" / name / MANIFEST_NAME).read_text(encoding="utf-8"))
    done = {fact: value for fact, value in made["result"].items() if fact not in ("timing", "seconds")}
    known = run.find("training", name=name)
    if known is None:
        known = run.add("training", name=name, examples=examples, settings=made["settings"], **done)
    # Earlier versions wrote the seconds into the training's own record.
    if "seconds" not in known and run.find("timing", name=name) is None:
        timing = asdict(Timing.of(made["result"]))
        add_timing(run, name, timing.pop("seconds"), **timing, threads=threads)


def result_of(run: Run, name: str) -> Record:
    """The record of a model's training."""
    record = run.find("training", name=name)
    if record is None:
        raise RuntimeError(f"{name} was not trained")
    return record


def combine(sets: list[Examples]) -> Examples:
    """All examples of several sets that number their labels alike, in order."""
    return Examples(
        tuple(text for part in sets for text in part.texts),
        tuple(label for part in sets for label in part.labels),
        sets[0].label_names,
    )
