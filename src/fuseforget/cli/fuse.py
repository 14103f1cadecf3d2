"""``fuseforget fuse``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fuseforget.cli.output import print_json, print_table, size_text
from fuseforget.errors import InputError

if TYPE_CHECKING:
    from fuseforget.fuse import Fused, Plan, Recipe

__all__ = ["command", "parse_parameters", "parse_value"]


def command(
    out: Annotated[Path, typer.Option("-o", "--out", help="Where the new checkpoint goes.")],
    models: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL...", help="Directories, hub ids, id@revision or adapters.")
    ] = None,
    method: Annotated[str, typer.Option(help="A name from `fuseforget methods`.")] = "average",
    weight: Annotated[
        list[str] | None, typer.Option(metavar="W", help="One a model, in order: .5, or 0,.5,1 from the first layer to the last.")
    ] = None,
    base: Annotated[str | None, typer.Option(metavar="MODEL", help="The pretrained model that the others come from.")] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="A parameter of the method: density=.5; over depth density=.9,.5; of the 2nd model density:2=.3; by name "
            "density@mlp=.3.",
        ),
    ] = None,
    statistics: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL", help="A statistics checkpoint a model (fisher, fisher_consensus, regmean)."),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A manifest (fuseforget.json) or mergekit's YAML, instead of MODEL....")
    ] = None,
    as_adapter: Annotated[
        str | None,
        typer.Option(metavar="RANK", help="Fuse adapters into one adapter of this rank; `sum` for the sum of their ranks."),
    ] = None,
    normalize: Annotated[bool, typer.Option("--normalize", help="Divide the weights by their sum.")] = False,
    tokenizer: Annotated[str, typer.Option(help="Whose tokens, where they differ: same (refuse), first, base, union.")] = "same",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of random methods.")] = 0,
    device: Annotated[str, typer.Option(help="Where to compute: cpu or cuda.")] = "cpu",
    shard_size: Annotated[str, typer.Option(help="The largest weight file.")] = "5GB",
    allow_nonfinite: Annotated[bool, typer.Option("--allow-nonfinite", help="Fuse NaN and infinity all the same.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what stands at OUT.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Fuse checkpoints of one architecture into a new one, streamed block by block."""
    from fuseforget.checkpoint import parse_size
    from fuseforget.fuse import execute, make_recipe, plan_recipe, require_ready

    size = parse_size(shard_size)
    if recipe is not None:
        beside = (models, weight, param, base, statistics, normalize, allow_nonfinite, as_adapter, seed)
        chosen = _read_recipe(recipe, any(beside) or (method, tokenizer, dtype) != ("average", "same", "auto"))
    else:
        chosen = make_recipe(
            models or [], method, None if weight is None else [parse_value(w) for w in weight], parse_parameters(param or []),
            base=base, statistics=tuple(statistics or ()), normalize=normalize, tokenizer=tokenizer, dtype=dtype, seed=seed,
            allow_nonfinite=allow_nonfinite, as_adapter=_rank(as_adapter),
        )  # fmt: skip
    plan = plan_recipe(chosen)
    free = require_ready(plan, out, device=device, overwrite=overwrite)
    _say(plan.notes)
    if chosen.as_adapter is None:
        _announce(plan, free)
        with _bar(plan.bytes_to_read) as advance:
            fused = execute(plan, out, shard_size=size, device=device, overwrite=overwrite, progress=advance)
    else:
        fused = execute(plan, out, shard_size=size, device=device, overwrite=overwrite)
    _say(fused.manifest["notes"][len(plan.notes) :])
    if as_json:
        print_json({"path": str(fused.path), **fused.manifest})
    else:
        _summarise(plan, fused)


def _say(notes: Sequence[str]) -> None:
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


def _rank(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.isdecimal() else text


def parse_value(text: str) -> Any:
    """A setting from the command line: a number, numbers with commas between them, or YAML."""
    import yaml

    stripped = text.strip()
    try:
        return yaml.safe_load(f"[{stripped}]" if "," in stripped and stripped[0] not in "[{" else stripped)
    except yaml.YAMLError as error:
        raise InputError("value", expected="a number, a list, or YAML", found=repr(text)) from error


def parse_parameters(texts: Sequence[str]) -> dict[str, Any]:
    """``NAME[:MODEL][@PATTERN]=VALUE`` as settings; patterns count in the order given, before the value without one."""
    plain: dict[str, Any] = {}
    filtered: dict[str, list[dict[str, Any]]] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise InputError("--param", expected="NAME=VALUE", found=repr(text))
        name, at, pattern = key.partition("@")
        if at:
            filtered.setdefault(name, []).append({"filter": pattern, "value": parse_value(value)})
        elif name in plain:
            raise InputError("--param", expected="a parameter once", found=f"{name} twice")
        else:
            plain[name] = parse_value(value)
    fallback = {name: [{"value": plain[name]}] if name in plain else [] for name in filtered}
    return {**plain, **{name: [*entries, *fallback[name]] for name, entries in filtered.items()}}


def _read_recipe(file: Path, beside: bool) -> Recipe:
    from fuseforget.fuse import read_recipe

    if beside:
        raise InputError("--recipe", expected="everything that makes the result in the recipe", found="options beside it")
    return read_recipe(file)


def _announce(plan: Plan, free: int) -> None:
    """Say before the work what it needs."""
    from fuseforget.fuse import memory_needed

    sizes = [size_text(size) for size in (plan.bytes_to_read, plan.bytes_to_write, free, memory_needed(plan))]
    print("reads {}, writes {} ({} free), holds at most {} in memory".format(*sizes), file=sys.stderr)


@contextmanager
def _bar(total: int) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda count: bar.advance(task, count)


def _summarise(plan: Plan, fused: Fused) -> None:
    models = plan.recipe.models
    if plan.recipe.as_adapter is not None:
        _summarise_adapter(plan, fused)
        return
    print(f"{fused.path}: {plan.method.name} of {len(models)} model{'s' if len(models) > 1 else ''}, "
          f"{len(plan.specs)} tensors, {size_text(plan.bytes_to_write)}")  # fmt: skip
    shares = plan.weights if plan.weights is not None and plan.method.weights != "no" else None
    for number, model in enumerate(models):
        print(f"  {'' if shares is None else f'{shares[number]:.4f}  '}{model}")
    if plan.recipe.base is not None:
        print(f"  base: {plan.recipe.base}")
    if plan.added_tokens:
        print_table(["added token", "id", "from"], [[repr(t.token), str(t.id), ", ".join(t.models)] for t in plan.added_tokens])


def _summarise_adapter(plan: Plan, fused: Fused) -> None:
    cut = fused.manifest["truncation"]
    ranks = sorted({one["rank"] for one in cut["tensors"].values()})
    print(f"{fused.path}: {plan.method.name} of {len(plan.checkpoints)} adapters, {len(cut['tensors'])} matrices of rank "
          f"{', '.join(map(str, ranks))}")  # fmt: skip
    if cut["error"] == 0:
        print("  nothing is lost")
        return
    worst = max(cut["tensors"].items(), key=lambda item: item[1]["error"])
    print(f"  lost by the cut: {cut['error']:.2%} of the change's norm; most in {worst[0]}, {worst[1]['error']:.2%}")
