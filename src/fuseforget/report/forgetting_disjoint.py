"""What the part ``disjoint`` of the forgetting study found, from records alone: the task, learned from different texts."""

from __future__ import annotations

from collections.abc import Sequence

from fuseforget.report.blocks import Block, Details, Heading, Paragraphs, Table
from fuseforget.report.facts import TASK, cell
from fuseforget.report.forgetting_facts import AVERAGE, ForgettingFacts, Record, examined_line, left, setting, signed

__all__ = ["disjoint_blocks"]

PART = "disjoint"
TITLE = "Does the task stay where it was learned from different texts?"
TEXTS = {"same": "the same texts", "other": "other texts"}
NOTE = (
    "The first model is fused with two others, trained alike: one on texts that the first was trained on, one on as many others. "
    "Unshared: (fused - floor) / (specialist - floor) of the rules that either knows alone, the floor of the control or the "
    "other model, whichever is right more often, and never below zero. Brackets: 95 % intervals of a bootstrap over examples and "
    "sources together."
)


def disjoint_blocks(records: Sequence[Record]) -> list[Block]:
    """Turn the records of :func:`fuseforget.studies.forgetting.disjoint.do_disjoint` into blocks; none where there are none."""
    own = [r for r in records if r.get("part") == PART]
    if not own:
        return []
    facts = ForgettingFacts(records)
    results = [r for kind in TEXTS for r in facts.results(PART, texts=kind)]
    if not results:
        return [Heading(TITLE), Paragraphs(["Not finished: models are trained, and none is judged yet."], "warn")]
    results.sort(key=lambda r: list(facts.contenders).index(r["row"]) if r["row"] in facts.contenders else 0)
    rows = list(dict.fromkeys(r["row"] for r in results))
    return [
        Heading(TITLE),
        Paragraphs([*examined_line(records, PART, rows), *_lead(results)], "lead"),
        _table(results),
        Details("What each model knows by itself", [_known(own, source) for source in results[0]["sources"]]),
    ]


def _lead(results: Sequence[Record]) -> list[str]:
    """For each method, what other texts cost."""
    return [
        f"{r['row']}: with {TEXTS['other']} the task is {signed(r['task_less_same'])} from where they are the same."
        for r in results if r["texts"] == "other"
    ]  # fmt: skip


def _table(results: Sequence[Record]) -> Table:
    rows = [
        [r["row"], setting(r["parameters"]), TEXTS[r["texts"]], left(r["unshared_clipped"]), cell(r["task"]),
         "" if r["row"] == AVERAGE else signed(r["task_difference"]), "" if r["texts"] == "same" else signed(r["task_less_same"])]
        for r in results
    ]  # fmt: skip
    first = results[0]
    header = ["method", "setting", "the second model's", "unshared left", "task", "task, less average's", "less with the same"]
    title = f"{' beside '.join(first['rules'])}, on test data of {', '.join(first['sources'])}"
    return Table(title, header, rows, NOTE)


def _known(records: Sequence[Record], source: str) -> Table:
    """The models that fuse nothing."""
    asked = [r for r in records if r["kind"] == "measurement" and r["source"] == source]
    alone = {(r["model"], r["texts"], r["probe"]): r for r in asked if r["model"] in ("first", "second", "control")}
    probes = [*dict.fromkeys(probe for _, _, probe in alone if probe != TASK), TASK]
    rows = [
        [model, TEXTS.get(texts, ""), *(cell(alone[model, texts, probe]) for probe in probes)]
        for model, texts in dict.fromkeys((model, texts) for model, texts, _ in alone)
    ]
    return Table(f"Accuracy of each model, {source}", ["model", "texts", *probes], rows)
