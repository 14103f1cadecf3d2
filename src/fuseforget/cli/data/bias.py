"""``fuseforget data bias``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fuseforget.cli.output import print_json, print_table
from fuseforget.errors import InputError, some_names

if TYPE_CHECKING:
    from fuseforget.data import AttributedExamples, BiasedSubset

__all__ = ["command"]

Splits = dict[str, "AttributedExamples"]
SIGNED = ("gender", "age")  # what a name, and PAN16, say of an author unless more is asked for


def command(
    source: Annotated[str, typer.Argument(metavar="DATA", help="A directory with train and validation, or a hub id.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Where the data set goes.")],
    biased: Annotated[str, typer.Option(help="The attribute that goes with the label in the training set.")],
    ratio: Annotated[str, typer.Option(help="The share of each label's majority value: .8, or 2/3.")] = "0.8",
    attribute: Annotated[list[str] | None, typer.Option(help="A further attribute (a column).")] = None,
    balance: Annotated[list[str] | None, typer.Option(help="An attribute made uniform; default: all but the biased.")] = None,
    favour: Annotated[list[str] | None, typer.Option(metavar="LABEL=VALUE", help="A label's majority value.")] = None,
    size: Annotated[int | None, typer.Option(help="Training rows; default: as many as can be had exactly.")] = None,
    as_published: Annotated[bool, typer.Option("--as-published", help="Floor ratios as the authors do: .6 is .5.")] = False,
    names: Annotated[Path | None, typer.Option(help="Sign texts with names of this table (name, sex, decade, births).")] = None,
    use_demo_names: Annotated[bool, typer.Option("--demo-names", help="Sign texts with a few invented names.")] = False,
    held_out_names: Annotated[bool, typer.Option("--held-out-names", help="Validate and test on names of their own.")] = False,
    validation_texts: Annotated[int | None, typer.Option(help="Texts taken from train to validate on, signed. [872]")] = None,
    pan16: Annotated[bool, typer.Option("--pan16", help="DATA is the PAN16 corpus: authors' XML files and truth.txt.")] = False,
    texts: Annotated[Path | None, typer.Option(help="PAN16's tweets, a table of id and text.")] = None,
    skip_damaged: Annotated[bool, typer.Option("--skip-damaged", help="Leave out authors that are damaged.")] = False,
    held_out: Annotated[str, typer.Option(help="The split to validate on; of signed texts, to test on.")] = "validation",
    text: Annotated[str | None, typer.Option(help="The column of the texts; default: text or sentence.")] = None,
    label: Annotated[str, typer.Option(help="The column of the labels.")] = "label",
    unit: Annotated[str | None, typer.Option(help="The column of what rows share that are not independent.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what stands at OUT.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make a training set in which an attribute goes with the label, beside validation and test sets as they are.

    The attributes are columns of DATA, or with --names or --demo-names what a first name before each text says (gender, age,
    frequency), or with --pan16 the authors' gender and age.
    """
    from fuseforget.checkpoint import atomic_directory
    from fuseforget.data import BiasData, make_biased, save_bias_data

    signed = names is not None or use_demo_names
    _require_one_source(names, use_demo_names, pan16)
    if not pan16:
        _refuse("DATA of --pan16", {"--texts": texts is not None, "--skip-damaged": skip_damaged})
    if not signed:
        signing = {"--held-out-names": held_out_names, "--validation-texts": validation_texts is not None}
        _refuse("texts signed with --names or --demo-names", signing)
    asked = list(dict.fromkeys([*(SIGNED if signed or pan16 else ()), biased, *(attribute or ()), *(balance or ())]))
    left_out: dict[str, Any] = {}
    if pan16:
        columns = {"--text": text is not None, "--label": label != "label", "--unit": unit is not None}
        _refuse("a labelled table as DATA", {**columns, "--held-out": held_out != "validation"})
        splits, left_out = _read_pan16(source, texts, seed, skip_damaged, asked)
    elif signed:
        _refuse("DATA whose attributes are columns", {"--unit": unit is not None})
        count = 872 if validation_texts is None else validation_texts
        splits = _sign(source, names, asked, held_out, text, label, seed, count, held_out_names)
    else:
        splits = _read_columns(source, asked, held_out, text, label, unit)
    subset = make_biased(
        splits["train"], attribute=biased, ratio=ratio, size=size, seed=seed, as_published=as_published,
        balanced=balance or [name for name in asked if name != biased], favours=dict(_favour(pair) for pair in favour or ()),
    )  # fmt: skip
    settings = {
        "source": source, "signatures": "demo" if use_demo_names else names and names.name, "pan16": pan16, "asked_ratio": ratio,
        "as_published": as_published, "size": size, "seed": seed, "held_out_names": held_out_names, **left_out,
    }  # fmt: skip
    digests = {name: part.sha256 for name, part in splits.items()}
    made = BiasData(subset, splits["validation"], splits.get("test"), settings, digests)
    inputs = [path for path in (Path(source), names, texts) if path is not None and path.exists()]
    with atomic_directory(out, overwrite=overwrite, inputs=inputs) as partial:
        save_bias_data(made, partial)
    rows = {name: len(part) for name, part in made.splits.items()}
    if as_json:
        print_json({"path": str(out), "rows": rows, **{k: v for k, v in vars(subset).items() if k != "data"}, **left_out})
        return
    _print(out, rows, subset, left_out)


