"""Figures of the study of social bias: Fig. 5, the dependence on the ratio, and the triangle of three attributes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fuseforget.report.bias_facts import METRICS, BiasFacts
from fuseforget.report.figures import COLOURS, MARKERS, blank_figure
from fuseforget.report.part_figures import draw_simplex

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_bias_path", "draw_bias_triangle", "draw_ratios"]


def draw_bias_path(facts: BiasFacts) -> Figure:
    """Fig. 5: both attributes' bias and the accuracy along the path, the chosen weights marked."""
    figure = blank_figure(11.0, 3.7)
    grid = sorted(facts.grid(2), key=lambda w: w[1])
    for number, (metric, title) in enumerate(METRICS.items()):
        axes = figure.add_subplot(1, 3, number + 1)
        for line, attribute in enumerate(facts.pair if metric != "accuracy" else facts.pair[:1]):
            found = [facts.spread((facts.line, w), attribute, metric) for w in grid]
            label = attribute if metric != "accuracy" else "accuracy"
            _draw_line(axes, [w[1] for w in grid], found, line if metric != "accuracy" else 2, label)
        for choice in facts.choices.values():
            axes.axvline(choice["at"], color="#888", linewidth=0.8, linestyle=":")
        _dress(axes, title, f"weight of the {facts.pair[1]}-biased model")
        if metric != "accuracy":
            axes.set_ylim(bottom=0)
            axes.legend(frameon=False)
    return figure


def draw_ratios(facts: BiasFacts) -> Figure:
    """Each attribute's bias in its own biased model and in the average of both, by the ratio of the training sets."""
    figure = blank_figure(11.0, 3.7)
    ratios = facts.ratios
    for number, (metric, title) in enumerate(METRICS.items()):
        axes = figure.add_subplot(1, 3, number + 1)
        for line, attribute in enumerate(facts.pair):
            own = [facts.spread((named(facts, attribute, r), ()), attribute, metric) for r in ratios]
            half = [facts.spread((fused_at(facts, r), (0.5, 0.5)), attribute, metric) for r in ratios]
            _draw_line(axes, ratios, own, line, f"{attribute}: biased model")
            if metric != "accuracy":
                _draw_line(axes, ratios, half, line, f"{attribute}: fused at one half", style="--")
            elif line == 0:
                _draw_line(axes, ratios, half, 2, "fused at one half", style="--")
        _dress(axes, title, "share of the favoured value within a label")
        axes.legend(frameon=False, fontsize=8)
        if metric != "accuracy":
            axes.set_ylim(bottom=0)
    return figure


def draw_bias_triangle(facts: BiasFacts) -> Figure:
    """Demographic parity of each attribute, their mean and accuracy over the simplex of three biased models."""
    grid = facts.grid(3)
    path = "-".join(facts.corners)
    panels = {f"DP, {a}": [_value(facts, (path, w), a, "demographic_parity") for w in grid] for a in facts.corners}
    mean = [sum(values) / len(panels) for values in zip(*panels.values(), strict=True)]
    accuracy = [_value(facts, (path, w), facts.pair[0], "accuracy") for w in grid]
    return draw_simplex(grid, facts.corners, {"mean DP": mean, **panels, "accuracy": accuracy}, {}, label="")


def named(facts: BiasFacts, attribute: str, ratio: float) -> str:
    """The model biased in an attribute at a ratio."""
    return attribute if ratio == facts.settings["ratio"] else f"{attribute}@{ratio:g}"


def fused_at(facts: BiasFacts, ratio: float) -> str:
    """The path between the models of a ratio."""
    return "-".join(named(facts, attribute, ratio) for attribute in facts.pair)


def _value(facts: BiasFacts, place: tuple[str, tuple[float, ...]], attribute: str, metric: str) -> float:
    found = facts.spread(place, attribute, metric)
    assert found is not None  # the grid has the points that every seed has
    return found.value


def _draw_line(axes: Any, x: list[float], found: list[Any], number: int, label: str, *, style: str = "-") -> None:
    known = [(place, spread) for place, spread in zip(x, found, strict=True) if spread is not None]
    where = [place for place, _ in known]
    axes.fill_between(
        where, [s.least for _, s in known], [s.greatest for _, s in known], color=COLOURS[number], alpha=0.15, linewidth=0
    )
    axes.plot(where, [s.value for _, s in known], style, color=COLOURS[number], marker=MARKERS[number], markersize=5, label=label)


def _dress(axes: Any, title: str, below: str) -> None:
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(below)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#ddd", linewidth=0.6)
