"""Fuse checkpoints: plan from headers, then stream tensor by tensor into a new checkpoint.

The plan knows every byte that will be read and written before the work starts. The work holds one part of one tensor from
each model at a time (``PART`` values), so memory grows neither with the model nor with its largest tensor.
"""

from __future__ import annotations

import json
import math
import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fuseforget.checkpoint import (
    DTYPES,
    MANIFEST_NAME,
    Checkpoint,
    Difference,
    TensorSpec,
    atomic_directory,
    file_sha256,
    open_checkpoint,
    parse_size,
    refuse_place,
    require_same,
    write_checkpoint,
)
from fuseforget.errors import InputError, OutputError
from fuseforget.methods import Method, get_method

if TYPE_CHECKING:
    import torch

__all__ = ["Fused", "Plan", "check_weights", "fuse", "plan"]

PART = 1 << 20  # values of one model worked on at once: 8 MiB in float64
OUTPUT_DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
WEIGHT_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Plan:
    """What a fusion will do, known from headers alone."""

    checkpoints: tuple[Checkpoint, ...]
    method: Method
    weights: tuple[float, ...]
    specs: tuple[TensorSpec, ...]
    dtype: str
    notes: tuple[Difference, ...]

    @property
    def inputs(self) -> list[Path]:
        return [checkpoint.path for checkpoint in self.checkpoints]

    @property
    def bytes_to_read(self) -> int:
        return sum(c.infos[spec.name].nbytes for spec in self.specs for c in self.checkpoints)

    @property
    def bytes_to_write(self) -> int:
        return sum(spec.nbytes for spec in self.specs)


@dataclass(frozen=True)
class Fused:
    """A checkpoint that was written: where, and its manifest (inputs, hashes, weights, method, versions)."""

    path: Path
    manifest: dict[str, Any]


