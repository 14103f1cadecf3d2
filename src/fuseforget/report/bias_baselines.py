"""What erasing took away: how much, what can still be read, and what INLP does by its number of classifiers."""

from __future__ import annotations

from typing import Any

from fuseforget.report.bias_facts import ERASED, ROWS, BiasFacts
from fuseforget.report.blocks import Block, Details, Table

__all__ = ["baseline_tables"]

Record = dict[str, Any]


def baseline_tables(facts: BiasFacts) -> list[Block]:
    """What each eraser did, means over the seeds; and what each number of INLP's classifiers does on validation data."""
    rows = []
    for attribute in facts.pair:
        for method in ERASED:
            found = [
                facts.erasures[attribute, method, seed] for seed in facts.seeds if (attribute, method, seed) in facts.erasures
            ]
            if len(found) == len(facts.seeds):
                rows.append([attribute, ROWS[method], *_row(found)])
    note = (
        "Of the features that the head reads. Readable: the accuracy of a fresh linear classifier of the attribute (one half "
        "is nothing). Where label and attribute go together, INLP's classifiers of the one read the other too, and many of "
        "them take the label away; the chosen number is the one with the least DP on validation texts among those that cost "
        "at most .02 of accuracy there."
    )
    header = ["attribute", "model", "classifiers", "dimensions gone", "attribute readable (train)", "(test)"]
    tables: list[Block] = [Table("What erasing took away", header, rows, note)]
    tried = [_tried(facts, attribute) for attribute in facts.pair]
    if all(table.rows for table in tried):
        tables.append(Details("INLP by its number of classifiers", list(tried)))
    return tables


def _row(found: list[Record]) -> list[str]:
    counts = [r["classifiers"] for r in found if "classifiers" in r]
    ended = " (nothing was left)" if any(r.get("ended") and r["method"] == "inlp" for r in found) else ""
    readable = [[r["readable"][key] for r in found] for key in ("accuracy", "held_out")]
    ranks = _numbers([r["rank"] for r in found])
    return [_numbers(counts) + ended, ranks, *(f"{sum(values) / len(values):.3f}" for values in readable)]


def _numbers(numbers: list[int]) -> str:
    return "" if not numbers else "/".join(map(str, numbers)) if len(set(numbers)) > 1 else str(numbers[0])


def _tried(facts: BiasFacts, attribute: str) -> Table:
    """Accuracy and DP on validation data by number of classifiers, of the first seed."""
    record = facts.erasures.get((attribute, "inlp-chosen", facts.seeds[0]), {})
    rows = [[str(int(t["classifiers"])), f"{t['accuracy']:.3f}", f"{t['bias']:.3f}"] for t in record.get("tried", [])]
    note = f"Seed {facts.seeds[0]}, validation data."
    return Table(attribute, ["classifiers", "accuracy", f"DP, {attribute}"], rows, note)
