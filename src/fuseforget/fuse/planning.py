"""Plan a fusion: open what it reads, check everything that can be known before the work, and put the plan together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fuseforget.checkpoint import DTYPES, Adapter, Checkpoint, Difference, open_checkpoint, open_model
from fuseforget.checkpoint.compare import compare, refuse
from fuseforget.errors import InputError
from fuseforget.fuse.align import Alignment, align_labels, align_vocabularies, require_base_tokens
from fuseforget.fuse.plan import Plan, TensorPlan
from fuseforget.fuse.recipe import TOKENIZERS, Recipe, Slice
from fuseforget.fuse.settings import in_stack, number_of_layers
from fuseforget.fuse.sources import Files
from fuseforget.fuse.tensors import OUTPUT_DTYPES, TensorPlanner
from fuseforget.methods import Method, get_method

__all__ = ["plan_recipe"]


def plan_recipe(recipe: Recipe) -> Plan:
    """Check everything that can be known before the work, and return what the work will be.

    Raises:
        InputError: a model, weight, parameter or option that cannot be used.
        MismatchError: the models cannot be fused; all differences at once.
    """
    method = get_method(recipe.method)
    _check_recipe(recipe, method)
    checkpoints = tuple(open_model(model, recipe.base) for model in recipe.models)
    recipe = _with_base(recipe, method, checkpoints)
    given = None if recipe.base is None else open_checkpoint(recipe.base)
    base = None if method.base == "no" else given  # one that only the adapters need is none of the method's
    statistics = tuple(open_checkpoint(model) for model in recipe.statistics)
    files = Files()
    stacked = recipe.slices[0].layers is not None
    alignments = _align(recipe, checkpoints, base)
    notes = _require_same(checkpoints, alignments, stacked=stacked)
    planner = TensorPlanner(recipe, method, checkpoints, base, statistics, alignments, files)
    tensors = tuple(planner.stacked() if stacked else planner.whole())
    files.open(sorted({file for tensor in tensors for source in tensor.all_sources for file in source.files}))
    config = _config(checkpoints, recipe.slices, tensors) | {k: v for one in alignments for k, v in one.config.items()}
    everything = (*notes, *planner.notes())
    return Plan(recipe, method, checkpoints, given, statistics, tensors, config, everything, tuple(alignments), files)


def _check_recipe(recipe: Recipe, method: Method) -> None:
    for one in recipe.slices:
        method.check_models(len(one.models))
        for name, setting in one.settings.items():
            if isinstance(setting, tuple) and not method.parameter(name).per_model:
                raise InputError(
                    f"parameter {name} of method {method.name}", expected="one value for all models", found="one for each"
                )
    if recipe.dtype != "auto" and recipe.dtype not in OUTPUT_DTYPES:
        raise InputError("dtype", expected=f"auto, {', '.join(OUTPUT_DTYPES)}", found=repr(recipe.dtype))
    if recipe.tokenizer not in TOKENIZERS:
        raise InputError("tokenizer", expected=", ".join(TOKENIZERS), found=repr(recipe.tokenizer))
    rank = recipe.as_adapter
    if rank is not None and rank != "sum" and not (type(rank) is int and rank > 0):
        raise InputError("as_adapter", expected="a rank (1 or more), or sum", found=repr(rank))
    if not 0 <= recipe.seed < 2**63:
        raise InputError("seed", expected="a whole number from 0", found=str(recipe.seed))
    if len(recipe.statistics) != (len(recipe.models) if method.statistics else 0):
        needed = f"a statistics checkpoint for each model ({method.statistics})" if method.statistics else "no statistics"
        raise InputError(
            f"method {method.name}", expected=needed, found=str(len(recipe.statistics)),
            action="Pass --statistics once a model." if method.statistics else "",
        )  # fmt: skip
    if recipe.normalize and method.weights == "no":
        raise InputError(f"method {method.name}", expected="no weights to normalise, since it takes none", found="--normalize")


def _with_base(recipe: Recipe, method: Method, checkpoints: Sequence[Checkpoint]) -> Recipe:
    """The recipe with the base that its adapters name, where the method needs one and none was given."""
    bases = list(dict.fromkeys(c.base.source for c in checkpoints if isinstance(c, Adapter)))
    if len(bases) > 1:
        raise InputError("adapters", expected="one base", found=", ".join(bases), action="Pass --base MODEL.")
    if method.base == "required" and recipe.base is None and bases:
        return replace(recipe, base=bases[0])
    if not (bases and method.base == "no"):
        method.check_base(recipe.base is not None)
    return recipe


def _align(recipe: Recipe, checkpoints: Sequence[Checkpoint], base: Checkpoint | None) -> list[Alignment]:
    """How rows that mean different things are lined up: labels always, tokens where that was asked for."""
    labels = align_labels(checkpoints, base)
    found = [] if labels is None else [labels]
    if recipe.tokenizer != "same":
        everyone = [*checkpoints, *([] if base is None else [base])]
        tokens = align_vocabularies(everyone, None if base is None else len(checkpoints), recipe.tokenizer)
        found += [] if tokens is None else [tokens]
    elif base is not None:
        require_base_tokens(checkpoints[0], base)
    return found


def _require_same(checkpoints: Sequence[Checkpoint], alignments: Sequence[Alignment], *, stacked: bool) -> list[str]:
    """Raise one MismatchError with all differences that block fusing; return those that do not, as notes.

    Where slices are stacked, layers may differ in number; those that are fused are compared when they are planned.
    """
    stacks = {stack[0] for c in checkpoints if stacked and (stack := number_of_layers(c)) is not None}
    compared = compare(checkpoints, tensors=lambda name: not any(in_stack(name, prefix) for prefix in stacks))
    differences = [_aligned(d, checkpoints, alignments) for d in compared]
    refuse(differences)
    return [str(difference) for difference in differences]


def _aligned(difference: Difference, checkpoints: Sequence[Checkpoint], alignments: Sequence[Alignment]) -> Difference:
    """The difference, not blocking where an alignment takes care of it."""
    for one in alignments:
        mine = {"labels": "label order", "vocabulary": "tokenizer"}[one.kind]
        shapes = [c.infos[difference.name].shape for c in checkpoints if difference.name in c.infos]
        sizes = [size for c, size in zip(checkpoints, one.sizes, strict=False) if difference.name in c.infos]
        rows = difference.kind == "shape" and one.fits(difference.name, shapes, sizes)
        if difference.kind == mine or rows:
            return replace(difference, blocks=False)
    return difference


def _config(checkpoints: Sequence[Checkpoint], slices: Sequence[Slice], tensors: Sequence[TensorPlan]) -> dict[str, Any]:
    """The first model's configuration, with the output's dtype and, where slices are stacked, its number of layers."""
    first = checkpoints[0]
    config = {key: value for key, value in first.config.items() if key not in ("_name_or_path", "torch_dtype", "dtype")}
    floating = {tensor.spec.dtype for tensor in tensors if DTYPES[tensor.spec.dtype].floating}
    if len(floating) == 1:
        config["dtype"] = DTYPES[floating.pop()].torch_name
    stack = number_of_layers(first)
    if slices[0].layers is None or stack is None:
        return config
    taken = [(one.models[0], layer) for one in slices for layer in range(*one.layers[0])]  # type: ignore[index]  # all or none
    return _restacked(config, stack[1], taken, [c.config for c in checkpoints])


def _restacked(
    config: Mapping[str, Any], count: int, taken: Sequence[tuple[int, int]], originals: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """A configuration of ``count`` layers as one of the layers taken: (model, layer) each."""
    changed = dict(config)
    for key, value in config.items():
        if isinstance(value, Mapping):
            parts = [original.get(key) for original in originals]
            changed[key] = _restacked(value, count, taken, [p if isinstance(p, Mapping) else value for p in parts])
        elif "layer" in key and type(value) is int and value == count:
            changed[key] = len(taken)
        elif isinstance(value, list) and len(value) == count and not key.endswith(("architectures", "token_id")):
            # An entry for each layer (layer_types).
            own = [original.get(key, value) for original in originals]
            changed[key] = [own[model][layer] for model, layer in taken]
    return changed
