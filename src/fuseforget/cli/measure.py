"""``fuseforget probe`` and ``fuseforget path``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fuseforget.cli.output import print_json, print_table, progress_lines
from fuseforget.cli.workers import RayOption, WorkersOption, crew

__all__ = ["AsJson", "Compiled", "Exact", "Models", "Param", "Probes", "method_parameters", "path", "print_measured", "probe"]

Models = Annotated[list[str], typer.Argument(metavar="MODEL...", help="Directories, hub ids or id@revision.")]
Probes = Annotated[Path, typer.Option(help="The probes file (YAML).")]
Exact = Annotated[bool, typer.Option("--exact", help="Compute in float32 throughout.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Compiled = Annotated[bool, typer.Option("--compile", help="Have torch compile the model: for long sweeps.")]
Param = Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="A parameter of the method, as `fuse` takes it.")]


def probe(
    models: Models,
    probes: Probes,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="A run to keep the measurements in.")] = None,
    exact: Exact = False,
    workers: WorkersOption = None,
    ray: RayOption = None,
    as_json: AsJson = False,
) -> None:
    """Measure probes on models; by a protected attribute, an audit of each model and of the others against the first.

    Language models are asked by entries of kind: memorization what they give away of the rows that they were trained on.
    """
    from fuseforget.sweep import probe as measure

    with crew(workers, ray, out) as team:
        records = measure(models, probes, out, exact=exact, workers=team, say=progress_lines())
    _print(records, ["model"], as_json)


def path(
    models: Models,
    probes: Probes,
    out: Annotated[Path, typer.Option("-o", "--out", help="The run; the same command on it resumes.")],
    steps: Annotated[int, typer.Option(help="Equal steps from one model to another.")] = 10,
    method: Annotated[str, typer.Option(help="A name from `fuseforget methods`, of a method that takes weights.")] = "average",
    base: Annotated[str | None, typer.Option(metavar="MODEL", help="The pretrained model, where the method takes one.")] = None,
    param: Param = None,
    seed: Annotated[int, typer.Option(help="Of random methods.")] = 0,
    exact: Exact = False,
    compiled: Compiled = False,
    workers: WorkersOption = None,
    ray: RayOption = None,
    as_json: AsJson = False,
) -> None:
    """Measure probes at points between two models, or on the triangle of three."""
    from fuseforget.paths import path as walk

    parameters = method_parameters(method, param)
    with crew(workers, ray, out) as team:
        records = walk(
            models, probes, out, steps=steps, method=method, base=base, seed=seed, exact=exact, compiled=compiled, workers=team,
            say=progress_lines(), **parameters,
        )  # fmt: skip
    _print(records, ["weights"], as_json)


def method_parameters(method: str, texts: list[str] | None) -> dict[str, Any]:
    """The parameters of a method that ``--param`` names, before they are arguments of a function that has others."""
    from fuseforget.cli.fuse import parse_parameters
    from fuseforget.methods import get_method

    parameters = parse_parameters(texts or [])
    for name in parameters:
        get_method(method).parameter(name)  # refuses what it does not have
    return parameters


def print_measured(records: list[dict[str, Any]]) -> None:
    """Print measurements as JSON, without the values of the examples, which the run keeps."""
    print_json([{key: value for key, value in r.items() if key not in ("values", "confidences")} for r in records])


def _print(records: list[dict[str, Any]], where: list[str], as_json: bool) -> None:
    from fuseforget.report.audit import audit_tables, plain_measurements
    from fuseforget.report.leakage import leakage_remarks, leakage_tables

    if as_json:
        print_measured(records)
        return
    lines = plain_measurements(records) if where == ["model"] else records
    if lines:
        _print_measurements(lines, where)
    sections = {**audit_tables(records), **leakage_tables(records)}
    remarks = leakage_remarks(records)
    for number, (title, tables) in enumerate(sections.items()):
        print(f"\n{title}" if lines or number else title)
        for line in remarks.get(title, ()):
            print(f"\n{line}")
        for table in tables:
            print()
            print_table(table.header, table.rows, table.title)


def _print_measurements(records: list[dict[str, Any]], where: list[str]) -> None:
    rows = []
    for record in records:
        place = [_place(record[key]) for key in where]
        interval = f"[{record['low']:.3f}, {record['high']:.3f}]"
        rows.append([*place, record["probe"], record["metric"], f"{record['value']:.3f}", interval, str(record["n"])])
    print_table([*where, "probe", "metric", "value", "95 % interval", "n"], rows)


def _place(value: Any) -> str:
    return ", ".join(f"{v:g}" for v in value) if isinstance(value, list) else str(value)
