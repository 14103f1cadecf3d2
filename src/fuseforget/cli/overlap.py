"""``fuseforget overlap``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fuseforget.cli.output import print_json, print_table, progress_lines

__all__ = ["command"]


def command(
    models: Annotated[tuple[str, str], typer.Argument(metavar="MODEL MODEL", help="Directories, hub ids or id@revision.")],
    data: Annotated[str, typer.Option(help="Labelled texts: a file, a directory with splits, or a hub id.")],
    labels: Annotated[str, typer.Option(help="given, sampled (from the model), or expected (over all labels).")] = "given",
    examples: Annotated[int, typer.Option(min=2, help="Texts drawn at random; all where there are fewer.")] = 200,
    folds: Annotated[int, typer.Option(help="Parts of the texts for the interval, an even number.")] = 8,
    split: Annotated[str, typer.Option(help="Of a directory or a hub data set.")] = "validation",
    text: Annotated[str | None, typer.Option(help="The column of the texts; default: text or sentence.")] = None,
    label: Annotated[str, typer.Option(help="The column of the labels.")] = "label",
    seed: Annotated[int, typer.Option(help="Of the draw of texts, folds and labels.")] = 0,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="A directory for both Fishers, as checkpoints.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace Fishers that stand there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure how far two models use the same weights on a data set: the overlap of their Fisher information."""
    from fuseforget.fisher import overlap

    found = overlap(
        *models, data, labels_from=labels, examples=examples, folds=folds, split=split, text=text, label=label, seed=seed,
        out=out, overwrite=overwrite, say=progress_lines(),
    )  # fmt: skip
    if as_json:
        print_json(found)
        return
    interval, halves = f"[{found['low']:.3f}, {found['high']:.3f}]", ", ".join(f"{value:.3f}" for value in found["split_half"])
    print(f"overlap {found['overlap']:.4f} {interval}, n = {found['n']}; split-half of each model: {halves}")
    for title, key in (("By layer", "by_layer"), ("By kind of weight", "by_kind")):
        print()
        print_table(["", "overlap within", "share of first", "share of second"], _rows(found[key]), title)


def _rows(parts: dict[str, dict[str, Any]]) -> list[list[str]]:
    return [
        [
            name,
            "none" if part["overlap"] is None else f"{part['overlap']:.4f}",
            f"{part['first_share']:.2%}",
            f"{part['second_share']:.2%}",
        ]
        for name, part in parts.items()
    ]
