"""What a validation of forecasts says: which predictors rank what fusing keeps, the scatter behind it, and every case."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fuseforget.report.blocks import Block, Details, Heading, Paragraphs, Picture, Pictures, Table
from fuseforget.report.claims import SIGNIFICANT
from fuseforget.report.facts import cell
from fuseforget.report.figures import COLOURS, MARKERS, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["forecast_blocks"]

Record = dict[str, Any]
TITLE = "Can it be forecast what fusing keeps?"
PAPERS = "fisher_overlap"  # the paper's own candidate (Table 4), always drawn
KEPT = 0.5
TITLES = {
    "survival": "survival",
    "layer_survival": "survival, mean of layers",
    "cosine": "cosine",
    "agreement": "agreement of signs",
    "survival_beyond": "survival beyond the control",
    "fisher_survival": "survival, by Fisher",
    "fisher_survival_beyond": "survival beyond the control, by Fisher",
    "fisher_likelihood": "likelihood, by Fisher",
    "fisher_overlap": "Fisher overlap",
    "others_know": "accuracy of the other model",
}
NEEDS_PROBE = {"others_know", "fisher_overlap"}
NOTE = (
    "Of every pair of specialists fused half and half, how well a number known before ranks how much of each one's shortcut is "
    "left. Spearman's rho with a 95 % jackknife interval over rules; p from exchanging the rules' names (exact up to seven "
    "rules), corrected for the number of predictors (Holm): whether the order is chance among these rules, where the interval is "
    "about what other rules might give. AUC: the chance that a case that was kept (more than half left) has "
    "a greater forecast than one that was forgotten; 95 % bootstrap interval over rules. Told rightly: kept or forgotten, by a "
    "border fitted without any case of that rule (in brackets: by guessing what is more frequent). The cases share rules, and "
    "so say less than as many independent ones."
)


def forecast_blocks(records: list[Record], titles: dict[str, str]) -> list[Block]:
    """The blocks of a run's validated forecasts; none where it has none.

    Args:
        records: a run's.
        titles: the rules' names for readers.
    """
    judged = sorted((r for r in records if r["kind"] == "rank_correlation"), key=lambda r: (-r["value"], r["predictor"]))
    unjudged = next((r for r in records if r["kind"] == "unjudged"), None)
    if unjudged is not None:
        return [Heading(TITLE), Paragraphs([_unjudged(unjudged, titles)], "warn")]
    if not judged:
        return []
    kept = {(tuple(r["pair"]), r["rule"]): r for r in records if r["kind"] == "midpoint_retention"}
    forecasts: dict[str, dict[tuple[tuple[str, ...], str], float]] = {}
    for record in records:
        if record["kind"] == "forecast":
            forecasts.setdefault(record["predictor"], {})[tuple(record["pair"]), record["rule"]] = record["value"]
    return [
        Heading(TITLE),
        Paragraphs(_headline(judged), "lead"),
        Table(
            "Forecasts against measured retention",
            ["forecast", "rho", "p", "p (Holm)", "AUC", "told rightly", "cases"],
            _rows(judged),
            NOTE,
        ),
        Pictures(_pictures(judged, forecasts, kept, titles)),
        Details("Every case", [_cases(judged, forecasts, kept, titles)]),
    ]


def _unjudged(record: Record, titles: dict[str, str]) -> str:
    learned = ", ".join(titles.get(rule, rule) for rule in record["learned"]) or "none"
    needed = f"{record['needed']} specialists that learned their shortcut are needed, and cases that differ"
    return f"Not judged: {needed}; learned: {learned}."


def _title(predictor: str) -> str:
    return TITLES.get(predictor, predictor)


def _headline(judged: list[Record]) -> list[str]:
    """The predictors that are surely better than chance, and the best of those that do not ask the other model."""
    first = judged[0]
    cases, members = first["cases"], first["members"]
    sure = [r for r in judged if r["p_holm"] < SIGNIFICANT]
    names = ", ".join(f"{_title(r['predictor'])} ({cell(r)})" for r in sure)
    lines = [
        f"{cases} cases of {members} rules. Significant after correction: {names}."
        if sure
        else f"{cases} cases of {members} rules: no forecast is significant after correction. "
        f"The strongest: {_title(first['predictor'])}, rho {cell(first)}."
    ]
    unasked = [r for r in judged if r["predictor"] not in NEEDS_PROBE]
    if unasked and unasked[0] is not first:
        best = unasked[0]
        lines.append(f"Without asking the other model, the best is {_title(best['predictor'])}: rho {cell(best)}.")
    return lines


def _rows(judged: list[Record]) -> list[list[str]]:
    return [
        [_title(r["predictor"]), cell(r), f"{r['p']:.3g}", f"{r['p_holm']:.3g}", _auc(r), _right(r), str(r["cases"])]
        for r in judged
    ]


def _auc(record: Record) -> str:
    if record["auc"] is None:
        sort = "kept" if record["kept"] else "forgotten"
        return f"none: all {sort}"
    return f"{record['auc']:.3f} [{record['auc_low']:.3f}, {record['auc_high']:.3f}]"


def _right(record: Record) -> str:
    return "" if record["right"] is None else f"{record['right']:.3f} ({record['guess']:.3f})"


def _pictures(
    judged: list[Record],
    forecasts: dict[str, dict[tuple[tuple[str, ...], str], float]],
    kept: dict[tuple[tuple[str, ...], str], Record],
    titles: dict[str, str],
) -> list[Picture]:
    """The best forecast and the paper's."""
    shown = list(dict.fromkeys([judged[0]["predictor"], *(r["predictor"] for r in judged if r["predictor"] == PAPERS)]))
    found = {r["predictor"]: r for r in judged}
    return [
        Picture(
            f"forecast-{name}", _scatter(name, forecasts[name], kept, titles),
            f"{_title(name)} against how much of the shortcut is left midway: rho {cell(found[name])}. A point is a shortcut "
            "(colour and mark) fused with the model that it is labelled with; bars are 95 % intervals.",
        )
        for name in shown
    ]  # fmt: skip


