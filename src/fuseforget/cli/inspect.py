"""``fuseforget methods`` and ``fuseforget check``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from fuseforget.cli.output import print_json, print_table

__all__ = ["check", "methods"]


def methods(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the fusion methods."""
    from fuseforget.methods import METHODS

    rows = [{"name": m.name, "models": list(m.models), "summary": m.summary, "paper": m.paper} for m in METHODS.values()]
    if as_json:
        print_json(rows)
        return
    counts = {(1, None): "1 or more", (2, 2): "2"}
    print_table(
        ["method", "models", "what it does", "source"],
        [[m.name, counts.get(m.models, str(m.models)), m.summary, m.paper] for m in METHODS.values()],
    )


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