def fuse(
    models: Sequence[str | Path],
    out: str | Path,
    method: str = "average",
    weights: Sequence[float] | None = None,
    *,
    normalize: bool = False,
    dtype: str = "auto",
    shard_size: str | int = "5GB",
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Fused:
    """Fuse checkpoints of one architecture into a new one at ``out``.

    Args:
        models: directories, hub ids or ``id@revision``, in the order of the weights.
        out: where the new checkpoint goes; it appears whole or not at all.
        method: a name in :data:`fuseforget.methods.METHODS`.
        weights: one a model, finite, not negative, summing to one (default: equal).
        normalize: divide the weights by their sum instead of refusing them.
        dtype: ``auto`` (the widest floating type of each tensor among the models), float32, bfloat16 or float16.
        shard_size: the largest weight file.
        overwrite: replace a checkpoint that stands at ``out``.
        progress: called with the number of bytes read since the last call.

    Raises:
        InputError: a model, a weight or an option that cannot be used; nothing is written.
        OutputError: the disk is full or cannot be written; nothing is left behind.
    """
    size = parse_size(shard_size)
    todo = plan(models, method, weights, normalize=normalize, dtype=dtype)
    return execute(todo, Path(out), shard_size=size, overwrite=overwrite, progress=progress)


def plan(
    models: Sequence[str | Path],
    method: str = "average",
    weights: Sequence[float] | None = None,
    *,
    normalize: bool = False,
    dtype: str = "auto",
) -> Plan:
    """Check everything that can be known before the work, and return what the work will be."""
    row = get_method(method)
    row.check_models(len(models))
    checked = check_weights(weights, len(models), normalize=normalize)
    if dtype != "auto" and dtype not in OUTPUT_DTYPES:
        raise InputError("dtype", expected=f"auto, {', '.join(OUTPUT_DTYPES)}", found=repr(dtype))
    checkpoints = tuple(open_checkpoint(model) for model in models)
    notes = require_same(checkpoints)
    names = [name for name in checkpoints[0] if all(name in c.infos for c in checkpoints)]
    specs = tuple(TensorSpec(n, _output_dtype(checkpoints, n, dtype), checkpoints[0].infos[n].shape) for n in names)
    return Plan(checkpoints, row, checked, specs, dtype, tuple(notes))


def check_weights(weights: Sequence[float] | None, count: int, *, normalize: bool = False) -> tuple[float, ...]:
    """Return convex weights (Eq. 1: alpha_i >= 0, sum 1), or raise InputError saying which rule is broken.

    A sum that is one up to rounding (1e-6) is made one exactly.
    """
    values = [1 / count] * count if weights is None else [float(w) for w in weights]
    if len(values) != count:
        raise InputError("weights", expected=f"one for each of {count} models", found=f"{len(values)}")
    if not all(math.isfinite(w) for w in values):
        raise InputError("weights", expected="finite numbers", found=str(values))
    if any(w < 0 for w in values):
        raise InputError("weights", expected="no negative weight (Eq. 1 is a convex combination)", found=str(values))
    total = math.fsum(values)
    if total == 0 or (abs(total - 1) > WEIGHT_TOLERANCE and not normalize):
        hint = "" if total == 0 else "Pass --normalize to divide them by their sum."
        raise InputError("weights", expected="a sum of 1", found=f"{values}, a sum of {total:g}", action=hint)
    return tuple(w / total for w in values)


def execute(
    todo: Plan,
    out: Path,
    *,
    shard_size: int,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Fused:
    """Carry a plan out and publish the checkpoint at ``out``."""
    check_out(todo, out, overwrite=overwrite)
    with atomic_directory(out, overwrite=overwrite, inputs=todo.inputs) as partial, ThreadPoolExecutor(1) as pool:
        # Hashing reads the files a second time, from the page cache, beside the work.
        hashes = pool.submit(_hash_inputs, todo.checkpoints)
        write_checkpoint(partial, todo.specs, lambda spec: _fuse_tensor(todo, spec, progress), shard_size)
        _copy_companions(todo, partial)
        manifest = _manifest(todo, hashes.result())
        (partial / MANIFEST_NAME).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return Fused(out, manifest)


def _output_dtype(checkpoints: Sequence[Checkpoint], name: str, wanted: str) -> str:
    dtypes = [c.infos[name].dtype for c in checkpoints]
    if not checkpoints[0].infos[name].floating:
        return dtypes[0]
    if wanted != "auto":
        return OUTPUT_DTYPES[wanted]
    widest = max(DTYPES[dtype].nbytes for dtype in dtypes)
    among = {dtype for dtype in dtypes if DTYPES[dtype].nbytes == widest}
    # float16 and bfloat16 hold different numbers; only float32 holds both.
    return among.pop() if len(among) == 1 else "F32"


def check_out(todo: Plan, out: Path, *, overwrite: bool) -> None:
    """Raise unless the plan's checkpoint can be written to ``out``: nothing there, no model of its own, disk enough."""
    refuse_place(out, overwrite=overwrite, inputs=todo.inputs)
    parent = next(p for p in (out.absolute(), *out.absolute().parents) if p.is_dir())
    free = shutil.disk_usage(parent).free
    if free < todo.bytes_to_write:
        raise OutputError(
            str(out),
            expected=f"{todo.bytes_to_write:,} bytes of free disk",
            found=f"{free:,}",
            action="Free some space.",
        )


def _fuse_tensor(todo: Plan, spec: TensorSpec, progress: Callable[[int], None] | None) -> Iterator[torch.Tensor]:
    """Yield one fused tensor in flat parts of its output dtype."""
    import torch

    sources = [checkpoint[spec.name].reshape(-1) for checkpoint in todo.checkpoints]
    dtype = getattr(torch, DTYPES[spec.dtype].torch_name)
    floating = DTYPES[spec.dtype].floating
    statistics = _statistics(todo.method, sources) if floating else None
    for start in range(0, sources[0].numel(), PART):
        parts = [source[start : start + PART] for source in sources]
        if floating:
            fused = todo.method.function([part.double() for part in parts], todo.weights, statistics)
            yield fused.to(dtype)
        else:
            _require_equal(todo, spec, parts)
            yield parts[0]
        if progress is not None:
            progress(sum(part.nbytes for part in parts))
    for checkpoint in todo.checkpoints:
        checkpoint.release(spec.name)


def _statistics(method: Method, sources: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """Add up a method's statistics over parts of one fixed size, so that they do not depend on sharding."""
    if method.statistics is None:
        return None
    total = None
    for start in range(0, sources[0].numel(), PART):
        part = method.statistics([source[start : start + PART].double() for source in sources])
        total = part if total is None else total + part
    return total


def _require_equal(todo: Plan, spec: TensorSpec, parts: Sequence[torch.Tensor]) -> None:
    import torch

    for checkpoint, part in zip(todo.checkpoints[1:], parts[1:], strict=True):
        if not torch.equal(parts[0], part):
            raise InputError(
                f"tensor {spec.name} ({spec.dtype})",
                expected=f"the values of {todo.checkpoints[0].source}, since whole numbers cannot be averaged",
                found=f"other values in {checkpoint.source}",
            )


def _copy_companions(todo: Plan, directory: Path) -> None:
    """Copy config, tokenizer and generation config of the first model; the config states the new dtype."""
    first = todo.checkpoints[0]
    for file in first.companions:
        if file.name != "config.json":
            shutil.copyfile(file, directory / file.name)
    config = {key: value for key, value in first.config.items() if key not in ("_name_or_path", "torch_dtype", "dtype")}
    floating = {spec.dtype for spec in todo.specs if DTYPES[spec.dtype].floating}
    if len(floating) == 1:
        config["dtype"] = DTYPES[floating.pop()].torch_name
    (directory / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _hash_inputs(checkpoints: Sequence[Checkpoint]) -> list[dict[str, str]]:
    return [{f.name: file_sha256(f) for f in [c.path / "config.json", *c.files]} for c in checkpoints]


def _manifest(todo: Plan, hashes: Sequence[dict[str, str]]) -> dict[str, Any]:
    return {
        "kind": "fusion",
        "method": todo.method.name,
        "models": [
            {"model": c.source, "weight": weight, "sha256": sha256}
            for c, weight, sha256 in zip(todo.checkpoints, todo.weights, hashes, strict=True)
        ],
        "dtype": todo.dtype,
        "versions": {
            "fuseforget": version("fuseforget"),
            "torch": version("torch"),
            "python": platform.python_version(),
        },
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
