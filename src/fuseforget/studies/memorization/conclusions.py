"""What a study's energies say: ALR and perplexity of every model, paired comparisons, what fusing retains, Eq. 2's bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import numpy.typing as npt

from fuseforget.errors import InputError
from fuseforget.knowledge import (
    check_bound,
    compare_alr,
    compare_perplexity,
    holm,
    likelihood_ratio,
    mia_recall,
    ratios,
    retained,
)
from fuseforget.knowledge.fairness import Difference
from fuseforget.knowledge.harm import more_exposed
from fuseforget.leakage.attacked import harm_fields
from fuseforget.leakage.scoring import energies_of, join_energies
from fuseforget.models import Energies
from fuseforget.records import Record, Run
from fuseforget.studies.memorization.audit_conclusions import conclude_audit
from fuseforget.studies.memorization.data import CONTROL, SHARED, VALIDATION
from fuseforget.studies.memorization.equal_perplexity import compare_at_equal_perplexity
from fuseforget.studies.memorization.measures import OWN, measure_models
from fuseforget.studies.memorization.models import REFERENCE, full_name, fused_name
from fuseforget.studies.memorization.settings import MemorizationStudy

__all__ = ["conclude"]

PERPLEXITY = "perplexity"
# What the paper's tables claim of these models: single < full < fused < 1 on rows that are not shared, shared ones alike.
PAIRS = (
    ("single", "full", OWN), ("full", "fused", OWN), ("fused", REFERENCE, OWN),
    ("fused", "full", SHARED), ("single", "fused", SHARED),
    ("fused", "full", PERPLEXITY), ("single", "fused", PERPLEXITY),
)  # fmt: skip


def conclude(run: Run, settings: MemorizationStudy) -> None:
    """Record what the run's energies and attacks say, where it is not recorded yet."""
    measure_models(run, settings)
    numbers = settings.numbers if settings.recipe is None else [settings.models]
    some = [settings.names[:number] for number in numbers]
    _compare(run, settings, some)
    for names in some:
        _conclude_fused(run, settings, names)
    _recall(run, settings, some)
    _harm(run, settings)
    conclude_audit(run, settings)
    if "alternatives" in settings.parts:
        compare_at_equal_perplexity(run, settings)


def _compare(run: Run, settings: MemorizationStudy, some: Sequence[Sequence[str]]) -> None:
    """Record the order that the paper's tables claim, as paired tests, corrected over all of them."""
    asked = [(names, *pair) for names in some for pair in PAIRS if settings.shared or pair[2] != SHARED]
    fields = [{"models": "".join(names), "first": a, "second": b, "on": on} for names, a, b, on in asked]
    if all(run.find("comparison", **one) for one in fields):
        return
    # The correction is over all of them: those that a killed run has are computed again, and not recorded twice.
    tested = [asdict(_Row(run, names).compare(a, b, on)) for names, a, b, on in asked]
    for one, test, p in zip(fields, tested, holm([test["p"] for test in tested]), strict=True):
        if run.find("comparison", **one) is None:
            run.add("comparison", **one, **test, p_holm=p)


class _Row:
    """The energies of the models of some rows of the table: single ones, full, fused and reference."""

    def __init__(self, run: Run, names: Sequence[str]) -> None:
        self._run, self._names = run, names
        self._called = {"single": names[0], "full": full_name(names), "fused": fused_name(names), REFERENCE: REFERENCE}

    def compare(self, first: str, second: str, on: str) -> Difference:
        """The first's ALR, or perplexity, less the second's on the same rows."""
        if on == PERPLEXITY:
            return compare_perplexity(self.on(first, VALIDATION), self.on(second, VALIDATION))
        return compare_alr(self.on(first, on), self.on(second, on), self.on(REFERENCE, on))

    def on(self, role: str, rows: str) -> Energies:
        """A model's energies on a set, or on the rows that these models have of their own; single ones on the rows of each."""
        if rows != OWN:
            return energies_of(self._run, rows, model=self._called[role])
        if role == "single":
            return self.others(0)
        return join_energies([energies_of(self._run, name, model=self._called[role]) for name in self._names])

    def others(self, by: int) -> Energies:
        """Each model's rows by the single model so many places further: by 0, the one that read them."""
        shifted = [*self._names[by:], *self._names[:by]]
        pairs = zip(self._names, shifted, strict=True)
        return join_energies([energies_of(self._run, rows, model=model) for rows, model in pairs])


def _conclude_fused(run: Run, settings: MemorizationStudy, names: Sequence[str]) -> None:
    """Record what is left of the single models' memorization, and Eq. 2's bound on each set."""
    row, models = _Row(run, names), "".join(names)
    others = [row.others(by) for by in range(1, len(names))]
    for model in ("fused", "full"):
        if run.find("retained", models=models, model=model) is None:
            try:
                found = retained(row.on(model, OWN), row.others(0), others)
            except InputError as error:
                # What was never memorised cannot be forgotten: the table says so, and the study goes on.
                run.add("retained", models=models, model=model, unlearned=str(error))
                continue
            run.add("retained", models=models, model=model, **asdict(found))
    for name in (*names, *((SHARED,) if settings.shared else ())):
        if run.find("bound", models=models, on=name) is None:
            reference = energies_of(run, name, model=REFERENCE)
            values = [ratios(energies_of(run, name, model=m), reference) for m in (fused_name(names), *names)]
            run.add("bound", models=models, on=name, **asdict(check_bound(values[0], values[1:])))


def _recall(run: Run, settings: MemorizationStudy, some: Sequence[Sequence[str]]) -> None:
    """Record the paper's MIA recall, its threshold from validation rows, of singles, full and fused models."""
    models: dict[str, tuple[str, ...]] = {name: (name,) for name in settings.names}
    for names in some:
        models |= {full_name(names): tuple(names), fused_name(names): tuple(names)}
    for model, own in models.items():
        validation = _lr(run, model, [VALIDATION])
        for on, sets in ((OWN, own), (SHARED, (SHARED,)), (CONTROL, (CONTROL,))):
            known = all(run.find("energies", model=model, set=name) for name in sets)
            if known and run.find("mia_recall", model=model, on=on) is None:
                run.add("mia_recall", model=model, on=on, **asdict(mia_recall(_lr(run, model, sets), validation)))


def _harm(run: Run, settings: MemorizationStudy) -> None:
    """Record which rows the average of all models exposes more than any of them does."""
    names = settings.names
    for on, sets in ((OWN, names), (SHARED, (SHARED,))):
        if run.find("harm", on=on) is not None or not all(run.find("tokens", set=name) for name in sets):
            continue
        fused, parents = _lr(run, fused_name(names), sets), [_lr(run, name, sets) for name in names]
        unseen = by_parents = None
        if run.find("tokens", set=CONTROL):
            unseen = _lr(run, fused_name(names), [CONTROL])
            by_parents = np.stack([_lr(run, name, [CONTROL]) for name in names])
        found = more_exposed(fused, np.stack(parents), fused_controls=unseen, parents_controls=by_parents)
        run.add("harm", on=on, **harm_fields(found, names, _places(run, sets).__getitem__))


def _lr(run: Run, model: str, sets: Sequence[str]) -> npt.NDArray[np.float64]:
    of, reference = (join_energies([energies_of(run, name, model=m) for name in sets]) for m in (model, REFERENCE))
    return likelihood_ratio(of, reference)


def _places(run: Run, sets: Sequence[str]) -> list[Record]:
    """The set and the number in it of each row of several sets."""
    return [{"set": name, "row": i} for name in sets for i in range(len(energies_of(run, name, model=REFERENCE)))]
