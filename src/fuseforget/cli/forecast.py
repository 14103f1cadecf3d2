"""``fuseforget forecast``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fuseforget.cli.output import print_json, print_table

if TYPE_CHECKING:
    from fuseforget.forecast import Forecast
    from fuseforget.geometry import Sums

__all__ = ["command"]

TITLES = {
    "survival": "survival", "layer_survival": "by layer", "fisher_survival": "by Fisher", "fisher_likelihood": "likelihood",
}  # fmt: skip

NOTE = """Survival: the share of a model's change that is in the fusion; its weight alone where the others' changes are
unrelated, 1 where all went the same way. It says what the weights keep, not what the model knows. Measured on all pairs of
seven shortcuts in a small BERT, it did not rank what was kept (rank correlation -0.18 [-0.78, 0.59]); how well each model
does on the others' probes did (0.73 [-0.07, 0.96], p = .004 corrected). `fuseforget probe` asks that, before or after."""


def command(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Directories, hub ids or id@revision.")],
    base: Annotated[str, typer.Option(metavar="MODEL", help="What the models were tuned from, or a control.")],
    weight: Annotated[list[float] | None, typer.Option(metavar="W", help="One a model, in order; default: all alike.")] = None,
    fisher: Annotated[
        list[str] | None,
        typer.Option(metavar="DIR", help="A checkpoint a model, in order, that holds its diagonal Fisher on what it knows."),
    ] = None,
    layers: Annotated[bool, typer.Option("--layers", help="Also print the survival by layer.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say before fusing how much of each model's change an average keeps, from the weights alone."""
    from fuseforget.checkpoint import open_checkpoint
    from fuseforget.forecast import forecast

    fishers = [open_checkpoint(one) for one in fisher] if fisher else None
    found = forecast(models, base, weights=weight, fishers=fishers)
    if as_json:
        print_json(_described(found))
        return
    _print_pairs(found)
    _print_models(found)
    if layers:
        names = [f"{number}" for number in range(1, len(models) + 1)]
        rows = [[layer, *map(_share, shares)] for layer, shares in found.survival_by_layer().items()]
        print()
        print_table(["layer", *names], rows, "Survival by layer, by the models' numbers above")
    if found.geometry.left_out:
        print(f"\nLeft out, since the base does not have them in that shape: {', '.join(found.geometry.left_out)}")


def _print_pairs(found: Forecast) -> None:
    geometry, whole = found.geometry, found.geometry.whole
    rows = [
        [geometry.models[i], geometry.models[j], f"{whole.cosine[i, j]:.3f}", _share(whole.conflict[i, j]),
         _share(whole.weighted_conflict[i, j]), f"{whole.norm_ratio[i, j]:.3f}"]
        for i in range(len(geometry.models)) for j in range(i + 1, len(geometry.models))
    ]  # fmt: skip
    header = ["model", "and", "cosine", "signs in conflict", "by size", "length ratio"]
    print_table(header, rows, f"Changes of the models from {geometry.base}")


def _print_models(found: Forecast) -> None:
    columns = [name for name in TITLES if name in found.predictions]
    rows = [
        [str(number + 1), model, f"{found.weights[number]:.4g}", *(_share(found.predictions[name][number]) for name in columns)]
        for number, model in enumerate(found.geometry.models)
    ]
    print()
    print_table(["", "model", "weight", *(TITLES[name] for name in columns)], rows, "What fusing them is forecast to keep")
    print(NOTE)


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _described(found: Forecast) -> dict[str, Any]:
    geometry = found.geometry
    return {
        "models": list(geometry.models),
        "base": geometry.base,
        "weights": list(found.weights),
        "predictions": {name: _numbers(values) for name, values in found.predictions.items()},
        "whole": _sums(geometry.whole, found),
        "by_layer": {layer: _sums(sums, found) for layer, sums in geometry.by_layer().items()},
        "by_kind": {kind: _sums(sums, found) for kind, sums in geometry.by_kind().items()},
        "left_out": list(geometry.left_out),
    }


def _sums(sums: Sums, found: Forecast) -> dict[str, Any]:
    """Matrices in the order of the models; null where a model changed nothing."""
    matrices = {name: getattr(sums, name) for name in ("cosine", "norm_ratio", "conflict", "weighted_conflict")}
    return {
        "values": sums.values,
        "norms": _numbers(sums.norms),
        "survival": _numbers(sums.survival(found.weights)),
        **{name: [_numbers(row) for row in matrix] for name, matrix in matrices.items()},
    }


def _numbers(values: Any) -> list[float | None]:
    return [None if math.isnan(value) else float(value) for value in values]
