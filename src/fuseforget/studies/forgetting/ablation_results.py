"""What the points of the part ``ablations`` say: each row at equal task accuracy, and at the method's update norm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from fuseforget.methods import Value
from fuseforget.records import Record, Run
from fuseforget.studies.forgetting.ablated import DEFAULT, FORGET
from fuseforget.studies.forgetting.bench import CONTROL, Bench, Values
from fuseforget.studies.forgetting.choice import Tried, allowed, choose
from fuseforget.studies.forgetting.contenders import AVERAGE
from fuseforget.studies.forgetting.retained import Fused, Piece, mean_of_cases, point_values
from fuseforget.studies.shortcuts.settings import TASK

__all__ = ["LENGTHENED", "PART", "Mix", "Row", "conclude_ablations", "knob_at_its_end", "mix_at_task"]

PART = "ablations"
LENGTHENED = "average, lengthened"
SAME_NORM = 0.01  # relative difference of norms that count as equal
ROUNDING = 1e-9  # of shares of right answers
RELATION = ("norm", "cosine_average", "cosine_method")
Case = tuple[str, ...]
Mix = tuple[tuple[int, float], ...]  # which settings, by number, and the share of each


@dataclass(frozen=True)
class Row:
    """What is compared: a variant of the method, or another method.

    Attributes:
        name, method: what records call it.
        changes, aspect: what is changed, and what kind of choice that is, in words.
        settings: parameters, the more lenient first.
    """

    name: str
    method: str
    changes: str
    aspect: str
    settings: tuple[Mapping[str, Value], ...]


def conclude_ablations(run: Run, bench: Bench, cases: Sequence[Case], rows: Sequence[Row], allowance: float) -> None:
    """Record an ``ablation_result`` and an ``update_relation`` for each row, unless the run has it.

    At equal task accuracy: the least unshared left at a task accuracy at most the allowance below the average's, on the straight
    lines between neighbouring settings. Where that is between two of them, what each leaves (with what is below zero cut off, in
    resamples as well) and its accuracy are averaged in proportion: what is told is on the line that it is chosen on. Where none
    is allowed it is the setting of highest accuracy, and ``allowed`` is false. Where the strictest setting is still above the
    limit and the best is no mixture, the knob ended before the accuracies were equal: ``knob_at_its_end``.

    At equal norm: at the method's own setting; of a row with another knob at the setting that would be chosen. ``equal`` says
    whether the norm is the method's there.

    Differences, of ``unshared_clipped`` and of the task, are to the method in the same comparison (task: at its setting for equal
    task; norm: at its default), with intervals over examples and cases.
    """
    found = _Answers(bench, cases)
    own = next(row for row in rows if row.name == DEFAULT.name)
    average = next(row for row in rows if row.name == AVERAGE)
    task = found.point(average, found.whole(0), average)["task"]
    chosen = _at_task(found, own, average, task, allowance)[0]
    default = found.whole(next(i for i, one in enumerate(own.settings) if one["forget"] == FORGET))
    for row in rows:
        where = _where(bench, cases, row)
        relations = [found.relation(row, number) for number in range(len(row.settings))]
        if run.find("ablation_result", **where) is None:
            tried = [found.point(row, found.whole(number), average) for number in range(len(row.settings))]
            mix, is_allowed = _at_task(found, row, average, task, allowance)
            at = _own_setting(row, tried, task, allowance)
            ratio = found.norm(row, found.whole(at)) / found.norm(own, default)
            is_own = row is own
            run.add(
                "ablation_result", **where, aspect=row.aspect, average_task=task,
                settings=[
                    {"parameters": dict(parameters), **{name: one[name] for name in ("unshared_clipped", "task")}, **relation}
                    for parameters, one, relation in zip(row.settings, tried, relations, strict=True)
                ],
                equal_task={
                    "allowed": is_allowed, "knob_at_its_end": knob_at_its_end(_as_tried(row, tried), mix, task, allowance),
                    "mix": [[dict(row.settings[number]), share] for number, share in mix],
                    "norm": found.norm(row, mix), **found.compared(row, mix, None if is_own else (own, chosen), average),
                },
                equal_norm={
                    "parameters": dict(row.settings[at]), "of_method": ratio, "equal": abs(ratio - 1) <= SAME_NORM,
                    **found.compared(row, found.whole(at), None if is_own else (own, default), average),
                },
            )  # fmt: skip
        if run.find("update_relation", **where) is None:
            at = next((i for i, one in enumerate(row.settings) if one.get("forget") == FORGET), 0)
            run.add("update_relation", **where, at=dict(row.settings[at]), **relations[at])


def mix_at_task(tried: Sequence[Tried], average: float, allowance: float) -> tuple[Mix, bool]:
    """Where, on the straight lines between neighbouring settings, the least is left at a task accuracy that is allowed.

    Args:
        tried: in the order of the knob.

    Returns:
        One setting, or two with their shares; and whether it is allowed: where none is, it is the best at the task.
    """
    good = [allowed(one.task, average, allowance) for one in tried]
    if not any(good):
        return ((max(range(len(tried)), key=lambda number: tried[number].task), 1.0),), False
    mixes: list[tuple[float, Mix]] = [(one.retention, ((number, 1.0),)) for number, one in enumerate(tried) if good[number]]
    for number, (first, second) in enumerate(pairwise(tried)):
        if good[number] != good[number + 1]:
            share = (average - allowance - first.task) / (second.task - first.task)
            left = (1 - share) * first.retention + share * second.retention
            mixes.append((left, ((number, 1 - share), (number + 1, share))))
    return min(mixes, key=lambda one: one[0])[1], True


def knob_at_its_end(tried: Sequence[Tried], mix: Mix, average: float, allowance: float) -> bool:
    """Whether the task's accuracy is above the limit because no stricter setting was tried.

    Args:
        tried: in the order of the knob, the strictest last; of one setting there is no knob.
        mix: of :func:`mix_at_task`. One of two settings is at the limit.
    """
    return len(tried) > 1 and len(mix) == 1 and tried[-1].task > average - allowance + ROUNDING


def _at_task(found: _Answers, row: Row, average: Row, task: float, allowance: float) -> tuple[Mix, bool]:
    points = [found.point(row, found.whole(number), average) for number in range(len(row.settings))]
    return mix_at_task(_as_tried(row, points), task, allowance)


def _own_setting(row: Row, points: Sequence[Record], task: float, allowance: float) -> int:
    """Which setting is compared at the method's norm."""
    for number, parameters in enumerate(row.settings):
        if parameters.get("forget") == FORGET:
            return number
    best = choose(_as_tried(row, points), task, allowance)
    return next(number for number, parameters in enumerate(row.settings) if parameters == best.parameters)


