"""``fuseforget methods`` and ``fuseforget check``."""

from __future__ import annotations

import inspect
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fuseforget.cli.output import print_json

if TYPE_CHECKING:
    from fuseforget.methods import Method

__all__ = ["check", "methods"]

WEIGHTS = {
    "convex": "weights not negative, summing to 1",
    "free": "any finite weights",
    "no": "no weights",
}


def methods(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the fusion methods with their parameters and sources."""
    from fuseforget.methods import METHODS

    if as_json:
        print_json([_described(method) for method in METHODS.values()])
        return
    for method in METHODS.values():
        needs = {"required": ", a base", "optional": ", a base if wanted", "no": ""}[method.base]
        statistics = f", {method.statistics} of each" if method.statistics else ""
        print(f"{method.name}: {method.summary}")
        plural = "" if method.models == (1, 1) else "s"
        print(f"    takes {method.counts} model{plural}{needs}{statistics}; {WEIGHTS[method.weights]}")
        for p in method.parameters:
            each = ", a value a model" if p.per_model else ""
            default = str(p.default).lower() if isinstance(p.default, bool) else f"{p.default:g}"
            print(f"    --param {p.name}={default}  {p.summary} ({p.range}{each})")
        print(f"    {method.paper}")


def _described(method: Method) -> dict[str, Any]:
    row = {f.name: getattr(method, f.name) for f in fields(method) if f.name != "function"}
    return {**row, "parameters": [asdict(p) for p in method.parameters], "docstring": inspect.getdoc(method.function)}


def check(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Directories, hub ids or id@revision.")],
    base: Annotated[str | None, typer.Option(help="The pretrained model they come from.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say from the headers alone whether models can be fused, with every difference; exit 2 where they cannot."""
    from fuseforget.checkpoint import check as compare

    differences = compare(models, base)
    blocking = [difference for difference in differences if difference.blocks]
    if as_json:
        print_json({"can_be_fused": not blocking, "differences": [asdict(d) for d in differences]})
    else:
        for difference in differences:
            print(f"{'differs' if difference.blocks else 'note'}: {difference}")
        verdict = f"cannot be fused: {len(blocking)} differences" if blocking else "can be fused"
        print(f"{len(models)} models {verdict}")
    if blocking:
        raise typer.Exit(2)
