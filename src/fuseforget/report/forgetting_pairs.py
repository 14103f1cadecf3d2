"""Pairs of specialists, fused by every method at its best: the table, the frontier, and the dial, from records alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fuseforget.report.blocks import Block, Details, Heading, Paragraphs, Picture, Pictures, Table
from fuseforget.report.facts import TASK, cell
from fuseforget.report.figures import COLOURS, MARKERS, blank_figure, new_figure
from fuseforget.report.forgetting_facts import (
    ALLOWANCE,
    AVERAGE,
    DEEPEST,
    GONE,
    SCALED,
    ForgettingFacts,
    Record,
    left,
    setting,
    signed,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["best", "draw_frontier", "pairs_blocks", "pairs_lead", "pairs_table", "undominated", "verdict"]

OURS = "spectral_consensus"
QUANTITIES = {"unshared_clipped": "unshared shortcuts left", "retention": "shortcuts left, shared ones included"}
NOTE = (
    "Each method at the setting that leaves least of the unshared shortcuts on validation texts, which no model was trained on, "
    "over pairs that hold each rule twice, among its settings whose task accuracy is at most "
    f"{100 * ALLOWANCE:g} point below the average's there; where there is none, at the one of highest accuracy (marked *). "
    "Unshared: (fused - floor) / (specialist - floor), where the floor is what "
    "the control or the other model of the pair gets right, whichever is more, and a rule that is solved less often than that "
    "counts as 0, so that it makes up for no other: where all is gone, that raises value and interval a little. In the next "
    "column it counts as it is. Left: the same above the control alone. Mean over both rules of a pair, over pairs and "
    "sources. Brackets: 95 % intervals of a bootstrap over examples, "
    f"pairs and sources together. Reached: at most {GONE:g} of the unshared is left and the task is at most "
    f"{100 * ALLOWANCE:g} point below the average's; clearly, where the intervals say so too."
)


def pairs_blocks(records: Sequence[Record]) -> list[Block]:
    """The blocks of the part ``pairs`` and of the dial; none before anything was chosen."""
    facts = ForgettingFacts(records)
    if not facts.tried:
        return []
    blocks: list[Block] = [Heading("Two models: every method at its best"), Pictures(_frontiers(facts))]
    if facts.results("pairs"):
        blocks += [pairs_table(facts), *_left_out(facts)]
    blocks += _dial(facts)
    details: list[Block] = [_tried_table(facts), _contender_table(facts), _methods_left_out(facts)]
    return [
        *blocks,
        Details("What each model knows by itself", _known(facts)),
        Details("Settings and how they were chosen", details),
    ]


def pairs_lead(facts: ForgettingFacts) -> list[str]:
    """What the comparison of pairs comes to; nothing before it is whole."""
    found = {r["row"]: r for r in facts.results("pairs") if r["unshared"] is not None}
    if "pairs" in facts.missing() or AVERAGE not in found:
        return []
    reached = [row for row, r in found.items() if verdict(r).startswith("reached")]
    lines = [
        f"{len(reached)} of {len(found)} methods remove nine tenths of what only one of two models knows, at no more than half a "
        f"point of the average's task accuracy{': ' if reached else ''}{', '.join(reached)}."
    ]
    least = best(list(found.values()))
    rows = dict.fromkeys([*([least["row"]] if least else []), AVERAGE, SCALED])
    said = [
        f"{row} leaves {cell(found[row]['unshared_clipped'])} of it, the task {cell(found[row]['task'])}"
        for row in rows
        if row in found
    ]
    return [*lines, f"{'; '.join(said)}."]


def best(results: Sequence[Record]) -> Record | None:
    """The result with the least of the unshared left among those that keep the task."""
    good = [r for r in results if r["unshared"] is not None and r["task_difference"]["value"] >= -ALLOWANCE - 1e-9]
    return min(good, key=lambda r: float(r["unshared_clipped"]["value"])) if good else None


def verdict(result: Record) -> str:
    """Whether nine tenths of the unshared are removed at no loss of the task, and where not, what is missing."""
    unshared, task = result["unshared_clipped"], result["task_difference"]
    if unshared is None:
        return "nothing unshared"
    lacking = [
        *(["too much left"] if unshared["value"] > GONE else []),
        *(["task lower"] if task["value"] < -ALLOWANCE - 1e-9 else []),
    ]
    if lacking:
        return f"not: {', '.join(lacking)}"
    return "reached, clearly" if unshared["high"] <= GONE and task["low"] >= -ALLOWANCE else "reached"


def pairs_table(facts: ForgettingFacts) -> Table:
    """The chosen settings on test data, a row a method."""
    rows = []
    for r in facts.results("pairs"):
        mark = "" if facts.chosen[r["row"]]["allowed"] else " *"
        own = r["row"] == AVERAGE
        rows.append([
            r["row"], setting(r["parameters"]) + mark, left(r["unshared_clipped"]), left(r["unshared"]), left(r["retention"]),
            "" if own else signed(r["unshared_difference"]), cell(r["task"]), "" if own else signed(r["task_difference"]),
            verdict(r),
        ])  # fmt: skip
    first = facts.results("pairs")[0]
    header = ["method", "chosen", "unshared left", "below 0 too", "left", "unshared, less average's", "task",
              "task, less average's", "verdict"]  # fmt: skip
    title = f"Pairs of specialists, on test data: {first['cases']} pairs of {', '.join(first['sources'])}"
    return Table(title, header, rows, NOTE)


def _left_out(facts: ForgettingFacts) -> list[Block]:
    """What the means are not over, by name."""
    first = facts.results("pairs")[0]
    lines = [
        f"Of {first['pieces']} shortcuts in pairs, {first['unshared_pieces']} are more than a tenth above what the other model "
        "of the pair or the control gets right, and count as unshared."
    ]
    names = dict.fromkeys(f"{rule} beside {next(m for m in case if m != rule)}" for _, case, rule in first["nothing_unshared"])
    if names:
        lines.append(f"Left out, since the other model solves them nearly as well: {', '.join(names)}.")
    if facts.unlearned:
        said = [f"{r['rule']} in {r['model']} of {r['source']} ({r['split']}, {r['value']:.3f}, control {r['control']:.3f})"
                for r in facts.unlearned]  # fmt: skip
        lines.append(f"Not learned, and left out: {', '.join(said)}.")
    return [Paragraphs(lines)]


def _known(facts: ForgettingFacts) -> list[Block]:
    """First that the knowledge is there: models that fuse nothing, a table a source and split."""
    tables: list[Block] = []
    for source, split in dict.fromkeys((source, split) for source, split, _, _ in facts.alone):
        here = {(m, p): r for (s, t, m, p), r in facts.alone.items() if (s, t) == (source, split)}
        probes = list(dict.fromkeys(probe for _, probe in here))
        probes = [*(p for p in probes if p != TASK), TASK]
        rows = [
            [model, *(cell(here[model, p]) if (model, p) in here else "" for p in probes)]
            for model in dict.fromkeys(model for model, _ in here)
        ]
        title = f"Accuracy of each model, {source}, {split} data ({_texts(facts, [source], split)})"
        tables.append(Table(title, ["model", *probes], rows))
    return tables


def _texts(facts: ForgettingFacts, sources: Sequence[str], split: str) -> str:
    """On how many texts models were asked for the task and for a rule."""
    counts: dict[bool, set[int]] = {True: set(), False: set()}
    for (of_source, of_split, _, probe), record in facts.alone.items():
        if of_source in sources and of_split == split:
            counts[probe == TASK].add(record["n"])
    task, rule = (" or ".join(f"{n:,}" for n in sorted(counts[is_task])) for is_task in (True, False))
    return f"{task} texts a probe" if task == rule else f"{task} texts for the task, {rule} a rule"


def _tried_table(facts: ForgettingFacts) -> Table:
    rows = [
        [r["row"], setting(r["parameters"]), *(f"{r[name]:.3f}" if r[name] is not None else "" for name in (*QUANTITIES, TASK)),
         "chosen" if facts.chosen.get(r["row"], {}).get("parameters") == r["parameters"] else ""]
        for r in facts.tried
    ]  # fmt: skip
    header = ["method", "setting", "unshared left", "left", "task", ""]
    first = facts.tried[0]
    texts = _texts(facts, first["sources"], first["split"])
    over = f"{first['cases']} pairs of {', '.join(first['sources'])}"
    return Table(f"Every setting on validation data ({texts}), mean over {over}", header, rows)


def _contender_table(facts: ForgettingFacts) -> Table:
    rows = [[row, r["method"], str(len(r["grid"])), r["source"]] for row, r in facts.contenders.items()]
    return Table("Where the settings come from", ["row", "method", "settings", "why"], rows)


def _methods_left_out(facts: ForgettingFacts) -> Table:
    return Table("Methods left out", ["method", "because it"], [[r["method"], r["reason"]] for r in facts.left_out])


def _frontiers(facts: ForgettingFacts) -> list[Picture]:
    drawn = []
    for quantity, words in QUANTITIES.items():
        if all(r[quantity] is None for r in facts.tried):
            continue
        told = " Right: the chosen settings on test data, with 95 % intervals." if facts.results("pairs") else ""
        where = "Left: every" if told else "Every"
        caption = (
            f"The frontier: {words} against the task's accuracy; the upper left is what fusing is to do. {where} "
            "setting on validation data, with a line through those that no other of the method beats in both, thick for the "
            f"scaled average and for spectral consensus; dotted: half a point below the average.{told} What loses more than "
            f"{100 * DEEPEST:g} points is below the picture."
        )
        drawn.append(Picture(f"frontier-{quantity}", draw_frontier(facts, quantity), caption, wide=True))
    return drawn


def draw_frontier(facts: ForgettingFacts, quantity: str) -> Figure:
    """What is left against the task: all settings on validation data, and, once there are any, the chosen ones on test data."""
    splits = ("validation", "test") if facts.results("pairs") else ("validation",)
    figure = blank_figure(2.0 + 4.5 * len(splits), 5.0)
    panels = figure.subplots(1, len(splits), squeeze=False)[0]
    rows = list(facts.contenders)
    looks = {row: (COLOURS[i % len(COLOURS)], MARKERS[i // len(COLOURS) % len(MARKERS)]) for i, row in enumerate(rows)}
    for axes, split, draw in zip(panels, splits, (_draw_settings, _draw_chosen), strict=False):
        draw(axes, facts, quantity, looks)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#ddd", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_xlabel(f"{QUANTITIES[quantity]} (0 none, 1 all)")
        axes.set_title(f"{split} data", fontsize=10)
    panels[0].set_ylabel("accuracy on the task")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=8)
    return figure


def _draw_settings(axes: Any, facts: ForgettingFacts, quantity: str, looks: dict[str, tuple[str, str]]) -> None:
    for row, (colour, marker) in looks.items():
        points = [(r[quantity], r["task"]) for r in facts.tried if r["row"] == row and r[quantity] is not None]
        if points:
            axes.plot(*zip(*points, strict=True), marker, color=colour, markersize=4, alpha=0.75, label=row)
            thick = row in (SCALED, OURS)
            axes.plot(*zip(*undominated(points), strict=True), color=colour, linewidth=2.2 if thick else 0.8, alpha=0.75)
    average = next((r["task"] for r in facts.tried if r["row"] == AVERAGE), None)
    if average is not None:
        _lower(axes, average)


def _draw_chosen(axes: Any, facts: ForgettingFacts, quantity: str, looks: dict[str, tuple[str, str]]) -> None:
    found = [r for r in facts.results("pairs") if r[quantity] is not None]
    for r in found:
        (colour, marker), x, y = looks[r["row"]], r[quantity], r["task"]
        axes.errorbar(
            x["value"], y["value"], xerr=[[x["value"] - x["low"]], [x["high"] - x["value"]]],
            yerr=[[y["value"] - y["low"]], [y["high"] - y["value"]]], fmt=marker, color=colour, markersize=6, elinewidth=0.5,
            ecolor="#bbb", zorder=3,
        )  # fmt: skip
    average = next((r["task"]["value"] for r in found if r["row"] == AVERAGE), None)
    if average is not None:
        _lower(axes, average)


def _lower(axes: Any, average: float) -> None:
    """The picture's lower end, and a line where the task may be at the lowest."""
    axes.axhline(average - ALLOWANCE, color="#888", linewidth=0.7, linestyle=":")
    axes.set_ylim(bottom=max(axes.get_ylim()[0], average - DEEPEST))


def undominated(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points, from left to right, that none has both less left than and a better task than."""
    kept: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (point[0], -point[1])):
        if not kept or y > kept[-1][1]:
            kept.append((x, y))
    return kept


def _dial(facts: ForgettingFacts) -> list[Block]:
    """One knob from end to end."""
    turned = sorted(facts.results("dial"), key=lambda r: float(_knob(r)[1]))
    if not turned:
        return []
    method, name = turned[0]["method"], _knob(turned[0])[0]
    caption = f"The dial of {method}: what is left and the task by {name}, at its other defaults, on test data; 95 % bands."
    rows = [
        [f"{_knob(r)[1]:g}", left(r["unshared_clipped"]), left(r["retention"]), cell(r["task"]), signed(r["task_difference"])]
        for r in turned
    ]
    header = [name, "unshared left", "left", "task", "task, less average's"]
    return [
        Pictures([Picture("dial", _draw_dial(turned, name), caption)]),
        Table(f"The dial of {method}, pairs of {turned[0]['sources'][0]}, test data", header, rows),
    ]


def _knob(result: Record) -> tuple[str, float]:
    return next((str(name), float(value)) for name, value in result["parameters"].items())


def _draw_dial(turned: Sequence[Record], name: str) -> Figure:
    figure, axes = new_figure(6.0, 3.8)
    lines = {"unshared_clipped": "unshared left", "retention": "left", "task": "task accuracy"}
    for number, (quantity, label) in enumerate(lines.items()):
        known = [(place, r[quantity]) for place, r in enumerate(turned) if r[quantity] is not None]
        if known:
            x, of = [at for at, _ in known], [r for _, r in known]
            colour = COLOURS[number]
            axes.fill_between(x, [r["low"] for r in of], [r["high"] for r in of], color=colour, alpha=0.15, linewidth=0)
            axes.plot(x, [r["value"] for r in of], color=colour, marker=MARKERS[number], label=label)
    # Evenly, whatever the settings are: those of a strictness near one would lie on one another.
    axes.set_xticks(range(len(turned)), [f"{_knob(r)[1]:g}" for r in turned], fontsize=8)
    axes.set_xlabel(name)
    axes.legend(frameon=False)
    return figure
