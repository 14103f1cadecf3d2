"""Which methods free biased models of their biases, from a study of forgetting's records alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fuseforget.report.bias_facts import METRICS
from fuseforget.report.blocks import Block, Details, Heading, Paragraphs, Picture, Pictures, Table
from fuseforget.report.facts import cell
from fuseforget.report.forgetting_bias_figures import GAPS, draw_bias_frontier, draw_bias_ratios, draw_bias_shared
from fuseforget.report.forgetting_facts import AVERAGE, DEEPEST, beyond_chance, last_choices, of_part, setting

__all__ = ["bias_blocks", "last_results"]

Record = dict[str, Any]
NOTE = (
    "Gone: 1 - gap of the fused model / gap of the model that is biased in the attribute; mean over both gaps, the attributes "
    "and the seeds. In brackets 95 % bootstrap intervals over sentences, means over the seeds. Stars: the difference "
    "from the average, on the same texts, is beyond chance (p < .05, corrected over all of the table's tests). Settings were "
    "chosen on validation texts, as means over the seeds; (*) after a row: no setting of it kept the average's accuracy there, "
    "the nearest one is shown."
)
SHARED_NOTE = (
    "Kept: the gap of the fused model over the mean gap of its two parents, which are both biased in the attribute: 1 is all, as "
    "it should be of what is shared. The two have the same start and order of training, and sentences of one pool: models of "
    "other trainings share less."
)


def bias_blocks(records: Sequence[Record]) -> list[Block]:
    """Tables and figures of the part ``bias`` of each source; none where there are no records of it."""
    own = of_part(records, "bias")
    sources = list(dict.fromkeys(r["source"] for r in own))
    return [block for source in sources for block in _of_source([r for r in own if r["source"] == source], source)]


def _of_source(records: Sequence[Record], source: str) -> list[Block]:
    blocks: list[Block] = [Heading(f"Unshared bias goes, shared bias stays? ({source})"), *_knowledge(records)]
    results = last_results(records)
    if not results:
        return [*blocks, Paragraphs(["Not finished: nothing is concluded yet."], "warn")]
    groups = list(dict.fromkeys(r["group"] for r in results))
    main = _main_group(records)
    blocks += [Paragraphs(_lead(results, main), "lead"), Pictures(_pictures(records, results, main))]
    unsound = {row for row, r in last_choices(records).items() if not r["sound"]}
    sure = beyond_chance(records, group=main)
    blocks.append(_gaps_table([r for r in results if r["group"] == main], main, unsound, sure))
    ratios = [g for g in groups if g.startswith("ratio ")]
    if len(ratios) > 1:
        blocks.append(_ratios_table(results, ratios, unsound))
    shared = [g for g in groups if g.startswith("both ")]
    if shared:
        blocks.append(_shared_table(results, shared, unsound))
    return [*blocks, Details("The chosen settings", [_chosen_table(records)])]


def last_results(records: Sequence[Record]) -> list[Record]:
    """What the settings that were chosen last came to, each on the most seeds, in the order of the contenders."""
    chosen = last_choices(records)
    told = [r for r in records if r["kind"] == "forgetting_result" and r["parameters"] == chosen[r["row"]]["parameters"]]
    order = list(chosen)
    return sorted({(r["group"], r["row"]): r for r in told}.values(), key=lambda r: order.index(r["row"]))


def _knowledge(records: Sequence[Record]) -> list[Block]:
    known = [r for r in records if r["kind"] == "knowledge"]
    lacking = [r["attribute"] for r in known if not r["learned"]]
    if not lacking:
        return []
    return [Paragraphs([f"No clear bias was learned in {', '.join(lacking)}: it is left out of what is gone."], "warn")]


def _main_group(records: Sequence[Record]) -> str:
    """The group whose cases settings were chosen on."""
    return next(
        (str(r["group"]) for r in records if r["kind"] == "point" and r["split"] == "validation" and r["row"] == AVERAGE), ""
    )


def _lead(results: Sequence[Record], main: str) -> list[str]:
    """What the average and the best other method take of the bias, and at what accuracy."""
    at = {r["row"]: r for r in results if r["group"] == main}
    if AVERAGE not in at or len(at) < 2:
        return [f"{main}: only {', '.join(at)} yet."]
    best = max((r for row, r in at.items() if row != AVERAGE), key=lambda r: r["gone_mean"]["value"])
    average = at[AVERAGE]
    return [
        f"At {main} the average takes {_share(average['gone_mean'])} of the bias at accuracy {cell(average['accuracy'])}; "
        f"{best['row']} takes the most of the others on these texts, {_share(best['gone_mean'])}, at {cell(best['accuracy'])}."
    ]


def _pictures(records: Sequence[Record], results: Sequence[Record], main: str) -> list[Picture]:
    frontier = (
        "Bias that is left (mean over both gaps and attributes, relative to the biased models) against accuracy: left every "
        f"setting on validation texts, but for those that lose more than {100 * DEEPEST:g} points, right the chosen ones on test "
        "texts, means over the seeds."
    )
    pictures = [Picture("forgetting-bias", draw_bias_frontier(records, results, main), frontier, wide=True)]
    if len({r["group"] for r in results if r["group"].startswith("ratio ")}) > 1:
        caption = (
            "How much of the bias is gone by the ratio of the training sets, of methods that were asked at more than one; "
            "beside one another what is of one ratio; bars: 95 % intervals."
        )
        pictures.append(Picture("forgetting-bias-ratios", draw_bias_ratios(results, main), caption))
    if any(r["group"].startswith("both ") for r in results):
        caption = (
            f"What a method takes of a bias that one of two models has ({main}) against what it keeps of one that both have, "
            "means over attributes: what tells them apart is in the upper right. Bars: 95 % intervals."
        )
        pictures.append(Picture("forgetting-bias-shared", draw_bias_shared(results, main), caption))
    return pictures


def _gaps_table(results: Sequence[Record], main: str, unsound: set[str], sure: dict[str, list[Record]]) -> Table:
    """Accuracy and both gaps of both attributes, the biased models' first, and what is gone."""
    attributes = list(results[0]["gaps"])
    header = ["method", "accuracy", *(f"{METRICS[m]}, {a}" for a in attributes for m in GAPS), "bias gone"]
    first = results[0]
    own = [_or_none(first["own_gaps"].get(a, {}).get(m)) for a in attributes for m in GAPS]
    rows = [["biased models", cell(first["own_accuracy"]), *own, "0"]]
    for r in results:
        tests = sure.get(r["row"], [])
        marks = {(None if t["metric"] == "accuracy" else t["attribute"], t["metric"]): "*" for t in tests}
        gaps = [f"{cell(r['gaps'][a][m])}{marks.get((a, m), '')}" for a in attributes for m in GAPS]
        accuracy = f"{cell(r['accuracy'])}{marks.get((None, 'accuracy'), '')}"
        rows.append([_named(r["row"], unsound), accuracy, *gaps, _share(r["gone_mean"])])
    seeds = ", ".join(map(str, first["seeds"]))
    return Table(f"Two models biased in one attribute each, {main}, seeds {seeds}", header, rows, NOTE)


