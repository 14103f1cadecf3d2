"""A shortcut study's models on the probes of one split: alone, and fused by any method; each answer a record."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fuseforget.knowledge import knows_more
from fuseforget.methods import Value
from fuseforget.records import Record, Run, decode_values
from fuseforget.studies.forgetting.contenders import Contender
from fuseforget.studies.forgetting.probes import TEST, choosing_probes, telling_probes
from fuseforget.studies.forgetting.settings import ForgettingStudy
from fuseforget.studies.forgetting.sources import Source
from fuseforget.studies.shortcuts.settings import TASK
from fuseforget.sweep import Answer, Answers, Point, Sweep, describe_inputs, measurement_fields
from fuseforget.sweep.points import lacking
from fuseforget.workers import Workers

if TYPE_CHECKING:
    import torch

__all__ = ["CONTROL", "START", "Bench", "describe_setting"]

CONTROL, START = "control", "start"
Say = Callable[[str], None]
Values = npt.NDArray[np.float64]
Case = tuple[str, ...]


class Bench:
    """One source's models on one split, asked when an answer is not in the run yet.

    Args:
        split: :data:`fuseforget.studies.forgetting.probes.VALIDATION` or ``TEST``.
    """

    def __init__(
        self, run: Run, source: Source, split: str, settings: ForgettingStudy, workers: Workers, say: Say
    ) -> None:  # fmt: skip
        self.source, self.split, self.rules = source, split, tuple(source.settings["rules"])
        self._run, self._settings, self._workers, self._say = run, settings, workers, say
        self._values: dict[tuple[str, str], Values] = {}
        self._known: dict[tuple[str, str], bool] = {}

    @property
    def texts(self) -> str:
        """What tells its texts from those of other benches: to choose each source has its own, to tell it may not."""
        return self.source.texts if self.split == TEST else f"{self.source.name}, {self.split}"

    @cached_property
    def sweep(self) -> Sweep:
        """Made when it is first needed: a run that has all answers reads no texts and loads no model."""
        if self.split == TEST:
            probes = telling_probes(self.source)
        else:
            probes = choosing_probes(self.source, self._settings.texts, self._settings.seed)
        if self._run.find("probes", source=self.source.name, split=self.split) is None:
            described = describe_inputs([], probes)["probes"]
            self._run.add("probes", source=self.source.name, split=self.split, probes=described)
            texts = f"{len(probes[-1].texts)} texts for {TASK}, {len(probes[0].texts)} for each rule"
            self._say(f"{self.source.name}, {self.split}: {texts}")
        return Sweep(self._path(START), probes, workers=self._workers)

    def ask_alone(self, names: Sequence[str], probes: Sequence[str]) -> None:
        """Ask models that fuse nothing: what is there to be forgotten, and what not knowing looks like."""
        points = [
            Point(self._where(model=name), (self._path(name),), (1.0,), (*probes, TASK)) for name in names
        ]  # fmt: skip
        if lacking(self._run, points):
            self.sweep.measure(self._run, points, say=self._say)

    def point(self, part: str, contender: Contender, parameters: Mapping[str, Value], case: Case, probes: Sequence[str]) -> Point:
        """What is asked of some models, fused.

        Args:
            case: their names.
            probes: beside the task's.
        """
        where = self.place(part, contender.row, contender.method, parameters, case)
        return Point(
            where, tuple(map(self._path, case)), None if contender.weight is None else (contender.weight,) * len(case),
            (*probes, TASK), contender.method, self._path(START) if contender.takes_base else None, self._settings.seed,
            dict(parameters),
        )  # fmt: skip

    def place(self, part: str, row: str, method: str, parameters: Mapping[str, Value], case: Case) -> Record:
        """What records call some models, fused."""
        return self._where(
            part=part, case=list(case), row=row, method=method, parameters=dict(parameters),
            model=f"{row}{describe_setting(parameters)} of {', '.join(case)}",
        )  # fmt: skip

    def ask(self, points: Iterable[Point]) -> None:
        """Record what the run does not have yet of these points, a record a point, each once."""
        different = {point.where["model"]: point for point in points}.values()
        asked = [point for point in different if self._run.find("point", **point.where) is None]
        if not asked:
            return
        for number, (point, answers) in enumerate(self.sweep.answers(asked), 1):
            self._run.add("point", **point.where, probes=_fields(answers))
            self._say(f"{number} of {len(asked)}: {point.where['model']}: {_in_words(answers)}")

    def alone(self, model: str, probe: str) -> Values:
        """What a model that fuses nothing gets right, a value a text."""
        if (model, probe) not in self._values:
            found = self._run.find("measurement", **self._where(model=model), probe=probe)
            assert found is not None, f"{model} was not asked for {probe}"
            self._values[model, probe] = decode_values(found["values"])
        return self._values[model, probe]

    def fused(self, point: Point) -> dict[str, Values]:
        """What a fused model gets right, by probe."""
        return self.fused_at(point.where)

    def ask_weights(
        self, where: Record, tensors: Mapping[str, torch.Tensor], probes: Sequence[str], **more: object
    ) -> None:  # fmt: skip
        """Record a point whose weights no method of the table gives, in this process.

        Args:
            where: of :meth:`place`.
            tensors: by the names of the source's models.
            probes: beside the task's.
            more: what else the record has.
        """
        resident, names = self.sweep.resident, (*probes, TASK)
        resident.set_tensors(tensors)
        found = {
            name: Answer(logits, resident.judge(name, logits), resident.cut(name), resident.describe_cut(name))
            for name, logits in resident.logits_of(names).items()
        }
        answers = Answers(found, ())
        self._run.add("point", **where, **more, probes=_fields(answers))
        self._say(f"{where['model']}: {_in_words(answers)}")

    def fused_at(self, where: Mapping[str, object]) -> dict[str, Values]:
        """The same of what records call so."""
        return {name: decode_values(one["values"]) for name, one in self.record_at(where)["probes"].items()}

    def record_at(self, where: Mapping[str, object]) -> Record:
        """The whole record of a point that was asked."""
        found = self._run.find("point", **where)
        assert found is not None, f"{where} was not asked"
        return found

    def knows(self, model: str, rule: str) -> bool:
        """Whether a model learned a rule: clearly more than the control. One that did not is recorded, by name."""
        if (model, rule) not in self._known:
            values, control = self.alone(model, rule), self.alone(CONTROL, rule)
            known = self._known[model, rule] = knows_more(values, control)
            if not known and self._run.find("unlearned", **self._where(model=model), rule=rule) is None:
                found = {"value": float(values.mean()), "control": float(control.mean())}
                self._run.add("unlearned", **self._where(model=model), rule=rule, **found)
        return self._known[model, rule]

    def _where(self, **more: object) -> Record:
        return {"source": self.source.name, "split": self.split, **more}

    def _path(self, name: str) -> str:
        return str(self.source.model(name).path)


def describe_setting(parameters: Mapping[str, Value]) -> str:
    """Parameters in words, with a blank before; nothing where all are the method's defaults."""
    return "".join(
        f" {name} {str(value).lower() if isinstance(value, bool) else f'{value:g}'}" for name, value in parameters.items()
    )


def _fields(answers: Answers) -> Record:
    """What a point's record holds of each probe: the measurement, and how many texts were longer than the model can read."""
    fields = {name: {**measurement_fields(one.measurement), "cut": one.cut} for name, one in answers.by_probe.items()}
    return {name: {key: value for key, value in of.items() if key != "probe"} for name, of in fields.items()}


def _in_words(answers: Answers) -> str:
    return ", ".join(f"{name} {one.measurement.interval.value:.3f}{one.note and f' ({one.note})'}"
                     for name, one in answers.by_probe.items())  # fmt: skip
