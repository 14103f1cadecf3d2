"""``fuseforget dial``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fuseforget.cli.measure import AsJson, Compiled, Exact, Models, Param, Probes, method_parameters, print_measured
from fuseforget.cli.output import print_table, progress_lines
from fuseforget.cli.workers import RayOption, WorkersOption, crew
from fuseforget.errors import InputError

__all__ = ["command"]


def command(
    models: Models,
    probes: Probes,
    out: Annotated[Path, typer.Option("-o", "--out", help="The run; the same command on it resumes.")],
    base: Annotated[str | None, typer.Option(metavar="MODEL", help="The pretrained model that the others come from.")] = None,
    steps: Annotated[int, typer.Option(help="From the average to what is strictly common.")] = 10,
    method: Annotated[
        str, typer.Option(help="A name from `fuseforget methods`, of a method with a parameter forget.")
    ] = "spectral_consensus",
    scale: Annotated[float | None, typer.Option("--lambda", help="Scale of the fused change; default: the method's.")] = None,
    weight: Annotated[list[float] | None, typer.Option(metavar="W", help="One a model, in order, at all settings.")] = None,
    param: Param = None,
    exact: Exact = False,
    compiled: Compiled = False,
    workers: WorkersOption = None,
    ray: RayOption = None,
    as_json: AsJson = False,
) -> None:
    """Turn one knob from the models' average to what they strictly have in common, and measure probes on the way."""
    from fuseforget.dial import dial
    from fuseforget.records import read_records, read_run
    from fuseforget.report.dial import fuse_command, summarise_dial

    parameters = method_parameters(method, param)
    if scale is not None:
        if "lambda" in parameters:
            raise InputError("--lambda", expected="the scale once", found="it in --param, too")
        parameters["lambda"] = scale
    with crew(workers, ray, out) as team:
        records = dial(
            models, probes, out, base=base, steps=steps, method=method, weights=weight, exact=exact, compiled=compiled,
            workers=team, say=progress_lines(), **parameters,
        )  # fmt: skip
    if as_json:
        print_measured(records)
        return
    description = read_run(out)
    for table in summarise_dial(description, read_records(out)).tables:
        print_table(table.header, table.rows, table.title)
    print(f"\nTo fuse at a setting:\n{fuse_command(description)}")
