"""The figure of a dial."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from fuseforget.report.dial_facts import DialFacts
from fuseforget.report.figures import COLOURS, MARKERS, blank_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_dial"]

LINES = ("-", "--", ":", "-.")
LABELLED = 11  # settings that have their number below the axis
MARGIN = 0.11  # of the dial's length, for each single model


def draw_dial(facts: DialFacts) -> Figure:
    """Every probe over the knob's settings with 95 % bands, a panel a metric; at the right each model as it is."""
    metrics = list(dict.fromkeys(facts.metrics.values()))
    columns = min(2, len(metrics))
    rows = math.ceil(len(metrics) / columns)
    figure = blank_figure(9.0 if columns == 1 else 12.0, 4.4 * rows)
    for number, metric in enumerate(metrics):
        axes = figure.add_subplot(rows, columns, number + 1)
        for place, probe in enumerate(name for name in facts.probes if facts.metrics[name] == metric):
            style = {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)]}
            _draw_settings(axes, facts, probe, style, LINES[place // len(COLOURS) % len(LINES)])
            _draw_models(axes, facts, probe, style)
        _dress(axes, facts, metric)
    return figure


def _columns(facts: DialFacts) -> dict[str, float]:
    """Where each single model stands, right of the last setting."""
    steps = len(facts.turned) - 1
    return {model: steps + (number + 1.5) * max(0.5, MARGIN * steps) for number, model in enumerate(facts.alone)}


def _draw_settings(axes: Any, facts: DialFacts, probe: str, style: dict[str, str], line: str) -> None:
    found = [(place, facts.on[at, probe]) for place, at in enumerate(facts.turned) if (at, probe) in facts.on]
    x = [place for place, _ in found]
    value, low, high = ([r[key] for _, r in found] for key in ("value", "low", "high"))
    axes.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)
    axes.plot(x, value, line, markersize=4.5, label=probe, **style)


def _draw_models(axes: Any, facts: DialFacts, probe: str, style: dict[str, str]) -> None:
    """Each model's level, as wide as its column, and its interval."""
    places = _columns(facts)
    found = [(places[model], facts.at[model, probe]) for model in facts.alone if (model, probe) in facts.at]
    width = 0.35 * max(0.5, MARGIN * (len(facts.turned) - 1))
    for x, r in found:
        axes.hlines(r["value"], x - width, x + width, color=style["color"], linewidth=2)
        axes.vlines(x, r["low"], r["high"], color=style["color"], linewidth=1, alpha=0.6)
        axes.plot([x], [r["value"]], linewidth=0, markersize=4.5, **style)


def _dress(axes: Any, facts: DialFacts, metric: str) -> None:
    last, places = len(facts.turned) - 1, _columns(facts)
    shown = sorted({round(number * last / (LABELLED - 1)) for number in range(LABELLED)})
    ticks = [*((place, f"{facts.turned[place]:g}") for place in shown), *((x, facts.title(m)) for m, x in places.items())]
    axes.set_xticks(
        [x for x, _ in ticks], [text for _, text in ticks], rotation=45, ha="right", rotation_mode="anchor", fontsize=8
    )
    if places:
        axes.axvline((last + min(places.values())) / 2, color="#888", linewidth=0.8)
        above = axes.get_xaxis_transform()
        axes.text(sum(places.values()) / len(places), 1.0, "single models", transform=above, ha="center", va="bottom", fontsize=9)
    whole = axes.get_xlim()
    axes.set_xlabel("forget   (0: the average)", fontsize=9, x=(last / 2 - whole[0]) / (whole[1] - whole[0]))
    axes.set_ylabel(metric)
    if metric != "accuracy":
        axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#ddd", linewidth=0.6)
    axes.legend(frameon=False, fontsize=8, ncols=4, loc="lower left", bbox_to_anchor=(0, 1.03))
