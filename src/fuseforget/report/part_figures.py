"""Figures of the triangle and of the number of fused models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fuseforget.report.facts import TASK, Facts
from fuseforget.report.figures import COLOURS, blank_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_growth", "draw_simplex", "draw_triangle"]

HEIGHT = 3**0.5 / 2  # of an equilateral triangle of side one


def draw_triangle(facts: Facts) -> Figure:
    """Fig. 7 and 8: accuracy over the simplex, a panel for the shortcuts' mean, each shortcut and the task."""
    grid = facts.grid()
    panels = {facts.title(p): [facts.over[p, w]["value"] for w in grid] for p in (*facts.triangle, TASK)}
    mean = [sum(values) / len(facts.triangle) for values in zip(*list(panels.values())[:-1], strict=True)]
    panels = {"mean of the shortcuts": mean, **panels}
    # A shortcut's scale goes from chance to knowing; the mean's and the task's differences are small and would not show on it.
    limits = {facts.title(rule): (0.5, 1.0) for rule in facts.triangle}
    return draw_simplex(grid, [facts.title(name) for name in facts.triangle], panels, limits)


def draw_simplex(
    grid: Sequence[tuple[float, ...]], corners: Sequence[str], panels: Mapping[str, Sequence[float]],
    limits: Mapping[str, tuple[float, float]], *, label: str = "accuracy",
) -> Figure:  # fmt: skip
    """A panel a quantity, its values over the weights of three models; a panel without limits has its own values'."""
    # Corners: the first at the left, the second at the right, the third on top.
    x, y = [b + c / 2 for _, b, c in grid], [c * HEIGHT for _, _, c in grid]
    figure = blank_figure(11.0, 6.4)
    for number, (title, values) in enumerate(panels.items()):
        axes = figure.add_subplot(2, 3, number + 1)
        _panel(figure, axes, x, y, values, limits.get(title, (min(values), max(values))), label)
        axes.set_title(title, fontsize=11, pad=18)
        for name, place in zip(corners, ((0, -0.07), (1, -0.07), (0.5, HEIGHT + 0.07)), strict=True):
            axes.text(*place, name, ha="center", va="center", fontsize=10)
    return figure


def _panel(
    figure: Any, axes: Any, x: list[float], y: list[float], values: Sequence[float], limits: tuple[float, float], label: str
) -> None:
    # As an image: readers of SVG draw the many small triangles of shading with seams.
    drawn = axes.tripcolor(x, y, values, shading="gouraud", cmap="viridis", vmin=limits[0], vmax=limits[1], rasterized=True)
    axes.plot([0, 1, 0.5, 0], [0, 0, HEIGHT, 0], color="#444", linewidth=0.8)
    axes.plot(x, y, ".", color="#fff", markersize=1.6, alpha=0.7)
    axes.set_aspect("equal")
    axes.set_xlim(-0.06, 1.06)
    axes.set_ylim(-0.1, HEIGHT + 0.1)
    axes.axis("off")
    figure.colorbar(drawn, ax=axes, shrink=0.75, label=label)


def draw_growth(facts: Facts) -> Figure:
    """Retention and task accuracy by number of fused models: mean with interval, each subset as a point."""
    figure = blank_figure(9.0, 3.8)
    records = sorted(facts.growth, key=lambda r: int(r["models"]))
    singles = [facts.at[rule, TASK]["value"] for rule in facts.rules if (rule, TASK) in facts.at]
    for number, (key, label, alone) in enumerate((("retention", "retention", []), ("task", "accuracy at the task", singles))):
        axes = figure.add_subplot(1, 2, number + 1)
        colour = COLOURS[number]
        found = [(r["models"], r[key]) for r in records if key in r]
        for models, r in [*([(1, {"points": alone})] if alone else []), *found]:
            axes.plot([models] * len(r["points"]), r["points"], "o", color=colour, alpha=0.25, markersize=4, linewidth=0)
        sizes, values = [models for models, _ in found], [r["value"] for _, r in found]
        # A percentile interval of means may leave out the value itself where few subsets are drawn from.
        below = [max(0.0, r["value"] - r["low"]) for _, r in found]
        above = [max(0.0, r["high"] - r["value"]) for _, r in found]
        axes.errorbar(sizes, values, yerr=[below, above], color=colour, marker="s", markersize=6, capsize=3)
        axes.set_xticks([*([1] if alone else []), *sizes])
        axes.set_xlabel("fused models")
        axes.set_ylabel(label)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#ddd", linewidth=0.6)
        if key == "retention":
            axes.axhline(0, color="#888", linewidth=0.8)
    return figure
