"""Whether "shared stays, unshared goes" holds for other methods than the average, and is more than shrinking.

Every method of the table that needs no data fuses the shortcut study's specialists, in memory; the fused model is asked for
every shortcut and for the task. Beside them stand models that fuse no weights: each specialist alone, the ensemble of their
outputs, and a specialist moved towards the start as far as the average is, by one factor or by fewer ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from fuseforget import stopping
from fuseforget.checkpoint import Checkpoint, open_checkpoint
from fuseforget.errors import InputError
from fuseforget.methods import METHODS
from fuseforget.records import Record, Run
from fuseforget.studies.baselines import ensemble, inner, length, task_vector, truncated_specialist
from fuseforget.studies.judge_methods import conclude, conclude_shared
from fuseforget.studies.method_settings import LEFT_OUT, SETTINGS, Setting
from fuseforget.sweep import Resident, measurement_fields, record_missing

__all__ = ["compare_methods"]

PAIR = ("op", "tic")  # of Fig. 2b; else the first two specialists
Say = Callable[[str], None]
Place = Callable[[], Record]


@dataclass(frozen=True)
class Job:
    """One model to make and ask.

    Attributes:
        row: the row of the comparison; rows made of a model for each specialist have as many jobs.
        model: what its measurements are recorded under.
        members: the specialists that it is made of.
        place: sets the resident weights, and returns what else is to be recorded of it.
        asked: the probes.
        about: what is recorded of it: method, settings and their source.
        kind: of that record.
    """

    row: str
    model: str
    members: tuple[str, ...]
    place: Place
    asked: tuple[str, ...]
    about: Record = field(default_factory=dict)
    kind: str = "method"


def compare_methods(
    run: Run,
    *,
    start: Checkpoint,
    specialists: Mapping[str, Checkpoint],
    resident: Resident,
    probes: Sequence[str],
    control: str,
    seed: int,
    shared: Mapping[str, Any] | None = None,
    say: Say = lambda line: None,
) -> None:
    """Fuse the specialists by every method, measure, and record what was found; what the run has is not done again.

    Records: ``left_out`` (methods, with the reason), ``method`` (a model made: settings and how far it is from the start),
    ``measurement`` under models named "by ROW" and "shared by ROW", ``method_result`` and ``shared_result``.

    Args:
        run: has the measurements of the specialists and the control on all probes.
        start: what all specialists were fine-tuned from; the methods' base.
        specialists: by the name of the shortcut that each has, which is also its probe's.
        resident: has all probes.
        probes: their names, the task's last.
        control: the model that learned no shortcut.
        seed: of random methods.
        shared: two models that share one shortcut, as ``models`` (two names, found among the run's models), ``shared`` (the
            probe of what both know) and ``unshared`` (the probes of what one knows, in their order).

    Raises:
        InputError: fewer than two specialists, or one without a probe.
    """
    lacking = [name for name in specialists if name not in probes]
    if len(specialists) < 2 or lacking:
        raise InputError("specialists", expected="two or more, each with a probe of its name", found=", ".join(specialists))
    for method, reason in LEFT_OUT.items():
        if run.find("left_out", method=method) is None:
            run.add("left_out", method=method, reason=reason)
    bench = _Bench(run, resident, start, specialists, seed, say)
    for job in (*_fused(bench, probes), *_baselines(bench, probes[-1])):
        bench.visit(job)
    _ask_ensemble(bench, probes)
    conclude(run, list(specialists), probes, control)
    if shared is not None:
        _compare_shared(bench, shared, probes[-1], control)


class _Bench:
    """The resident model and what models are compared with: the start, the specialists, and their average."""

    def __init__(
        self, run: Run, resident: Resident, start: Checkpoint, specialists: Mapping[str, Checkpoint], seed: int, say: Say
    ) -> None:
        self.run, self.resident, self.start, self.specialists = run, resident, start, specialists
        self.seed, self.say = seed, say
        self._average: tuple[tuple[str, ...], dict[str, torch.Tensor]] | None = None
        self._norms: dict[str, float] = {}

    def visit(self, job: Job) -> None:
        """Make the model of a job and ask it, unless all that is known."""
        known = self.run.find(job.kind, model=job.model) is not None
        if known and all(self.run.find("measurement", model=job.model, probe=p) is not None for p in job.asked):
            return
        stopping.check("a model of the comparison")
        average = self.reference(job.members)  # first, since it is computed in the same place
        more = job.place()
        if not known:
            made = {**job.about, **more, **self._distances(average, job.members)}
            self.run.add(job.kind, row=job.row, model=job.model, members=list(job.members), **made)
        record_missing(self.run, self.resident, job.asked, say=self.say, model=job.model)

    def fuse(self, setting: Setting, members: Sequence[str]) -> Record:
        """Set the resident weights to a fusion of some specialists."""
        weights = None if setting.weight is None else [setting.weight] * len(members)
        self.resident.set_point(
            [self.specialists[name] for name in members], weights, setting.method, seed=self.seed,
            base=self.start if setting.takes_base else None, parameters=setting.parameters,
        )  # fmt: skip
        return {}

    def reference(self, members: tuple[str, ...]) -> dict[str, torch.Tensor]:
        """The task vector of the average that a model made of these is compared with: theirs, or of one model that of all."""
        averaged = members if len(members) > 1 else tuple(self.specialists)
        if self._average is None or self._average[0] != averaged:
            self.resident.set_point([self.specialists[name] for name in averaged], None)
            self._average = averaged, self.vector(self.resident.tensors(self.start))
        return self._average[1]

    def vector(self, model: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return task_vector(model, self.start)

    def norm(self, name: str) -> float:
        """The norm of a specialist's task vector."""
        if name not in self._norms:
            own = self.vector(self.specialists[name])
            self._norms[name] = length(own)
        return self._norms[name]

    def share(self, name: str) -> float:
        """The norm of all specialists' average task vector over that of one specialist's."""
        average = self.reference((name,))
        return length(average) / self.norm(name)

    def _distances(self, average: Mapping[str, torch.Tensor], members: Sequence[str]) -> Record:
        """How far the resident weights are from the start, beside the specialists and the average, and the cosine with it."""
        own = self.vector(self.resident.tensors(self.start))
        norm, of_average = length(own), length(average)
        mean = sum(self.norm(name) for name in members) / len(members)
        return {
            "norm": norm,
            "norm_to_specialists": norm / mean,
            "norm_to_average": norm / of_average,
            "cosine_with_average": inner(own, average) / (norm * of_average) if norm > 0 else None,
        }