def _ratios_table(results: Sequence[Record], groups: Sequence[str], unsound: set[str]) -> Table:
    at = {(r["group"], r["row"]): r for r in results}
    names = list(dict.fromkeys(row for _, row in at))
    ordered = sorted(groups, key=lambda g: float(g.removeprefix("ratio ")))
    average = [at[group, AVERAGE] for group in ordered]
    rows = [["biased models", *map(_own_gaps, average)]]
    for name in names:
        found = [at.get((group, name)) for group in ordered]
        cells = ["not yet" if r is None else f"{_share(r['gone_mean'])} at {r['accuracy']['value']:.3f}" for r in found]
        rows.append([_named(name, unsound), *cells])
    note = (
        "How much of the bias is gone, and at what accuracy; settings as chosen at the study's ratio. Of the biased models: "
        f"{METRICS[GAPS[0]]} by attribute, and accuracy."
    )
    return Table("By the ratio of the training sets", ["method", *ordered], rows, note)


def _own_gaps(result: Record) -> str:
    """The first gap of the models that were fused, each in the attribute that it is biased in."""
    gaps = (f"{attribute} {of[GAPS[0]]['value']:.3f}" for attribute, of in result["own_gaps"].items())
    return f"{', '.join(gaps)} at {result['own_accuracy']['value']:.3f}"


def _shared_table(results: Sequence[Record], groups: Sequence[str], unsound: set[str]) -> Table:
    at = {(r["group"], r["row"]): r for r in results}
    rows = []
    for name in dict.fromkeys(r["row"] for r in results if r["group"] in groups):
        cells = []
        for group in groups:
            r = at.get((group, name))
            cells += ["not yet", ""] if r is None else [_share(_kept(r["gone_mean"])), cell(r["accuracy"])]
        rows.append([_named(name, unsound), *cells])
    header = ["method", *(title for group in groups for title in (f"{group}: kept", "accuracy"))]
    return Table("Two models that are biased the same way", header, rows, SHARED_NOTE)


def _chosen_table(records: Sequence[Record]) -> Table:
    rows = [
        [r["row"], r["method"], setting(r["parameters"]), f"{r['accuracy']:.3f}", f"{r['bias']:.3f}",
         "yes" if r["sound"] else "no"]
        for r in last_choices(records).values()
    ]  # fmt: skip
    header = ["row", "method", "other than the defaults", "accuracy", "bias left", "keeps the average's accuracy"]
    return Table("", header, rows, "On the validation texts that settings were chosen on.")


def _named(row: str, unsound: set[str]) -> str:
    return row + (" (*)" if row in unsound else "")


def _kept(gone: Record) -> Record:
    return {"value": 1 - gone["value"], "low": 1 - gone["high"], "high": 1 - gone["low"]}


def _or_none(record: Record | None) -> str:
    return "not learned" if record is None else cell(record)


def _share(interval: Record) -> str:
    return f"{interval['value']:.0%} [{interval['low']:.0%}, {interval['high']:.0%}]"