def _scatter(
    predictor: str, values: dict[tuple[tuple[str, ...], str], float], kept: dict[tuple[tuple[str, ...], str], Record],
    titles: dict[str, str],
) -> Figure:  # fmt: skip
    figure, axes = new_figure(7.4, 5.2)
    rules = list(dict.fromkeys(rule for _, rule in kept))
    for number, rule in enumerate(rules):
        own = [case for case in kept if case[1] == rule]
        x, y = [values[case] for case in own], [kept[case]["value"] for case in own]
        below = [max(0.0, kept[case]["value"] - kept[case]["low"]) for case in own]
        above = [max(0.0, kept[case]["high"] - kept[case]["value"]) for case in own]
        # Seven rules and six colours: the mark goes on from where the colour starts again.
        style = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[(number + number // len(COLOURS)) % len(MARKERS)]}
        axes.errorbar(x, y, [below, above], linestyle="none", elinewidth=0.6, markersize=5, label=titles.get(rule, rule), **style)
        for case, across, up in zip(own, x, y, strict=True):
            other = next(name for name in case[0] if name != rule)
            axes.annotate(titles.get(other, other), (across, up), (4, 2), textcoords="offset points", fontsize=6, color="#555")
    for level in (0, KEPT, 1):
        axes.axhline(level, color="#999", linewidth=0.8, linestyle=":" if level == KEPT else "-")
    axes.set_xlabel(f"forecast: {_title(predictor)}")
    axes.set_ylabel("left of the shortcut midway")
    axes.legend(frameon=False, title="shortcut", loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _cases(
    judged: list[Record],
    forecasts: dict[str, dict[tuple[tuple[str, ...], str], float]],
    kept: dict[tuple[tuple[str, ...], str], Record],
    titles: dict[str, str],
) -> Table:
    names = [r["predictor"] for r in judged]
    rows = []
    for (pair, rule), record in sorted(kept.items(), key=lambda item: -item[1]["value"]):
        other = next(name for name in pair if name != rule)
        numbers = [f"{forecasts[name][pair, rule]:.4g}" for name in names]
        rows.append([titles.get(rule, rule), titles.get(other, other), cell(record), *numbers])
    header = ["shortcut", "fused with", "left midway", *map(_title, names)]
    return Table(
        "", header, rows, "The most kept first; forecasts from the best to the worst. Computed without a look at any fused model."
    )
