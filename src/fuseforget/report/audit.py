"""What measurements by a protected attribute say: a model's metrics, how it treats each group, models against each other."""

from __future__ import annotations

from typing import Any

from fuseforget.report.blocks import Block, Heading, Paragraphs, Table
from fuseforget.report.facts import cell

__all__ = ["audit_blocks", "audit_tables", "missing_of_audit", "plain_measurements"]

Record = dict[str, Any]
NOTE = (
    "Gaps and calibration errors (ece) are 0 at best, accuracies and F1 are 1; a gap whose interval reaches 0 may be none. "
    "A group's rates are of its own rows: answered, of all of them; TPR, of those whose label it is; FPR, of the others."
)
TESTED = (
    "Each model's value less that of the first, on the same rows. Interval: paired bootstrap. p: randomisation test that swaps "
    "the two models' answers, as it is and corrected for the number of tests in the run (Holm)."
)


def plain_measurements(records: list[Record]) -> list[Record]:
    """The measurements that look at no attribute."""
    return [r for r in records if r["kind"] == "measurement" and not r.get("attribute")]


def audit_tables(records: list[Record]) -> dict[str, list[Table]]:
    """The tables of each entry that looks at an attribute, by the entry's title."""
    tables: dict[str, list[Table]] = {}
    for entry, attribute in _entries(records).items():
        measured = [r for r in records if r["kind"] == "measurement" and _entry(r) == entry]
        groups = [r for r in records if r["kind"] == "group" and r["probe"] == entry]
        found = []
        for model in dict.fromkeys(r["model"] for r in measured):
            found.append(_metrics(model, [r for r in measured if r["model"] == model]))
            found += _groups(model, attribute, [r for r in groups if r["model"] == model])
        compared = [r for r in records if r["kind"] == "comparison" and _entry(r) == entry]
        tables[f"{entry}, by {attribute}"] = found + ([_comparisons(compared)] if compared else [])
    return tables


def audit_blocks(records: list[Record]) -> list[Block]:
    """The same for a page; nothing where no measurement looks at an attribute."""
    blocks: list[Block] = []
    for title, tables in audit_tables(records).items():
        blocks += [Heading(title), Paragraphs([NOTE]), *tables]
    return blocks


def missing_of_audit(records: list[Record]) -> list[str]:
    """What a run of ``probe`` lacks whose measurements are all there, in words."""
    measured = [r for r in records if r["kind"] == "measurement" and r.get("attribute") and "model" in r]
    models, probes = ({r[key] for r in measured} for key in ("model", "probe"))
    lacking = max(0, len(models) - 1) * len(probes) - sum(r["kind"] == "comparison" for r in records)
    grouped = {(r["model"], r["probe"]) for r in records if r["kind"] == "group"}
    without = sorted({_entry(r) for r in measured if (r["model"], _entry(r)) not in grouped})
    return [*(f"the groups of {entry}" for entry in without), *([f"{lacking} comparisons"] if lacking else [])]


def _entries(records: list[Record]) -> dict[str, str]:
    """The attribute of each entry of a run of ``probe``; measurements along a path have no model and are no audit."""
    by_attribute = [r for r in records if r["kind"] == "measurement" and r.get("attribute") and "model" in r]
    return {_entry(r): r["attribute"] for r in by_attribute}


def _entry(record: Record) -> str:
    return str(record["probe"]).removesuffix(f".{record['metric']}")


def _metrics(model: str, records: list[Record]) -> Table:
    rows = [[r["metric"], f"{r['value']:.3f}", f"[{r['low']:.3f}, {r['high']:.3f}]", str(r["n"])] for r in records]
    return Table(model, ["metric", "value", "95 % interval", "n"], rows)


def _groups(model: str, attribute: str, records: list[Record]) -> list[Table]:
    """A row a group; of two labels the rates of the last alone, since the first one's follow from them."""
    if not records:
        return []
    answers, labels = list(records[0]["selection"]), list(records[0]["tpr"])
    shown = answers[1:] if len(answers) == 2 else answers
    calibrated = any(r["ece"] is not None for r in records)
    header = [attribute, "n", "accuracy", *(f"answered {a}" for a in shown)]
    asked = labels[1:] if len(labels) == len(answers) == 2 else labels
    header += [f"{rate} {label}" for label in asked for rate in ("TPR", "FPR")] + ["ece"] * calibrated
    rows = [
        [
            r["group"], str(r["n"]), cell(r["accuracy"]), *(cell(r["selection"][a]) for a in shown),
            *(cell(r[rate][label]) if label in r[rate] else "" for label in asked for rate in ("tpr", "fpr")),
            *([cell(r["ece"])] if calibrated else []),
        ]
        for r in records
    ]  # fmt: skip
    return [Table(f"{model}: groups", header, rows)]


def _comparisons(records: list[Record]) -> Table:
    rows = [
        [r["model"], r["metric"], f"{r['value']:+.3f} [{r['low']:+.3f}, {r['high']:+.3f}]",
         f"{r['p']:.3g}", f"{r['p_holm']:.3g}"]
        for r in records
    ]  # fmt: skip
    header = ["model", "metric", "difference [95 % interval]", "p", "p, corrected"]
    return Table(f"Less {records[0]['against']}", header, rows, TESTED)
