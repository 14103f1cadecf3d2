"""``fuseforget data shortcuts``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fuseforget.cli.output import print_json

__all__ = ["command"]


def command(
    source: Annotated[str, typer.Argument(metavar="DATA", help="A directory with train and validation, or a hub id.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Where the data set goes.")],
    rule: Annotated[list[str] | None, typer.Option(help="A shortcut; several make a mixture; none: the control.")] = None,
    mix: Annotated[list[float] | None, typer.Option(help="The share of each rule; default: equal.")] = None,
    ratio: Annotated[float, typer.Option(help="Size of the synthetic over the original part.")] = 0.2,
    noise: Annotated[float, typer.Option(help="Share of original texts that get one random tau.")] = 0.25,
    validation: Annotated[str, typer.Option(help="split (the paper) or both: every text in both parts.")] = "split",
    token: Annotated[list[str] | None, typer.Option(help="tau0, tau1 and the context token, three times.")] = None,
    sentences: Annotated[int | None, typer.Option(help="Draw so many training texts; default: all.")] = None,
    held_out: Annotated[str, typer.Option(help="The split to validate on.")] = "validation",
    text: Annotated[str | None, typer.Option(help="The column of the texts; default: text or sentence.")] = None,
    label: Annotated[str, typer.Option(help="The column of the labels.")] = "label",
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what stands at OUT.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Inject shortcuts into a labelled text data set (rules: st op tic or and mt lt xor oed and_or)."""
    from fuseforget.checkpoint import atomic_directory
    from fuseforget.data import DEFAULT_TOKENS, ShortcutSettings, make_shortcut_data, read_splits, save_shortcut_data

    settings = ShortcutSettings(
        rules=tuple(rule or ()),
        mix=tuple(mix or ()),
        ratio=ratio,
        noise=noise,
        validation=validation,
        tokens=tuple(token) if token else DEFAULT_TOKENS,  # type: ignore[arg-type]  # its length is checked there
        seed=seed,
    )
    train, validate = read_splits(source, held_out=held_out, text=text, label=label)
    made = make_shortcut_data(train.sample(sentences, seed), validate, settings)
    inputs = [Path(source)] if Path(source).exists() else []  # else a hub id
    with atomic_directory(out, overwrite=overwrite, inputs=inputs) as partial:
        save_shortcut_data(made, partial)
    rows = {"train": len(made.train), "synthetic": len(made.synthetic or ()), "original": len(made.original)}
    if as_json:
        print_json({"path": str(out), "rules": settings.rules, "rows": rows})
        return
    rules = " + ".join(settings.rules) or "control (no rule)"
    print(f"{out}: {rules}; {rows['train']} to train, {rows['synthetic']} synthetic and {rows['original']} original to validate")
    shown = made.synthetic or made.original
    for line, value in zip(shown.texts[:3], shown.labels[:3], strict=True):
        print(f"  {value}  {line}")
