"""What fused models' energies come to on the rows that tell: ALR, perplexity, attacks, and the average shrunk as far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fuseforget.errors import InputError
from fuseforget.knowledge import (
    Interval,
    alr,
    bootstrap_mean,
    compare_alr,
    compare_perplexity,
    holm,
    likelihood_ratio,
    perplexity,
    ratios,
    retained,
    tpr_at,
)
from fuseforget.knowledge.fairness import Difference
from fuseforget.leakage.scoring import energies_of, join_energies
from fuseforget.models import Energies
from fuseforget.records import Record, Run
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

    def where(self, on: str, model: str | None, shift: int = 0) -> list[tuple[str, str]]:
        """Who reads what: a fused model (None: the single ones) the unshared rows, or a set that all are asked about.

        Args:
            shift: 0 for single models on their own rows; else on those of the model so many places before.
        """
        sets = self.parents if on == UNSHARED else (on,) * (1 if model else len(self.parents))
        if model is not None:
            return [(model, name) for name in sets]
        return list(zip([*self.parents[shift:], *self.parents[:shift]], sets, strict=True))

    def energies(self, on: str, model: str | None, split: str, shift: int = 0) -> Energies:
        return self.halves.read(self.where(on, model, shift), split)

    def reference(self, on: str, model: str | None, split: str) -> Energies:
        """The base's energies on the same rows."""
        return self.halves.read([(REFERENCE, name) for _, name in self.where(on, model)], split)


def measured_on(case: Case, model: str | None, split: str) -> Record:
    """ALR on unshared rows, together and by model, and on shared ones, and perplexity; a fused model's or the single ones'."""
    pair = {on: (case.energies(on, model, split), case.reference(on, model, split)) for on in (UNSHARED, SHARED)}
    alone = [[(model or name, name)] for name in case.parents]
    base = [[(REFERENCE, name)] for name in case.parents]
    each = [alr(case.halves.read(a, split), case.halves.read(b, split)) for a, b in zip(alone, base, strict=True)]
    held = case.energies(VALIDATION, model, split)
    return {
        UNSHARED: asdict(alr(*pair[UNSHARED])),
        "by_model": {name: asdict(one) for name, one in zip(case.parents, each, strict=True)},
        SHARED: asdict(alr(*pair[SHARED])),
        PERPLEXITY: asdict(perplexity(held.sums, held.tokens)),
    }


def conclude_case(case: Case, chosen: Sequence[Fusion]) -> None:
    """Record what each chosen fusion, and the single models, come to on the rows that tell, where it is not recorded.

    Tests against the average are corrected over all fusions (Holm).
    """
    run, where = case.halves.run, {"part": "memorization", "source": case.halves.source, "case": case.name}
    if all(run.find("forgetting_result", **where, row=row) for row in (ALONE, *(one.row for one in chosen))):
        return
    found: dict[str, Record] = {ALONE: {**measured_on(case, None, SPLITS[1]), "tpr": _attacked(case, None)}}
    for fusion in chosen:
        found[fusion.row] = {**fusion.where, **_result(case, fusion)}
    tests = [test for one in found.values() for test in one.get("against_average", [])]
    for test, p in zip(tests, holm([test["p"] for test in tests]), strict=True):
        test["p_holm"] = p
    for row, fields in found.items():
        if run.find("forgetting_result", **where, row=row) is None:
            run.add("forgetting_result", **{**where, "row": row, **fields})


def _result(case: Case, fusion: Fusion) -> Record:
    model = case.model(fusion)
    measured = measured_on(case, model, SPLITS[1])
    return {
        **measured,
        "tpr": _attacked(case, model),
        "retained": _retained(case, model),
        "against_average": [] if fusion == AVERAGE else _tests(case, model),
    }


def _attacked(case: Case, model: str | None) -> dict[str, Record]:
    """How many members the likelihood-ratio attack finds at one false positive in a hundred control rows."""

    def scores(on: str) -> Any:
        return -likelihood_ratio(case.energies(on, model, SPLITS[1]), case.reference(on, model, SPLITS[1]))

    found = {on: tpr_at(scores(on), scores(CONTROL), FPR) for on in (UNSHARED, SHARED)}
    keys = ("value", "low", "high", "n", "fpr", "achieved", "resolved", "p")
    return {on: {key: getattr(one, key) for key in keys} for on, one in found.items()}


def _retained(case: Case, model: str) -> Record | None:
    """The share of the nats that having read the rows saved the single models; None where they saved none."""
    own = case.energies(UNSHARED, None, SPLITS[1])
    others = [case.energies(UNSHARED, None, SPLITS[1], shift) for shift in range(1, len(case.parents))]
    try:
        return asdict(retained(case.energies(UNSHARED, model, SPLITS[1]), own, others))
    except InputError:
        # What was never memorised cannot be forgotten: the reader is told by the missing number.
        return None


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
    return ratios(case.energies(UNSHARED, model, split), case.reference(UNSHARED, model, split))


def _tests(case: Case, model: str) -> list[dict[str, Any]]:
    """The model's ALR and perplexity less the average's on the same rows."""
    average, split = case.model(AVERAGE), SPLITS[1]
    found: Mapping[str, Difference] = {
        **{
            on: compare_alr(case.energies(on, model, split), case.energies(on, average, split), case.reference(on, model, split))
            for on in (UNSHARED, SHARED)
        },
        PERPLEXITY: compare_perplexity(case.energies(VALIDATION, model, split), case.energies(VALIDATION, average, split)),
    }
    return [{"on": on, **asdict(one)} for on, one in found.items()]
