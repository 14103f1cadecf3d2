"""What the records of a study of social bias say: Table 1 beside the paper's, Fig. 5, tests, ratios and the triangle."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from fuseforget.report.bias_baselines import baseline_tables
from fuseforget.report.bias_claims import NOTE, PAPER, bias_claims
from fuseforget.report.bias_facts import CENTRE, METRICS, ROWS, BiasFacts, Spread
from fuseforget.report.bias_figures import draw_bias_path, draw_bias_triangle, draw_ratios, fused_at, named
from fuseforget.report.blocks import Block, Details, Picture, Table, opening
from fuseforget.report.facts import cell
from fuseforget.report.shortcuts import Summary
from fuseforget.report.training import SPEED

__all__ = ["bias_blocks", "summarise_bias"]

Record = dict[str, Any]
WRITTEN = "written"  # the row of the fused model that the run holds
OTHER_METRICS = {
    "fpr_gap": "FPR gap", "equalized_odds": "equalised odds", "worst_group_accuracy": "worst group", "worst_cell_accuracy":
    "worst group and label",
}  # fmt: skip


def summarise_bias(description: Record, records: list[Record]) -> Summary:
    """Turn a run's records into tables; what is missing is listed, never guessed."""
    facts = BiasFacts(description, records)
    tables = []
    judged = bias_claims(facts)
    if judged:
        tables.append(Table("The paper's claims, and what this run measured", ["paper", "this run", ""], judged, NOTE))
    if facts.rows:
        tables += [_table_one(facts, attribute) for attribute in facts.pair]
    if facts.compared:
        tables.append(_tests(facts))
    if facts.choices:
        tables.append(_choices(facts))
    return Summary(_headline(facts), tables, facts.missing())


def bias_blocks(description: Record, records: list[Record], warnings: list[Block]) -> list[Block]:
    """The study's part of the page."""
    facts, summary = BiasFacts(description, records), summarise_bias(description, records)
    where = f"Study of Zaman et al. 2023 (arXiv 2311.07682), section 5, at the {facts.settings['scale']} scale."
    blocks = opening("Fuse to forget: social bias", where, summary.headline, warnings, _pictures(facts))
    blocks += summary.tables
    if facts.erasures:
        blocks += baseline_tables(facts)
    if len(facts.ratios) > 1:
        blocks.append(_ratio_table(facts))
    if facts.centre:
        blocks.append(_triangle_table(facts))
    if facts.rows:
        blocks += [_other_metrics(facts, attribute) for attribute in facts.pair]
    if facts.bounds:
        blocks.append(_bounds(facts))
    if facts.groups:
        blocks.append(Details("By group", [_groups(facts, attribute) for attribute in facts.pair]))
    if facts.grid(2):
        blocks.append(Details("Numbers of the path", [_path_table(facts)]))
    blocks.append(Details("The training sets", [_data_table(facts)]))
    return [*blocks, _training(facts)]


def _pictures(facts: BiasFacts) -> list[Picture]:
    band = f"least and greatest of {len(facts.seeds)} seeds" if len(facts.seeds) > 1 else "95 % intervals"
    drawn = []
    if facts.grid(2):
        caption = (
            f"Fig. 5: from the {facts.pair[0]}-biased to the {facts.pair[1]}-biased model; bands are the {band}, the dotted "
        )
        caption += "lines the crossings on validation data that the weights are chosen by. Test data."
        drawn.append(Picture("fig5-path", draw_bias_path(facts), caption, wide=True))
    if len(facts.ratios) > 1:
        caption = f"How much is learned and how much is left, by the ratio of the training sets; bands are the {band}."
        drawn.append(Picture("ratios", draw_ratios(facts), caption, wide=True))
    if facts.grid(3) and "triangle" in facts.parts:
        caption = "Three biased models: demographic parity of each attribute over the simplex (each panel has its own scale)."
        drawn.append(Picture("triangle", draw_bias_triangle(facts), caption, wide=True))
    return drawn


def _table_one(facts: BiasFacts, attribute: str) -> Table:
    paper = PAPER.get(attribute, {})
    rows = []
    for row in ROWS:
        cells = [facts.rows.get((attribute, row, metric)) for metric in METRICS]
        if cells[0] is not None:
            published = ", ".join(f"{value:.3f}" for value in paper[row]) if row in paper else ""
            rows.append([ROWS[row], *(_with_seeds(record) for record in cells), published])
    seeds = f"means over {len(facts.seeds)} seeds, " if len(facts.seeds) > 1 else ""
    after = ", after it the least and greatest of the seeds" if len(facts.seeds) > 1 else ""
    note = (
        f"On test data; {seeds}in brackets the 95 % bootstrap interval over test texts (of seeds: their mean){after}. "
        f"Biased: in {attribute}. Fused: at the weight chosen against the {attribute} bias; one weight for both: the model that "
        "the run holds. Head refitted: what a new head on the same features does; INLP and LEACE: with a new head on what they "
        "leave. The paper's are on PAN16 with BERT-base."
    )
    return Table(f"Table 1, {attribute}", ["model", *METRICS.values(), "paper: DP, TPR-GAP, accuracy"], rows, note)


