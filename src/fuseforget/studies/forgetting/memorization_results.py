"""What fused models' energies come to on the rows that tell: ALR, perplexity, attacks, and the average shrunk as far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fuseforget.knowledge import (
    Interval,
    alr,
    bootstrap_mean,
    compare_alr,
    compare_perplexity,
    knows_more,
    likelihood_ratio,
    perplexity,
    ratios,
    retained,
    tpr_at,
)
from fuseforget.knowledge.fairness import Difference
from fuseforget.knowledge.memorization import token_means
from fuseforget.leakage.scoring import energies_of, join_energies
from fuseforget.models import Energies
from fuseforget.records import Record, Run
from fuseforget.studies.forgetting.families import record_family
from fuseforget.studies.forgetting.fusions import AVERAGE, Fusion
from fuseforget.studies.forgetting.memorization_choice import Shrunk, at_equal
from fuseforget.studies.memorization.data import CONTROL, SHARED, VALIDATION
from fuseforget.studies.memorization.models import REFERENCE

__all__ = [
    "ALONE",
    "SHRUNK",
    "SPLITS",
    "UNSHARED",
    "Case",
    "Halves",
    "conclude_beyond",
    "conclude_case",
    "curve_of",
    "measured_on",
]

SPLITS = ("validation", "test")  # the first and the second half of each set of rows
UNSHARED, PERPLEXITY = "unshared", "perplexity"
FPR = 0.01
ALONE = "alone"  # models that are not fused
SHRUNK = [
    Fusion("average, shrunk", "task_arithmetic", {"lambda": scale}, takes_base=True)
    # None above 1: a stretched average forgets by being broken, and is no measure of what shrinking does.
    for scale in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
]
Where = Sequence[tuple[str, str]]  # models and the sets that they read
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Halves:
    """Recorded energies on one half of each set of rows of a source."""

    run: Run
    source: str

    def set_name(self, name: str) -> str:
        """What records call a set of the source's rows."""
        return f"{self.source}: {name}"

    def read(self, where: Where, split: str) -> Energies:
        """The energies of models on the sets beside them, one after another."""
        return join_energies([self._half(energies_of(self.run, self.set_name(on), model=model), split) for model, on in where])

    def _half(self, whole: Energies, split: str) -> Energies:
        # Neighbouring rows have parts of one article: two stretches share one at most.
        middle = len(whole.sums) // 2
        part = slice(None, middle) if split == SPLITS[0] else slice(middle, None)
        return Energies(whole.sums[part], whole.tokens[part])


@dataclass(frozen=True)
class Case:
    """Some models of a source, fused or alone.

    Attributes:
        parents: the models that are fused, each with a set of rows of its name.
    """

    halves: Halves
    parents: tuple[str, ...]

    @property
    def name(self) -> str:
        return "".join(self.parents)

    def model(self, fusion: Fusion) -> str:
        """What the records of energies call a fused model."""
        return f"{self.halves.source}: {self.name} by {fusion.label}"

    def energies(self, on: str, model: str, split: str) -> Energies:
        """A fused model's, on the unshared rows of all parents, or on a set that all are asked about."""
        return self.halves.read([(model, name) for name in (self.parents if on == UNSHARED else (on,))], split)

    def reference(self, on: str, split: str) -> Energies:
        """The base's energies on the same rows."""
        return self.energies(on, REFERENCE, split)

    def single(self, split: str, shift: int = 0) -> Energies:
        """The single models' on the unshared rows: each on its own, or on those of the model so many places before."""
        readers = [*self.parents[shift:], *self.parents[:shift]]
        return self.halves.read(list(zip(readers, self.parents, strict=True)), split)


def measured_on(case: Case, model: str, split: str) -> Record:
    """A fused model's ALR on unshared rows, together and by model, and on shared ones, and its perplexity."""
    held = case.energies(VALIDATION, model, split)
    return {
        UNSHARED: asdict(alr(case.energies(UNSHARED, model, split), case.reference(UNSHARED, split))),
        "by_model": _by_model(case, [model] * len(case.parents), split),
        SHARED: asdict(alr(case.energies(SHARED, model, split), case.reference(SHARED, split))),
        PERPLEXITY: asdict(perplexity(held.sums, held.tokens)),
    }


def _measured_alone(case: Case, split: str) -> Record:
    """The same of the single models: each on its own rows; on those that all are asked about the mean of all, row by row."""
    base, held = case.reference(SHARED, split), [case.energies(VALIDATION, name, split) for name in case.parents]
    shared = np.mean([ratios(case.energies(SHARED, name, split), base) for name in case.parents], axis=0)
    sums = np.mean([one.sums for one in held], axis=0)
    return {
        UNSHARED: asdict(alr(case.single(split), case.reference(UNSHARED, split))),
        "by_model": _by_model(case, case.parents, split),
        SHARED: asdict(bootstrap_mean(shared)),
        PERPLEXITY: asdict(perplexity(sums, held[0].tokens)),
    }


def _by_model(case: Case, readers: Sequence[str], split: str) -> dict[str, Record]:
    """ALR on each parent's own rows, of the reader beside it."""
    return {
        name: asdict(alr(case.halves.read([(reader, name)], split), case.halves.read([(REFERENCE, name)], split)))
        for name, reader in zip(case.parents, readers, strict=True)
    }


