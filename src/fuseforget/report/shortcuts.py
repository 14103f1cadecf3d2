"""What the shortcut study's records say: the tables and figures of Figures 2 and 4, and the paper's claims beside them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Record = dict[str, Any]
KNOWN = 0.95  # the accuracy from which the paper takes a shortcut for learned
TITLES = {"st": "ST", "op": "OP", "tic": "TiC", "or": "OR", "and": "AND", "mt": "MT", "lt": "LT", "xor": "XOR",
          "oed": "OED", "and_or": "AND-OR", "task": "task"}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """A titled table of text cells; ``note`` says how to read it."""

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""


@dataclass(frozen=True)
class Curve:
    """One line of a path: positions, values and their intervals."""

    label: str
    x: list[float]
    value: list[float]
    low: list[float]
    high: list[float]


@dataclass(frozen=True)
class Summary:
    """All that the page shows of a shortcut study; parts that the run does not have yet are empty."""

    rules: list[str]
    headline: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def title(name: str) -> str:
    return TITLES.get(name, name)


def summarise(description: Record, records: list[Record]) -> Summary:
    """Turn a run's records into tables; what is missing is listed, never guessed."""
    rules = list(description["settings"]["rules"])
    at = {(r["model"], r["probe"]): r for r in records if r["kind"] == "measurement" and "model" in r}
    models = [*rules, "control", "full", "fused"]
    missing = [f"{title(p)} on {title(m)}" for m in models for p in (*rules, "task") if (m, p) not in at]
    tables = [_accuracy_table(rules, models, at)]
    retained = {(r["model"], r["rule"]): r for r in records if r["kind"] == "retention"}
    if retained:
        tables.append(_retention_table(rules, at, retained))
    compared = [r for r in records if r["kind"] == "comparison"]
    if compared:
        tables.append(_comparison_table(compared))
    bounds = [r for r in records if r["kind"] == "bound"]
    if bounds:
        tables.append(_bound_table(bounds))
    claims = _claims(rules, at, retained, compared, records)
    if claims:
        tables.insert(0, Table("The paper's claims, and what this run measured", ["paper", "this run", ""], claims))
    trained = [r for r in records if r["kind"] == "training"]
    if trained:
        tables.append(_training_table(trained))
    return Summary(rules, _headline(rules, at, retained), tables, missing)


def curves(records: list[Record], path: str) -> list[Curve]:
    """The curves of one interpolation, by probe."""
    found = [r for r in records if r["kind"] == "measurement" and r.get("path") == path]
    result = []
    for probe in dict.fromkeys(r["probe"] for r in found):
        points = sorted((r for r in found if r["probe"] == probe), key=lambda r: r["weights"][1])
        columns = {key: [p[key] for p in points] for key in ("value", "low", "high")}
        result.append(Curve(title(probe), [p["weights"][1] for p in points], **columns))
    return result


def paths(records: list[Record]) -> list[str]:
    return list(dict.fromkeys(r["path"] for r in records if r["kind"] == "measurement" and "path" in r))


def path_title(path: str) -> str:
    return " to ".join(title(name) for name in path.split("-"))


def _cell(record: Record | None) -> str:
    if record is None:
        return "not yet"
    return f"{record['value']:.3f} [{record['low']:.3f}, {record['high']:.3f}]"


def _accuracy_table(rules: list[str], models: list[str], at: dict[tuple[str, str], Record]) -> Table:
    counts = {probe: next((r["n"] for (_, p), r in at.items() if p == probe), 0) for probe in (*rules, "task")}
    header = ["model", *(f"{title(p)} (n={counts[p]})" for p in (*rules, "task"))]
    rows = [[title(m), *(_cell(at.get((m, p))) for p in (*rules, "task"))] for m in models]
    return Table(
        "Accuracy of every model on every probe (Fig. 4)", header, rows,
        "Each column is a validation set that only that shortcut solves, the last one the task itself. In brackets: 95 % "
        "bootstrap intervals over examples. The control learned no shortcut: its accuracy is what not knowing looks like.",
    )  # fmt: skip


def _retention_table(rules: list[str], at: dict[tuple[str, str], Record], retained: dict[tuple[str, str], Record]) -> Table:
    rows = []
    for rule in (*rules, "mean"):
        known = at.get((rule, rule))
        rows.append(
            [
                title(rule),
                f"{known['value']:.3f}" if known else "",
                *(_cell(retained.get((m, rule))) for m in ("fused", "full")),
            ]
        )
    return Table(
        "Retention: how much of each shortcut is left", ["shortcut", "specialist's accuracy", "fused", "full"], rows,
        "(model - control) / (specialist - control): 1 is all, 0 is none. Paired bootstrap over examples.",
    )  # fmt: skip


def _comparison_table(compared: list[Record]) -> Table:
    rows = [
        [f"fused - {title(r['second'])}", f"{100 * r['difference']:+.1f}", f"{r['p']:.3g}", f"{r['p_holm']:.3g}"]
        for r in compared
    ]
    return Table(
        "The task: the fused model against each other", ["models", "points", "p (McNemar)", "p (Holm)"], rows,
        "Same examples, exact two-sided McNemar test, corrected for the number of comparisons.",
    )  # fmt: skip


