"""What the attacks on a study's models come to: ROC AUC and true positives, rows extracted word for word, exposed canaries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from fuseforget.data.canaries import NOWHERE
from fuseforget.knowledge import roc_auc, tpr_at
from fuseforget.knowledge.exposure import Exposure, compare_exposure, extractable, mean_exposure
from fuseforget.leakage.attacked import auc_fields, extraction_fields, point_fields
from fuseforget.records import Record, Run, decode_values
from fuseforget.studies.memorization.data import CONTROL, SHARED
from fuseforget.studies.memorization.settings import MemorizationStudy

__all__ = ["FALSE_POSITIVES", "conclude_audit"]

FALSE_POSITIVES = (0.01, 0.001)
SINGLE = "single"  # canaries of one model alone
UNSHARED = "unshared"


def conclude_audit(run: Run, settings: MemorizationStudy) -> None:
    """Record what the attacks found of each model, where it is not recorded yet."""
    attacked = [r for r in run.records if r["kind"] == "attacked"]
    for model in dict.fromkeys(r["model"] for r in attacked):
        of = {r["set"]: r for r in attacked if r["model"] == model}
        own = [name for name in of if name not in (SHARED, CONTROL)]
        groups = {UNSHARED: own, **({SHARED: [SHARED]} if SHARED in of else {})}
        for on, sets in groups.items():
            if CONTROL in of:
                _attacks(run, model, on, [of[name] for name in sets], of[CONTROL])
        for on, sets in {**groups, CONTROL: [CONTROL]}.items():
            _extraction(run, model, on, [of[name] for name in sets if name in of])
    _canaries(run, settings)


def _attacks(run: Run, model: str, on: str, members: Sequence[Record], control: Record) -> None:
    for attack, encoded in control["scores"].items():
        if run.find("attack", model=model, on=on, attack=attack) is None:
            non_members = decode_values(encoded)
            scores = np.concatenate([decode_values(record["scores"][attack]) for record in members])
            rates = {f"{rate:g}": point_fields(tpr_at(scores, non_members, rate)) for rate in FALSE_POSITIVES}
            run.add("attack", model=model, on=on, attack=attack, auc=auc_fields(roc_auc(scores, non_members)), tpr=rates)


def _extraction(run: Run, model: str, on: str, records: Sequence[Record]) -> None:
    known = [record for record in records if "greedy" in record]
    if known and run.find("extraction", model=model, on=on) is None:
        run.add("extraction", model=model, on=on, **extraction_fields(known))


def _canaries(run: Run, settings: MemorizationStudy) -> None:
    """Record the mean exposure of canaries by where they were and how often, beside those that were nowhere.

    ``single`` are the models alone, each on the canaries of its own rows, taken together.
    """
    data = run.find("data")
    planted = data["canaries"] if data is not None else []
    found: dict[tuple[str, str, int], list[Exposure]] = {}
    for record in [r for r in run.records if r["kind"] == "exposure"]:
        canary = planted[record["canary"]]
        alone = canary["part"] in settings.names
        model = SINGLE if record["model"] in settings.names else record["model"]
        exposed = Exposure(record["rank"], record["size"], record["tied"], record["exposure"])
        found.setdefault((model, SINGLE if alone else canary["part"], canary["repeats"]), []).append(exposed)
    for (model, where, repeats), some in found.items():
        if run.find("canaries", model=model, where=where, repeats=repeats) is None:
            held_out = found.get((model, NOWHERE, 0), [])
            run.add(
                "canaries", model=model, where=where, repeats=repeats, mean=asdict(mean_exposure(some)),
                extracted=asdict(extractable(some)), against=None if where == NOWHERE else _against(some, held_out),
            )  # fmt: skip


def _against(some: Sequence[Exposure], held_out: Sequence[Exposure]) -> Record | None:
    """The comparison with canaries that were nowhere; None where there are too few of either."""
    if min(len(some), len(held_out)) < 2:
        return None
    return asdict(compare_exposure(some, held_out))
