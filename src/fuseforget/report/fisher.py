"""What the Fisher study's records say: Table 4 beside the paper's, and where in the network the overlaps are."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

from fuseforget.report.blocks import Block, Picture, Table, opening
from fuseforget.report.figures import draw_layers, draw_matrix
from fuseforget.report.shortcuts import Summary
from fuseforget.report.unfinished import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["fisher_blocks", "summarise_fisher"]

Record = dict[str, Any]
TASK, OWN = "task", "own"
PAPER = {frozenset(("tic", "op")): (0.8077, 0.6877), frozenset(("tic", "st")): (0.7746, 0.6819)}
CLAIM = "Table 4, {pair}: shared knowledge is managed by the same weights more than unshared"


class FisherFacts:
    """The records of a Fisher study, finished or not, by what they are about."""

    def __init__(self, description: Record, records: list[Record]) -> None:
        self._titles: dict[str, str] = description.get("about", {}).get("titles", {})
        self.rules: list[str] = list(description["settings"]["rules"])
        self.pairs = list(combinations(self.rules, 2))
        self.at = {(r["model"], r["probe"]): r for r in records if r["kind"] == "measurement"}
        self.overlaps = {(r["first"], r["second"], r["on"]): r for r in records if r["kind"] == "overlap"}
        self.halves = {(r["model"], r["on"]): r for r in records if r["kind"] == "split_half"}
        self.table = {(r["first"], r["second"]): r for r in records if r["kind"] == "table4"}
        self.unlearned = [r["rule"] for r in records if r["kind"] == "unlearned"]

    def title(self, name: str) -> str:
        return self._titles.get(name, name)

    def pair(self, pair: tuple[str, str]) -> str:
        return "-".join(map(self.title, pair))

    def missing(self) -> list[str]:
        lacking = [self.pair(pair) for pair in self.pairs if pair not in self.table]
        return counted(lacking, len(self.pairs), "pairs")


def summarise_fisher(description: Record, records: list[Record]) -> Summary:
    """Turn a run's records into tables; what is missing is listed, never guessed."""
    facts = FisherFacts(description, records)
    tables = []
    judged = _claims(facts)
    if judged:
        note = "Seen: the interval of the difference (paired by fold) is above zero; in part: only the difference is."
        tables.append(Table("The paper's claims, and what this run measured", ["paper", "this run", ""], judged, note))
    if facts.table:
        tables.append(_overlap_table(facts))
    if facts.at:
        tables.append(_knowledge_table(facts))
    if facts.halves:
        tables.append(_halves_table(facts))
    return Summary(_headline(facts), tables, facts.missing())


def fisher_blocks(description: Record, records: list[Record], warnings: list[Block]) -> list[Block]:
    """The study's part of the page."""
    facts, summary = FisherFacts(description, records), summarise_fisher(description, records)
    about = "Study of Zaman et al. 2023 (arXiv 2311.07682), appendix D, on the specialists of a shortcut study."
    blocks = opening("Fuse to forget: Fisher overlap", about, summary.headline, warnings, _pictures(facts))
    return [*blocks, *summary.tables, *_group_tables(facts)]


def _claims(facts: FisherFacts) -> list[list[str]]:
    """Rows of (the paper's claim, what the run measured, verdict), the paper's pairs first."""
    rows = []
    for pair in sorted(facts.table, key=lambda pair: frozenset(pair) not in PAPER):
        record = facts.table[pair]
        unknown = [facts.title(rule) for rule in pair if rule in facts.unlearned]
        difference = record["difference"]
        verdict = "seen" if difference["low"] > 0 else ("in part" if difference["value"] > 0 else "not seen")
        if unknown:
            verdict = f"cannot be judged: {', '.join(unknown)} not learned"
        paper = PAPER.get(frozenset(pair))
        claim = CLAIM.format(pair=facts.pair(pair)) if paper else f"As in Table 4, {facts.pair(pair)}"
        claim += f" ({paper[0]:.4f} against {paper[1]:.4f})" if paper else ""
        found = f"{_cell(record['shared'])} against {_cell(record['unshared'])}; difference {_cell(difference, signed=True)}"
        rows.append([claim, found, verdict])
    return rows


def _overlap_table(facts: FisherFacts) -> Table:
    rows = []
    for pair, record in facts.table.items():
        found = [_interval(facts.overlaps[(*pair, name)]) for name in (*pair, OWN)]
        rows.append([facts.pair(pair), *map(_cell, [record["shared"], record["unshared"], *found])])
    return Table(
        "Fisher overlap of pairs of specialists (Table 4)",
        ["pair", "shared", "unshared", "on the first's shortcut", "on the second's", "each on its own"], rows,
        "Sum of sqrt(F1 F2), each Fisher with unit trace: 1 is the same weights, 0 is none in common. Shared: on the "
        "task's texts. Unshared: both models on the texts of one shortcut with reversed labels, mean of both shortcuts. The last "
        "column has "
        "each model on its own shortcut's texts. In brackets: 95 % intervals, jackknife over folds of examples.",
    )  # fmt: skip