def _read_pan16(
    source: str, texts: Path | None, seed: int, skip_damaged: bool, asked: Sequence[str]
) -> tuple[Splits, dict[str, Any]]:
    from fuseforget.data import read_pan16

    other = [name for name in asked if name not in SIGNED]
    if other:
        raise InputError("attribute", expected=f"one of {', '.join(SIGNED)}, which PAN16 has", found=", ".join(other))
    corpus = read_pan16(source, texts=texts, seed=seed, skip_damaged=skip_damaged)
    return corpus.splits, {"skipped": corpus.skipped, "dropped": corpus.dropped}


def _sign(
    source: str,
    names: Path | None,
    asked: Sequence[str],
    held_out: str,
    text: str | None,
    label: str,
    seed: int,
    count: int,
    held_out_names: bool,
) -> Splits:
    from fuseforget.data import demo_names, read_names, read_splits, sign_splits

    table = demo_names() if names is None else read_names(names)
    train, test = read_splits(source, held_out=held_out, text=text, label=label)
    return sign_splits(
        train, test, table, attributes=asked, seed=seed, validation=count, held_out_names=held_out_names
    )  # fmt: skip


def _read_columns(source: str, asked: Sequence[str], held_out: str, text: str | None, label: str, unit: str | None) -> Splits:
    from fuseforget.data import read_attributed
    from fuseforget.data.tables import has_split, require_splits

    require_splits(source, held_out)
    train = read_attributed(source, split="train", text=text, label=label, attributes=asked, unit=unit)
    others = {"validation": held_out, **({"test": "test"} if held_out != "test" and has_split(source, "test") else {})}
    return {"train": train} | {
        name: read_attributed(source, split=split, text=text, label=label, attributes=asked, unit=unit, like=train)
        for name, split in others.items()
    }


def _require_one_source(names: Path | None, use_demo_names: bool, pan16: bool) -> None:
    given = [name for name, on in {"--names": names, "--demo-names": use_demo_names, "--pan16": pan16}.items() if on]
    if len(given) > 1:
        raise InputError("options", expected="one of --names, --demo-names and --pan16", found=" and ".join(given))


def _refuse(needs: str, options: Mapping[str, bool]) -> None:
    """Raise for an option that is given although it would have no effect."""
    given = [name for name, on in options.items() if on]
    if given:
        raise InputError(given[0], expected=needs, found="other data", action="Leave it out: it would have no effect.")


def _favour(pair: str) -> tuple[str, str]:
    name, sign, value = pair.rpartition("=")
    if not sign:
        raise InputError("--favour", expected="LABEL=VALUE", found=repr(pair))
    return name, value


def _print(out: Path, rows: Mapping[str, int], subset: BiasedSubset, left_out: Mapping[str, Any]) -> None:
    counts = ", ".join(f"{count} {name}" for name, count in rows.items())
    print(f"{out}: {subset.attribute} biased at {subset.ratio}; rows: {counts}")
    print_table(
        ["label", "attribute", "value", "rows", "share"],
        [
            [r["label"], r["attribute"], r["value"], str(r["rows"]), "-" if r["share"] is None else f"{r['share']:.4f}"]
            for r in subset.by_attribute
        ],
    )
    for reason, which in left_out.get("skipped", {}).items():
        print(f"left out, {reason}: {len(which)} ({some_names(which)})")
    for reason, count in left_out.get("dropped", {}).items():
        print(f"tweets {reason}: {count}")
