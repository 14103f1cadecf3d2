"""``fuseforget train``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fuseforget.cli.output import print_json, progress_lines

if TYPE_CHECKING:
    from fuseforget.train import TrainResult

__all__ = ["command"]


def command(
    base: Annotated[str, typer.Option(help="The pretrained model, a directory or a hub id.")],
    data: Annotated[Path, typer.Option(help="A data set made by `fuseforget data`.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Where the model goes.")],
    max_epochs: Annotated[int, typer.Option(help="At most so many passes over the data.")] = 3,
    min_epochs: Annotated[int, typer.Option(help="At least so many.")] = 1,
    stop_above: Annotated[float, typer.Option(help="Stop when the shortcut's accuracy exceeds this.")] = 0.95,
    learning_rate: Annotated[float, typer.Option(help="Of AdamW.")] = 2e-5,
    batch_size: Annotated[int, typer.Option(help="Examples a step, of all processes together.")] = 32,
    token_budget: Annotated[int, typer.Option(help="Tokens computed at once; a step of more is computed in parts.")] = 16384,
    precision: Annotated[str, typer.Option(help="auto (bfloat16 where the hardware is faster in it) or float32.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of the order of the data and of dropout.")] = 0,
    init_seed: Annotated[int, typer.Option(help="Of the new head and token embeddings; keep it for all specialists.")] = 0,
    part: Annotated[
        list[str] | None, typer.Option(help="Of a private corpus: the model whose part is read; several: one model reads all.")
    ] = None,
    schedule: Annotated[str, typer.Option(help="Of a private corpus: linear or constant.")] = "linear",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what stands at OUT.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Fine-tune a base on a data set; interrupted, it goes on from its last epoch when called again.

    Several processes train one model when `accelerate launch -m fuseforget train ...` launches them.
    """
    from fuseforget.train import train
    from fuseforget.train.processes import is_main

    say = progress_lines() if is_main() else _silent
    result = train(
        base, data, out, max_epochs=max_epochs, min_epochs=min_epochs, stop_above=stop_above, learning_rate=learning_rate,
        batch_size=batch_size, token_budget=token_budget, precision=precision, seed=seed, init_seed=init_seed,
        parts=part or (), schedule=schedule, overwrite=overwrite, say=say,
    )  # fmt: skip
    if not is_main():
        return
    if as_json:
        print_json({"path": str(out), **asdict(result)})
        return
    known = f", shortcut accuracy {result.monitored[-1]:.3f}" if result.monitored else ""
    print(f"{out}: {result.epochs} epochs, {result.steps} steps in {result.seconds:.0f} s, loss {result.losses[-1]:.3f}{known}")
    print(_throughput(result))


def _throughput(result: TrainResult) -> str:
    """How fast the training was, in a line."""
    timing = result.timing
    assert result.tokens is not None
    assert result.padding is not None
    of_peak = "" if timing.peak_share is None else f", {timing.peak_share:.0%} of the matrix peak"
    return (
        f"{result.tokens:,} tokens, {timing.tokens_per_second:,.0f} a second in {result.precision}{of_peak}; "
        f"{result.padding:.1%} of what was computed was padding"
    )


def _silent(line: str) -> None:
    """What the first of several processes says is said once."""
