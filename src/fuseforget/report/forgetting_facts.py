"""The records of a study of forgetting, finished or not, by what they are about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fuseforget.report.claims import SIGNIFICANT
from fuseforget.report.facts import cell

__all__ = [
    "ALLOWANCE", "AVERAGE", "DEEPEST", "GONE", "SCALED", "ForgettingFacts", "beyond_chance", "examined_line",
    "last_choices", "left", "of_part", "setting", "signed",
]  # fmt: skip

Record = dict[str, Any]
AVERAGE, SCALED = "average", "average, scaled"
GONE = 0.10  # retention at which nine tenths are removed
ALLOWANCE = 0.005  # of task accuracy, below the average's
DEEPEST = 0.06  # below the average's accuracy: what loses more is not in a picture


class ForgettingFacts:
    """What a run has, by part; of results that were computed again for more sources the last.

    Attributes:
        sources: in their order.
        contenders: by row, in the order of the comparison; those that one part alone asks are none of these.
        results: the ``forgetting_result`` records of each part.
        tried, chosen: settings on pairs on validation data, and the best of each row, on the last sources that the run chose on;
            the parts of bias and memorization choose for themselves.
        alone: measurements of models that fuse nothing, by source, split, model and probe.
        unlearned: specialists that have nothing to forget.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        self.sources = [r for r in records if r["kind"] == "source"]
        contenders = {r["row"]: r for r in records if r["kind"] == "contender"}
        self.contenders = {row: r for row, r in contenders.items() if r.get("only") is None}
        self._of_part = {row: r["only"] for row, r in contenders.items() if r.get("only") is not None}
        self.asked = [r["name"] for r in records if r["kind"] == "asked"]
        on_pairs = [r for r in records if r["kind"] in ("tried", "chosen") and r["part"] == "pairs"]
        on_last = [r for r in on_pairs if r["sources"] == on_pairs[-1]["sources"]]
        self.tried = [r for r in on_last if r["kind"] == "tried"]
        self.chosen = {r["row"]: r for r in on_last if r["kind"] == "chosen"}
        self.points = [r for r in records if r["kind"] == "point"]
        self.unlearned = [r for r in records if r["kind"] == "unlearned"]
        self.left_out = [r for r in records if r["kind"] == "left_out"]
        self.alone = {
            (r["source"], r["split"], r["model"], r["probe"]): r
            for r in records
            if r["kind"] == "measurement" and "source" in r and "split" in r
        }
        self._done = [r for r in records if r["kind"] == "done"]
        self._results: dict[str, list[Record]] = {}
        for record in records:
            if record["kind"] == "forgetting_result":
                self._results.setdefault(record["part"], []).append(record)

    def results(self, part: str, **where: object) -> list[Record]:
        """A part's results for the last sources that it has any of, in the order of the contenders.

        Of a row and setting the last. Those for fewer sources may be of settings that were chosen on these.
        """
        of_part = self._results.get(part, [])
        found: dict[str, Record] = {}
        for record in of_part:
            if record["sources"] == of_part[-1]["sources"] and all(record.get(name) == value for name, value in where.items()):
                found[f"{record['row']} {record['parameters']}"] = record
        order = list(self.contenders)
        return sorted(found.values(), key=lambda r: order.index(r["row"]) if r["row"] in order else len(order))

    def numbers(self) -> list[int]:
        """How many models were fused."""
        return sorted({r["models"] for r in self._results.get("numbers", [])})

    def missing(self) -> list[str]:
        """The parts that are not done for all sources of theirs and for all contenders."""
        return [part for part in self.asked if not any(self._covers(record) for record in self._done if record["part"] == part)]

    def _covers(self, done: Record) -> bool:
        commands = {r["name"]: r["command"] for r in self.sources}
        kind = {commands[name] for name in done["sources"]}
        wanted = {r["name"] for r in self.sources if r["command"] in kind}
        rows = {*self.contenders, *(row for row, part in self._of_part.items() if part == done["part"])}
        return wanted <= set(done["sources"]) and rows <= set(done["contenders"])


def of_part(records: Sequence[Record], part: str) -> list[Record]:
    """What a part has recorded of its sources; not that it was asked for, or done."""
    return [r for r in records if r.get("part") == part and "source" in r]


def examined_line(records: Sequence[Record], part: str, models: Sequence[str]) -> list[str]:
    """Which fusions a part examined, at which settings, and how these were chosen; nothing where they were not chosen.

    Args:
        models: those that there are results of; what is chosen anew for more contenders may have none yet.
    """
    found = [r for r in records if r["kind"] == "examined" and r["part"] == part and set(r["rows"]) <= set(models)]
    if not found:
        return []
    last = found[-1]
    chosen = {r["row"]: r for r in records if r["kind"] == "chosen" and r["part"] == "pairs" and r["sources"] == last["sources"]}
    said = []
    for row in last["rows"]:
        words = [
            *([setting(chosen[row]["parameters"])] if chosen[row]["parameters"] else []),
            *([] if chosen[row]["allowed"] else ["no setting kept the task"]),
            *(["the best of the other methods"] if row == last["other"] else []),
        ]
        said.append(f"{row} ({', '.join(words)})" if words else row)
    none = "" if last["other"] is not None else "; no other method kept the task"
    sources = ", ".join(last["sources"])
    return [f"Settings as chosen on validation data for pairs of {sources}: {'; '.join(said)}{none}."]


def last_choices(records: Sequence[Record]) -> dict[str, Record]:
    """The setting of each contender that was chosen last: with more sources, seeds or settings it may be another."""
    return {r["row"]: r for r in records if r["kind"] == "chosen"}


def beyond_chance(records: Sequence[Record], **where: object) -> dict[str, list[Record]]:
    """By row the tests against the average that are beyond chance, corrected over all of a table; its last family is taken."""
    families = [r for r in records if r["kind"] == "family" and all(r.get(name) == value for name, value in where.items())]
    found: dict[str, list[Record]] = {}
    for test in families[-1]["tests"] if families else []:
        if test["p_holm"] < SIGNIFICANT:
            found.setdefault(test["row"], []).append(test)
    return found


def setting(parameters: Mapping[str, Any]) -> str:
    """Parameters in words; nothing where all are the method's defaults."""
    return ", ".join(
        f"{name} {str(value).lower() if isinstance(value, bool) else f'{value:g}'}" for name, value in parameters.items()
    )


def left(record: Record | None) -> str:
    """What is left, with its interval."""
    return "nothing known" if record is None else cell(record)


def signed(record: Record | None) -> str:
    """A difference with its interval."""
    return "" if record is None else f"{record['value']:+.3f} [{record['low']:+.3f}, {record['high']:+.3f}]"
