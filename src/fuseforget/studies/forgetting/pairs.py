"""All pairs of a shortcut study's specialists: every method at its best, chosen on validation data and told on test data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from fuseforget import stopping
from fuseforget.errors import InputError
from fuseforget.methods import Value
from fuseforget.records import Record, Run
from fuseforget.studies.forgetting.bench import CONTROL, Bench, describe_setting
from fuseforget.studies.forgetting.choice import Tried, allowed, choose
from fuseforget.studies.forgetting.comparing import Case, Entry, compare, measured
from fuseforget.studies.forgetting.contenders import AVERAGE, Contender
from fuseforget.studies.forgetting.probes import TEST, VALIDATION
from fuseforget.studies.forgetting.retained import point_values
from fuseforget.studies.forgetting.settings import ForgettingStudy
from fuseforget.studies.forgetting.sources import Source
from fuseforget.workers import Workers

__all__ = ["DIAL_PART", "PART", "choose_settings", "choosing_pairs", "chosen_record", "do_pairs"]

PART, DIAL_PART = "pairs", "dial"
Say = Callable[[str], None]
Chosen = dict[str, Mapping[str, Value]]


def do_pairs(run: Run, sources: Sequence[Source], settings: ForgettingStudy, workers: Workers, say: Say) -> None:
    """Choose each contender's setting on some pairs of every source, then record what it does to all pairs of each.

    Records: ``measurement`` (models alone), ``point`` (fused models), ``tried`` and ``chosen`` (settings on validation data),
    ``unlearned`` (specialists that have nothing to forget) and ``forgetting_result``; of the dial ones of the part ``dial``.
    """
    chosen = choose_settings(run, sources, settings, workers, say)
    cases = _pairs(sources[0])
    benches = [Bench(run, source, TEST, settings, workers, say) for source in sources]
    entries = Entry.of(chosen, settings.contenders)
    compare(run, PART, benches, entries, cases)
    if settings.dial is not None:
        _turn_dial(run, benches[0], settings.dial, entries[0].average, cases)


def choose_settings(run: Run, sources: Sequence[Source], settings: ForgettingStudy, workers: Workers, say: Say) -> Chosen:
    """Each contender's best setting on texts that none of a source's specialists was trained on, by row.

    Of the pairs of :func:`choosing_pairs`. Sources that are added to a run have its settings chosen anew.

    Raises:
        InputError: no specialist of any source learned its rule: there is nothing to forget.
    """
    if any(chosen_record(run, sources, one.row) is None for one in settings.contenders):
        cases = choosing_pairs([source.settings["rules"] for source in sources])
        benches = [Bench(run, source, VALIDATION, settings, workers, say) for source in sources]
        for bench in benches:
            bench.ask_alone((CONTROL, *bench.rules), bench.rules)
        if not any(bench.knows(rule, rule) for bench in benches for rule in bench.rules):
            raise InputError(
                ", ".join(str(source.path) for source in sources), expected="specialists that learned their shortcut",
                found="none", action="Forgetting is measured on what is known.",
            )  # fmt: skip
        for bench, own in zip(benches, cases, strict=True):
            bench.ask(
                bench.point(PART, one, parameters, case, case)
                for one in settings.contenders for case in own for parameters in one.grid
            )  # fmt: skip
        _choose(run, _Choosing(run, benches, cases), settings, say)
    chosen: Chosen = {}
    for one in settings.contenders:
        record = chosen_record(run, sources, one.row)
        assert record is not None, f"nothing was chosen of {one.row}"
        chosen[one.row] = record["parameters"]
    return chosen


def chosen_record(run: Run, sources: Sequence[Source], row: str) -> Record | None:
    """What says which setting of a contender was chosen on these sources."""
    return run.find("chosen", part=PART, sources=[source.name for source in sources], row=row)


def _pairs(source: Source) -> list[Case]:
    return list(combinations(source.settings["rules"], 2))


def choosing_pairs(rules: Sequence[Sequence[str]]) -> list[list[Case]]:
    """The pairs that settings are chosen on, of each source.

    Each rule with its neighbours, the last with the first: of three rules or more each is in two of them. Several sources have
    these pairs dealt out among them, and each has one or more: what a setting does to the task differs more between sources than
    between the pairs of one. The other pairs, most where there are many rules, nothing is fitted to.

    Args:
        rules: of each source's specialists.
    """
    rings = [_ring(of) for of in rules]
    return [ring[number % len(ring) :: len(rings)] for number, ring in enumerate(rings)]


def _ring(rules: Sequence[str]) -> list[Case]:
    ring = {frozenset((rule, rules[number - 1])) for number, rule in enumerate(rules)}
    return [case for case in combinations(rules, 2) if frozenset(case) in ring]


@dataclass(frozen=True)
class _Choosing:
    """What settings are chosen on: the benches, and the pairs of each.

    Attributes:
        cases: of each bench.
    """

    run: Run
    benches: Sequence[Bench]
    cases: Sequence[Sequence[Case]]

    @property
    def where(self) -> Record:
        """What records of it have in common."""
        return {"part": PART, "sources": [bench.source.name for bench in self.benches], "split": VALIDATION}

    def tried(self, entry: Entry) -> Record:
        """What a setting does there, as a record."""
        where = {
            **self.where, "row": entry.contender.row, "method": entry.contender.method, "parameters": dict(entry.parameters),
            "cases": sum(map(len, self.cases)),
        }  # fmt: skip
        known = self.run.find("tried", **where)
        if known is not None:
            return known
        found = [measured(bench, PART, entry, case) for bench, own in zip(self.benches, self.cases, strict=True) for case in own]
        values = point_values([piece for pieces, _ in found for piece in pieces], [task for _, task in found])
        return self.run.add("tried", **where, **values)


def _choose(run: Run, choosing: _Choosing, settings: ForgettingStudy, say: Say) -> None:
    average = next(one for one in settings.contenders if one.row == AVERAGE)
    task = choosing.tried(Entry(average, {}, average))["task"]
    for contender in settings.contenders:
        where = {**choosing.where, "row": contender.row, "method": contender.method}
        if run.find("chosen", **where) is not None:
            continue
        stopping.check("a choice")
        found = [choosing.tried(Entry(contender, parameters, average)) for parameters in contender.grid]
        # Nothing unshared in any pair: all that is left to choose by is what the specialists know more than the control.
        # None below zero: being wrong where the floor is right would make up for what is left of other rules.
        by = "retention_clipped" if found[0]["unshared"] is None else "unshared_clipped"
        best = choose([Tried(one["parameters"], one[by], one["task"]) for one in found], task, settings.allowance)
        about = {"by": by, "value": best.retention, "task": best.task, "average": task, "settings": len(found)}
        within = allowed(best.task, task, settings.allowance)
        run.add("chosen", **where, parameters=dict(best.parameters), allowed=within, **about)
        say(f"{contender.row}: chosen{describe_setting(best.parameters) or ' as it is'}, {by} {best.retention:.3f}")


def _turn_dial(run: Run, bench: Bench, dial: Contender, average: Contender, cases: Sequence[Case]) -> None:
    """One method from end to end of its knob, at the other parameters' defaults, on the test data of one source."""
    for parameters in dial.grid:
        compare(run, DIAL_PART, [bench], [Entry(dial, parameters, average)], cases)
