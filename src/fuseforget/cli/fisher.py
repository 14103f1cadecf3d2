"""``fuseforget fisher``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fuseforget.cli.output import print_json, progress_lines

__all__ = ["command"]


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A language model: a directory, a hub id or id@revision.")],
    data: Annotated[str, typer.Option(help="Texts: a private corpus, a file, a directory with splits, or a hub id.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Where the Fisher goes, as a checkpoint.")],
    part: Annotated[
        list[str] | None, typer.Option(help="Of a private corpus: the model whose part is read, with what all share.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Of a directory or a hub data set; default: train.")] = None,
    text: Annotated[
        str | None, typer.Option(help="The column of the texts; default: text, sentence, article or content.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the masks of a masked model.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what stands at OUT.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a language model's Fisher information about texts, for `fuse --method fisher_consensus --statistics`.

    MODEL is the base there, and the texts are those that one of the models was trained on. A classifier's Fisher, for `fuse
    --method fisher`, is kept by `fuseforget overlap -o`.
    """
    from fuseforget.fisher.texts import fisher_of_texts

    found = fisher_of_texts(
        model, data, out, parts=part or (), split=split, text=text, seed=seed, overwrite=overwrite, say=progress_lines()
    )  # fmt: skip
    if as_json:
        print_json(found)
        return
    print(f"{found['path']}: Fisher information of {found['model']} about {found['rows']:,} rows, {found['tokens']:,} tokens")
