"""Which methods forget what single models memorised, from a study of forgetting's records alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fuseforget.report.blocks import Block, Details, Heading, Paragraphs, Picture, Pictures, Table
from fuseforget.report.facts import cell
from fuseforget.report.figures import COLOURS, MARKERS, blank_figure
from fuseforget.report.forgetting_facts import beyond_chance, last_choices, of_part, setting
from fuseforget.report.memorization_facts import exact
from fuseforget.report.memorization_figures import plain_log_scale

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_memorization_curves", "memorization_blocks"]

Record = dict[str, Any]
AVERAGE, ALONE, SHRUNK = "average", "alone", "average, shrunk"
BROKEN = 1.5  # times the average's perplexity: what a picture leaves out
SIDES = {"perplexity": "perplexity on validation rows", "shared": "ALR on shared rows (lower: kept)"}
NOTE = (
    "ALR (Eq. 17, the base has 1, lower is more memorised) on rows that one of the models was trained on and on those that all "
    "were, and perplexity, each on the half of the rows that no setting was chosen on; in brackets 95 % bootstrap intervals over "
    "rows. Memory left: the share of the nats a token that having read the rows saved the single models. TPR: members among the "
    "unshared rows that the likelihood-ratio attack finds at 1 % false positives among control rows (.01 is chance). Stars: the "
    "difference from the average on the same rows is beyond chance (p < .05, corrected over all of the table's tests). (*) after "
    "a row: no setting of it had shared ALR and perplexity no worse than the average's; the nearest one is shown."
)
EQUAL_NOTE = (
    "Each method at the setting that forgets most beyond the average shrunk to the same ALR on shared rows, of those whose "
    "perplexity is no worse than the average's, by the half of the rows that settings are chosen on; told on the other half. "
    "Gain: unshared ALR less that of the average whose change from the base is shrunk until it has the same perplexity, or the "
    "same ALR on shared rows (linear between scales; of several such scales the one that is best for the average). Above 0 a "
    "method forgets more than shrinking does. Intervals are paired over rows, at that scale. Not reached: no scale from 0 (the "
    "base) to 1 (the average) has it, so shrinking says nothing about the method: see its perplexity and shared ALR above."
)


def memorization_blocks(records: Sequence[Record]) -> list[Block]:
    """Tables and figures of the part ``memorization`` of each source and number of models; none where there are no records."""
    own = of_part(records, "memorization")
    cases = list(dict.fromkeys((r["source"], r["case"]) for r in own))
    return [block for case in cases for block in _of_case([r for r in own if (r["source"], r["case"]) == case], *case)]


def _of_case(records: Sequence[Record], source: str, case: str) -> list[Block]:
    blocks: list[Block] = [Heading(f"Memorised rows: {len(case)} models fused, {', '.join(case)} ({source})")]
    if any(r["kind"] == "knowledge" and not r["learned"] for r in records):
        unknown = "The single models do not clearly know their own rows: nothing can be forgotten."
        return [*blocks, Paragraphs([unknown], "warn")]
    last = last_choices(records)
    results = {
        r["row"]: r for r in records if r["kind"] == "forgetting_result"
        and (r["row"] not in last or r["parameters"] == last[r["row"]]["parameters"])
    }  # fmt: skip
    if AVERAGE not in results:
        return [*blocks, Paragraphs(["Not finished: nothing is concluded yet."], "warn")]
    caption = (
        "ALR on unshared rows (higher: forgotten) against perplexity and against ALR on shared rows, on the half of the rows "
        "that tells: a mark a setting, the chosen one ringed; black: the average shrunk. Better is above it. "
        f"Settings of more than {BROKEN:g} times the average's perplexity are left out: what is broken has forgotten all."
    )
    beyond = [r for r in records if r["kind"] == "beyond_shrinking"]
    unsound = {row for row, r in last.items() if not r["sound"]}
    picture = Picture(f"forgetting-memorization-{source}-{case}", draw_memorization_curves(records), caption, wide=True)
    return [
        *blocks, Paragraphs(_lead(results, beyond), "lead"), Pictures([picture]),
        _result_table(results, unsound, beyond_chance(records)), _equal_table(beyond),
        Details("ALR by model, and the chosen settings", [_by_model(results, case), _chosen_table(records)]),
    ]  # fmt: skip


def _lead(results: dict[str, Record], beyond: Sequence[Record]) -> list[str]:
    """How many methods forget more than the average does when it is only shrunk, and which."""
    others = [row for row in results if row not in (ALONE, AVERAGE)]
    average = results[AVERAGE]
    lines = [
        f"The average has ALR {cell(average['unshared'])} on unshared rows, {cell(average['shared'])} on shared ones, perplexity "
        f"{exact(average['perplexity'], 1)}."
    ]
    for side, words in (("shared", "ALR on shared rows"), ("perplexity", "perplexity")):
        at = {r["row"]: r["at_equal"][side] for r in beyond}
        more = [row for row, one in at.items() if one["reached"] and one["gain"]["low"] > 0]
        said = f": {', '.join(more)}" if more else ""
        lines.append(
            f"Of {len(others)} other methods {len(more)} forget more than the average shrunk to equal {words}, beyond the "
            f"interval{said}."
        )
    none = [row for row in others if all(row != r["row"] for r in beyond)]
    if none:
        lines.append(
            "No setting has the average's perplexity or less and an ALR on shared rows to which shrinking leads: "
            + ", ".join(none)
            + "."
        )
    return lines


def draw_memorization_curves(records: Sequence[Record]) -> Figure:
    """Unshared ALR against perplexity and against shared ALR, over the settings of every method."""
    figure = blank_figure(12.0, 4.8)
    told = [r for r in records if r["kind"] == "point" and r["split"] == "test"]
    most = BROKEN * next(r["perplexity"]["value"] for r in told if r["row"] == AVERAGE)
    points = [r for r in told if r["perplexity"]["value"] <= most]
    chosen = {row: r["parameters"] for row, r in last_choices(records).items()}
    rows = [row for row in dict.fromkeys(r["row"] for r in points) if row != SHRUNK]
    for place, (side, label) in enumerate(SIDES.items(), 1):
        axes = figure.add_subplot(1, 2, place)
        _draw(axes, [r for r in points if r["row"] == SHRUNK], side, {"color": "black", "marker": ".", "linewidth": 0.8}, SHRUNK)
        for number, row in enumerate(rows):
            look = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number // len(COLOURS) % len(MARKERS)]}
            own = [r for r in points if r["row"] == row]
            _draw(axes, own, side, {**look, "linestyle": ""}, row)
            ringed = [r for r in own if r["parameters"] == chosen.get(row)]
            axes.plot(*_places(ringed, side), "o", markersize=11, markerfacecolor="none", color=look["color"])
        plain_log_scale(axes)
        axes.set_xlabel(label)
        axes.set_ylabel("ALR on unshared rows (higher: forgotten)")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#eee", linewidth=0.6)
    axes.legend(frameon=False, fontsize=7, bbox_to_anchor=(1.02, 1), loc="upper left")
    return figure


def _draw(axes: Any, points: Sequence[Record], side: str, look: Record, label: str) -> None:
    axes.plot(*_places(points, side), markersize=5, label=label, **look)


def _places(points: Sequence[Record], side: str) -> tuple[list[float], list[float]]:
    """Across and up, in the order across."""
    places = sorted((r[side]["value"], r["unshared"]["value"]) for r in points)
    return [x for x, _ in places], [y for _, y in places]


def _result_table(results: dict[str, Record], unsound: set[str], sure: dict[str, list[Record]]) -> Table:
    rows = []
    for row, r in results.items():
        stars = {test["on"]: "*" for test in sure.get(row, [])}
        left = "all" if row == ALONE else "not known" if r["retained"] is None else cell(r["retained"])
        rows.append([
            row + (" (*)" if row in unsound else ""), cell(r["unshared"]) + stars.get("unshared", ""),
            cell(r["shared"]) + stars.get("shared", ""), exact(r["perplexity"], 1) + stars.get("perplexity", ""), left,
            cell(r["tpr"]["unshared"]), cell(r["tpr"]["shared"]),
        ])  # fmt: skip
    header = ["method", "ALR, unshared", "ALR, shared", "perplexity", "memory left", "TPR, unshared", "TPR, shared"]
    return Table("What each method forgets", header, rows, NOTE)


def _equal_table(beyond: Sequence[Record]) -> Table:
    rows = [
        [r["row"], setting(r["parameters"]), *(f"{r[on]['value']:.3f}" for on in ("unshared", "shared")),
         f"{r['perplexity']['value']:.1f}", *_equal(r, "perplexity"), *_equal(r, "shared")]
        for r in beyond
    ]  # fmt: skip
    header = ["method", "other than the defaults", "ALR, unshared", "ALR, shared", "perplexity"]
    for side in ("perplexity", "shared ALR"):
        header += [f"average shrunk to equal {side}", "gain"]
    return Table("Against the average that is only shrunk", header, rows, EQUAL_NOTE)


def _equal(result: Record, side: str) -> list[str]:
    at = result["at_equal"][side]
    if not at["reached"]:
        return ["not reached", ""]
    gain = at["gain"]
    words = f"{gain['value']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]"
    return [f"{at['unshared']:.3f} (scale {at['scale']:.2f})", words]


def _by_model(results: dict[str, Record], case: str) -> Table:
    rows = [[row, *(cell(r["by_model"][name]) for name in case)] for row, r in results.items()]
    return Table("ALR on each model's own rows", ["method", *case], rows)


def _chosen_table(records: Sequence[Record]) -> Table:
    rows = [
        [r["row"], r["method"], setting(r["parameters"]), f"{r['unshared']:.3f}", f"{r['shared']:.3f}",
         f"{r['perplexity']:.1f}", "yes" if r["sound"] else f"no, by {r['excess']:.3f} in its logarithm"]
        for r in last_choices(records).values()
    ]  # fmt: skip
    header = ["row", "method", "other than the defaults", "unshared", "shared", "perplexity", "no worse than the average"]
    return Table("", header, rows, "On the half of the rows that settings were chosen on.")
