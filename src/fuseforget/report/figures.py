"""Figures from records: one function a figure, drawn without a display and saved whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fuseforget.report.facts import TASK, Curve, Facts
from fuseforget.report.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "COLOURS", "MARKERS", "blank_figure", "draw_bars", "draw_curves", "draw_layers", "draw_matrix", "new_figure", "save", "svg",
]  # fmt: skip

# Okabe and Ito's palette: told apart by all readers, also in grey with the markers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "osD^vP"
# No dates inside: the same records give the same bytes.
METADATA: dict[str, dict[str, None]] = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}


def draw_curves(curves: list[Curve], ends: tuple[str, str]) -> Figure:
    """Accuracy along a path between two models, with 95 % bands."""
    figure, axes = new_figure(6.0, 3.8)
    for number, curve in enumerate(curves):
        colour = COLOURS[number % len(COLOURS)]
        style = "--" if curve.probe == TASK else "-"
        axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(curve.x, curve.value, style, color=colour, marker=MARKERS[number % len(MARKERS)], label=curve.label)
    axes.set_xlabel(f"weight of the second model   ({ends[0]} = 0, {ends[1]} = 1)")
    axes.set_ylabel("accuracy")
    axes.set_ylim(0, 1.03)
    axes.legend(frameon=False, loc="lower left")
    return figure


def draw_bars(facts: Facts) -> Figure:
    """Fig. 4: each shortcut's accuracy in its specialist, the full, the fused and the control model, and the task's."""
    figure, axes = new_figure(max(6.5, 1.1 * len(facts.probes) + 1.5), 3.8)
    kinds = [("specialist", None), ("full", "full"), ("fused", "fused"), ("control", "control")]
    for number, (label, model) in enumerate(kinds):
        where, heights, errors = [], [], []
        for place, group in enumerate(facts.probes):
            # A specialist's task accuracy is shown as the mean over specialists, without an interval of its own.
            mean = model is None and group == TASK
            found = [facts.at.get((rule, TASK)) for rule in facts.rules] if mean else [facts.at.get((model or group, group))]
            known = [record for record in found if record is not None]
            if not known:
                continue
            value = sum(record["value"] for record in known) / len(known)
            where.append(place + (number - 1.5) * 0.2)
            heights.append(value)
            errors.append((0.0, 0.0) if mean else (value - known[0]["low"], known[0]["high"] - value))
        lows, highs = zip(*errors, strict=True) if errors else ((), ())
        axes.bar(where, heights, 0.19, color=COLOURS[number], label=label, yerr=[lows, highs], ecolor="#444", capsize=2)
    axes.set_xticks(range(len(facts.probes)), [facts.title(group) for group in facts.probes])
    axes.set_ylabel("accuracy")
    axes.set_ylim(0, 1.03)
    axes.legend(frameon=False, ncols=4, loc="upper center", bbox_to_anchor=(0.5, 1.14))
    return figure


def draw_matrix(names: list[str], values: list[list[float | None]]) -> Figure:
    """A heat map of values between 0 and 1, each written in its cell; None is left white."""
    size = 0.75 * len(names) + 1.8
    figure, axes = new_figure(size + 0.8, size)
    axes.grid(visible=False)
    shown = [[float("nan") if value is None else value for value in row] for row in values]
    known = [value for row in values for value in row if value is not None]
    image = axes.imshow(shown, cmap="cividis", vmin=min(known), vmax=max(known))
    middle = (min(known) + max(known)) / 2
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            if value is not None:
                colour = "white" if value < middle else "black"
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    figure.colorbar(image, ax=axes, shrink=0.8)
    return figure


def draw_layers(layers: list[str], lines: dict[str, list[float]]) -> Figure:
    """A line a name over the layers, in their order."""
    figure, axes = new_figure(6.5, 3.6)
    for number, (label, values) in enumerate(lines.items()):
        axes.plot(range(len(layers)), values, color=COLOURS[number], marker=MARKERS[number], label=label)
    axes.set_xticks(range(len(layers)), layers, rotation=45, ha="right", fontsize=8)
    axes.set_ylabel("overlap")
    axes.legend(frameon=False)
    return figure


def save(figure: Figure, file: Path, *, action: str = "") -> None:
    """Write a figure in the format of the file's ending; see :func:`write_whole` for what is raised."""
    # Drawn in memory first: what a file system refuses is then ours to say, and never half a picture.
    write_whole(file, _render(figure, file.suffix[1:]), action=action)


def svg(figure: Figure) -> str:
    """The figure as an inline SVG element."""
    text = _render(figure, "svg").decode("utf-8")
    return text[text.index("<svg") :]


def _render(figure: Figure, kind: str) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format=kind, metadata=METADATA[kind], dpi=200 if kind == "png" else "figure")
    return content.getvalue()


def blank_figure(width: float, height: float) -> Figure:
    """A figure without axes, sizes in inches, that needs no display."""
    # The object interface: pyplot would pick a display and keep every figure alive.
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "fuseforget"
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def new_figure(width: float, height: float) -> tuple[Figure, Any]:
    """A figure without a display, sizes in inches, and its axes in the house's style."""
    figure = blank_figure(width, height)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#ddd", linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes
