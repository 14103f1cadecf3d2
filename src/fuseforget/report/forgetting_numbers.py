"""Two and more models, fused by every method at its best, from records alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fuseforget.report.blocks import Block, Details, Heading, Picture, Pictures, Table
from fuseforget.report.facts import cell
from fuseforget.report.figures import COLOURS, MARKERS, blank_figure
from fuseforget.report.forgetting_facts import ForgettingFacts, Record, left

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["numbers_blocks"]

PANELS = {"unshared_clipped": "unshared shortcuts left", "task": "accuracy on the task"}
NOTE = (
    "Means over the first so many specialists and, where there are more, another so many, and over sources. Settings as chosen "
    "on pairs; a method that takes no more than two models has nothing beyond."
)


def numbers_blocks(records: Sequence[Record]) -> list[Block]:
    """The blocks of the part ``numbers``; none before it was begun."""
    facts = ForgettingFacts(records)
    numbers = facts.numbers()
    if not numbers:
        return []
    found = {(r["row"], count): r for count in numbers for r in facts.results("numbers", models=count)}
    rows = [row for row in facts.contenders if any((row, count) in found for count in numbers)]
    tables = [
        Table(
            f"{words[0].upper()}{words[1:]}, by number of models", ["method", *map(str, numbers)],
            [[row, *(_value(found.get((row, count)), quantity) for count in numbers)] for row in rows], NOTE,
        )
        for quantity, words in PANELS.items()
    ]  # fmt: skip
    caption = "What is left of what one model alone knows, and the task, by the number of fused models; test data."
    pictures = Pictures([Picture("forgetting-numbers", _draw(found, rows, numbers), caption, wide=True)])
    return [
        Heading("More than two models"), pictures, *tables,
        Details("Each rule by number of models", [_rule_table(found, rows, numbers)]),
    ]  # fmt: skip


def _value(result: Record | None, quantity: str) -> str:
    if result is None:
        return ""
    return cell(result["task"]) if quantity == "task" else left(result[quantity])


def _rule_table(found: dict[tuple[str, int], Record], rows: Sequence[str], numbers: Sequence[int]) -> Table:
    rules = list(dict.fromkeys(rule for r in found.values() for rule in r["by_rule"]))
    lines = [
        [row, str(count), *(_of_rule(found[row, count], rule) for rule in rules)]
        for row in rows
        for count in numbers
        if (row, count) in found
    ]
    note = "Left above the control / above the floor of the other models too; empty where the rule is in none of the sets."
    return Table("What is left of each rule", ["method", "models", *rules], lines, note)


def _of_rule(result: Record, rule: str) -> str:
    of = result["by_rule"].get(rule)
    if of is None:
        return ""
    return " / ".join("none" if of[name] is None else f"{of[name]:.3f}" for name in ("retention", "unshared"))


def _draw(found: dict[tuple[str, int], Record], rows: Sequence[str], numbers: Sequence[int]) -> Figure:
    figure = blank_figure(11.0, 4.4)
    panels = figure.subplots(1, 2)
    for axes, (quantity, words) in zip(panels, PANELS.items(), strict=True):
        for i, row in enumerate(rows):
            known = [(count, found[row, count][quantity]) for count in numbers if (row, count) in found]
            known = [(count, of) for count, of in known if of is not None]
            if known:
                axes.plot(
                    [count for count, _ in known], [of["value"] for _, of in known], color=COLOURS[i % len(COLOURS)],
                    marker=MARKERS[i // len(COLOURS) % len(MARKERS)], markersize=5, linewidth=0.9, label=row,
                )  # fmt: skip
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#ddd", linewidth=0.6)
        axes.set_xticks(list(numbers))
        axes.set_xlabel("fused models")
        axes.set_ylabel(words)
    figure.legend(*panels[1].get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=8)
    return figure