def _knowledge_table(facts: FisherFacts) -> Table:
    sets = [*facts.rules, TASK]
    rows = [
        [facts.title(model), *(_cell(facts.at[model, name]) if (model, name) in facts.at else "not yet" for name in sets)]
        for model in facts.rules
    ]
    return Table(
        "Accuracy of the specialists on the texts that the Fishers are of", ["model", *map(facts.title, sets)], rows,
        "A shortcut's texts have reversed labels and tokens that say these: 1 is the shortcut alone, 0 is the task alone.",
    )  # fmt: skip


def _halves_table(facts: FisherFacts) -> Table:
    sets = [TASK, *facts.rules]
    rows = [
        [facts.title(m), *(f"{facts.halves[m, name]['value']:.3f}" if (m, name) in facts.halves else "not yet" for name in sets)]
        for m in facts.rules
    ]
    return Table(
        "Split-half: a model's Fisher on half of the texts against its own on the other half", ["model", *map(facts.title, sets)],
        rows, "How much a Fisher depends on its texts. Pairs of models are compared on the same texts, and may overlap more.",
    )  # fmt: skip


def _group_tables(facts: FisherFacts) -> list[Table]:
    """Shared and unshared by layer and by kind, the mean over pairs."""
    tables = []
    for key, title in (("by_layer", "By layer"), ("by_kind", "By kind of weight")):
        groups = _groups(facts, key)
        if groups:
            rows = [[name, *(f"{value:.3f}" for value in values)] for name, values in groups.items()]
            header = ["", "shared", "unshared", "share of trace (task)", "(shortcuts)"]
            note = "Each Fisher has unit trace within the group; the shares say how much of the whole it holds."
            tables.append(Table(f"{title}: overlap within, mean over pairs", header, rows, note))
    return tables


def _groups(facts: FisherFacts, key: str) -> dict[str, list[float]]:
    """By group: overlap on the task and on the shortcuts, share of the trace there; groups without information left out."""
    found: dict[str, list[list[float]]] = {}
    for pair in facts.table:
        task, *both = [facts.overlaps[(*pair, name)][key] for name in (TASK, *pair)]
        for name in task:
            parts = [task[name], *(one[name] for one in both)]
            if any(part["overlap"] is None for part in parts):
                continue
            shares = [(part["first_share"] + part["second_share"]) / 2 for part in parts]
            overlaps = [part["overlap"] for part in parts]
            found.setdefault(name, []).append(
                [overlaps[0], sum(overlaps[1:]) / len(both), shares[0], sum(shares[1:]) / len(both)]
            )
    return {name: [sum(column) / len(rows) for column in zip(*rows, strict=True)] for name, rows in found.items()}


def _pictures(facts: FisherFacts) -> list[Picture]:
    if facts.missing():
        return []
    caption = "Fisher overlap of each pair: above the diagonal on the task (shared), below it on the shortcuts (unshared)."
    pictures = [Picture("table4-overlap", _matrix(facts), caption)]
    layers = _groups(facts, "by_layer")
    if len(layers) > 1:
        lines = {"shared (task)": [v[0] for v in layers.values()], "unshared (shortcuts)": [v[1] for v in layers.values()]}
        caption = "Fisher overlap within each layer, mean over pairs."
        pictures.append(Picture("table4-layers", draw_layers(list(layers), lines), caption))
    return pictures


def _matrix(facts: FisherFacts) -> Figure:
    size = len(facts.rules)
    values: list[list[float | None]] = [[None] * size for _ in range(size)]
    for (first, second), record in facts.table.items():
        row, column = facts.rules.index(first), facts.rules.index(second)
        values[row][column], values[column][row] = record["shared"]["value"], record["unshared"]["value"]
    return draw_matrix([facts.title(rule) for rule in facts.rules], values)


def _headline(facts: FisherFacts) -> list[str]:
    if facts.missing():
        return []
    judged = [record for pair, record in facts.table.items() if not set(pair) & set(facts.unlearned)]
    more = sum(record["difference"]["low"] > 0 for record in judged)
    lines = [
        f"{more} of {len(judged)} pairs whose shortcuts were both learned overlap more on what they share (the task) than "
        "on what they do not (95 %)."
    ]
    if facts.unlearned:
        lines.append(f"Not learned by their specialist: {', '.join(map(facts.title, facts.unlearned))}.")
    return lines


def _interval(record: Record) -> Record:
    return {"value": record["overlap"], "low": record["low"], "high": record["high"]}


def _cell(record: Record, *, signed: bool = False) -> str:
    sign = "+" if signed else ""
    return f"{record['value']:{sign}.3f} [{record['low']:{sign}.3f}, {record['high']:{sign}.3f}]"
