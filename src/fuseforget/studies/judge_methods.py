"""What the measurements of models made by many methods say: what is left, what the task lost, and tests against the average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fuseforget.knowledge import Interval, bootstrap_mean, holm, knows_more, mean_retention, sign_flip
from fuseforget.records import Record, Run, decode_values

__all__ = ["SINGLE", "conclude", "conclude_shared"]

SINGLE = "single specialist"
REFERENCES = ("average", "average, pair")  # rows that the others are tested against
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Row:
    """One row of the comparison.

    Attributes:
        name, sort: as in its ``method`` records.
        model_of: for each specialist that the row is about, the model that is asked for its shortcut: one for all of them, or
            one made of each.
        reference: the model that it is tested against.
    """

    name: str
    sort: str
    model_of: Mapping[str, str]
    reference: str


class _Known:
    """Per-example values of the run's measurements, and which shortcuts the specialists have at all."""

    def __init__(self, run: Run, rules: Sequence[str], probes: Sequence[str], control: str) -> None:
        self.values: dict[tuple[str, str], Values] = {
            (r["model"], r["probe"]): decode_values(r["values"])
            for r in run.records
            if r["kind"] == "measurement" and "model" in r
        }
        self.rules, self.task, self.control = rules, probes[-1], control
        self.learned = [r for r in rules if knows_more(self.values[r, r], self.values[control, r])]

    def triple(self, fused: Values, rule: str) -> tuple[Values, Values, Values]:
        return fused, self.values[rule, rule], self.values[self.control, rule]

    def gap(self, rule: str) -> float:
        """How much more often the specialist is right about its shortcut than the control."""
        return float(self.values[rule, rule].mean() - self.values[self.control, rule].mean())

    def mean(self, models: Sequence[str], probe: str) -> Values:
        """The mean over models of each example's value."""
        found: Values = np.mean([self.values[model, probe] for model in models], axis=0)
        return found


def conclude(run: Run, rules: Sequence[str], probes: Sequence[str], control: str) -> None:
    """Record, for each row, retention of the specialists' own shortcuts, the task, and paired tests against the average.

    Tests are sign flips, of the task's accuracy and of the mean retention, corrected over all rows (Holm), each for themselves.
    Where no specialist learned its shortcut there is no retention; it is recorded as None.
    """
    known = _Known(run, rules, probes, control)
    rows = _rows(run, rules)
    if all(run.find("method_result", row=row.name) is not None for row in rows):
        return
    results = {row.name: _result(known, row) for row in rows}
    tested = [row.name for row in rows if row.name not in REFERENCES]
    for kind in ("p_task", "p_shortcuts"):
        judged = [name for name in tested if results[name][kind] is not None]
        for name, p in zip(judged, holm([results[name][kind] for name in judged]), strict=True):
            results[name][f"{kind}_holm"] = p
    for row in rows:
        if run.find("method_result", row=row.name) is None:
            run.add("method_result", row=row.name, sort=row.sort, **results[row.name])


def _rows(run: Run, rules: Sequence[str]) -> list[Row]:
    """The rows that the run has models of, in the order in which they were made; the single specialists last."""
    made: dict[str, list[Record]] = {}
    for record in run.records:
        if record["kind"] == "method":
            made.setdefault(record["row"], []).append(record)
    rows = []
    for name, records in made.items():
        model_of = {member: record["model"] for record in records for member in record["members"]}
        rows.append(Row(name, records[0]["sort"], model_of, "by average, pair" if records[0]["sort"] == "pair" else "by average"))
    return [*rows, Row(SINGLE, "baseline", {rule: rule for rule in rules}, "by average")]


def _result(known: _Known, row: Row) -> Record:
    values, task = known.values, known.task
    own = [rule for rule in row.model_of if rule in known.learned]
    at_task = known.mean(list(dict.fromkeys(row.model_of.values())), task)
    retained = mean_retention([known.triple(values[row.model_of[r], r], r) for r in own]) if own else None
    every = None
    if row.name == SINGLE and own:
        # Of all shortcuts in all specialists; the mean of retentions is the retention of the mean, which is linear in it.
        every = mean_retention([known.triple(known.mean(known.rules, r), r) for r in own])
    tested = row.name not in REFERENCES
    # In units of what the specialist knows more than the control, so that what is tested is the difference in retention.
    changes = [(values[row.model_of[r], r] - values[row.reference, r]) / known.gap(r) for r in own]
    return {
        "over": own,
        "retention": None if retained is None else asdict(retained),
        "retention_of_all": None if every is None else asdict(every),
        "task": asdict(bootstrap_mean(at_task)),
        "difference": asdict(_change(at_task - known.mean(list(row.model_of), task))),
        "p_task": sign_flip([at_task - values[row.reference, task]]) if tested else None,
        "p_shortcuts": sign_flip(changes) if tested and changes else None,
    }


def _change(differences: Values) -> Interval:
    """The mean of per-example differences with its interval; none at all is zero, not the exact interval of no success."""
    return bootstrap_mean(differences) if differences.any() else Interval(0.0, 0.0, 0.0, len(differences))


def conclude_shared(run: Run, shared: Mapping[str, Any], task: str, control: str) -> None:
    """Record, for each method on two models that share a shortcut, what is left of that and of what only one of them knows.

    A shortcut that its models did not learn is left out, and recorded as such.
    """
    names, kept, lost = tuple(shared["models"]), shared["shared"], tuple(shared["unshared"])
    made = [r for r in run.records if r["kind"] == "shared_method"]
    if all(run.find("shared_result", row=r["row"]) is not None for r in made):
        return
    values = _Known(run, [], [task], control).values
    both: Values = np.mean([values[name, kept] for name in names], axis=0)
    knowing = {kept: both, **{rule: values[name, rule] for name, rule in zip(names, lost, strict=True)}}
    learned = [rule for rule in (kept, *lost) if knows_more(knowing[rule], values[control, rule])]
    own = np.mean([values[name, task] for name in names], axis=0)
    for record in made:
        if run.find("shared_result", row=record["row"]) is not None:
            continue
        model = record["model"]
        left = {rule: (values[model, rule], knowing[rule], values[control, rule]) for rule in learned}
        unshared = [left[rule] for rule in lost if rule in left]
        run.add(
            "shared_result", row=record["row"], models=list(names), shared=kept, unshared=list(lost), learned=learned,
            kept=asdict(mean_retention([left[kept]])) if kept in left else None,
            lost=asdict(mean_retention(unshared)) if unshared else None,
            task=asdict(bootstrap_mean(values[model, task])), difference=asdict(_change(values[model, task] - own)),
        )  # fmt: skip