def _with_seeds(record: Record | None) -> str:
    if record is None or len(record["by_seed"]) == 1:
        return cell(record)
    return f"{cell(record)} ({min(record['by_seed']):.3f} to {max(record['by_seed']):.3f})"


def _tests(facts: BiasFacts) -> Table:
    rows = []
    for r in facts.compared:
        pair = f"fused - {ROWS[r['second']]}"
        interval = f"{r['value']:+.3f} [{r['low']:+.3f}, {r['high']:+.3f}]"
        rows.append([r["attribute"], pair, METRICS[r["metric"]], interval, f"{r['p']:.3g}", f"{r['p_holm']:.3g}"])
    note = (
        "Mean over the seeds of the difference on the same test texts, and of its bootstrap intervals over these. p: the two "
        "models' answers to a text exchanged at random; of several seeds twice the mean of their p-values, which holds "
        "whatever their dependence; corrected after Holm over the whole table. None of it covers training other seeds."
    )
    header = ["attribute", "models", "metric", "difference", "p", "p (Holm)"]
    return Table("The fused model against each other", header, rows, note)


def _triangle_table(facts: BiasFacts) -> Table:
    """Three biased models and their average: each one's bias, and whether the average has less of it."""
    path = "-".join(facts.corners)
    places = [*((name, (name, ())) for name in facts.corners), ("average of the three", (path, CENTRE))]
    rows = []
    for title, place in places:
        found = [facts.spread(place, a, "demographic_parity") for a in facts.corners]
        rows.append([title, *map(_spread, found), _spread(facts.spread(place, "", "accuracy"))])
    tests = [
        f"{METRICS[r['metric']]}, average less {r['second']}-biased: {_signed(r)} (p {r['p']:.3g}, Holm {r['p_holm']:.3g})"
        for r in facts.centre
        if r["metric"] != "tpr_gap"
    ]
    header = ["model", *(f"DP, {a}" for a in facts.corners), "accuracy"]
    return Table(
        "Three attributes: three biased models and their average", header, rows, f"{_spread_note(facts)} {'; '.join(tests)}."
    )


def _choices(facts: BiasFacts) -> Table:
    rows = []
    for seed, r in facts.choices.items():
        crossings = [f"{value:.2f}" if value is not None else "none" for value in r["crossings"].values()]
        rows.append([str(seed), *crossings, *(f"{r['against'][a]:g}" for a in facts.pair), f"{r['nearest']:g}"])
    header = ["seed", "crossing of DP", "of TPR-GAP", *(f"against {a} bias" for a in facts.pair), "the fused model's"]
    on = next(iter(facts.choices.values()))["on"]
    paper = " (the paper: .3 against age, .4 against gender bias)" if set(facts.pair) == set(PAPER) else ""
    tested = " The test data are also those that the tables report: as published." if on == "test" else ""
    note = f"Where the two attributes' curves cross on {on} data, and the grid points next to it{paper}.{tested}"
    return Table(f"Weight of the {facts.pair[1]}-biased model", header, rows, note)


def _ratio_table(facts: BiasFacts) -> Table:
    rows = []
    for ratio in facts.ratios:
        for attribute in facts.pair:
            own = [facts.spread((named(facts, attribute, ratio), ()), attribute, metric) for metric in METRICS]
            half = [facts.spread((fused_at(facts, ratio), (0.5, 0.5)), attribute, metric) for metric in METRICS]
            rows.append([f"{ratio:g}{_drawn(facts, attribute, ratio)}", attribute, *map(_spread, (*own, *half))])
    header = ["ratio", "attribute", *(f"biased: {m}" for m in METRICS.values()), *(f"fused: {m}" for m in METRICS.values())]
    return Table("By the bias of the training sets, fused at one half", header, rows, _spread_note(facts))


def _drawn(facts: BiasFacts, attribute: str, ratio: float) -> str:
    """The ratio that was drawn, where it is not the one that was asked for (as published, it is rounded)."""
    drawn = next(r["drawn"] for r in facts.data if (r["attribute"], r["ratio"]) == (attribute, ratio))
    return "" if abs(float(Fraction(drawn)) - ratio) < 1e-9 else f" (drawn: {drawn})"


def _other_metrics(facts: BiasFacts, attribute: str) -> Table:
    rows = []
    for row in ROWS:
        cells = [facts.rows.get((attribute, row, metric)) for metric in OTHER_METRICS]
        if cells[0] is not None:
            rows.append([ROWS[row], *map(cell, cells)])
    note = (
        "FPR gap: of the last label; equalised odds: the greatest difference between groups of any rate given the label; worst: "
        "the least accuracy of a group, and of a group's texts of one label."
    )
    return Table(f"Other metrics, {attribute}", ["model", *OTHER_METRICS.values()], rows, note)


