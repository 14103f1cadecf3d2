"""Points to be asked, and who asks them: this process or workers, with the same answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from fuseforget.checkpoint import open_checkpoint
from fuseforget.knowledge import Measurement, Probe
from fuseforget.records import Run
from fuseforget.sweep.measured import label_of, measurement_fields
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
    """

    def __init__(
        self, template: str | Path, probes: Sequence[Probe], *, exact: bool = False, workers: Workers | None = None
    ) -> None:
        self._ask = _Ask(str(template), tuple(probes), exact)
        self._workers = workers or Here()
        if isinstance(self._workers, Here):
            _ = self.resident  # what cannot be asked is refused before anything is

    @property
    def resident(self) -> Resident:
        """The model of this process, for what is not asked by points."""
        return self._ask.resident

    def answers(self, points: Sequence[Point]) -> Iterator[tuple[Point, Answers]]:
        """Ask points: each with its answers, in their order."""
        return zip(points, self._workers.each(self._ask, points, name=name_of), strict=True)

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
    for name, answer in answers.by_probe.items():
        if run.find("measurement", probe=name, **point.where) is None:
            run.add("measurement", **point.where, **measurement_fields(answer.measurement), cut=answer.cut)
            say(f"{name_of(point)}: {name} {answer.measurement.interval.value:.3f}{answer.note and f', {answer.note}'}")


class _Ask:
    """Asks a point with a resident model, which it makes where it is called and keeps."""

    def __init__(self, template: str, probes: tuple[Probe, ...], exact: bool) -> None:
        self._template, self._probes, self._exact = template, probes, exact

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "resident"}

    @cached_property
    def resident(self) -> Resident:
        return Resident(self._template, self._probes, exact=self._exact)

    def __call__(self, point: Point) -> Answers:
        resident = self.resident
        resident.set_point(
            [open_checkpoint(model) for model in point.models], point.weights, point.method, seed=point.seed,
            base=None if point.base is None else open_checkpoint(point.base), parameters=point.parameters,
        )  # fmt: skip
        return _answers(resident, point.probes)


class AskAlone:
    """Asks points of one model each, every model by its own architecture and tokenizer."""

    def __init__(self, probes: Sequence[Probe], exact: bool) -> None:
        self._probes, self._exact = tuple(probes), exact

    def __call__(self, point: Point) -> Answers:
        (model,) = point.models
        return _answers(Resident(model, self._probes, exact=self._exact), point.probes)


def _answers(resident: Resident, probes: Sequence[str]) -> Answers:
    logits = resident.logits_of(probes)
    return Answers(
        {name: Answer(logits[name], resident.judge(name, logits[name]), resident.cut(name), resident.describe_cut(name))
         for name in probes},
        resident.notes,
    )  # fmt: skip
