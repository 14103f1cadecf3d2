"""Points to be asked, and who asks them: this process or workers, with the same answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import groupby
from pathlib import Path
from typing import Any

from fuseforget.checkpoint import open_checkpoint
from fuseforget.knowledge import Measurement, Probe
from fuseforget.models.together import at_once as at_once_of
from fuseforget.records import Run
from fuseforget.sweep.measured import label_of, record_one
from fuseforget.sweep.resident import Logits, Resident
from fuseforget.workers import Here, Workers

__all__ = ["Answer", "Answers", "AskAlone", "Point", "Sweep", "lacking", "name_of", "record_answers"]

Say = Callable[[str], None]


@dataclass(frozen=True)
class Point:
    """Weights to be set, and what to ask there.

    Attributes:
        where: what the run's records call the point.
        models: the endpoints' paths.
        weights: one an endpoint, or the method's default.
        probes: names of the probes that are asked.
        method, base, seed, parameters: as :func:`fuseforget.fuse.fuse` takes them.
    """

    where: Mapping[str, Any]
    models: tuple[str, ...]
    weights: tuple[float, ...] | None
    probes: tuple[str, ...]
    method: str = "average"
    base: str | None = None
    seed: int = 0
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What a point answers to a probe.

    Attributes:
        logits: examples x labels, float32.
        cut: how many texts were longer than the model can read, and ``note``, the same in words.
    """

    logits: Logits
    measurement: Measurement
    cut: int
    note: str


@dataclass(frozen=True)
class Answers:
    """What a point answers.

    Attributes:
        by_probe: in the order in which they were asked.
        notes: what the user should know of how the point was fused.
    """

    by_probe: dict[str, Answer]
    notes: tuple[str, ...]


class Sweep:
    """Asks points, by one resident model here or by one in each worker.

    Args:
        template: the checkpoint whose architecture and tokenizer are used.
        probes: what can be asked at each point.
        exact: compute in float32 throughout.
        workers: who asks; default: this process.
        compiled: have torch compile the forward pass: half a minute, which long sweeps of some models win back.
        at_once: points that are computed at once; default: what is worth it on this machine, several of a small model on a
            GPU.
    """

    def __init__(
        self, template: str | Path, probes: Sequence[Probe], *, exact: bool = False, workers: Workers | None = None,
        compiled: bool = False, at_once: int | None = None,
    ) -> None:  # fmt: skip
        self._workers = workers or Here()
        self._at_once = at_once or at_once_of(open_checkpoint(template), self._workers.device)
        self._ask = _Ask(str(template), tuple(probes), exact, compiled, self._at_once)
        if isinstance(self._workers, Here):
            _ = self.resident  # what cannot be asked is refused before anything is

    @property
    def resident(self) -> Resident:
        """The model of this process, for what is not asked by points."""
        return self._ask.resident

    def answers(self, points: Sequence[Point]) -> Iterator[tuple[Point, Answers]]:
        """Ask points: each with its answers, in their order."""
        asked = list(_blocks(points, self._at_once))
        for block, found in zip(asked, self._workers.each(self._ask, asked, name=_names_of), strict=True):
            yield from zip(block, found, strict=True)

    def measure(self, run: Run, points: Sequence[Point], *, say: Say) -> tuple[str, ...]:
        """Record, a record a measurement, what the run does not have yet of the points.

        Returns:
            What the user should know of how those that were asked were fused.
        """
        notes: dict[str, None] = {}
        for point, answers in self.answers(lacking(run, points)):
            record_answers(run, point, answers, say=say)
            notes |= dict.fromkeys(answers.notes)
        return tuple(notes)


def name_of(point: Point) -> str:
    """What the user calls a point."""
    return label_of(point.where)


def lacking(run: Run, points: Iterable[Point]) -> list[Point]:
    """The points of which the run does not have all measurements: these are asked again as a whole."""
    return [p for p in points if any(run.find("measurement", probe=probe, **p.where) is None for probe in p.probes)]


def record_answers(run: Run, point: Point, answers: Answers, *, say: Say) -> None:
    """Record the measurements of a point that the run does not have yet."""
    for answer in answers.by_probe.values():
        record_one(run, point.where, answer.measurement, answer.cut, answer.note, say=say)


def _blocks(points: Sequence[Point], size: int) -> Iterator[list[Point]]:
    """Neighbours that are asked for the same probes, a few at a time."""
    for _, alike in groupby(points, key=lambda point: point.probes):
        rest = list(alike)
        while rest:
            yield rest[:size]
            rest = rest[size:]


def _names_of(block: Sequence[Point]) -> str:
    return " and ".join(name_of(point) for point in block)


class _Ask:
    """Asks points with a resident model, which it makes where it is called and keeps."""

    def __init__(self, template: str, probes: tuple[Probe, ...], exact: bool, compiled: bool, at_once: int) -> None:
        self._template, self._probes, self._at_once = template, probes, at_once
        self._options = {"exact": exact, "compiled": compiled}

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "resident"}

    @cached_property
    def resident(self) -> Resident:
        return Resident(self._template, self._probes, **self._options)

    def __call__(self, block: Sequence[Point]) -> list[Answers]:
        if self._at_once > 1 and self.resident.can_be_together:
            places = [partial(self._place, point) for point in block]
            found = self.resident.logits_together(places, block[0].probes, count=self._at_once)
            return [_answers(self.resident, point.probes, logits) for point, logits in zip(block, found, strict=True)]
        answers = []
        for point in block:
            self._place(point)
            answers.append(_answers(self.resident, point.probes, self.resident.logits_of(point.probes)))
        return answers

    def _place(self, point: Point) -> None:
        self.resident.set_point(
            [open_checkpoint(model) for model in point.models], point.weights, point.method, seed=point.seed,
            base=None if point.base is None else open_checkpoint(point.base), parameters=point.parameters,
        )  # fmt: skip


class AskAlone:
    """Asks points of one model each, every model by its own architecture and tokenizer."""

    def __init__(self, probes: Sequence[Probe], exact: bool) -> None:
        self._probes, self._exact = tuple(probes), exact

    def __call__(self, point: Point) -> Answers:
        (model,) = point.models
        resident = Resident(model, self._probes, exact=self._exact)
        return _answers(resident, point.probes, resident.logits_of(point.probes))


def _answers(resident: Resident, probes: Sequence[str], logits: Mapping[str, Logits]) -> Answers:
    return Answers(
        {name: Answer(logits[name], resident.judge(name, logits[name]), resident.cut(name), resident.describe_cut(name))
         for name in probes},
        resident.notes,
    )  # fmt: skip