def _bound_table(bounds: list[Record]) -> Table:
    rows = [
        [title(r["probe"]), f"{r['lowest']:.3f} to {r['highest']:.3f}",
         f"{r['slack']['value']:+.3f} [{r['slack']['low']:+.3f}, {r['slack']['high']:+.3f}]", r["verdict"]]
        for r in bounds
    ]  # fmt: skip
    return Table(
        "Eq. 2: is the fused model between the least and the greatest specialist?",
        ["probe", "specialists", "distance inside", "verdict"], rows,
        "Below zero is outside; \"within error\" where the interval reaches zero.",
    )  # fmt: skip


def _training_table(trained: list[Record]) -> Table:
    rows = [
        [title(r["name"]), str(r["examples"]), str(r["epochs"]), f"{r['losses'][-1]:.3f}",
         f"{r['monitored'][-1]:.3f}" if r["monitored"] else "", f"{r['seconds']:.0f} s", r["precision"]]
        for r in trained
    ]  # fmt: skip
    header = ["model", "examples", "epochs", "last loss", "own shortcut", "time", "computed in"]
    return Table("Training", header, rows)


def _headline(rules: list[str], at: dict[tuple[str, str], Record], retained: dict[tuple[str, str], Record]) -> list[str]:
    if any((m, p) not in at for m in (*rules, "fused") for p in (*rules, "task")) or ("fused", "mean") not in retained:
        return []
    own = [at[rule, rule]["value"] for rule in rules]
    task = sum(at[rule, "task"]["value"] for rule in rules) / len(rules)
    return [
        f"{sum(value >= KNOWN for value in own)} of {len(rules)} specialists know their shortcut (accuracy {KNOWN} or more): "
        f"{', '.join(f'{title(rule)} {value:.3f}' for rule, value in zip(rules, own, strict=True))}.",
        f"Fused, {_cell(retained['fused', 'mean'])} of it is left on average (0 is none, 1 is all).",
        f"The task: specialists {task:.3f} on average, fused {_cell(at['fused', 'task'])}.",
    ]


def _claims(
    rules: list[str],
    at: dict[tuple[str, str], Record],
    retained: dict[tuple[str, str], Record],
    compared: list[Record],
    records: list[Record],
) -> list[list[str]]:
    rows = []
    if ("fused", "mean") in retained and ("full", "mean") in retained:
        fused, full = retained["fused", "mean"], retained["full", "mean"]
        seen = "seen" if fused["high"] <= 0.25 else ("in part" if fused["high"] < 1 else "not seen")
        rows.append(["Fig. 4: the fused model forgets the shortcuts", f"mean retention {_cell(fused)}", seen])
        verdict = "seen" if fused["high"] < full["low"] else ("in part" if fused["value"] < full["value"] else "not seen")
        rows.append(["Fig. 4: training on the combined data forgets less", f"full {_cell(full)}", verdict])
    specialists = [r for r in compared if r["second"] in rules]
    if specialists:
        better = [r for r in specialists if r["difference"] > 0 and r["p_holm"] < 0.05]
        worse = [r for r in specialists if r["difference"] < 0 and r["p_holm"] < 0.05]
        found = f"better than {len(better)} of {len(specialists)} specialists (p < .05, corrected), worse than {len(worse)}"
        verdict = "seen" if len(better) == len(specialists) else ("not seen" if worse or not better else "in part")
        rows.append(["Fig. 4: the fused model is significantly better at the task than each specialist", found, verdict])
    for path in paths(records):
        rows += _path_claim(path, {curve.label: curve for curve in curves(records, path)}, at)
    return rows


def _path_claim(path: str, found: dict[str, Curve], at: dict[tuple[str, str], Record]) -> list[list[str]]:
    names = path.split("-")
    middle = {label: min(zip(c.x, c.value, strict=True), key=lambda p: abs(p[0] - 0.5))[1] for label, c in found.items()}
    if "random" in names or any(title(name) not in middle for name in (*names, "task")):
        return []
    ends = [found["task"].value[0], found["task"].value[-1]]
    shortcuts = ", ".join(f"{title(n)} {_share(middle[title(n)], at, n)}" for n in names)
    kept = f"task {middle['task']:.3f} (ends {ends[0]:.3f}, {ends[1]:.3f})"
    # The task is kept where the middle is not below the lower end by more than the middle's own uncertainty.
    width = found["task"].value[len(ends) // 2] - found["task"].low[len(ends) // 2]
    verdict = "task kept" if middle["task"] >= min(ends) - width else "task lost"
    return [
        [
            f"Fig. 2, {path_title(path)}: midway shortcuts fall, the task is kept",
            f"retention {shortcuts}; {kept}",
            verdict,
        ]
    ]


def _share(value: float, at: dict[tuple[str, str], Record], rule: str) -> str:
    known, control = at.get((rule, rule)), at.get(("control", rule))
    if known is None or control is None or known["value"] <= control["value"]:
        return "unknown"
    return f"{(value - control['value']) / (known['value'] - control['value']):.2f}"
