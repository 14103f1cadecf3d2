"""What the part ``lasting`` of the forgetting study found, from records alone: whether the forgotten stays forgotten."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fuseforget.report.blocks import Block, Heading, Paragraphs, Picture, Pictures, Table
from fuseforget.report.facts import TASK
from fuseforget.report.figures import COLOURS, MARKERS, blank_figure
from fuseforget.report.forgetting_facts import examined_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_relearning", "lasting_blocks"]

Record = dict[str, Any]
PART, CONTROL, START, POOLED, CLEAN, WHOLE = "lasting", "control", "start", "pooled", "clean", "as it is"
TITLE = "Does the forgotten stay forgotten?"
PROBE_NOTE = (
    "Accuracy, and in brackets the retention, (model - control) / (specialist - control) on the same texts: 0 is none, 1 is all. "
    "The rule says the label in every form. Chance is one half. No retention: the specialist does not know the shortcut in "
    "that form. The first form of a rule is that of its own probe."
)
PRECISION_NOTE = (
    "The same probes on weights rounded to nearest, symmetric, an output's inputs sharing a scale (int8) or 128 of them (int4); "
    "embeddings and head stay. Rise: of the accuracy over the weights as they are, in the form in which it is largest, with its "
    "95 % interval, which does not allow for having looked at all forms."
)
DECODED_NOTE = (
    "Accuracy of a logistic regression on each layer's mean state (0: the embeddings; pooled: what the head reads), fitted to "
    "half of the rule's texts and asked on the other, both ways. The control never knew the shortcut, and the start has not even "
    "learned the task: what can be read there is in the tokens. Above control: the difference in the pooled states, paired."
)
RELEARNING_NOTE = (
    "Accuracy after so many steps of further training at a constant learning rate; all on the same data in the same order. "
    "Above control: the mean height between the curve and that of the control, which never knew the shortcut, with its 95 % "
    "interval. To .75: the steps until the curve is there, by straight lines between those where it was asked, and the control's."
)


class _Facts:
    """The records of the part, by what they are about."""

    def __init__(self, records: Sequence[Record]) -> None:
        own = [r for r in records if r.get("part") == PART]
        # Of the sources that were concluded last: a run may have been asked for more of them.
        every = [r for r in own if r["kind"] == "forgetting_result"]
        results = [r for r in every if r["sources"] == every[-1]["sources"]]
        self.begun = bool(own)
        self.sources = results[-1]["sources"] if results else []
        self.probes = {(r["model"], r["probe"], r["precision"]): r for r in results if r["about"] == "probe"}
        self.changes = {(r["model"], r["probe"], r["precision"]): r for r in results if r["about"] == "precision"}
        self.decoded = {(r["model"], r["rule"], r["layer"]): r for r in results if r["about"] == "decoded"}
        self.relearned = {(r["model"], r["probe"], r["data"]): r for r in results if r["about"] == "relearning"}
        self.rules = list(dict.fromkeys(r["rule"] for r in self.probes.values()))
        self.fusions = [m for m in dict.fromkeys(m for m, _, _ in self.probes) if m not in (*self.rules, CONTROL)]
        self.models = [*self.rules, CONTROL, *self.fusions]
        self.chosen = examined_line(records, PART, self.fusions)

    @property
    def finished(self) -> bool:
        """Whether all is there of every model that there are results of: what a linear probe reads is concluded last."""
        return bool(self.relearned) and all((model, rule, POOLED) in self.decoded for model in self.models for rule in self.rules)

    def forms(self, rule: str) -> list[str]:
        return list(dict.fromkeys(probe for _, probe, _ in self.probes if probe == rule or probe.startswith(f"{rule}: ")))


def lasting_blocks(records: Sequence[Record], titles: Mapping[str, str] | None = None) -> list[Block]:
    """Turn the records of :func:`fuseforget.studies.forgetting.lasting.do_lasting` into blocks; none where there are none.

    Args:
        records: a run's, finished or not.
        titles: names of rules for people.
    """
    facts = _Facts(records)
    if not facts.begun:
        return []
    if not facts.finished:
        return [Heading(TITLE), Paragraphs(["Not finished: models are examined, and none is judged yet."], "warn")]
    named = {name: (titles or {}).get(name, name) for name in facts.models}
    caption = (
        "Accuracy on the task and on each shortcut while models are trained further, on clean data and on data a tenth of which "
        "has the shortcut. Bands: 95 % intervals. If it was removed, it comes back no faster than in the control."
    )
    return [
        Heading(TITLE),
        Paragraphs(_lead(facts, named), "lead"),
        Pictures([Picture("lasting-relearning", draw_relearning(facts.relearned, facts.models, named), caption, wide=True)]),
        _probe_table(facts, named),
        _precision_table(facts, named),
        _decoded_table(facts, named),
        _relearning_table(facts, named),
    ]


def _lead(facts: _Facts, named: Mapping[str, str]) -> list[str]:
    """For each fusion and rule: what is left where it is most, what a probe reads, and how fast it comes back."""
    lines = [*facts.chosen, *([f"Sources: {', '.join(facts.sources)}; means over them."] if len(facts.sources) > 1 else [])]
    for fusion in facts.fusions:
        for rule in facts.rules:
            plain = facts.probes[fusion, rule, WHOLE]
            known = [r for (m, p, _), r in facts.probes.items() if m == fusion and p in facts.forms(rule) and r["retention"]]
            if plain["retention"] is None or not known:
                lines.append(f"{fusion}, {named[rule]}: its specialist did not learn it.")
                continue
            most = max(known, key=lambda r: float(r["retention"]["value"]))
            back = facts.relearned[fusion, rule, f"a tenth {rule}"]
            lines.append(
                f"{fusion}, {named[rule]}: {plain['retention']['value']:.2f} left as asked by its own probe, at most "
                f"{most['retention']['value']:.2f} ({most['probe']}, {most['precision']}); a linear probe reads it "
                f"{_signed(facts.decoded[fusion, rule, POOLED]['difference'])} better than in the control; "
                f"steps of further training until it is at .75: {_steps(back['reached'])}, the control "
                f"{_steps(back['control_reached'])}."
            )
    return lines


def _probe_table(facts: _Facts, named: Mapping[str, str]) -> Table:
    rows = []
    for rule in facts.rules:
        for probe in facts.forms(rule):
            found = [facts.probes[model, probe, WHOLE] for model in facts.models]
            form = "its own probe" if probe == rule else probe.partition(": ")[2]
            rows.append([named[rule], form, *(_kept(r) for r in found)])
    header = ["shortcut", "form", *(named[model] for model in facts.models)]
    return Table("Rephrased and repeated tokens", header, rows, PROBE_NOTE)


def _precision_table(facts: _Facts, named: Mapping[str, str]) -> Table:
    rows = []
    for model in facts.models:
        for rule in facts.rules:
            at = [_kept(facts.probes[model, rule, precision]) for precision in (WHOLE, "int8", "int4")]
            rises = [[facts.changes[model, probe, precision] for probe in facts.forms(rule)] for precision in ("int8", "int4")]
            most = [max(found, key=lambda r: float(r["change"]["value"])) for found in rises]
            forms = [f"{_interval(r['change'])} ({r['probe'].partition(': ')[2] or 'own probe'})" for r in most]
            rows.append([named[model], named[rule], *at, *forms])
    header = ["model", "shortcut", WHOLE, "int8", "int4", "largest rise, int8", "largest rise, int4"]
    return Table("Weights rounded to few bits", header, rows, PRECISION_NOTE)


def _decoded_table(facts: _Facts, named: Mapping[str, str]) -> Table:
    layers = list(dict.fromkeys(layer for _, _, layer in facts.decoded))
    rows = []
    for model in [*facts.models, START]:
        for rule in facts.rules:
            found = [f"{facts.decoded[model, rule, layer]['accuracy']['value']:.3f}" for layer in layers]
            above = _interval(facts.decoded[model, rule, POOLED]["difference"])
            rows.append([named.get(model, model), named[rule], *found, above])
    return Table("What a linear probe reads", ["model", "shortcut", *layers, "above control"], rows, DECODED_NOTE)


def _relearning_table(facts: _Facts, named: Mapping[str, str]) -> Table:
    steps = next(iter(facts.relearned.values()))["steps"]
    rows = []
    for (model, probe, data), r in sorted(facts.relearned.items(), key=lambda item: _order(facts, item[0])):
        curve = [f"{value:.3f}" for value in r["curve"]]
        reached = "" if probe == TASK else f"{_steps(r['reached'])} ({_steps(r['control_reached'])})"
        rows.append([data, named.get(probe, probe), named[model], *curve, _interval(r["area"]), reached])
    header = ["trained on", "asked", "model", *map(str, steps), "above control", "to .75 (control)"]
    return Table("Further training", header, rows, RELEARNING_NOTE)


def _order(facts: _Facts, key: tuple[str, str, str]) -> tuple[bool, str, bool, str, int]:
    model, probe, data = key
    return data != CLEAN, data, probe == TASK, probe, facts.models.index(model)


def draw_relearning(relearned: Mapping[tuple[str, str, str], Record], models: Sequence[str], named: Mapping[str, str]) -> Figure:
    """A row of panels a kind of data, a panel a probe: every model's accuracy over the steps, with its band."""
    kinds = list(dict.fromkeys(data for _, _, data in relearned))
    kinds.sort(key=lambda data: data != CLEAN)
    probes = list(dict.fromkeys(probe for _, probe, _ in relearned))
    figure = blank_figure(3.2 * len(probes), 2.6 * len(kinds) + 0.5)
    axes = figure.subplots(len(kinds), len(probes), sharex=True, squeeze=False)
    for row, data in enumerate(kinds):
        for column, probe in enumerate(probes):
            panel = axes[row][column]
            for number, model in enumerate(models):
                _draw_curve(panel, relearned[model, probe, data], named[model], number, dashed=model == CONTROL)
            panel.set_title(f"{named.get(probe, probe)}, trained on {data}", fontsize=9)
            panel.spines[["top", "right"]].set_visible(False)
            panel.grid(axis="y", color="#ddd", linewidth=0.6)
            panel.set_ylim(0, 1.03)
    for panel in axes[-1]:
        panel.set_xlabel("steps")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside upper center", ncols=4, fontsize=8)
    return figure


def _draw_curve(panel: Any, record: Record, label: str, number: int, *, dashed: bool) -> None:
    again = number // len(COLOURS)  # how often the colours were gone through before
    colour, marker = COLOURS[number % len(COLOURS)], MARKERS[(number + again) % len(MARKERS)]
    low, high = ([interval[end] for interval in record["intervals"]] for end in ("low", "high"))
    panel.fill_between(record["steps"], low, high, color=colour, alpha=0.12, linewidth=0)
    line = "--" if dashed else "-." if again else "-"
    panel.plot(record["steps"], record["curve"], line, color=colour, marker=marker, markersize=4, label=label)


def _kept(record: Record) -> str:
    kept = record["retention"]
    return f"{record['accuracy']['value']:.3f}" + (f" ({kept['value']:.2f})" if kept is not None else " (not known)")


def _interval(interval: Record) -> str:
    return f"{interval['value']:+.3f} [{interval['low']:+.3f}, {interval['high']:+.3f}]"


def _signed(interval: Record) -> str:
    return f"{interval['value']:+.3f}"


def _steps(reached: float | None) -> str:
    return "never" if reached is None else f"{reached:.0f}"
