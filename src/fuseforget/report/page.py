"""One self-contained HTML page from one or more runs: opens from disk, needs no network."""

from __future__ import annotations

import json
import shlex
from html import escape
from pathlib import Path
from typing import Any

from fuseforget.errors import InputError, OutputError
from fuseforget.records import read_records, read_run
from fuseforget.report import figures, shortcuts
from fuseforget.report.shortcuts import Table

__all__ = ["write_report"]

Record = dict[str, Any]
STYLE = """
:root{color-scheme:light}*{box-sizing:border-box}
body{font:16px/1.55 system-ui,sans-serif;color:#1c2430;background:#fff;max-width:72rem;margin:2rem auto;padding:0 1.25rem}
h1{font-size:1.7rem;margin:0 0 .3rem}h2{font-size:1.2rem;margin:2.4rem 0 .5rem;border-top:1px solid #dde2e8;padding-top:1.2rem}
.lead{background:#f2f6fa;border-left:4px solid #0072B2;padding:.8rem 1rem;margin:1rem 0}.lead p{margin:.15rem 0}
.note{color:#55606e;font-size:.9rem;max-width:60rem}.warn{background:#fff6e5;border-left:4px solid #E69F00;padding:.6rem 1rem}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.86rem;font-variant-numeric:tabular-nums}
th,td{padding:.32rem .6rem;text-align:left;border-bottom:1px solid #e6eaef;vertical-align:top}th{background:#f7f9fb}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(26rem,1fr));gap:1.2rem}figure{margin:0}.wide{grid-column:1/-1;max-width:60rem}
figure svg{width:100%;height:auto}figcaption{font-size:.9rem;color:#333}
pre{background:#f5f7f9;padding:.8rem;overflow-x:auto;font-size:.85rem}summary{cursor:pointer}
"""


def write_report(runs: list[str | Path], out: str | Path) -> Path:
    """Write the page for runs to ``out``; figures go beside each run as PNG and PDF. Unfinished runs are shown as such."""
    target = Path(out)
    if target.suffix.lower() not in (".html", ".htm"):
        raise InputError(str(out), expected="a file name ending in .html", found=target.suffix or "no ending")
    if not runs:
        raise InputError("report", expected="one run or more", found="none")
    body = "".join(_run_section(Path(run)) for run in runs)
    page = (
        "<!doctype html>\n<html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>fuseforget report</title><style>{STYLE}</style><body>{body}</body></html>\n"
    )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        partial.write_text(page, encoding="utf-8")
        partial.rename(target)
    except OSError as error:
        raise OutputError.caused_by(error, str(out)) from error
    return target


def _run_section(run: Path) -> str:
    description, records = read_run(run), read_records(run)
    if description["command"] == "study shortcuts":
        return _shortcut_section(run, description, records)
    return _measurements_section(run, description, records)


def _shortcut_section(run: Path, description: Record, records: list[Record]) -> str:
    summary = shortcuts.summarise(description, records)
    scale = description["settings"]["scale"]
    parts = [
        "<h1>Fuse to forget: shortcuts</h1>",
        f"<p class=note>Study of Zaman et al. 2023 (arXiv 2311.07682), section 4, at the {escape(scale)} scale.</p>",
    ]
    if summary.headline:
        parts.append("<div class=lead>" + "".join(f"<p>{escape(line)}</p>" for line in summary.headline) + "</div>")
    if summary.missing:
        parts.append(
            f"<p class=warn>This run is not finished: {len(summary.missing)} measurements are missing "
            f"({escape(', '.join(summary.missing[:6]))}{', ...' if len(summary.missing) > 6 else ''}). "
            "Run the same command again to resume it.</p>"
        )
    parts.append(_shortcut_figures(run, summary.rules, records))
    parts += [_table(table) for table in summary.tables]
    parts += [_curve_table(records, path) for path in shortcuts.paths(records)]
    parts.append(_repeat(run, description))
    return "".join(parts)


def _shortcut_figures(run: Path, rules: list[str], records: list[Record]) -> str:
    at = {(r["model"], r["probe"]): r for r in records if r["kind"] == "measurement" and "model" in r}
    drawn = []
    if at:
        svg = figures.save(figures.draw_bars(rules, at), run / "figures" / "fig4-fused")
        caption = (
            "Fig. 4: accuracy of the shortcut's specialist (for the task: their mean), the full, the fused and the control model"
        )
        drawn.append(f"<figure class=wide>{svg}<figcaption>{caption}; 95 % intervals.</figcaption></figure>")
    for path in shortcuts.paths(records):
        first, second = (shortcuts.title(name) for name in path.split("-"))
        svg = figures.save(
            figures.draw_curves(shortcuts.curves(records, path), (first, second)), run / "figures" / f"fig2-{path}"
        )
        caption = f"Fig. 2: from {first} to {second}; bands are 95 % intervals."
        drawn.append(f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>")
    return f"<h2>Figures</h2><div class=figures>{''.join(drawn)}</div>" if drawn else ""


def _curve_table(records: list[Record], path: str) -> str:
    found = shortcuts.curves(records, path)
    rows = [
        [f"{x:.2f}", *(f"{c.value[i]:.3f} [{c.low[i]:.3f}, {c.high[i]:.3f}]" for c in found if i < len(c.x))]
        for i, x in enumerate(found[0].x)
    ]
    table = Table("", ["weight of the second", *(curve.label for curve in found)], rows)
    return f"<details><summary>Numbers of {escape(shortcuts.path_title(path))}</summary>{_table(table)}</details>"


def _measurements_section(run: Path, description: Record, records: list[Record]) -> str:
    rows = []
    for r in records:
        if r["kind"] == "measurement":
            where = r.get("model") or f"{r['path']} at {', '.join(f'{w:g}' for w in r['weights'])}"
            rows.append([where, r["probe"], r["metric"], f"{r['value']:.3f} [{r['low']:.3f}, {r['high']:.3f}]", str(r["n"])])
    table = Table("Measurements", ["model", "probe", "metric", "value [95 % interval]", "n"], rows)
    return f"<h1>{escape(description['command'])}</h1>{_table(table)}{_repeat(run, description)}"


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    heading = f"<h2>{escape(table.title)}</h2>" if table.title else ""
    note = f"<p class=note>{escape(table.note)}</p>" if table.note else ""
    return f"{heading}{note}<div class=scroll><table><tr>{head}</tr>{body}</table></div>"


def _repeat(run: Path, description: Record) -> str:
    return (
        "<h2>How to repeat this</h2>"
        f"<pre>{escape(repeat_command(description))}</pre>"
        "<details><summary>Settings, versions and hashes</summary>"
        f"<pre>{escape(json.dumps(description, indent=2))}</pre></details>"
        f"<p class=note>Records: {escape(run.name)}/records.jsonl; figures as PNG and PDF: {escape(run.name)}/figures/.</p>"
    )


def repeat_command(description: Record) -> str:
    """The command that makes the run again."""
    settings = description["settings"]
    words = ["fuseforget", *description["command"].split()]
    if description["command"].startswith("study"):
        words += ["--scale", settings["scale"], "--seed", str(settings["seed"])]
        for option in ("base", "data", "sentences"):
            if settings[option] is not None:
                words += [f"--{option}", str(settings[option])]
        for rule in settings["rules"]:
            words += ["--rule", rule]
    else:
        words += [*settings["models"], "--probes", "PROBES.yaml"]
        if "steps" in settings:
            words += ["--steps", str(settings["steps"])]
    return shlex.join([*words, "-o", "RUN"])
