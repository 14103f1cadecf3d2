"""Contenders at chosen settings on the test data of every source: what is asked, and what it says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fuseforget.methods import Value
from fuseforget.records import Run
from fuseforget.studies.forgetting.bench import CONTROL, Bench
from fuseforget.studies.forgetting.contenders import AVERAGE, Contender
from fuseforget.studies.forgetting.retained import Fused, Piece, mean_of_cases, without_own
from fuseforget.studies.shortcuts.settings import TASK
from fuseforget.sweep import Point

__all__ = ["Case", "Entry", "compare", "measured", "points_of", "result_of"]

Case = tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """A contender at one setting, beside the plain average.

    Attributes:
        average: the contender that it is held against.
    """

    contender: Contender
    parameters: Mapping[str, Value]
    average: Contender

    @classmethod
    def of(cls, chosen: Mapping[str, Mapping[str, Value]], contenders: Sequence[Contender]) -> list[Entry]:
        """The contenders at their chosen settings, by row."""
        average = next(one for one in contenders if one.row == AVERAGE)
        return [cls(one, chosen[one.row], average) for one in contenders]


def compare(
    run: Run, part: str, benches: Sequence[Bench], entries: Sequence[Entry], cases: Sequence[Case], **more: Value
) -> None:
    """Ask all entries on all cases of all benches, and record a ``forgetting_result`` for each of them.

    Args:
        part: what the points are recorded under; the average's too.
        cases: the rules whose specialists are fused, each as many.
        more: what else tells the results apart.
    """
    able = [entry for entry in entries if all(entry.contender.takes(len(case)) for case in cases)]
    for bench in benches:
        bench.ask_alone((CONTROL, *bench.rules), bench.rules)
        bench.ask(point for entry in able for case in cases for point in points_of(bench, part, entry, case, case))
    for entry in able:
        result_of(run, part, benches, entry, cases, **more)


def points_of(bench: Bench, part: str, entry: Entry, case: Case, probes: Sequence[str]) -> Iterator[Point]:
    """What an entry needs of a case: its own point, and the average's."""
    yield bench.point(part, entry.contender, entry.parameters, case, probes)
    if entry.contender != entry.average:
        yield bench.point(part, entry.average, {}, case, probes)


def result_of(run: Run, part: str, benches: Sequence[Bench], entry: Entry, cases: Sequence[Case], **more: Value) -> None:
    """Record what an entry leaves of the specialists' rules, over all cases and benches, unless the run has it."""
    where = {
        "part": part, "row": entry.contender.row, "method": entry.contender.method, "parameters": dict(entry.parameters),
        "split": benches[0].split, "sources": [bench.source.name for bench in benches], **more,
    }  # fmt: skip
    if run.find("forgetting_result", **where) is None:
        found = [measured(bench, part, entry, case) for bench in benches for case in cases]
        pieces, tasks = [piece for some, _ in found for piece in some], [task for _, task in found]
        left_out = [[source, list(case), rule] for source, case, rule in without_own(pieces)]
        run.add("forgetting_result", **where, **mean_of_cases(pieces, tasks), nothing_unshared=left_out)


def measured(bench: Bench, part: str, entry: Entry, case: Case) -> tuple[list[Piece], Fused]:
    """What a fused model of specialists gets right: of the rules that were learned, and of the task."""
    own, average = (
        bench.fused(bench.point(part, one, parameters, case, case))
        for one, parameters in ((entry.contender, entry.parameters), (entry.average, {}))
    )
    pieces = [
        Piece(
            bench.source.name, case, rule, own[rule], average[rule], bench.alone(rule, rule), bench.alone(CONTROL, rule),
            tuple(bench.alone(other, rule) for other in case if other != rule), texts=bench.texts,
        )
        for rule in case if bench.knows(rule, rule)
    ]  # fmt: skip
    return pieces, Fused(bench.source.name, case, own[TASK], average[TASK], bench.texts)
