"""All pairs of a shortcut study's specialists: every method at its best, chosen on validation data and told on test data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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

__all__ = ["DIAL_PART", "PART", "choose_settings", "choosing_pairs", "do_pairs"]

PART, DIAL_PART = "pairs", "dial"
Say = Callable[[str], None]
Chosen = dict[str, Mapping[str, Value]]


def do_pairs(run: Run, sources: Sequence[Source], settings: ForgettingStudy, workers: Workers, say: Say) -> None:
    """Choose each contender's setting on the first source, then record what it does to all pairs of every source.

    Records: ``measurement`` (models alone), ``point`` (fused models), ``tried`` and ``chosen`` (settings on validation data),
    ``unlearned`` (specialists that have nothing to forget) and ``forgetting_result``; of the dial ones of the part ``dial``.
    """
    chosen = choose_settings(run, sources[0], settings, workers, say)
    cases = _pairs(sources[0])
    benches = [Bench(run, source, TEST, settings, workers, say) for source in sources]
    entries = Entry.of(chosen, settings.contenders)
    compare(run, PART, benches, entries, cases)
    if settings.dial is not None:
        _turn_dial(run, benches[0], settings.dial, entries[0].average, cases)


def choose_settings(run: Run, source: Source, settings: ForgettingStudy, workers: Workers, say: Say) -> Chosen:
    """Each contender's best setting on texts that none of the source's specialists was trained on, by row.

    Of the pairs of :func:`choosing_pairs`.

    Raises:
        InputError: no specialist learned its rule: there is nothing to forget.
    """
    bench = Bench(run, source, VALIDATION, settings, workers, say)
    if any(_found(run, source, one) is None for one in settings.contenders):
        bench.ask_alone((CONTROL, *bench.rules), bench.rules)
        if not any(bench.knows(rule, rule) for rule in bench.rules):
            raise InputError(str(source.path), expected="specialists that learned their shortcut", found="none", action=(
                "Forgetting is measured on what is known."
            ))  # fmt: skip
        bench.ask(
            bench.point(PART, one, parameters, case, case)
            for one in settings.contenders for case in choosing_pairs(source.settings["rules"]) for parameters in one.grid
        )  # fmt: skip
        _choose(run, bench, settings, say)
    return {one.row: _found(run, source, one)["parameters"] for one in settings.contenders}  # type: ignore[index]


def _pairs(source: Source) -> list[Case]:
    return list(combinations(source.settings["rules"], 2))


def choosing_pairs(rules: Sequence[str]) -> list[Case]:
    """The pairs that settings are chosen on: each rule with its neighbours, the last with the first.

    Of three rules or more each is in two of them. The other pairs, most where there are many rules, nothing is fitted to.
    """
    ring = {frozenset((rule, rules[number - 1])) for number, rule in enumerate(rules)}
    return [case for case in combinations(rules, 2) if frozenset(case) in ring]


def _found(run: Run, source: Source, contender: Contender) -> Record | None:
    return run.find("chosen", part=PART, source=source.name, row=contender.row)


def _choose(run: Run, bench: Bench, settings: ForgettingStudy, say: Say) -> None:
    average = next(one for one in settings.contenders if one.row == AVERAGE)
    task = _tried(run, bench, Entry(average, {}, average))["task"]
    for contender in settings.contenders:
        if _found(run, bench.source, contender) is not None:
            continue
        stopping.check("a choice")
        found = [_tried(run, bench, Entry(contender, parameters, average)) for parameters in contender.grid]
        # Nothing unshared in any pair: all that is left to choose by is what the specialists know more than the control.
        # None below zero: being wrong where the floor is right would make up for what is left of other rules.
        by = "retention_clipped" if found[0]["unshared"] is None else "unshared_clipped"
        best = choose([Tried(one["parameters"], one[by], one["task"]) for one in found], task, settings.allowance)
        about = {"by": by, "value": best.retention, "task": best.task, "average": task, "settings": len(found)}
        within = allowed(best.task, task, settings.allowance)
        run.add(
            "chosen", part=PART, source=bench.source.name, split=bench.split, row=contender.row, method=contender.method,
            parameters=dict(best.parameters), allowed=within, **about,
        )  # fmt: skip
        say(f"{contender.row}: chosen{describe_setting(best.parameters) or ' as it is'}, {by} {best.retention:.3f}")


def _tried(run: Run, bench: Bench, entry: Entry) -> Record:
    """What a setting does on validation data, as a record."""
    cases = choosing_pairs(bench.rules)
    where = {
        "part": PART, "source": bench.source.name, "split": bench.split, "row": entry.contender.row,
        "method": entry.contender.method, "parameters": dict(entry.parameters), "cases": len(cases),
    }  # fmt: skip
    known = run.find("tried", **where)
    if known is not None:
        return known
    found = [measured(bench, PART, entry, case) for case in cases]
    values = point_values([piece for pieces, _ in found for piece in pieces], [task for _, task in found])
    return run.add("tried", **where, **values)


def _turn_dial(run: Run, bench: Bench, dial: Contender, average: Contender, cases: Sequence[Case]) -> None:
    """One method from end to end of its knob, at the other parameters' defaults, on the test data of one source."""
    for parameters in dial.grid:
        compare(run, DIAL_PART, [bench], [Entry(dial, parameters, average)], cases)