def _bounds(facts: BiasFacts) -> Table:
    rows = []
    for r in facts.bounds:
        if r["seed"] in facts.seeds:
            slack, metric = r["slack"], METRICS[r["metric"]]
            between = f"{r['lowest']:.3f} to {r['highest']:.3f}"
            rows.append([str(r["seed"]), r["attribute"], metric, between, _signed(slack), r["verdict"]])
    note = 'Of the average at one half. Below zero is outside; "within error" where the interval reaches zero.'
    header = ["seed", "attribute", "metric", "the two models", "distance inside", "verdict"]
    return Table("Eq. 2: is the fused model between the two biased ones?", header, rows, note)


def _groups(facts: BiasFacts, attribute: str) -> Table:
    rows = []
    for r in facts.groups:
        if r["seed"] == facts.seeds[0] and r["set"] == "test" and r["attribute"] == attribute and "@" not in r.get("model", "@"):
            rows += [_group(r["model"], group) for group in r["rows"]]
    note = (
        f"Of seed {facts.seeds[0]}. Selected: the share that is given the last label. Calibration error: of the given label's "
        "probability."
    )
    return Table(attribute, ["model", "group", "n", "accuracy", "selected", "calibration error"], rows, note)


def _group(model: str, group: Record) -> list[str]:
    selected = list(group["selection"].values())[-1]
    return [model, group["group"], str(group["n"]), *map(cell, (group["accuracy"], selected, group["ece"]))]


def _path_table(facts: BiasFacts) -> Table:
    rows = []
    for weights in sorted(facts.grid(2), key=lambda w: w[1]):
        found = [facts.spread((facts.line, weights), a, m) for m in ("demographic_parity", "tpr_gap") for a in facts.pair]
        rows.append([f"{weights[1]:g}", *map(_spread, found), _spread(facts.spread((facts.line, weights), "", "accuracy"))])
    header = ["weight", *(f"{METRICS[m]}, {a}" for m in ("demographic_parity", "tpr_gap") for a in facts.pair), "accuracy"]
    return Table("", header, rows, _spread_note(facts))


def _data_table(facts: BiasFacts) -> Table:
    rows = []
    for record in facts.data:
        for line in record["achieved"]:
            rows.append([record["attribute"], f"{record['ratio']:g}", str(record["rows"]), *_achieved(line)])
    return Table("", ["biased in", "ratio", "rows", "label", "values", "rows", "share of the label"], rows)


def _achieved(line: Record) -> list[str]:
    values = ", ".join(f"{name} {value}" for name, value in line["values"].items())
    return [str(line["label"]), values, str(line["rows"]), f"{line['share']:.4f}"]


def _training(facts: BiasFacts) -> Table:
    rows = [[r["name"], str(r["examples"]), str(r["epochs"]), f"{r['losses'][-1]:.3f}", *facts.speed(r)] for r in facts.trained]
    return Table("Training", ["model", "examples", "epochs", "last loss", *SPEED], rows)


def _spread(spread: Spread | None) -> str:
    return "not yet" if spread is None else f"{spread.value:.3f} ({spread.least:.3f} to {spread.greatest:.3f})"


def _spread_note(facts: BiasFacts) -> str:
    if len(facts.seeds) > 1:
        return f"Means over {len(facts.seeds)} seeds; in brackets the least and the greatest."
    return "In brackets: 95 % intervals."


def _signed(record: Record) -> str:
    return f"{record['value']:+.3f} [{record['low']:+.3f}, {record['high']:+.3f}]"


def _headline(facts: BiasFacts) -> list[str]:
    """How much bias there was, how much is left in the one fused model that was written, and accuracy."""
    if not all((a, row, m) in facts.rows for a in facts.pair for row in ("biased", WRITTEN) for m in METRICS):
        return []
    weights = " or ".join(sorted({f"{choice['nearest']:g}" for choice in facts.choices.values()}))
    lines = [
        f"One fused model against both biases, {weights} of it the {facts.pair[1]}-biased one (chosen without the test data):"
    ]
    for attribute in facts.pair:
        at = {(row, m): facts.rows[attribute, row, m] for row in ("biased", WRITTEN) for m in METRICS}
        dp, gap = ((at["biased", m]["value"], at[WRITTEN, m]["value"]) for m in ("demographic_parity", "tpr_gap"))
        accuracy = at["biased", "accuracy"]["value"], at[WRITTEN, "accuracy"]["value"]
        lines.append(
            f"{attribute}: DP {dp[0]:.3f} to {dp[1]:.3f}, TPR-GAP {gap[0]:.3f} to {gap[1]:.3f}, accuracy {accuracy[0]:.3f} to "
            f"{accuracy[1]:.3f}, from the biased model to the fused one."
        )
    return lines
