"""What the part ``partial`` of the forgetting study found, from records alone: what is kept of a partly shared shortcut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fuseforget.report.blocks import Block, Heading, Paragraphs, Picture, Pictures, Table
from fuseforget.report.facts import TASK, cell
from fuseforget.report.figures import COLOURS, MARKERS, blank_figure
from fuseforget.report.forgetting_facts import examined_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_shares", "partial_blocks"]

Record = dict[str, Any]
PART, SECOND = "partial", "second"
TITLE = "Is what is partly shared kept in proportion?"
NOTE = (
    "Share: of the second model's synthetic texts, those that follow the first model's shortcut; the others follow its own. "
    "Second: what the second model knows by itself. Retention: (model - control) / (knowing - control), of the shared shortcut "
    "against the first model, of the other one against the second; in brackets 95 % bootstrap intervals over examples. Not "
    "known: the model that should know it is not clearly above the control."
)


def partial_blocks(records: Sequence[Record], titles: Mapping[str, str] | None = None) -> list[Block]:
    """Turn the records of :func:`fuseforget.studies.forgetting.partial.do_partial` into blocks; none where there are none.

    Args:
        records: a run's, finished or not.
        titles: names of rules for people.
    """
    own = [r for r in records if r.get("part") == PART]
    results = sorted((r for r in own if r["kind"] == "forgetting_result"), key=lambda r: float(r["share"]))
    if not own:
        return []
    if not results:
        return [Heading(TITLE), Paragraphs(["Not finished: models are trained, and none is judged yet."], "warn")]
    named = {rule: (titles or {}).get(rule, rule) for rule in (results[0]["shared"], results[0]["own"])}
    caption = (
        "What fusing keeps of the first model's shortcut, of the second model's own one, and of the task, by the share of the "
        "second model's synthetic texts that follow the first one's shortcut. Bands: 95 % intervals. The grey line is in "
        "proportion to the share."
    )
    return [
        Heading(TITLE),
        Paragraphs([*examined_line(records, PART, _models(results)), *_lead(results, named)], "lead"),
        Pictures([Picture("partial", draw_shares(results, named), caption, wide=True)]),
        _table(results, named),
    ]


def _lead(results: Sequence[Record], named: Mapping[str, str]) -> list[str]:
    """For each fusion, what is kept of the shared shortcut by share."""
    shared = results[0]["shared"]
    lines = []
    for model in _models(results):
        kept = [(r["share"], r["retention"][shared]) for r in results if r["model"] == model]
        said = ", ".join(f"{'not known' if k is None else format(k['value'], '.2f')} at {share:.0%}" for share, k in kept)
        who = "The second model alone has" if model == SECOND else f"{model} keeps"
        lines.append(f"{who} of {named[shared]}, by share: {said}.")
    return lines


def _models(results: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(r["model"] for r in results))


def _table(results: Sequence[Record], named: Mapping[str, str]) -> Table:
    rows = [
        [r["model"], f"{r['share']:.0%}", *(_kept(r, rule) for rule in named), cell(r["accuracy"][TASK])]
        for model in _models(results)
        for r in results
        if r["model"] == model
    ]
    shared, other = named.values()
    return Table("By share", ["model", "share", f"shared: {shared}", f"second's own: {other}", "task"], rows, NOTE)


def _kept(record: Record, rule: str) -> str:
    kept = record["retention"][rule]
    return f"{record['accuracy'][rule]['value']:.3f}, retention {cell(kept)}" if kept is not None else "not known"


def draw_shares(results: Sequence[Record], named: Mapping[str, str]) -> Figure:
    """A panel a rule with what is kept of it, and one of the task's accuracy, over the share."""
    figure = blank_figure(10.5, 3.6)
    axes = figure.subplots(1, len(named) + 1)
    for panel, rule in zip(axes, (*named, TASK), strict=True):
        for number, model in enumerate(_models(results)):
            found = [r for r in results if r["model"] == model]
            points = [(r["share"], r["accuracy"][TASK] if rule == TASK else r["retention"][rule]) for r in found]
            _draw(panel, [(share, value) for share, value in points if value is not None], model, number)
        panel.set_xlabel("share of the shared shortcut")
        panel.set_ylabel("accuracy on the task" if rule == TASK else f"retention of {named[rule]}")
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", color="#ddd", linewidth=0.6)
    axes[0].plot([0, 1], [0, 1], color="#999", linewidth=0.8, zorder=0)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside upper center", ncols=4, fontsize=8)
    return figure


def _draw(panel: Any, points: Sequence[tuple[float, Record]], label: str, number: int) -> None:
    colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
    at = [share for share, _ in points]
    panel.fill_between(at, [v["low"] for _, v in points], [v["high"] for _, v in points], color=colour, alpha=0.12, linewidth=0)
    panel.plot(at, [v["value"] for _, v in points], "--" if label == SECOND else "-", color=colour, marker=marker, markersize=4,
               label=label)  # fmt: skip