def _as_tried(row: Row, points: Sequence[Record]) -> list[Tried]:
    return [Tried(parameters, one["unshared_clipped"], one["task"])
            for parameters, one in zip(row.settings, points, strict=True)]  # fmt: skip


def _where(bench: Bench, cases: Sequence[Case], row: Row) -> Record:
    return {
        "part": PART, "source": bench.source.name, "split": bench.split, "row": row.name, "method": row.method,
        "changes": row.changes, "parameters": [dict(one) for one in row.settings], "cases": [list(case) for case in cases],
    }  # fmt: skip


class _Answers:
    """What fused models of the cases get right, of a row at a setting or a mix of two."""

    def __init__(self, bench: Bench, cases: Sequence[Case]) -> None:
        self._bench, self._cases = bench, cases
        self._known: dict[tuple[str, int, Case], dict[str, Values]] = {}

    @staticmethod
    def whole(number: int) -> Mix:
        """One setting alone."""
        return ((number, 1.0),)

    def point(self, row: Row, mix: Mix, average: Row) -> dict[str, Any]:
        """Without intervals."""
        return point_values(*self._pieces(row, mix, (average, self.whole(0))))

    def compared(self, row: Row, mix: Mix, reference: tuple[Row, Mix] | None, average: Row) -> Record:
        """Unshared left and the task with intervals, and their differences to a reference; None: there is none."""
        result = mean_of_cases(*self._pieces(row, mix, reference or (average, self.whole(0))))
        names = {"unshared_clipped": "unshared_clipped", "unshared": "unshared", "task": "task"}
        if reference is not None:
            names |= {"difference": "unshared_clipped_difference", "task_difference": "task_difference"}
        return {name: result[of] for name, of in names.items()}

    def norm(self, row: Row, mix: Mix) -> float:
        """Of the update, relative to the average's; of a mix the mean."""
        return sum(share * self.relation(row, number)["norm"] for number, share in mix)

    def relation(self, row: Row, number: int) -> dict[str, float]:
        """A setting's norm and cosines, means over the cases."""
        records = [self._bench.record_at(self._place(row, number, case)) for case in self._cases]
        return {name: sum(float(one[name]) for one in records) / len(records) for name in RELATION}

    def _place(self, row: Row, number: int, case: Case) -> Record:
        return self._bench.place(PART, row.name, row.method, row.settings[number], case)

    def _pieces(self, row: Row, mix: Mix, reference: tuple[Row, Mix]) -> tuple[list[Piece], list[Fused]]:
        bench, pieces, tasks = self._bench, [], []
        for case in self._cases:
            own, others = self._parts(row, mix, case), self._parts(*reference, case)
            tasks.append(Fused(bench.source.name, case, _mixed(own, TASK), _mixed(others, TASK)))
            # What is left is cut at zero in each setting: a mixture with a mixture is a piece for each two of their settings.
            pieces += [
                Piece(bench.source.name, case, rule, one[rule], other[rule], bench.alone(rule, rule), bench.alone(CONTROL, rule),
                      tuple(bench.alone(name, rule) for name in case if name != rule), share * share_of_other)
                for rule in case for share, one in own for share_of_other, other in others
            ]  # fmt: skip
        return pieces, tasks

    def _parts(self, row: Row, mix: Mix, case: Case) -> list[tuple[float, dict[str, Values]]]:
        """The share and the answers of each setting of a mix."""
        return [(share, self._answers(row, number, case)) for number, share in mix]

    def _answers(self, row: Row, number: int, case: Case) -> dict[str, Values]:
        key = (row.name, number, case)
        if key not in self._known:
            self._known[key] = self._bench.fused_at(self._place(row, number, case))
        return self._known[key]


def _mixed(parts: Sequence[tuple[float, Mapping[str, Values]]], probe: str) -> Values:
    """The answers on a probe, text by text in proportion."""
    (share, first), *rest = parts
    return sum((more * one[probe] for more, one in rest), share * first[probe])
