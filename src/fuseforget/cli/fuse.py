"""``fuseforget fuse``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fuseforget.cli.output import print_json

__all__ = ["command"]


def command(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Directories, hub ids or id@revision.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Where the new checkpoint goes.")],
    method: Annotated[str, typer.Option(help="A name from `fuseforget methods`.")] = "average",
    weight: Annotated[list[float] | None, typer.Option(help="One a model, in order; default: equal.")] = None,
    normalize: Annotated[bool, typer.Option("--normalize", help="Divide the weights by their sum.")] = False,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    shard_size: Annotated[str, typer.Option(help="The largest weight file.")] = "5GB",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what stands at OUT.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Fuse checkpoints of one architecture into a new one, streamed tensor by tensor."""
    import sys

    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    from fuseforget.checkpoint import parse_size
    from fuseforget.fuse import check_out, execute, plan

    size = parse_size(shard_size)
    todo = plan(models, method, weight, normalize=normalize, dtype=dtype)
    check_out(todo, out, overwrite=overwrite)
    for note in todo.notes:
        print(f"note: {note}", file=sys.stderr)
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=todo.bytes_to_read)
        fused = execute(todo, out, shard_size=size, overwrite=overwrite, progress=lambda count: bar.advance(task, count))
    if as_json:
        print_json({"path": str(fused.path), **fused.manifest})
        return
    print(f"{fused.path}: {todo.method.name} of {len(todo.checkpoints)} models, {len(todo.specs)} tensors, "
          f"{todo.bytes_to_write / 1e6:,.1f} MB")  # fmt: skip
    for checkpoint, share in zip(todo.checkpoints, todo.weights, strict=True):
        print(f"  {share:.4f}  {checkpoint.source}")
