"""An audit: what measurements by a protected attribute say of each group, and of models against each other.

Everything here follows from the answers that the measurements recorded; no model is run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np
import numpy.typing as npt

from fuseforget.knowledge import Probe, holm
from fuseforget.knowledge.fairness import FAIRNESS, Grouped, compare_fairness, group_rows
from fuseforget.knowledge.probes import grouped_of
from fuseforget.records import Record, Run, decode_values

__all__ = ["record_audit"]

Say = Callable[[str], None]
Codes = npt.NDArray[np.int64]


def record_audit(run: Run, probes: Sequence[Probe], models: Sequence[str], *, say: Say) -> None:
    """Record what the run does not have yet of the measured models' audit.

    Records:
        ``group``: model, probe (the entry's name), attribute, and a :class:`fuseforget.knowledge.fairness.GroupRow`.
        ``comparison``: model, against (the first model), probe, metric, attribute, and the
        :class:`fuseforget.knowledge.fairness.Difference` of the two, with p corrected (Holm) over all comparisons of the run.
    """
    by_attribute = [probe for probe in probes if probe.attribute]
    entries: dict[str, list[Probe]] = {}
    for probe in by_attribute:
        entries.setdefault(probe.entry, []).append(probe)
    for entry, members in entries.items():
        for model in models:
            _record_groups(run, entry, members, model)
    wanted = [(model, probe) for model in dict.fromkeys(models[1:]) if model != models[0] for probe in by_attribute]
    if any(_found(run, model, models[0], probe) is None for model, probe in wanted):
        say(f"comparing {len(models)} models in {len(wanted)} tests")
        _record_comparisons(run, wanted, models[0])


def _record_groups(run: Run, entry: str, probes: Sequence[Probe], model: str) -> None:
    names = probes[0].group_names
    if all(run.find("group", model=model, probe=entry, group=name) is not None for name in names):
        return
    # Of the entry's measurements one with confidences, where calibration was asked for.
    probe = next((p for p in probes if FAIRNESS[p.metric].table == "calibration"), probes[0])
    record = _measured(run, model, probe)
    data, (predictions,) = _recoded(probe, [record])
    for row in group_rows(data, predictions, confidences=_confidences(record)):
        if run.find("group", model=model, probe=entry, group=row.group) is None:
            run.add("group", model=model, probe=entry, attribute=probe.attribute, **asdict(row))


def _record_comparisons(run: Run, wanted: Sequence[tuple[str, Probe]], against: str) -> None:
    found = [_found(run, model, against, probe) or _compared(run, model, against, probe) for model, probe in wanted]
    for record, corrected in zip(found, holm([record["p"] for record in found]), strict=True):
        if "p_holm" not in record:
            run.add("comparison", **record, p_holm=corrected)


def _found(run: Run, model: str, against: str, probe: Probe) -> Record | None:
    return run.find("comparison", model=model, against=against, probe=probe.name)


def _compared(run: Run, model: str, against: str, probe: Probe) -> Record:
    records = [_measured(run, name, probe) for name in (model, against)]
    data, (first, second) = _recoded(probe, records)
    sure = [_confidences(record) for record in records]
    pair = None if sure[0] is None or sure[1] is None else (sure[0], sure[1])
    difference = compare_fairness(probe.metric, data, first, second, confidences=pair)
    return {
        "model": model, "against": against, "probe": probe.name, "metric": probe.metric, "attribute": probe.attribute,
        **asdict(difference),
    }  # fmt: skip


def _measured(run: Run, model: str, probe: Probe) -> Record:
    record = run.find("measurement", model=model, probe=probe.name)
    if record is None:
        raise RuntimeError(f"{probe.name} was not measured on {model}")
    return record


def _recoded(probe: Probe, records: Sequence[Record]) -> tuple[Grouped, list[Codes]]:
    """The probe's data with all that the models answer, and their answers numbered alike.

    Models may call labels in upper or lower case, have more of them than the data, and not the same ones.
    """
    labels = len(grouped_of(probe).label_names)
    others: dict[str, str] = {}
    for name in (name for record in records for name in record["answers"][labels:]):
        others.setdefault(name.casefold(), name)
    numbers = {name: labels + i for i, name in enumerate(others)}
    recoded = []
    for record in records:
        number = np.array([*range(labels), *(numbers[name.casefold()] for name in record["answers"][labels:])])
        recoded.append(number[decode_values(record["values"]).astype(np.int64)])
    return grouped_of(probe, tuple(others.values())), recoded


def _confidences(record: Record) -> npt.NDArray[np.float64] | None:
    return decode_values(record["confidences"]) if "confidences" in record else None
