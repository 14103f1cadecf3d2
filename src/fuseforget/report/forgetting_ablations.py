"""What the part ``ablations`` of the forgetting study found, from records alone: which choices of the method do the work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fuseforget.report.blocks import Block, Details, Heading, Paragraphs, Picture, Pictures, Table
from fuseforget.report.facts import TASK, cell
from fuseforget.report.figures import COLOURS, MARKERS, blank_figure
from fuseforget.report.forgetting_facts import ALLOWANCE, AVERAGE, left, setting, signed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ablations_blocks", "draw_ablations", "draw_agreement"]

Record = dict[str, Any]
PART = "ablations"
METHOD, LENGTHENED, BESIDE = "spectral consensus", "average, lengthened", "beside"
TITLE = "Which part of spectral consensus does the work?"
TASK_NOTE = (
    "Each variant where it leaves least of the unshared shortcuts at a task accuracy at most "
    f"{100 * ALLOWANCE:g} point below the average's, on the straight lines between neighbouring settings of its knob; in "
    "between, what the two leave and their accuracies are averaged in proportion. Marked *: no setting keeps the task; the row "
    "is that of highest accuracy. Marked 'knob at its end': the strictest setting measured is still above that accuracy, "
    "and a stricter one might leave less. Neither is a comparison at equal accuracy, and the sentences above leave both out; "
    "where the method's own row is marked, no difference is at equal accuracy. Unmarked rows are above the limit where going on "
    "to it leaves more, or where they have no knob. Unshared "
    "left: as in the table of pairs, below 0 counts as 0 (for each setting, pair and rule). Differences: to the method in the "
    "same place, of what is shown beside them; brackets are 95 % intervals of a paired bootstrap over "
    "examples and pairs, which do not allow for how many variants there are, nor for settings and values coming from the same "
    "texts. Norm: of the update, over all tensors, relative to the average's. The filter of a side that is as many times as long "
    "as the other as there are models does nothing, since along it what the models share never overlaps with what they do not: "
    "where an MLP is several times as wide as the model, left and right filter one of its two matrices each."
)
NORM_NOTE = (
    "Each variant at the method's default, where it has that knob, else at the setting that would be chosen. Norm: of the "
    "update, relative to the method's at its default. One that differs by more than a hundredth is marked *: that row is not a "
    "comparison at equal norm. The rows that are called whole filter some tensors and lengthen all matrices as the method does."
)
RELATION_NOTE = (
    "Of the whole update, over all tensors: its length relative to the average's, and cosines with the average's update and "
    "with the method's at its default. Means over the pairs."
)
SPECTRUM_NOTE = (
    "Of each direction the share c of agreement, v'Tv / v'(T + N)v: 1 where both models changed alike, one half where one of "
    "them changed alone, 0 where they changed against each other. By the energy that both changes have along it, over all "
    "matrices of a group. One sign flipped: the energy above 1/2 where one of the two changes is taken with the opposite sign, "
    "which mirrors the spectrum. Changes that have nothing to do with each other have about as much of both, one half; by how "
    "much more there is without the flip is what the two have in common."
)
ASPECTS = ("sides", "shape of the filter", "filtered tensors", "vectors and scale")


def ablations_blocks(records: Sequence[Record]) -> list[Block]:
    """Turn the records of :func:`fuseforget.studies.forgetting.ablations.do_ablations` into blocks; none where there are none."""
    own = [r for r in records if r.get("part") == PART]
    if not own:
        return []
    cases = next((r["cases"] for r in reversed(own) if r["kind"] == "ablation_cases"), None)
    results = _last(own, "ablation_result")
    spectra = [r for r in own if r["kind"] == "agreement_spectrum"]
    blocks: list[Block] = [Heading(TITLE)]
    if METHOD not in results or (cases and LENGTHENED not in results) or AVERAGE not in results:
        said = "Not finished: variants are asked, and none is judged yet."
        if cases == []:
            said = "In no pair of specialists is each rule known to one of the two alone: nothing to compare variants on."
        blocks.append(Paragraphs([said], "warn"))
    else:
        caption = (
            "What is left of the unshared shortcuts against the task's accuracy, on validation data, a line a variant through "
            "the settings of its knob; in each panel variants of one choice. Black: the method; star: the average; grey: the "
            "average lengthened to the method's norm, and the dotted line half a point below the average's accuracy. The upper "
            "left is what fusing is to do."
        )
        blocks += [
            Paragraphs(_lead(results, cases or []), "lead"),
            Pictures([Picture("ablations", draw_ablations(results), caption, wide=True)]),
            _task_table(results),
            _norm_table(results),
            *_relation(_last(own, "update_relation"), results),
            Details("Every setting of every variant", [_settings_table(results)]),
        ]
    if spectra:
        caption = "Where the energy of two models' changes is, by the directions' share of agreement; a line a pair."
        picture = Picture("agreement", draw_agreement(spectra), caption, wide=True)
        blocks += [Pictures([picture]), _spectrum_table(spectra)]
    return blocks


def _last(own: Sequence[Record], kind: str) -> dict[str, Record]:
    """Records of a kind by row, the last of each: a run may have chosen settings of other methods since."""
    return {r["row"]: r for r in own if r["kind"] == kind}


def _lead(results: Mapping[str, Record], cases: Sequence[Sequence[str]]) -> list[str]:
    pairs = ", ".join("+".join(case) for case in cases)
    source = results[METHOD]["source"]
    at = results[METHOD]["equal_task"]
    lines = [
        f"Told on validation texts of {source}, the ones settings are chosen on, for understanding; pairs: {pairs}.",
        f"{_how_told(at)} leaves {left(at['unshared_clipped'])} of the unshared shortcuts, the average "
        f"{left(results[AVERAGE]['equal_task']['unshared_clipped'])}.",
    ]
    variants = [r for row, r in results.items() if row != METHOD and r["aspect"] != BESIDE]
    if _is_at_the_limit(at):
        compared = [r for r in variants if _is_at_the_limit(r["equal_task"])]
        for words, sign in (("More", 1), ("Less", -1)):
            clear = [r["row"] for r in compared if _clearly(r["equal_task"]["difference"], sign)]
            lines.append(f"{words} is clearly left by: {'; '.join(clear) if clear else 'no variant'}.")
    lost = [r["row"] for r in variants if not r["equal_task"]["allowed"]]
    ended = [r["row"] for r in variants if r["equal_task"]["knob_at_its_end"]]
    return [
        *lines,
        *([f"At no setting keeps the task: {'; '.join(lost)}."] if lost else []),
        *([f"Not compared, for their knob ends above the limit of accuracy: {'; '.join(ended)}."] if ended else []),
    ]


def _how_told(of_method: Record) -> str:
    """Where the method is, as the start of a sentence."""
    if not of_method["allowed"]:
        return "No setting of the method keeps the task, so nothing is compared at equal accuracy. At its highest accuracy it"
    if of_method["knob_at_its_end"]:
        return (
            "The method's knob ends above the limit of accuracy, so nothing is compared at equal accuracy. At its best setting it"
        )
    return "At equal task accuracy the method"


def _is_at_the_limit(at: Record) -> bool:
    """Whether a row can be compared at equal task accuracy."""
    return at["allowed"] and not at["knob_at_its_end"]


def _clearly(difference: Record | None, sign: int) -> bool:
    """Whether an interval is on one side of zero."""
    return difference is not None and (difference["low"] > 0 if sign > 0 else difference["high"] < 0)


def _task_table(results: Mapping[str, Record]) -> Table:
    rows = []
    for row, r in results.items():
        at = r["equal_task"]
        mark = ("" if at["allowed"] else " *") + (" (knob at its end)" if at["knob_at_its_end"] else "")
        rows.append([
            row, r["changes"], _mixed(at["mix"]) + mark, left(at["unshared_clipped"]), signed(at.get("difference")),
            cell(at["task"]), signed(at.get("task_difference")), f"{at['norm']:.2f}",
        ])  # fmt: skip
    header = ["variant", "what it changes", "at", "unshared left", "less the method's", "task", "less the method's", "norm"]
    return Table("At equal task accuracy, on validation data", header, rows, TASK_NOTE)


def _norm_table(results: Mapping[str, Record]) -> Table:
    rows = []
    for row, r in results.items():
        at = r["equal_norm"]
        rows.append([
            row, setting(at["parameters"]), f"{at['of_method']:.3f}" + ("" if at["equal"] else " *"),
            left(at["unshared_clipped"]), signed(at.get("difference")), cell(at["task"]), signed(at.get("task_difference")),
        ])  # fmt: skip
    header = ["variant", "at", "norm", "unshared left", "less the method's", "task", "less the method's"]
    return Table("At the method's update norm, on validation data", header, rows, NORM_NOTE)


def _mixed(mix: Sequence[tuple[Mapping[str, Any], float]]) -> str:
    """One setting, or two with the share of the second."""
    if len(mix) == 1:
        return setting(mix[0][0])
    (first, _), (second, share) = mix
    return f"{setting(first)}, {share:.0%} of {setting(second)}"


def _settings_table(results: Mapping[str, Record]) -> Table:
    rows = [
        [row, setting(one["parameters"]), f"{one['unshared_clipped']:.3f}", f"{one['task']:.3f}", f"{one['norm']:.3f}",
         f"{one['cosine_average']:.3f}", f"{one['cosine_method']:.3f}"]
        for row, r in results.items() for one in r["settings"]
    ]  # fmt: skip
    header = ["variant", "setting", "unshared left", "task", "norm", "cosine, average", "cosine, method"]
    return Table("Means over the pairs, on validation data", header, rows, "Cosine, method: with its update at the same forget.")


def _relation(relations: Mapping[str, Record], results: Mapping[str, Record]) -> list[Block]:
    """How the method relates to averaging and to others, in words and numbers."""
    beside = [row for row, r in results.items() if r["aspect"] == BESIDE and row in relations]
    shown = [METHOD, *beside]
    rows = [
        [row, setting(relations[row]["at"]), *(f"{relations[row][of]:.3f}" for of in ("norm", "cosine_average", "cosine_method"))]
        for row in shown
    ]
    of_method = relations[METHOD]
    said = [
        f"With forget 0 spectral consensus is the average, to the bit; at its default its update has a cosine of "
        f"{of_method['cosine_average']:.2f} with the average's, at {of_method['norm']:.2f} times its length. TIES drops small "
        "values and those whose sign is outvoted; TSV-M and Iso-C keep singular vectors of the models' changes, to hold the "
        "tasks of all of them. KnOTS, which aligns adapters by a common singular value decomposition, is not in this product and "
        "was not measured.",
    ]
    header = ["method", "setting", "norm", "cosine, average", "cosine, spectral consensus"]
    return [Paragraphs(said), Table("Updates beside each other", header, rows, RELATION_NOTE)]


def draw_ablations(results: Mapping[str, Record]) -> Figure:
    """A panel a choice: what is left against the task, a line a variant."""
    figure = blank_figure(12.0, 4.2)
    panels = figure.subplots(1, len(ASPECTS), sharey=True)
    average = results[AVERAGE]["settings"][0]
    for panel, aspect in zip(panels, ASPECTS, strict=True):
        _draw_line(panel, results[LENGTHENED], "#999", ".", ":")
        _draw_line(panel, results[METHOD], "black", "o", "-")
        panel.plot([average["unshared_clipped"]], [average["task"]], "*", color="black", markersize=10, label=AVERAGE)
        for number, r in enumerate(one for one in results.values() if one["aspect"] == aspect):
            # Eight variants of one choice: the colours go round, the marker tells on.
            marker = MARKERS[(number + number // len(COLOURS)) % len(MARKERS)]
            _draw_line(panel, r, COLOURS[number % len(COLOURS)], marker, "-" if number < len(COLOURS) else "--")
        panel.axhline(average["task"] - ALLOWANCE, color="#888", linewidth=0.7, linestyle=":")
        panel.set_title(aspect, fontsize=10)
        panel.set_xlabel("unshared left (0 none, 1 all)")
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(color="#ddd", linewidth=0.6)
        panel.legend(frameon=False, fontsize=6.5)
    panels[0].set_ylabel("accuracy on the task")
    return figure


def _draw_line(panel: Any, result: Record, colour: str, marker: str, style: str) -> None:
    points = [(one["unshared_clipped"], one[TASK]) for one in result["settings"]]
    panel.plot(*zip(*points, strict=True), style, marker=marker, color=colour, markersize=4, linewidth=1, label=result["row"])


def draw_agreement(spectra: Sequence[Record]) -> Figure:
    """A panel a group of tensors: the histogram of shares of agreement, a line a pair."""
    groups = list(dict.fromkeys(r["group"] for r in spectra))
    pairs = list(dict.fromkeys(tuple(r["models"]) for r in spectra))
    figure = blank_figure(5.0 * len(groups), 3.6)
    panels = figure.subplots(1, len(groups), squeeze=False)[0]
    for panel, group in zip(panels, groups, strict=True):
        for r in (one for one in spectra if one["group"] == group):
            number, bins = pairs.index(tuple(r["models"])), len(r["histogram"])
            heights = [value * bins for value in r["histogram"]]
            panel.stairs(heights, [edge / bins for edge in range(bins + 1)], color=COLOURS[number % len(COLOURS)],
                         linestyle="-" if number < len(COLOURS) else "--", label=_of(r))  # fmt: skip
        panel.axvline(0.5, color="#888", linewidth=0.7, linestyle=":")
        panel.set_title(group, fontsize=10)
        panel.set_xlabel("share of agreement c")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("energy of the changes, density")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", frameon=False, fontsize=8, ncols=2)
    return figure


def _of(spectrum: Record) -> str:
    return f"{' and '.join(spectrum['models'])}: {spectrum['about']}"


def _three_digits(value: float | None) -> str:
    """Nothing where a group of tensors did not change."""
    return "" if value is None else f"{value:.3f}"


def _spectrum_table(spectra: Sequence[Record]) -> Table:
    points = list(spectra[0]["quantiles"])
    rows = [
        [
            " and ".join(r["models"]),
            r["about"],
            r["group"],
            *(_three_digits(value) for value in (r["above_half"], r["flipped"], *(r["quantiles"][q] for q in points))),
        ]
        for r in spectra
    ]
    header = ["models", "have in common", "tensors", "energy above 1/2", "one sign flipped", *(f"{float(q):.0%}" for q in points)]
    return Table("The spectrum of agreement", header, rows, SPECTRUM_NOTE)
