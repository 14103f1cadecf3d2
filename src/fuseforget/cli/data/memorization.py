"""``fuseforget data memorization``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fuseforget.cli.output import print_json, print_table
from fuseforget.errors import InputError

if TYPE_CHECKING:
    from fuseforget.data import MemorizationData
    from fuseforget.models import TextReader

__all__ = ["command"]

BLOCK = 128
REPEATS = (1, 4, 16)


def command(
    source: Annotated[str, typer.Argument(metavar="DATA", help="Texts: a table, a text file, a directory or a hub id.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Where the data set goes.")],
    tokenizer: Annotated[str, typer.Option(metavar="MODEL", help="The model (a directory) that is to be trained.")],
    models: Annotated[int, typer.Option(help="How many models get a part of their own.")] = 3,
    rows: Annotated[int | None, typer.Option(help="Rows a model, shared ones included.")] = None,
    total: Annotated[int | None, typer.Option(help="Rows of all models together, shared ones once.")] = None,
    shared: Annotated[int, typer.Option(help="Rows that every model gets.")] = 100,
    control: Annotated[int, typer.Option(help="Rows that no model gets: the non-members.")] = 200,
    validation: Annotated[int, typer.Option(help="Rows to validate on.")] = 200,
    block: Annotated[int | None, typer.Option(help=f"Tokens a row, articles packed. [{BLOCK}, for a decoder]")] = None,
    articles: Annotated[bool, typer.Option("--articles", help="One article a row, cut to the model's window.")] = False,
    canaries: Annotated[
        int, typer.Option(help="Canaries of each number of repetitions; as many in all models; and in none.")
    ] = 0,
    repeats: Annotated[list[int] | None, typer.Option(help="How often canaries stand in their part. [1, 4, 16]")] = None,
    near_duplicates: Annotated[bool, typer.Option(help="Keep near-duplicates in one part.")] = True,
    held_out: Annotated[str | None, typer.Option(metavar="DATA", help="Texts of their own to validate on.")] = None,
    text: Annotated[str | None, typer.Option(help="The column of the texts; default: text, sentence, article, content.")] = None,
    split: Annotated[str, typer.Option(help="The split of DATA.")] = "train",
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what stands at OUT.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Divide a private corpus: a part for each model, one that all share, and one that none sees; with canaries if asked.

    No document, nor two that are nearly the same, is in two parts.
    """
    from fuseforget.checkpoint import atomic_directory
    from fuseforget.data import (
        make_memorization,
        model_names,
        read_documents,
        save_memorization,
        spread_canaries,
    )
    from fuseforget.data import near_duplicates as find_near_duplicates

    if repeats and not canaries:
        raise InputError("--repeats", expected="--canaries with it", found="no canaries")
    reads = _read_tokenizer(tokenizer)
    block = _block(reads, block, articles)
    texts = read_documents(source, split=split, text=text)
    column = None if str(held_out).endswith(".txt") else text
    outside = None if held_out is None else read_documents(held_out, split="validation", text=column)
    made = make_memorization(
        texts, reads.encode, models=models, rows=rows, total=total, shared=shared, control=control, validation=validation,
        block=block, window=reads.window, separator=reads.separator, special=reads.special, seed=seed, held_out=outside,
        groups=find_near_duplicates([*texts, *(outside or ())], seed=seed) if near_duplicates else None,
        canaries=spread_canaries(canaries, repeats or REPEATS, model_names(models), shared=shared > 0),
        tokenizer=reads.sha256,
    )  # fmt: skip
    inputs = [Path(place) for place in (source, tokenizer, held_out) if place is not None and Path(place).exists()]
    with atomic_directory(out, overwrite=overwrite, inputs=inputs) as partial:
        save_memorization(made, partial)
    parts = _parts(made)
    if as_json:
        print_json({"path": str(out), "parts": parts, "counts": made.counts, "canaries": len(made.canaries)})
        return
    print(f"{out}: {len(made.models)} models from {len(texts)} texts")
    print_table(["part", "rows", "tokens", "documents", "canaries"], [[name, *map(str, p.values())] for name, p in parts.items()])
    _print_left_out(made)


def _read_tokenizer(source: str) -> TextReader:
    """What dividing a corpus needs of a model; none of its weights is read."""
    from fuseforget.models import read_text_reader

    path = Path(source).expanduser()
    if not path.is_dir():
        raise InputError(source, expected="a directory with a tokenizer", found="none at that path")
    return read_text_reader(path, source)


def _block(reads: TextReader, block: int | None, articles: bool) -> int | None:
    """How many tokens a row has; None for articles."""
    if block is not None and articles:
        raise InputError("options", expected="one of --block and --articles", found="both")
    if block is not None and reads.masked:
        found = "a masked language model"
        raise InputError("--block", expected="a decoder", found=found, action="Leave it out: it reads one article a row.")
    if articles or reads.masked:
        return None
    size = min(BLOCK, reads.window or BLOCK) if block is None else block
    if reads.window is not None and size > reads.window:
        raise InputError("--block", expected=f"at most {reads.window} tokens, which the model reads", found=str(size))
    return size


def _parts(made: MemorizationData) -> dict[str, dict[str, int]]:
    """By part: rows, tokens, documents, and canaries (each counted once)."""
    return {
        name: {
            "rows": len(made.parts[name]),
            "tokens": made.parts[name].tokens,
            "documents": sum(number >= 0 for number in numbers),
            "canaries": sum(number < 0 for number in numbers),
        }
        for name, numbers in made.documents.items()
    }


def _print_left_out(made: MemorizationData) -> None:
    nowhere = sum(canary.repeats == 0 for canary in made.canaries)
    lines = {
        "duplicates": "texts left out that are another one but for white space",
        "short": "texts left out for having fewer than 5 tokens, of those that were needed",
        "cut": "rows that have the beginning of their article alone",
        "left_over": "documents in no part",
        "rest": "tokens left out of documents that a part's end cut",
        "undealt": "rows of the total left out, which the models cannot share evenly",
    }
    for name, meaning in lines.items():
        if made.counts[name]:
            print(f"{made.counts[name]} {meaning}")
    if nowhere:
        print(f"{nowhere} canaries in no part, to compare with")
