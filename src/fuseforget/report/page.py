"""One page from one or more runs: self-contained HTML, or Markdown with its figures beside it."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from fuseforget.errors import InputError
from fuseforget.records import changed_code, read_records, read_run
from fuseforget.report import figures
from fuseforget.report.audit import audit_blocks, missing_of_audit, plain_measurements
from fuseforget.report.bias import bias_blocks, summarise_bias
from fuseforget.report.bias_facts import BiasFacts
from fuseforget.report.blocks import Block, Code, Details, Heading, Paragraphs, Picture, Pictures, Table, opening
from fuseforget.report.by_method import by_method_tables
from fuseforget.report.claims import FIGURES
from fuseforget.report.dial import dial_blocks, summarise_dial
from fuseforget.report.facts import RANDOM, Facts, cell
from fuseforget.report.files import write_whole
from fuseforget.report.fisher import fisher_blocks, summarise_fisher
from fuseforget.report.forecast import forecast_blocks
from fuseforget.report.forgetting import forgetting_blocks, forgetting_grown, summarise_forgetting
from fuseforget.report.html import html_page, render_html
from fuseforget.report.leakage import leakage_blocks, missing_of_leakage
from fuseforget.report.markdown import render_markdown
from fuseforget.report.memorization import memorization_blocks, summarise_memorization
from fuseforget.report.memorization_facts import MemorizationFacts
from fuseforget.report.part_figures import draw_growth, draw_triangle
from fuseforget.report.parts import triangle_table
from fuseforget.report.repeat import NOTHING_GROWN, Grown, repeat_command
from fuseforget.report.shortcuts import Summary, curve_table
from fuseforget.report.shortcuts import summarise as summarise_shortcuts
from fuseforget.report.unfinished import missing_measurements

__all__ = ["summarise", "write_report"]

Record = dict[str, Any]
HTML, MARKDOWN = (".html", ".htm"), (".md",)
SUMMARIES = {
    "study shortcuts": summarise_shortcuts,
    "study bias": summarise_bias,
    "study memorization": summarise_memorization,
    "study fisher": summarise_fisher,
    "dial": summarise_dial,
    "study forgetting": summarise_forgetting,
}
BLOCKS = {
    "study bias": bias_blocks,
    "study memorization": memorization_blocks,
    "study fisher": fisher_blocks,
    "dial": dial_blocks,
    "study forgetting": forgetting_blocks,
}


def write_report(runs: list[str | Path], out: str | Path) -> Path:
    """Write the page for runs, finished or not, to ``out``; unfinished ones say what is missing.

    Args:
        runs: the runs' directories.
        out: ``.html``: one self-contained page, its figures also beside each run as PNG and PDF; ``.md``: Markdown with the
            same content, its figures beside it as PNG, nothing written to the runs.

    Raises:
        InputError: no run, or another ending.
        OutputError: the page or a figure could not be written.
    """
    target = Path(out)
    suffix = target.suffix.lower()
    if suffix not in HTML + MARKDOWN:
        raise InputError(str(out), expected="a file name ending in .html or .md", found=target.suffix or "no ending")
    if not runs:
        raise InputError("report", expected="one run or more", found="none")
    found = [(Path(run), read_run(run), read_records(run)) for run in runs]
    parts = []
    for number, (run, description, records) in enumerate(found, 1):
        section = _section(run, description, records)
        _require_names_apart(section)
        if suffix in MARKDOWN:
            stem = target.stem if number == 1 else f"{target.stem}-{number}"
            parts.append(render_markdown(section, partial(_beside_the_page, target.parent, stem)))
        else:
            parts.append(render_html(section, partial(_beside_the_run, run)))
    page = "".join(parts).rstrip() + "\n" if suffix in MARKDOWN else html_page("".join(parts))
    write_whole(target, page.encode("utf-8"))
    return target


def _require_names_apart(section: list[Block]) -> None:
    """One figure would be written over another, and be shown in its place."""
    names = [picture.name for block in section if isinstance(block, Pictures) for picture in block.pictures]
    assert len(set(names)) == len(names), names


def _beside_the_page(directory: Path, stem: str, picture: Picture) -> str:
    name = f"{stem}-{picture.name}.png"
    figures.save(picture.figure, directory / name)
    return name


def _beside_the_run(run: Path, picture: Picture) -> str:
    action = "A report in Markdown (-o FILE.md) writes nothing to the run."
    for kind in ("png", "pdf"):
        figures.save(picture.figure, run / "figures" / f"{picture.name}.{kind}", action=action)
    return figures.svg(picture.figure)


def summarise(description: Record, records: list[Record]) -> Summary:
    """What is printed of a study or a dial."""
    return SUMMARIES[description["command"]](description, records)


def _section(run: Path, description: Record, records: list[Record]) -> list[Block]:
    if description["command"] == "study shortcuts":
        return _shortcut_section(run, description, records)
    if description["command"] in BLOCKS:
        warnings = _warnings(description, records, summarise(description, records).missing)
        blocks = BLOCKS[description["command"]](description, records, warnings)
        return [*blocks, *_repeat(run, description, drawn=True, grown=_grown(description, records))]
    return _measurements_section(run, description, records)


def _grown(description: Record, records: list[Record]) -> Grown:
    """What the run was asked for that its settings do not say."""
    if description["command"] == "study forgetting":
        return forgetting_grown(records)
    if description["command"] == "study memorization":
        return Grown(tuple(MemorizationFacts(description, records).parts))
    if description["command"] != "study bias":
        return NOTHING_GROWN
    facts = BiasFacts(description, records)
    return Grown(tuple(facts.parts), len(facts.seeds))


def _shortcut_section(run: Path, description: Record, records: list[Record]) -> list[Block]:
    facts, summary = Facts(description, records), summarise_shortcuts(description, records)
    scale = description["settings"]["scale"]
    about = f"Study of Zaman et al. 2023 (arXiv 2311.07682), section 4, at the {scale} scale."
    warnings = _warnings(description, records, summary.missing)
    blocks = opening("Fuse to forget: shortcuts", about, summary.headline, warnings, _shortcut_pictures(facts))
    blocks += summary.tables
    blocks += [Details(f"Numbers of {facts.path_title(p)}", [curve_table(facts, p)]) for p in facts.paths if facts.curves(p)]
    if facts.over_complete():
        blocks.append(Details(f"Numbers of the triangle {facts.names(facts.triangle)}", [triangle_table(facts)]))
    titles = description.get("about", {}).get("titles", {})
    blocks += forecast_blocks(records, titles)
    blocks += by_method_tables(records, titles)
    return [*blocks, *_repeat(run, description, drawn=True, grown=Grown(parts=tuple(facts.parts)))]


def _warnings(description: Record, records: list[Record], missing: list[str]) -> list[Block]:
    """What to know before trusting the rest: what is missing, and where code changed on the way."""
    lines = []
    if missing:
        lines.append(f"This run is not finished. Missing: {'; '.join(missing)}. Run the same command again to resume it.")
    before = description
    for number, record in enumerate(records):
        if record["kind"] == "resumed":
            changes = ", ".join(changed_code(before, record))
            lines.append(f"After {number} records this run went on with other code or versions: {changes}.")
            before = record
    return [Paragraphs(lines, "warn")] if lines else []


def _shortcut_pictures(facts: Facts) -> list[Picture]:
    drawn = []
    if facts.at:
        caption = (
            "Fig. 4: accuracy of the shortcut's specialist (for the task: their mean), the full, the fused and the control "
            "model; 95 % intervals."
        )
        drawn.append(Picture("fig4-fused", figures.draw_bars(facts), caption, wide=True))
    for path, pair in facts.paths.items():
        curves = facts.curves(path)
        if not curves:
            continue
        first, second = (facts.title(name) for name in pair)
        where = "Fig. 3" if path == facts.shared else FIGURES.get(frozenset(pair), "Fig. 2")
        caption = f"{where}: from {first} to {second}; bands are 95 % intervals."
        if RANDOM in pair and facts.distances_of:
            like = ", ".join(map(facts.title, facts.distances_of))
            caption += f" The random model is as far from the start as {like} on average."
        if not facts.complete(path):
            caption += " Not finished."
        drawn.append(
            Picture(f"{where.replace('. ', '').lower()[:4]}-{path}", figures.draw_curves(curves, (first, second)), caption)
        )
    return [*drawn, *_part_pictures(facts)]


def _part_pictures(facts: Facts) -> list[Picture]:
    drawn = []
    if facts.over_complete():
        caption = (
            f"Fig. 7, 8: accuracy over the weights of {facts.names(facts.triangle)}; dots are the measured points. The mean "
            "and the task have scales of their own. The task is measured once: the three original validation sets are the same."
        )
        drawn.append(Picture("fig7-triangle", draw_triangle(facts), caption, wide=True))
    if facts.growth:
        caption = (
            "Averages of 2 and more of the specialists: squares are means with 95 % intervals over subsets and examples, dots "
            "are the subsets; at the task, the dots of 1 are the specialists."
        )
        drawn.append(Picture("growth", draw_growth(facts), caption, wide=True))
    return drawn


def _measurements_section(run: Path, description: Record, records: list[Record]) -> list[Block]:
    """A run of ``probe`` or ``path``."""
    measured = [r for r in records if r["kind"] == "measurement"]
    missing = missing_measurements(description, records) or missing_of_audit(records)
    missing += missing_of_leakage(description, records)
    leakage = leakage_blocks(records)
    lines = measured if description["command"] == "path" else plain_measurements(measured)
    rows = []
    for r in lines:
        where = r.get("model") or f"{r['path']} at {', '.join(f'{w:g}' for w in r['weights'])}"
        rows.append([where, r["probe"], r["metric"], cell(r), str(r["n"])])
    return [
        Heading(description["command"], 1),
        *_warnings(description, records, missing),
        *(
            [Table("Measurements", ["model", "probe", "metric", "value [95 % interval]", "n"], rows)]
            if rows or not (measured or leakage)
            else []
        ),
        *audit_blocks(records),
        *leakage,
        *_repeat(run, description),
    ]


def _repeat(run: Path, description: Record, *, drawn: bool = False, grown: Grown = NOTHING_GROWN) -> list[Block]:
    name = run.resolve().name
    drawings = f" Figures as PNG and PDF, where a page in HTML was written: {name}/figures/." if drawn else ""
    return [
        Heading("How to repeat this"),
        Code(repeat_command(description, grown)),
        Details("Settings, versions and hashes", [Code(json.dumps(description, indent=2), "json")]),
        Paragraphs([f"Records: {name}/records.jsonl.{drawings}"]),
    ]
