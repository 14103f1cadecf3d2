"""What fusing by other methods did, from records alone: a table, a figure, and the verdict on each method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fuseforget.report.blocks import Block, Details, Heading, Paragraphs, Picture, Pictures, Table
from fuseforget.report.claims import CHANCE, FORGOTTEN, KEPT
from fuseforget.report.facts import cell
from fuseforget.report.figures import COLOURS, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["by_method_tables", "draw_methods", "verdict"]

Record = dict[str, Any]
SORTS = {
    "all": "all specialists",
    "pair": "two specialists",
    "each": "one specialist and the start",
    "baseline": "fuses no weights",
}
SAME = 0.012  # of an axis: points nearer than this share their numbers' label
AXES_POINTS = (500.0, 335.0)  # about what the axes of the figure measure, to keep labels apart
NOTE = (
    "Left: retention of a shortcut in the model, (accuracy - control) / (specialist - control), mean over the shortcuts "
    "learned; for models made of one specialist each, of its own shortcut. Task: accuracy, and the difference from the mean of "
    "the specialists that the model is made of. Change: norm of the model's change from the start over that of the average's, "
    "and the cosine with it. In brackets: 95 % bootstrap intervals over examples. p: sign-flip tests against the average of the "
    "same specialists, corrected for the number of rows (Holm). Verdict: shortcuts are gone where at most "
    f"{FORGOTTEN:g} is left at the interval's upper end, stay where at least {KEPT:g} is at its lower end; the task is kept "
    "where the interval of the difference reaches zero, lost where the accuracy's reaches one half. It holds where they are "
    "gone and the task is kept, in part where one of both is so and neither is reversed."
)
SHARED_NOTE = (
    "Retention as above; of the shared shortcut against the mean of both models. It holds where the shared one stays, the others "
    "are gone and the task is kept; in part where more is left of the shared one than of the others, beyond both intervals."
)


def by_method_tables(records: Sequence[Record], titles: Mapping[str, str] | None = None) -> list[Block]:
    """Turn the records of :func:`fuseforget.studies.by_method.compare_methods` into blocks; none where there are none.

    Args:
        records: a run's, finished or not.
        titles: names of rules for people.
    """
    made = [r for r in records if r["kind"] == "method"]
    if not made:
        return []
    results = [r for r in records if r["kind"] == "method_result"]
    blocks: list[Block] = [Heading("Other methods: does shared stay, and unshared go?")]
    if not results:
        return [*blocks, Paragraphs([f"Not finished: {len({r['row'] for r in made})} rows begun, none judged."], "warn")]
    caption = (
        "What each way of making one model of the specialists leaves of their shortcuts, and its accuracy on the task; hollow: "
        "no weights are fused. Numbers are the table's. Bars: 95 % intervals. The upper left is what fusing is to do."
    )
    blocks.append(Paragraphs(_lead(results), "lead"))
    if any(r["retention"] is not None for r in results):
        blocks.append(Pictures([Picture("methods", draw_methods(results), caption, wide=True)]))
    blocks.append(_result_table(results, made))
    shared = [r for r in records if r["kind"] == "shared_result"]
    if shared:
        blocks.append(_shared_table(shared, titles or {}))
    return [*blocks, Details("Settings of each method, and what is left out", [_settings_table(made), _left_out_table(records)])]


def verdict(result: Record) -> str:
    """Return ``holds``, ``in part`` or ``no``, and why."""
    left, task = _left(result["retention"]), _task(result)
    if left == "unknown":
        return "nothing was learned"
    good = (left == "gone") + (task == "kept")
    reversed_ = left == "stay" or task == "lost"
    word = "holds" if good == 2 else "in part" if good == 1 and not reversed_ else "no"
    return f"{word}: shortcuts {left}, task {task}"


def _left(retention: Record | None) -> str:
    if retention is None:
        return "unknown"
    return "gone" if retention["high"] <= FORGOTTEN else "stay" if retention["low"] >= KEPT else "partly left"


def _task(result: Record) -> str:
    if result["task"]["low"] <= CHANCE:
        return "lost"
    return "kept" if result["difference"]["high"] >= 0 else "lower"


def _lead(results: Sequence[Record]) -> list[str]:
    """The verdicts in numbers, then what the average does beyond a model as near to the start that fuses nothing."""
    fusing = [r for r in results if r["sort"] == "all"]
    words = [verdict(r).partition(":")[0] for r in fusing]
    lines = [
        f"Of {len(fusing)} ways to fuse all specialists, shortcuts go and the task stays in {words.count('holds')}, in part in "
        f"{words.count('in part')}, not in {words.count('no')}."
    ]
    found = {r["row"]: r["retention"] for r in results if r["retention"] is not None}
    beside = [row for row in ("shrunk specialist", "truncated specialist", "ensemble of outputs") if row in found]
    if "average" in found and beside:
        others = "; ".join(f"{row} {cell(found[row])}" for row in beside)
        lines.append(f"The average leaves {cell(found['average'])} of the shortcuts. Without fusing weights: {others}.")
    return lines


def _result_table(results: Sequence[Record], made: Sequence[Record]) -> Table:
    rows = []
    for number, result in enumerate(results, 1):
        own = [r for r in made if r["row"] == result["row"]]
        rows.append([
            str(number), result["row"], SORTS[result["sort"]], _retained(result), cell(result["task"]),
            _signed(result["difference"]), _mean(own, "norm_to_average"), _mean(own, "cosine_with_average"),
            _p(result, "p_shortcuts"), _p(result, "p_task"),
            verdict(result),
        ])  # fmt: skip
    header = ["", "method", "of", "shortcuts left", "task", "task less specialists", "change", "cosine", "p shortcuts", "p task",
              "verdict"]  # fmt: skip
    return Table("Task kept and shortcuts kept, by method", header, rows, NOTE)


def _retained(result: Record) -> str:
    if result["retention"] is None:
        return "none learned"
    if result["retention_of_all"] is not None:  # a specialist by itself has all of its own, by definition
        return f"own 1; of all {cell(result['retention_of_all'])}"
    return cell(result["retention"])


def _signed(interval: Record) -> str:
    return f"{interval['value']:+.3f} [{interval['low']:+.3f}, {interval['high']:+.3f}]"


def _mean(made: Sequence[Record], key: str) -> str:
    known = [r[key] for r in made if r.get(key) is not None]
    return f"{sum(known) / len(known):.2f}" if known else ""


def _p(result: Record, key: str) -> str:
    corrected = result.get(f"{key}_holm")
    return "" if corrected is None else f"{corrected:.2g}"


def _shared_table(results: Sequence[Record], titles: Mapping[str, str]) -> Table:
    first = results[0]
    shared = titles.get(first["shared"], first["shared"])
    unshared = ", ".join(titles.get(rule, rule) for rule in first["unshared"])
    rows = [
        [r["row"], cell(r["kept"]) if r["kept"] else "not learned", cell(r["lost"]) if r["lost"] else "not learned",
         cell(r["task"]), _signed(r["difference"]), _shared_verdict(r)]
        for r in results
    ]  # fmt: skip
    names = " and ".join(" + ".join(titles.get(rule, rule) for rule in name.split("+")) for name in first["models"])
    header = ["method", f"shared: {shared}", f"unshared: {unshared}", "task", "task less models", "verdict"]
    return Table(f"Two models that share a shortcut, {names}, by method", header, rows, SHARED_NOTE)


def _shared_verdict(result: Record) -> str:
    kept, lost = result["kept"], result["lost"]
    if kept is None or lost is None:
        return "nothing was learned"
    shared, unshared, task = _left(kept), _left(lost), _task(result)
    if (shared, unshared, task) == ("stay", "gone", "kept"):
        word = "holds"
    else:
        word = "in part" if kept["low"] > lost["high"] and task != "lost" else "no"
    names = {"stay": "stays", "gone": "goes", "partly left": "is partly left"}
    return f"{word}: shared {names[shared]}, unshared {names[unshared]}, task {task}"


def _settings_table(made: Sequence[Record]) -> Table:
    rows = []
    for record in {r["row"]: r for r in reversed(made)}.values():
        chosen = [f"{name} {value:g}" if not isinstance(value, bool) else f"{name} {str(value).lower()}"
                  for name, value in record.get("parameters", {}).items()]  # fmt: skip
        if record.get("weight") is not None:
            chosen.append(f"weight {record['weight']:g} each")
        if record.get("seed") is not None:
            chosen.append(f"seed {record['seed']}")
        if "median_rank_share" in record:
            chosen.append(f"median rank {_mean([r for r in made if r['row'] == record['row']], 'median_rank_share')} of full")
        rows.append([record["row"], record.get("method", ""), ", ".join(chosen), record["source"]])
    return Table("Settings", ["row", "method", "other than the defaults", "why"], rows[::-1])


def _left_out_table(records: Sequence[Record]) -> Table:
    rows = [[r["method"], r["reason"]] for r in records if r["kind"] == "left_out"]
    return Table("Left out", ["method", "because it"], rows)


def draw_methods(results: Sequence[Record]) -> Figure:
    """Shortcuts left against the task's accuracy: a numbered point a row, hollow where no weights are fused."""
    figure, axes = new_figure(9.0, 5.2)
    colours = dict(zip(SORTS, COLOURS, strict=False))
    shown = [(number, r) for number, r in enumerate(results, 1) if r["retention"] is not None]
    for sort in SORTS:
        for index, (_, r) in enumerate([pair for pair in shown if pair[1]["sort"] == sort]):
            x, y, colour = r["retention"], r["task"], colours[sort]
            axes.errorbar(
                x["value"], y["value"], xerr=[[x["value"] - x["low"]], [x["high"] - x["value"]]],
                yerr=[[y["value"] - y["low"]], [y["high"] - y["value"]]], fmt="o", markersize=6, color=colour, elinewidth=0.6,
                ecolor="#bbb", markerfacecolor="white" if sort == "baseline" else colour, zorder=3,
                label=SORTS[sort] if index == 0 else None,
            )  # fmt: skip
    _write_labels(axes, _labels(shown))
    axes.set_xlabel("shortcuts left (retention: 0 none, 1 all)")
    axes.set_ylabel("accuracy on the task")
    axes.legend(frameon=False, loc="lower right", fontsize=8)
    names = "\n".join(f"{number}  {r['row']}" for number, r in shown)
    axes.text(1.02, 1.0, names, transform=axes.transAxes, va="top", fontsize=8, linespacing=1.35)
    return figure