def conclude_case(case: Case, chosen: Sequence[Fusion]) -> None:
    """Record what each chosen fusion, and the single models, come to on the rows that tell, where it is not recorded.

    Tests against the average are corrected over all of these: :func:`fuseforget.studies.forgetting.families.record_family`.
    """
    run, where = case.halves.run, {"part": "memorization", "source": case.halves.source, "case": case.name}
    if run.find("forgetting_result", **where, row=ALONE) is None:
        run.add("forgetting_result", **where, row=ALONE, **_measured_alone(case, SPLITS[1]), tpr=_attacked_alone(case))
    told = [
        run.find("forgetting_result", **where, **fusion.where)
        or run.add("forgetting_result", **where, **fusion.where, **_result(case, fusion))
        for fusion in chosen
    ]
    record_family(run, where, told)


def _result(case: Case, fusion: Fusion) -> Record:
    model = case.model(fusion)
    measured = measured_on(case, model, SPLITS[1])
    return {
        **measured,
        "tpr": _attacked(case, model),
        "retained": _retained(case, model),
        "against_average": [] if fusion == AVERAGE else _tests(case, model),
    }


def _attacked(case: Case, model: str) -> dict[str, Record]:
    """How many members the likelihood-ratio attack finds at one false positive in a hundred control rows."""
    return {on: _found_in(case, model, case.parents if on == UNSHARED else (on,)) for on in (UNSHARED, SHARED)}


def _attacked_alone(case: Case) -> dict[str, Record]:
    """The same of the single models, each with its own threshold: means over them, of the intervals' ends too."""
    found = {}
    for on in (UNSHARED, SHARED):
        each = [_found_in(case, name, (name if on == UNSHARED else on,)) for name in case.parents]
        means = {key: float(np.mean([one[key] for one in each])) for key in ("value", "low", "high", "achieved")}
        worst = {"resolved": all(one["resolved"] for one in each), "p": max(one["p"] for one in each)}
        found[on] = {**each[0], **means, **worst}
    return found


def _found_in(case: Case, model: str, sets: Sequence[str]) -> Record:
    def scores(names: Sequence[str]) -> Values:
        own, base = (case.halves.read([(reader, name) for name in names], SPLITS[1]) for reader in (model, REFERENCE))
        return -likelihood_ratio(own, base)

    found = tpr_at(scores(sets), scores((CONTROL,)), FPR)
    return {key: getattr(found, key) for key in ("value", "low", "high", "n", "fpr", "achieved", "resolved", "p")}


def _retained(case: Case, model: str) -> Record | None:
    """The share of the nats that having read the rows saved the single models; None where they saved none."""
    own, others = case.single(SPLITS[1]), [case.single(SPLITS[1], shift) for shift in range(1, len(case.parents))]
    never = np.mean([token_means(one) for one in others], axis=0)
    if not knows_more(-token_means(own), -never):
        # What was never memorised cannot be forgotten: the reader is told by the missing number.
        return None
    return asdict(retained(case.energies(UNSHARED, model, SPLITS[1]), own, others))


def curve_of(case: Case, split: str) -> list[Shrunk]:
    """The average shrunk, from the base on."""
    found = []
    for scale, model in [(0.0, REFERENCE), *((float(one.parameters["lambda"]), case.model(one)) for one in SHRUNK)]:
        measured = measured_on(case, model, split)
        values = {on: measured[on]["value"] for on in (PERPLEXITY, SHARED)}
        found.append(Shrunk(scale, values, _rows(case, model, split)))
    return found


def conclude_beyond(case: Case, chosen: Sequence[Fusion]) -> None:
    """Record what fusions forget beyond the average shrunk as far, on the rows that tell, where it is not recorded."""
    curve = curve_of(case, SPLITS[1])
    for fusion in chosen:
        where = {"part": "memorization", "source": case.halves.source, "case": case.name, **fusion.where}
        if case.halves.run.find("beyond_shrinking", **where) is None:
            model = case.model(fusion)
            measured = measured_on(case, model, SPLITS[1])
            at = {on: _at_equal(case, model, curve, on, measured[on]["value"]) for on in (PERPLEXITY, SHARED)}
            case.halves.run.add("beyond_shrinking", **where, **measured, at_equal=at)


def _at_equal(case: Case, model: str, curve: Sequence[Shrunk], on: str, target: float) -> Record:
    """What a model forgets beyond the average that is shrunk until it is as good in one respect."""
    equal = at_equal(curve, on, target)
    if equal is None:
        return {"reached": False, "scale": None, UNSHARED: None, "gain": None}
    more = _rows(case, model, SPLITS[1]) - equal.rows
    gain = bootstrap_mean(more) if more.any() else Interval(0.0, 0.0, 0.0, len(more))
    return {"reached": True, "scale": equal.scale, UNSHARED: float(equal.rows.mean()), "gain": asdict(gain)}


def _rows(case: Case, model: str, split: str) -> np.ndarray:
    return ratios(case.energies(UNSHARED, model, split), case.reference(UNSHARED, split))


def _tests(case: Case, model: str) -> list[dict[str, Any]]:
    """The model's ALR and perplexity less the average's on the same rows."""
    average, split = case.model(AVERAGE), SPLITS[1]
    found: Mapping[str, Difference] = {
        **{
            on: compare_alr(case.energies(on, model, split), case.energies(on, average, split), case.reference(on, split))
            for on in (UNSHARED, SHARED)
        },
        PERPLEXITY: compare_perplexity(case.energies(VALIDATION, model, split), case.energies(VALIDATION, average, split)),
    }
    return [{"on": on, **asdict(one)} for on, one in found.items()]
