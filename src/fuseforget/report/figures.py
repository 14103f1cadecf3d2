"""Figures from records: one function a figure, drawn once and saved as SVG for the page and as PNG and PDF beside it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fuseforget.report.shortcuts import Curve, title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_bars", "draw_curves", "save"]

Record = dict[str, Any]
# Okabe and Ito's palette: told apart by all readers, also in grey with the markers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "osD^vP"


def draw_curves(curves: list[Curve], ends: tuple[str, str]) -> Figure:
    """Accuracy along a path between two models, with 95 % bands."""
    figure, axes = _figure(6.0, 3.8)
    for number, curve in enumerate(curves):
        colour = COLOURS[number % len(COLOURS)]
        style = "--" if curve.label == "task" else "-"
        axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(curve.x, curve.value, style, color=colour, marker=MARKERS[number % len(MARKERS)], label=curve.label)
    axes.set_xlabel(f"weight of the second model   ({ends[0]} = 0, {ends[1]} = 1)")
    axes.set_ylabel("accuracy")
    axes.set_ylim(0, 1.03)
    axes.legend(frameon=False, loc="lower left")
    return figure


def draw_bars(rules: list[str], at: dict[tuple[str, str], Record]) -> Figure:
    """Fig. 4: each shortcut's accuracy in its specialist, the full, the fused and the control model, and the task's."""
    groups = [*rules, "task"]
    figure, axes = _figure(max(6.5, 1.1 * len(groups) + 1.5), 3.8)
    kinds = [("specialist", None), ("full", "full"), ("fused", "fused"), ("control", "control")]
    for number, (label, model) in enumerate(kinds):
        where, heights, errors = [], [], []
        for place, group in enumerate(groups):
            # A specialist's task accuracy is shown as the mean over specialists, without an interval of its own.
            mean = model is None and group == "task"
            found = [at.get((rule, "task")) for rule in rules] if mean else [at.get((model or group, group))]
            known = [record for record in found if record is not None]
            if not known:
                continue
            value = sum(record["value"] for record in known) / len(known)
            where.append(place + (number - 1.5) * 0.2)
            heights.append(value)
            errors.append((0.0, 0.0) if mean else (value - known[0]["low"], known[0]["high"] - value))
        lows, highs = zip(*errors, strict=True) if errors else ((), ())
        axes.bar(where, heights, 0.19, color=COLOURS[number], label=label, yerr=[lows, highs], ecolor="#444", capsize=2)
    axes.set_xticks(range(len(groups)), [title(group) for group in groups])
    axes.set_ylabel("accuracy")
    axes.set_ylim(0, 1.03)
    axes.legend(frameon=False, ncols=4, loc="upper center", bbox_to_anchor=(0.5, 1.14))
    return figure


def save(figure: Figure, stem: Path) -> str:
    """Write ``stem``.png and .pdf and return the figure as an inline SVG element."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    # No dates inside: the same records give the same bytes.
    figure.savefig(stem.with_suffix(".png"), dpi=200, metadata={"Software": None})
    figure.savefig(stem.with_suffix(".pdf"), metadata={"CreationDate": None})
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]


def _figure(width: float, height: float) -> tuple[Figure, Any]:
    # The object interface: pyplot would pick a display and keep every figure alive.
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "fuseforget"
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#ddd", linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes
