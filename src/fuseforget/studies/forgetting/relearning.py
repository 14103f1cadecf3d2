"""How fast forgotten shortcuts come back when a model is trained further, against a model that never knew them.

Every model is trained on the same data in the same order from the same seed, at a constant learning rate, so that the model
after each number of steps is that of a training of that length.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fuseforget.data import Examples, make_shortcut_data
from fuseforget.data.common import generator
from fuseforget.knowledge import Measurement, Probe, measure
from fuseforget.models import Batch, Classifier, encode_batches, intra_op, predict
from fuseforget.records import Run
from fuseforget.studies.forgetting.examined import ShortcutModels
from fuseforget.sweep import measurement_fields
from fuseforget.train import TrainSettings
from fuseforget.train.trainer import fine_tune
from fuseforget.workers import Here, Workers
from fuseforget.workers import say as worker_say

__all__ = ["CLEAN", "STEPS", "further_data", "relearn", "tenth_of"]

CLEAN = "clean"
STEPS = (10, 25, 50, 100, 200, 500)  # what was hidden and not removed is back within the first
BATCH_SIZE = 32
TENTH = 1 / 9  # a tenth of all is a ninth of the rest
SCRATCH = "relearning"
Say = Callable[[str], None]


def tenth_of(rule: str) -> str:
    """What records call data a tenth of which has a rule's shortcut."""
    return f"a tenth {rule}"


def further_data(source: ShortcutModels, rows: int) -> dict[str, Examples]:
    """What the models are trained on further: so many texts of the source, clean and with a tenth of them a shortcut's.

    Which texts, and where the tokens go, is drawn anew: by another seed than the source's models were trained with.
    """
    seed = source.seed + 1
    sets = {CLEAN: source.texts}
    for rule in source.rules:
        mixture = replace(source.shortcut, rules=(rule,), mix=(), ratio=TENTH, seed=seed)
        sets[tenth_of(rule)] = make_shortcut_data(source.texts, source.validation, mixture).train
    return {name: _repeated(examples, rows, seed) for name, examples in sets.items()}


def relearn(
    run: Run, part: str, source: ShortcutModels, models: Mapping[str, Path], workers: Workers, say: Say,
    *, steps: Sequence[int] = STEPS, threads: int = 1,
) -> None:  # fmt: skip
    """Train each model further on each kind of data, and record what it answers to the source's probes on the way.

    Records: ``measurement`` with the name of the data and the number of steps. Models of before any step are not asked again.
    A training that is interrupted starts anew; no trained model is kept.
    """
    asked = [(name, data) for data in (CLEAN, *map(tenth_of, source.rules)) for name in models]
    lacking = [(name, data) for name, data in asked if not _done(run, part, source, name, data, steps)]
    if not lacking:
        return
    sets = further_data(source, max(steps) * BATCH_SIZE)
    settings = TrainSettings(
        max_epochs=1, learning_rate=source.train.learning_rate, batch_size=BATCH_SIZE, seed=source.seed,
        precision=source.train.precision,
    )  # fmt: skip
    scratch = run.path / SCRATCH
    work = _Relearn(source.probes, settings, tuple(steps), threads, say if isinstance(workers, Here) else None)
    items = [_Item(name, data, models[name], sets[data], scratch / str(i)) for i, (name, data) in enumerate(lacking)]
    for item, found in zip(items, workers.each(work, items, name=_Item.__str__), strict=True):
        for step, measurements in found.items():
            for one in measurements:
                _record(run, {"part": part, "source": source.name, "model": item.name, "data": item.data, "step": step}, one)
    shutil.rmtree(scratch, ignore_errors=True)


@dataclass(frozen=True)
class _Item:
    """A model to train further.

    Attributes:
        name: of the model.
        data: what is trained on, by name.
        start: the model.
        examples: what is trained on, in as many steps as there are batches.
        place: a directory of its own, which is removed.
    """

    name: str
    data: str
    start: Path
    examples: Examples
    place: Path

    def __str__(self) -> str:
        return f"further training of {self.name} on {self.data}"


class _Relearn:
    """Trains a model further and asks it on the way, wherever it is called; the trained model is not kept."""

    def __init__(
        self, probes: Sequence[Probe], settings: TrainSettings, steps: tuple[int, ...], threads: int, say: Say | None
    ) -> None:
        self._probes, self._settings, self._steps, self._say = tuple(probes), settings, steps, say
        self._threads = threads

    def __call__(self, item: _Item) -> dict[int, list[Measurement]]:
        found: dict[int, list[Measurement]] = {}
        batches: dict[str, list[Batch]] = {}

        def ask(step: int, classifier: Classifier) -> None:
            for probe in self._probes:
                if probe.name not in batches:
                    batches[probe.name] = encode_batches(classifier, probe.texts)
            found[step] = [measure(probe, predict(classifier.model, batches[probe.name])) for probe in self._probes]
            say(f"{item}: {', '.join(f'{one.probe} {one.interval.value:.3f}' for one in found[step])} after {step} steps")

        say = self._say or worker_say
        # What an earlier training left would be gone on from without being asked on the way.
        shutil.rmtree(item.place, ignore_errors=True)
        item.place.mkdir(parents=True)
        with intra_op(self._threads):
            fine_tune(
                item.start, item.examples, item.place / "model", self._settings, schedule="constant", watched=self._steps,
                watch=ask,
            )  # fmt: skip
        shutil.rmtree(item.place)
        return found


def _done(run: Run, part: str, source: ShortcutModels, name: str, data: str, steps: Sequence[int]) -> bool:
    where = {"part": part, "source": source.name, "model": name, "data": data}
    return all(
        run.find("measurement", **where, step=step, probe=probe.name) is not None for step in steps for probe in source.probes
    )


def _record(run: Run, where: Mapping[str, object], measurement: Measurement) -> None:
    if run.find("measurement", **where, probe=measurement.probe) is None:
        run.add("measurement", **where, **measurement_fields(measurement))


def _repeated(examples: Examples, count: int, seed: int) -> Examples:
    """So many examples: each as often as another, but for one time."""
    rng = generator(seed, "order")
    rounds = -(-count // len(examples))
    return examples.take(np.concatenate([rng.permutation(len(examples)) for _ in range(rounds)])[:count])
