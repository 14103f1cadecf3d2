"""What the shortcut study's records say: the tables of Figures 2 and 4, and the paper's claims beside them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fuseforget.report.blocks import Table
from fuseforget.report.claims import NOTE, claims
from fuseforget.report.facts import TASK, Facts, cell
from fuseforget.report.part_claims import part_claims
from fuseforget.report.parts import dependent_table, growth_table, shared_table, six_table
from fuseforget.report.training import SPEED
from fuseforget.report.unfinished import NOT_BEGUN, counted

__all__ = ["Summary", "curve_table", "summarise"]

Record = dict[str, Any]
KNOWN = 0.95  # the accuracy from which the paper takes a shortcut for learned


@dataclass(frozen=True)
class Summary:
    """What is printed of a shortcut study; parts that the run does not have yet are empty."""

    headline: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def summarise(description: Record, records: list[Record]) -> Summary:
    """Turn a run's records into tables; what is missing is listed, never guessed."""
    facts = Facts(description, records)
    tables = []
    judged = [*claims(facts), *part_claims(facts)]
    if judged:
        tables.append(Table("The paper's claims, and what this run measured", ["paper", "this run", ""], judged, NOTE))
    tables.append(_accuracy_table(facts))
    if facts.retained or facts.unlearned:
        tables.append(_retention_table(facts))
    if facts.compared:
        tables.append(_comparison_table(facts))
    tables += [*dependent_table(facts), *shared_table(facts), *growth_table(facts), *six_table(facts)]
    if facts.bounds:
        tables.append(_bound_table(facts))
    if facts.trained:
        tables.append(_training_table(facts))
    return Summary(_headline(facts), tables, _missing(facts, description, records))


def curve_table(facts: Facts, path: str) -> Table:
    """The numbers of one path: a row a point, a column a probe."""
    curves = facts.curves(path)
    positions = sorted({x for curve in curves for x in curve.x})
    rows = [[f"{x:.2f}", *(cell(facts.on.get((path, curve.probe, x))) for curve in curves)] for x in positions]
    return Table("", [f"weight of {facts.title(facts.paths[path][1])}", *(curve.label for curve in curves)], rows)


def _missing(facts: Facts, description: Record, records: list[Record]) -> list[str]:
    """A line a sort of what is missing, of what a run lacks that has nothing but what it was asked for."""
    planned = Facts(description, [record for record in records if record["kind"] == "part"]).missing()
    lines = [line for sort, names in facts.missing().items() for line in counted(names, len(planned[sort]), sort)]
    return lines if records else [*lines, NOT_BEGUN]


def _accuracy_table(facts: Facts) -> Table:
    counts = {probe: next((r["n"] for (_, p), r in facts.at.items() if p == probe), 0) for probe in facts.probes}
    header = ["model", *(f"{facts.title(p)} (n={counts[p]})" for p in facts.probes)]
    rows = [[facts.title(m), *(cell(facts.at.get((m, p))) for p in facts.probes)] for m in facts.models]
    return Table(
        "Accuracy of every model on every probe (Fig. 4)", header, rows,
        "Each column is a validation set that only that shortcut solves, the last one the task itself. In brackets: 95 % "
        "bootstrap intervals over examples. The control learned no shortcut: its accuracy is what not knowing looks like.",
    )  # fmt: skip


def _retention_table(facts: Facts) -> Table:
    rows = []
    for rule in facts.rules:
        known = facts.at.get((rule, rule))
        found = ["unlearned"] * 2 if rule in facts.unlearned else [cell(facts.retained.get((m, rule))) for m in ("fused", "full")]
        rows.append([facts.title(rule), f"{known['value']:.3f}" if known else "", *found])
    if len(facts.unlearned) < len(facts.rules):
        means = [cell(facts.retained.get((m, "mean"))) for m in ("fused", "full")]
        rows.append([_mean_name(facts), "", *means])
    note = "(model - control) / (specialist - control): 1 is all, 0 is none. Paired bootstrap over examples."
    if facts.unlearned:
        note += " Unlearned: the specialist is not clearly above the control, and has nothing to forget."
    header = ["shortcut", "specialist's accuracy", "fused", "full"]
    return Table("Retention: how much of each shortcut is left", header, rows, note)


def _mean_name(facts: Facts) -> str:
    known = len(facts.rules) - len(facts.unlearned)
    return f"mean of {known} of {len(facts.rules)}" if facts.unlearned else "mean"


def _comparison_table(facts: Facts) -> Table:
    rows = [
        [f"fused - {facts.title(r['second'])}", f"{100 * r['difference']:+.1f}", f"{r['p']:.3g}", f"{r['p_holm']:.3g}"]
        for r in facts.compared
    ]
    return Table(
        "The task: the fused model against each other", ["models", "points", "p (McNemar)", "p (Holm)"], rows,
        "Same examples, exact two-sided McNemar test, corrected for the number of comparisons.",
    )  # fmt: skip


def _bound_table(facts: Facts) -> Table:
    rows = [
        [facts.title(r["probe"]), f"{r['lowest']:.3f} to {r['highest']:.3f}",
         f"{r['slack']['value']:+.3f} [{r['slack']['low']:+.3f}, {r['slack']['high']:+.3f}]", r["verdict"]]
        for r in facts.bounds
    ]  # fmt: skip
    return Table(
        "Eq. 2: is the fused model between the least and the greatest specialist?",
        ["probe", "specialists", "distance inside", "verdict"], rows,
        "Below zero is outside; \"within error\" where the interval reaches zero.",
    )  # fmt: skip


def _training_table(facts: Facts) -> Table:
    rows = [
        [facts.title(r["name"]), str(r["examples"]), str(r["epochs"]), f"{r['losses'][-1]:.3f}",
         f"{r['monitored'][-1]:.3f}" if r["monitored"] else "", r["precision"], *facts.speed(r)]
        for r in facts.trained
    ]  # fmt: skip
    header = ["model", "examples", "epochs", "last loss", "own shortcut", "computed in", *SPEED]
    return Table("Training", header, rows)


def _headline(facts: Facts) -> list[str]:
    """What was learned, how much of it is left, and the task; nothing before all of that is known."""
    measured = all((m, p) in facts.at for m in (*facts.rules, "fused") for p in facts.probes)
    concluded = ("fused", "mean") in facts.retained or len(facts.unlearned) == len(facts.rules)
    if not (measured and concluded):
        return []
    own = {rule: facts.at[rule, rule]["value"] for rule in facts.rules}
    task = sum(facts.at[rule, TASK]["value"] for rule in facts.rules) / len(facts.rules)
    know = sum(value >= KNOWN for value in own.values())
    lines = [
        f"{know} of {len(own)} specialists know their shortcut (accuracy {KNOWN} or more): "
        f"{', '.join(f'{facts.title(rule)} {value:.3f}' for rule, value in own.items())}."
    ]
    if facts.unlearned:
        names = ", ".join(
            f"{facts.title(rule)} ({r['specialist']:.3f}, control {r['control']:.3f})" for rule, r in facts.unlearned.items()
        )
        lines.append(f"Unlearned, not clearly above the control and left out of the mean: {names}.")
    if ("fused", "mean") in facts.retained:
        mean = f", {_mean_name(facts)}" if facts.unlearned else " on average"
        lines.append(f"Fused, {cell(facts.retained['fused', 'mean'])} of it is left{mean} (0 is none, 1 is all).")
    return [*lines, f"The task: specialists {task:.3f} on average, fused {cell(facts.at['fused', TASK])}."]
