"""Figures of the study of memorization: Fig. 9 to 12, the number of epochs, the alternatives, other fusion methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fuseforget.report.figures import COLOURS, MARKERS, blank_figure, new_figure
from fuseforget.report.memorization_facts import BASE, OWN, SHARED, MemorizationFacts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_alternatives", "draw_epochs", "draw_fixed", "draw_methods", "draw_numbers", "plain_log_scale"]

Record = dict[str, Any]
STYLES = {OWN: "-", SHARED: "--"}
ROWS = {OWN: "not shared", SHARED: "shared"}


def draw_numbers(facts: MemorizationFacts) -> Figure:
    """Fig. 9 and 10: ALR and perplexity by the number of models, of fused and full models."""
    models = {"fused": {n: facts.fused(n) for n in facts.numbers}, "full": {n: facts.full(n) for n in facts.numbers}}
    return _by_number(facts, {role: {1: facts.names[0], **found} for role, found in models.items()}, "number of models")


def draw_fixed(facts: MemorizationFacts) -> Figure:
    """Fig. 11 and 12: the same where the total of rows is fixed."""
    fused, full = {n: f"fused-of-{n}" for n in facts.numbers}, dict.fromkeys(facts.numbers, facts.full_of_fixed)
    return _by_number(facts, {"fused": fused, "full": full}, "number of models, a fixed total of rows")


def draw_epochs(facts: MemorizationFacts) -> Figure:
    """Table 6 drawn: ALR and perplexity by the number of epochs."""
    number = len(facts.few)
    epochs = sorted({*facts.settings["epochs"], facts.epochs})
    models = {
        "single": {e: facts.few[0] if e == facts.epochs else f"{facts.few[0]}@{e}" for e in epochs},
        "fused": {e: facts.fused(number, e) for e in epochs},
        "full": {e: facts.full(number, e) for e in epochs},
    }
    return _by_number(facts, models, "epochs")


def draw_alternatives(facts: MemorizationFacts) -> Figure:
    """ALR against perplexity along each alternative's training, and of the fused models."""
    figure, axes = new_figure(7.0, 4.4)
    first = facts.few[0]
    for number, record in enumerate(facts.alternatives):
        curve = [f"{record['model']}:{epoch}" for epoch in range(1, facts.epochs + 1)]
        known = [m for m in curve if (m, first) in facts.alr and m in facts.perplexity]
        points = [(facts.perplexity[m]["value"], facts.alr[m, first]["value"]) for m in known]
        label = record["family"] + (f" {record['decay']:g}" if "decay" in record else "")
        label += f", epsilon {record['epsilon']:g}" if "epsilon" in record else ""
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        axes.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=4, linewidth=1, label=label)
    fused = [(facts.fused(n), n) for n in facts.numbers if (facts.fused(n), first) in facts.alr]
    places = [(facts.perplexity[m]["value"], facts.alr[m, first]["value"]) for m, _ in fused]
    axes.plot(
        *zip(*places, strict=True), "*", color="black", markersize=12, label=f"fused, {fused[0][1]} to {fused[-1][1]} models"
    )
    axes.axvline(facts.perplexity[BASE]["value"], color="#888", linewidth=0.8, linestyle=":", label="the base's perplexity")
    axes.axhline(1, color="#888", linewidth=0.8, linestyle=":")
    plain_log_scale(axes)
    axes.set_xlabel("perplexity on validation rows")
    axes.set_ylabel(f"ALR on rows {first} (lower: more memorised)")
    axes.legend(frameon=False, fontsize=8)
    return figure


def draw_methods(facts: MemorizationFacts) -> Figure:
    """ALR on shared and on other rows, and perplexity, of each method, those that forget least below."""
    known = [(r["row"], r["model"]) for r in facts.methods if (r.get("model"), OWN) in facts.alr]
    lines = sorted(known, key=lambda line: facts.alr[line[1], OWN]["value"])
    figure = blank_figure(11.0, 1.2 + 0.24 * len(lines))
    ratios, perplexities = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)
    for number, (on, label) in enumerate(ROWS.items()):
        there = [(facts.alr[model, on]["value"], place) for place, (_, model) in enumerate(lines) if (model, on) in facts.alr]
        ratios.plot(*zip(*there, strict=True), MARKERS[number], color=COLOURS[number], label=label)
    held = [facts.perplexity[model]["value"] for _, model in lines]
    perplexities.plot(held, range(len(lines)), MARKERS[2], color=COLOURS[2])
    perplexities.axvline(facts.perplexity[BASE]["value"], color="#888", linewidth=0.8, linestyle=":", label="base")
    ratios.axvline(1, color="#888", linewidth=0.8, linestyle=":")
    ratios.set_yticks(range(len(lines)), [row for row, _ in lines], fontsize=8)
    perplexities.set_yticks(range(len(lines)), [])
    for axes, title in ((ratios, "ALR"), (perplexities, "perplexity")):
        axes.set_title(title, fontsize=11)
        plain_log_scale(axes)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#eee", linewidth=0.6)
        axes.legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def plain_log_scale(axes: Any) -> None:
    """A logarithmic scale across, its ticks written as numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _by_number(facts: MemorizationFacts, models: dict[str, dict[int, str]], below: str) -> Figure:
    """Two panels over numbers: ALR on shared and other rows, and perplexity; a line for each role."""
    figure = blank_figure(11.0, 3.9)
    ratios, perplexities = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)
    for number, (role, found) in enumerate(models.items()):
        for on, style in STYLES.items():
            known = [(n, facts.alr[model, on]) for n, model in found.items() if (model, on) in facts.alr]
            _draw(ratios, known, number, f"{role}, {ROWS[on]}", style)
        known = [(n, facts.perplexity[model]) for n, model in found.items() if model in facts.perplexity]
        _draw(perplexities, known, number, role, "-")
    ratios.axhline(1, color="#888", linewidth=0.8, linestyle=":")
    perplexities.axhline(facts.perplexity[BASE]["value"], color="#888", linewidth=0.8, linestyle=":", label="base")
    for axes, title in ((ratios, "ALR"), (perplexities, "perplexity")):
        axes.set_title(title, fontsize=11)
        axes.set_xlabel(below)
        axes.set_xticks(sorted({n for found in models.values() for n in found}))
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#ddd", linewidth=0.6)
        axes.legend(frameon=False, fontsize=8)
    return figure


def _draw(axes: Any, known: Sequence[tuple[int, Record]], number: int, label: str, style: str) -> None:
    if not known:
        return
    where = [n for n, _ in known]
    axes.fill_between(
        where, [r["low"] for _, r in known], [r["high"] for _, r in known], color=COLOURS[number], alpha=0.15, linewidth=0
    )
    axes.plot(
        where, [r["value"] for _, r in known], style, color=COLOURS[number], marker=MARKERS[number], markersize=5, label=label
    )
