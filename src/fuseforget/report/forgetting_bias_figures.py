"""Figures of which methods free biased models of their biases: the frontier, other ratios, and biases that both models have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fuseforget.report.figures import COLOURS, MARKERS, blank_figure
from fuseforget.report.forgetting_facts import AVERAGE, DEEPEST, setting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["GAPS", "draw_bias_frontier", "draw_bias_ratios", "draw_bias_shared", "settings_on_validation"]

Record = dict[str, Any]
ALONE = "alone"
GAPS = ("demographic_parity", "tpr_gap")
BAR: Mapping[str, Any] = {"linestyle": "", "elinewidth": 0.8, "ecolor": "#bbb"}


def draw_bias_frontier(records: Sequence[Record], results: Sequence[Record], main: str) -> Figure:
    """Accuracy against the bias that is left: settings on validation data, and chosen ones on test data."""
    figure = blank_figure(11.0, 4.6)
    panels = [figure.add_subplot(1, 2, number) for number in (1, 2)]
    told = {r["row"]: (1 - r["gone_mean"]["value"], r["accuracy"]["value"]) for r in results if r["group"] == main}
    tried = settings_on_validation(records)
    lowest = min((accuracy for _, accuracy in tried.get(AVERAGE, [])), default=0.0) - DEEPEST
    for row, look in _looks(results, main).items():
        points = sorted(point for point in tried.get(row, []) if point[1] >= lowest)
        panels[0].plot([x for x, _ in points], [y for _, y in points], linewidth=0.7, markersize=4, **look)
        panels[1].plot(*[[value] for value in told[row]], linestyle="", markersize=7, label=row, **look)
    for axes, title in zip(panels, ("all settings, validation texts", "chosen settings, test texts"), strict=True):
        axes.set_title(title, fontsize=11)
        _dress(axes, "bias left (0 none, 1 as in the biased models)", "accuracy")
    _name(panels[1])
    return figure


def settings_on_validation(records: Sequence[Record]) -> dict[str, list[tuple[float, float]]]:
    """Of each contender's settings the bias that is left, relative to the biased models', and the accuracy: means over seeds."""
    points = [r for r in records if r["kind"] == "point" and r["split"] == "validation"]
    learned = [r["attribute"] for r in records if r["kind"] == "knowledge" and r["learned"]]
    alone = {(r["seed"], r["models"][0]): r["metrics"] for r in points if r["row"] == ALONE}
    by_setting: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for r in [one for one in points if one["row"] != ALONE]:
        shares = [r["metrics"][a][m]["value"] / alone[r["seed"], a][a][m]["value"] for a in learned for m in GAPS]
        of_setting = by_setting.setdefault((r["row"], setting(r["parameters"])), [])
        of_setting.append((sum(shares) / len(shares), r["metrics"]["accuracy"]["value"]))
    found: dict[str, list[tuple[float, float]]] = {}
    for (row, _), of_seeds in by_setting.items():
        bias, accuracy = (sum(values) / len(values) for values in zip(*of_seeds, strict=True))
        found.setdefault(row, []).append((bias, accuracy))
    return found


def draw_bias_ratios(results: Sequence[Record], main: str) -> Figure:
    """How much is gone by the ratio of the training sets, of contenders that were asked at more than one."""
    figure = blank_figure(8.0, 4.2)
    axes = figure.add_subplot(1, 1, 1)
    told = [r for r in results if r["group"].startswith("ratio ")]
    groups = sorted({r["group"] for r in told}, key=lambda group: float(group.removeprefix("ratio ")))
    looks = _looks(results, main)
    by_row = {row: {r["group"]: r["gone_mean"] for r in told if r["row"] == row} for row in looks}
    drawn = [row for row, by in by_row.items() if len(by) > 1]
    for number, row in enumerate(drawn):
        aside = 0.7 * ((number + 0.5) / len(drawn) - 0.5)
        asked = [(place, by_row[row][group]) for place, group in enumerate(groups) if group in by_row[row]]
        where, values = [place + aside for place, _ in asked], [gone["value"] for _, gone in asked]
        axes.errorbar(where, values, _reach([gone for _, gone in asked]), markersize=5, label=row, **BAR, **looks[row])
    axes.set_xticks(range(len(groups)), [group.removeprefix("ratio ") for group in groups])
    axes.set_ylim(0, 1.1)
    _dress(axes, "share of the favoured value within a label", "bias that is gone")
    _name(axes)
    return figure


def draw_bias_shared(results: Sequence[Record], main: str) -> Figure:
    """What is taken of a bias of one model against what is kept of a bias of both, a point a contender."""
    figure = blank_figure(8.0, 4.2)
    axes = figure.add_subplot(1, 1, 1)
    gone = {r["row"]: r["gone_mean"] for r in results if r["group"] == main}
    for row, look in _looks(results, main).items():
        both = [r["gone_mean"] for r in results if r["row"] == row and r["group"].startswith("both ")]
        if not both:
            continue
        mean = {key: sum(one[key] for one in both) / len(both) for key in ("value", "low", "high")}
        kept = {"value": 1 - mean["value"], "low": 1 - mean["high"], "high": 1 - mean["low"]}
        axes.errorbar(
            [kept["value"]], [gone[row]["value"]], _reach([gone[row]]), _reach([kept]), markersize=7, label=row, **BAR, **look,
        )  # fmt: skip
    _dress(axes, "kept of a bias that both models have", "gone of a bias that one has")
    _name(axes)
    return figure


def _looks(results: Sequence[Record], main: str) -> dict[str, Record]:
    """Colour and marker of each contender, the same in all figures of a source."""
    rows = dict.fromkeys(r["row"] for r in results if r["group"] == main)
    return {
        row: {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number // len(COLOURS) % len(MARKERS)]}
        for number, row in enumerate(rows)
    }


def _reach(found: Sequence[Record]) -> list[list[float]]:
    """How far intervals reach below and above their values."""
    return [[one["value"] - one["low"] for one in found], [one["high"] - one["value"] for one in found]]


def _dress(axes: Any, below: str, beside: str) -> None:
    axes.set_xlabel(below)
    axes.set_ylabel(beside)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#eee", linewidth=0.6)


def _name(axes: Any) -> None:
    axes.legend(frameon=False, fontsize=7, bbox_to_anchor=(1.02, 1), loc="upper left")