def _fused(bench: _Bench, probes: Sequence[str]) -> Iterator[Job]:
    """A job for each row of the settings, or for each specialist of a row that takes one model beside the start."""
    for setting in SETTINGS:
        if setting.on == "each":
            for name in bench.specialists:
                yield _job(bench, setting, (name,), (name, probes[-1]), f"by {setting.row}: {name}")
        else:
            members = tuple(bench.specialists) if setting.on == "all" else _pair(bench.specialists)
            asked = (*members, probes[-1]) if setting.on == "pair" else tuple(probes)
            yield _job(bench, setting, members, asked, f"by {setting.row}")


def _job(
    bench: _Bench, setting: Setting, members: tuple[str, ...], asked: tuple[str, ...], model: str, kind: str = "method"
) -> Job:
    about = {
        "sort": setting.on, "method": setting.method, "parameters": dict(setting.parameters), "weight": setting.weight,
        "base": setting.takes_base, "seed": bench.seed if METHODS[setting.method].random else None, "source": setting.source,
    }  # fmt: skip
    return Job(setting.row, model, members, partial(bench.fuse, setting, members), asked, about, kind)


def _pair(specialists: Mapping[str, Checkpoint]) -> tuple[str, ...]:
    return PAIR if set(PAIR) <= specialists.keys() else tuple(specialists)[:2]


def _baselines(bench: _Bench, task: str) -> Iterator[Job]:
    """Each specialist moved towards the start until it is as far from it as the average: by one factor, and by fewer ranks."""
    places: dict[str, tuple[Callable[[_Bench, str], Record], str]] = {
        "shrunk specialist": (_shrink, "one factor, so that the norm of the change is the average's"),
        "truncated specialist": (
            _truncate,
            "fewer singular triplets of each matrix, and one factor for what is no matrix, so that the norm is the average's",
        ),
    }
    for row, (place, source) in places.items():
        for name in bench.specialists:
            about = {"sort": "baseline", "source": source}
            yield Job(row, f"by {row}: {name}", (name,), partial(place, bench, name), (name, task), about)


def _shrink(bench: _Bench, name: str) -> Record:
    share = bench.share(name)
    own = bench.specialists[name]
    bench.resident.set_point([own], [1.0], "task_arithmetic", base=bench.start, parameters={"lambda": share})
    return {"share": share}


def _truncate(bench: _Bench, name: str) -> Record:
    share = bench.share(name)
    cut = truncated_specialist(bench.start, bench.vector(bench.specialists[name]), share)
    bench.resident.set_tensors(cut.tensors)
    kept = sorted(rank / whole for rank, whole in cut.ranks.values())
    return {"share": share, "matrices": len(kept), "median_rank_share": kept[len(kept) // 2], "largest_rank_share": kept[-1]}


def _ask_ensemble(bench: _Bench, probes: Sequence[str]) -> None:
    """Record what the mean of the specialists' probabilities gets right; one probe at a time, so that little is lost."""
    row = "ensemble of outputs"
    model, members = f"by {row}", list(bench.specialists)
    if bench.run.find("method", model=model) is None:
        source = "mean of the specialists' probabilities; as many times the work of one model"
        bench.run.add("method", row=row, model=model, members=members, sort="baseline", source=source)
    for probe in probes:
        if bench.run.find("measurement", model=model, probe=probe) is None:
            stopping.check("a probe of the ensemble")
            measurement = bench.resident.judge(probe, ensemble(_logits(bench, probe)))
            bench.run.add("measurement", model=model, **measurement_fields(measurement), cut=bench.resident.cut(probe))
            bench.say(f"{model}: {probe} {measurement.interval.value:.3f}")


def _logits(bench: _Bench, probe: str) -> Iterator[Any]:
    for one in bench.specialists.values():
        bench.resident.set_point([one], [1.0])
        yield bench.resident.logits(probe)


def _compare_shared(bench: _Bench, shared: Mapping[str, Any], task: str, control: str) -> None:
    """Fuse two models that share a shortcut by every method: what both know should stay, what one knows should go."""
    names = tuple(shared["models"])
    models = {name: open_checkpoint(bench.run.path / "models" / name) for name in names}
    pair = _Bench(bench.run, bench.resident, bench.start, models, bench.seed, bench.say)
    asked = (shared["shared"], *shared["unshared"], task)
    for name in names:
        if any(bench.run.find("measurement", model=name, probe=p) is None for p in asked):
            bench.resident.set_point([models[name]], [1.0])
            record_missing(bench.run, bench.resident, asked, say=bench.say, model=name)
    for setting in SETTINGS:
        if setting.on != "each" and setting.row != "average, pair":
            pair.visit(_job(pair, setting, names, asked, f"shared by {setting.row}", "shared_method"))
    conclude_shared(bench.run, shared, task, control)