def _write_labels(axes: Any, labels: Sequence[tuple[float, float, list[int]]]) -> None:
    """Write each label near its point where it covers no other point or label, with a line to it where that is far."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    wide, high = AXES_POINTS
    places = [((x - left) / (right - left) * wide, (y - bottom) / (top - bottom) * high) for x, y, _ in labels]
    taken = [(x - 3.0, y - 3.0, x + 3.0, y + 3.0) for x, y in places]
    for (px, py), (x, y, numbers) in zip(places, labels, strict=True):
        text = _ranges(numbers)
        size = 5.2 * len(text) + 2
        rises = [4 + 11 * step for step in range(6)]
        offsets = [(dx, dy) for rise in rises for dy in (rise, -rise - 7) for dx in (5.0, -5.0 - size)]
        boxes = [(px + dx, py + dy, px + dx + size, py + dy + 8) for dx, dy in offsets]
        inside = [box[1] >= 0 and box[3] <= high + 8 for box in boxes]
        free = (i for i, box in enumerate(boxes) if inside[i] and not any(_overlap(box, other) for other in taken))
        chosen = next(free, 0)
        taken.append(boxes[chosen])
        far = abs(offsets[chosen][1]) > 12
        line = {"arrowstyle": "-", "color": "#888", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2} if far else None
        axes.annotate(
            text, (x, y), xytext=offsets[chosen], textcoords="offset points", fontsize=8, zorder=4, arrowprops=line
        )  # fmt: skip


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers in words: 1-4, 7, 9-10."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _labels(shown: Sequence[tuple[int, Record]]) -> list[tuple[float, float, list[int]]]:
    """Where to write which numbers: one label for points that lie on one another."""
    places = [(r["retention"]["value"], r["task"]["value"], number) for number, r in shown]
    wide = max((x for x, _, _ in places), default=1) - min((x for x, _, _ in places), default=0) or 1
    high = max((y for _, y, _ in places), default=1) - min((y for _, y, _ in places), default=0) or 1
    labels: list[tuple[float, float, list[int]]] = []
    for x, y, number in places:
        near = next((label for label in labels if abs(label[0] - x) < SAME * wide and abs(label[1] - y) < SAME * high), None)
        if near is None:
            labels.append((x, y, [number]))
        else:
            near[2].append(number)
    return labels
