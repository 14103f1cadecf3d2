"""The function ``fuse``: a recipe, planned, streamed, and published with the manifest from which it can be made again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fuseforget.checkpoint import MANIFEST_NAME, OutputFiles, atomic_directory, parse_size, refuse_place
from fuseforget.errors import InputError, OutputError
from fuseforget.fuse.lowrank import fuse_adapters
from fuseforget.fuse.manifest import Fused, Hashing, manifest_of, require_hashes
from fuseforget.fuse.plan import Plan
from fuseforget.fuse.planning import plan_recipe
from fuseforget.fuse.recipe import make_recipe
from fuseforget.fuse.stream import stream
from fuseforget.methods import METHODS

__all__ = ["execute", "fuse", "require_ready"]


def fuse(
    models: Sequence[str | Path],
    out: str | Path,
    method: str = "average",
    weights: Sequence[Any] | None = None,
    *,
    base: str | Path | None = None,
    statistics: Sequence[str | Path] = (),
    normalize: bool = False,
    dtype: str = "auto",
    tokenizer: str = "same",
    seed: int = 0,
    allow_nonfinite: bool = False,
    shard_size: str | int = "5GB",
    as_adapter: int | str | None = None,
    device: str = "cpu",
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
    **parameters: Any,
) -> Fused:
    """Fuse checkpoints of one architecture into a new one at ``out``.

    Args:
        models: directories, hub ids, ``id@revision`` or adapters, in the order of the weights.
        out: where the new checkpoint goes; it appears whole or not at all.
        method: a name in :data:`fuseforget.methods.METHODS`.
        weights: one a model (default: the method's): a number, a list that is interpolated over depth, or a list of
            ``{"filter": PATTERN, "value": ...}`` on tensor names. For ``average`` they are not negative and sum to one.
        base: the pretrained model, where the method takes one.
        statistics: a checkpoint of statistics for each model, where the method takes them.
        normalize: divide the weights by their sum.
        dtype: ``auto`` (the widest floating type of each tensor among the models), float32, bfloat16 or float16.
        tokenizer: ``same`` (refuse vocabularies that differ), or whose tokens the output has: ``first``, ``base``, ``union``.
        seed: of random methods.
        allow_nonfinite: fuse tensors with NaN or infinity all the same.
        shard_size: the largest weight file.
        as_adapter: fuse adapters into one adapter of this rank, or of the ``sum`` of their ranks, which loses nothing.
        device: where to compute: ``cpu``, ``cuda``.
        overwrite: replace a checkpoint that stands at ``out``.
        progress: called with the number of input bytes done since the last call.
        parameters: of the method, in the forms of the weights; ``**{"density:2": .5}`` is that of the second model.

    Raises:
        InputError: a model, a weight, a parameter or an option that cannot be used; nothing is written.
        OutputError: the disk is full or cannot be written; nothing is left behind.
    """
    size = parse_size(shard_size)
    recipe = make_recipe(
        models, method, weights, parameters, base=None if base is None else str(base),
        statistics=tuple(str(s) for s in statistics), normalize=normalize, dtype=dtype, tokenizer=tokenizer, seed=seed,
        allow_nonfinite=allow_nonfinite, as_adapter=as_adapter,
    )  # fmt: skip
    return execute(plan_recipe(recipe), Path(out), shard_size=size, device=device, overwrite=overwrite, progress=progress)


def execute(
    plan: Plan,
    out: Path,
    *,
    shard_size: int,
    device: str = "cpu",
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Fused:
    """Carry a plan out and publish the checkpoint, or the adapter, at ``out``."""
    require_ready(plan, out, device=device, overwrite=overwrite)
    if plan.recipe.as_adapter is not None:
        return fuse_adapters(plan, out, overwrite=overwrite)
    with plan.files, atomic_directory(out, overwrite=overwrite, inputs=plan.inputs) as partial, Hashing(plan) as hashing:
        with OutputFiles(partial, plan.specs, shard_size) as outputs:
            survey = stream(plan, outputs, device=device, progress=progress)
        _copy_companions(plan, partial)
        digests = hashing.result()
        plan.files.verify()
        require_hashes(plan, digests)
        manifest = manifest_of(plan, digests, survey)
        (partial / MANIFEST_NAME).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return Fused(out, manifest)


def require_ready(plan: Plan, out: Path, *, device: str = "cpu", overwrite: bool = False) -> int:
    """Raise unless the plan can be carried out: nothing at ``out`` and none of the inputs, disk enough, a device that is there.

    Returns:
        The bytes of free disk there.
    """
    _require_device(plan, device)
    refuse_place(out, overwrite=overwrite, inputs=plan.inputs)
    parent = next(p for p in (out.absolute(), *out.absolute().parents) if p.is_dir())
    free = shutil.disk_usage(parent).free
    if free < plan.bytes_to_write and plan.recipe.as_adapter is None:
        raise OutputError(
            str(out), expected=f"{plan.bytes_to_write:,} bytes of free disk", found=f"{free:,}", action="Free some space."
        )  # fmt: skip
    return free


def _require_device(plan: Plan, device: str) -> None:
    if device == "cpu":
        return
    import torch

    kind = device.partition(":")[0]
    if kind != "cuda":
        raise InputError("device", expected="cpu or cuda", found=repr(device))
    if not plan.method.whole or plan.recipe.as_adapter is not None:
        helped = ", ".join(m.name for m in METHODS.values() if m.whole)
        raise InputError(
            f"device for {plan.method.name}", expected="cpu, where this method is as fast as the disk", found=repr(device),
            action=f"cuda helps methods that decompose matrices: {helped}.",
        )  # fmt: skip
    if not torch.cuda.is_available():
        raise InputError("device", expected="cpu, since torch finds no CUDA device here", found=repr(device))


def _copy_companions(plan: Plan, directory: Path) -> None:
    """Copy the first model's generation config and tokenizer (or that of whose tokens the output has); write the config."""
    chosen = [one.tokenizer for one in plan.alignments if one.tokenizer is not None]
    origin, changed = chosen[0] if chosen else (plan.checkpoints[0], None)
    for file in origin.companions:
        if file.name != "config.json":
            shutil.copyfile(file, directory / file.name)
    if changed is not None:
        (directory / "tokenizer.json").write_text(json.dumps(changed, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (directory / "config.json").write_text(json.dumps(plan.config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
