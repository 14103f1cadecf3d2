"""Fuse adapters into one adapter: exactly, with their ranks added up, or cut to a rank, with the error of the cut.

A weighted sum of low-rank changes has at most the sum of their ranks: ``sum_i c_i s_i B_i A_i = [c_1 s_1 B_1, ...] [A_1; ...]``.
Cut to a rank, it is the nearest matrix of that rank (Eckart and Young 1936), found from the small factors alone. What is no
weighted sum (TIES, DARE, ...) has no such form: it is fused as a matrix and cut.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fuseforget.checkpoint import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    MANIFEST_NAME,
    Adapter,
    Checkpoint,
    LowRank,
    TensorInfo,
    atomic_directory,
)
from fuseforget.errors import InputError
from fuseforget.fuse.manifest import Fused, Hashing, manifest_of, require_hashes
from fuseforget.fuse.plan import Plan, TensorPlan
from fuseforget.methods import fuse_in_memory, survey_in_memory
from fuseforget.methods.rounding import narrow

if TYPE_CHECKING:
    import torch

__all__ = ["Truncation", "fuse_adapters"]

PREFIX = "base_model.model."
SUMS = ("average", "task_arithmetic")


@dataclass(frozen=True)
class Truncation:
    """What a cut lost of one matrix.

    Attributes:
        name: the matrix.
        rank: of the result.
        lost, norm: Frobenius norms of what was cut off, and of the fused change.
    """

    name: str
    rank: int
    lost: float
    norm: float

    @property
    def error(self) -> float:
        """The share of the norm that was lost."""
        return self.lost / self.norm if self.norm > 0 else 0.0


def fuse_adapters(plan: Plan, out: Path, *, overwrite: bool = False) -> Fused:
    """Carry out a plan on adapters, and publish one adapter of their base at ``out``.

    Its rank is what the recipe's ``as_adapter`` says; its factors are float32 unless the recipe asks for another type.

    Raises:
        InputError: models that are no adapters of one base, DoRA (whose change depends on the base), a method that does
            not work on changes, or one whose result has no low rank without a cut.
    """
    rank = plan.recipe.as_adapter if isinstance(plan.recipe.as_adapter, int) else None
    adapters = _require_adapters(plan, rank)
    tensors: dict[str, torch.Tensor] = {}
    cuts: list[Truncation] = []
    with plan.files, atomic_directory(out, overwrite=overwrite, inputs=plan.inputs) as partial, Hashing(plan) as hashing:
        known = _survey(plan, adapters)
        for tensor in plan.tensors:
            if any(tensor.spec.name in adapter.low_rank for adapter in adapters):
                a, b, cut = _fuse_matrix(plan, tensor, adapters, rank, known)
                tensors |= _named(tensor.spec.name, a, b, adapters)
                cuts.append(cut)
            elif any(tensor.spec.name in adapter.whole for adapter in adapters):
                tensors[_name_of_whole(tensor.spec.name, adapters)] = _fuse_whole(plan, tensor, adapters, known)
        digests = hashing.result()
        plan.files.verify()
        require_hashes(plan, digests)
        _write(partial, _rounded(tensors, plan.recipe.dtype), _settings(adapters, cuts))
        truncation = {
            "rank": rank,
            "error": _overall(cuts),
            "tensors": {c.name: {"rank": c.rank, "error": c.error} for c in cuts},
        }
        manifest = {**manifest_of(plan, digests, known), "kind": "fusion into an adapter", "truncation": truncation}
        (partial / MANIFEST_NAME).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return Fused(out, manifest)


def _require_adapters(plan: Plan, rank: int | None) -> list[Adapter]:
    adapters = [c for c in plan.checkpoints if isinstance(c, Adapter)]
    if len(adapters) < len(plan.checkpoints):
        full = [c.source for c in plan.checkpoints if not isinstance(c, Adapter)]
        raise InputError("models", expected="adapters alone, to fuse them into one", found=f"full checkpoints: {', '.join(full)}")
    dora = [a.source for a in adapters if any(part.magnitude is not None for part in a.low_rank.values())]
    if dora:
        raise InputError(
            "adapters", expected="changes that do not depend on the base", found=f"DoRA: {', '.join(dora)}",
            action="Fuse them into a full checkpoint.",
        )  # fmt: skip
    if plan.method.statistics or (plan.method.name != "average" and plan.method.base != "required"):
        found = f"one that needs {plan.method.statistics} for each" if plan.method.statistics else "another"
        raise InputError(f"method {plan.method.name}", expected="average or a method on task vectors alone", found=found)
    if rank is None and plan.method.name not in SUMS:
        raise InputError(f"method {plan.method.name}", expected="a rank, since its result has none of its own", found="none")
    return adapters


def _survey(plan: Plan, adapters: Sequence[Adapter]) -> tuple[float, ...]:
    """What the method has to know of all tensors that are adapted before the first is fused."""
    if not plan.method.surveys:
        return ()
    found = []
    for tensor in plan.tensors:
        name = tensor.spec.name
        if tensor.method is None or not any(name in adapter.low_rank or name in adapter.whole for adapter in adapters):
            continue
        if any(name in adapter.low_rank for adapter in adapters):
            models, base = _whole_models(plan, tensor, adapters)
        else:
            models, base = [adapter[name] for adapter in adapters], _base_value(adapters[0].base, name)
        found.append(survey_in_memory(tensor.method, models, tensor.weights, base=base, name=name, **_values(tensor)))
    return tuple(map(math.fsum, zip(*filter(None, found), strict=True)))


def _fuse_matrix(
    plan: Plan, tensor: TensorPlan, adapters: Sequence[Adapter], rank: int | None, known: tuple[float, ...]
) -> tuple[torch.Tensor, torch.Tensor, Truncation]:
    """The factors ``A`` and ``B`` of the fused change (scale one), as adapters store them, and what the cut lost."""
    parts = [adapter.low_rank.get(tensor.spec.name) for adapter in adapters]
    if plan.method.name in SUMS:
        return _sum(plan, tensor, parts, rank)
    return _cut_fused(plan, tensor, adapters, rank, known)


def _sum(
    plan: Plan, tensor: TensorPlan, parts: Sequence[LowRank | None], rank: int | None
) -> tuple[torch.Tensor, torch.Tensor, Truncation]:
    import torch

    coefficients = _coefficients(plan, tensor)
    present = [(c, part) for c, part in zip(coefficients, parts, strict=True) if part is not None]
    a = torch.cat([_value(plan, part.a) for _, part in present], dim=0)
    b = torch.cat([_value(plan, part.b) * (c * part.scale) for c, part in present], dim=1)
    if rank is None or rank >= a.shape[0]:
        norm = math.sqrt(max(0.0, float(((b.T @ b) * (a @ a.T)).sum())))
        return a, b, Truncation(tensor.spec.name, a.shape[0], 0.0, norm)
    q_b, r_b = torch.linalg.qr(b)
    q_a, r_a = torch.linalg.qr(a.T)
    u, s, vt = torch.linalg.svd(r_b @ r_a.T)
    return _cut(tensor.spec.name, q_b @ u, s, vt @ q_a.T, rank)


def _cut_fused(
    plan: Plan, tensor: TensorPlan, adapters: Sequence[Adapter], rank: int | None, known: tuple[float, ...]
) -> tuple[torch.Tensor, torch.Tensor, Truncation]:
    import torch

    assert rank is not None  # checked
    assert tensor.method is not None
    models, base = _whole_models(plan, tensor, adapters)
    fused = fuse_in_memory(
        tensor.method, models, tensor.weights, base=base, name=tensor.spec.name, seed=plan.recipe.seed, survey=known or None,
        **_values(tensor),
    )  # fmt: skip
    fused = fused - base
    present = [adapter.low_rank[tensor.spec.name] for adapter in adapters if tensor.spec.name in adapter.low_rank]
    u, s, vt = torch.linalg.svd(fused.T if present[0].transposed else fused, full_matrices=False)
    return _cut(tensor.spec.name, u, s, vt, rank)


def _whole_models(plan: Plan, tensor: TensorPlan, adapters: Sequence[Adapter]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """A matrix of the base with each adapter's change, and without one, in float64."""
    base = _base_value(adapters[0].base, tensor.spec.name).double()
    models = []
    for adapter in adapters:
        part = adapter.low_rank.get(tensor.spec.name)
        if part is None:
            models.append(base)
            continue
        product = _value(plan, part.b) @ _value(plan, part.a) * part.scale
        models.append(base + (product.T if part.transposed else product))
    return models, base


def _values(tensor: TensorPlan) -> dict[str, Any]:
    """The method's parameters as they are given."""
    assert tensor.method is not None
    return {p.name: tensor.arguments[p.argument] for p in tensor.method.parameters}


def _cut(
    name: str, u: torch.Tensor, s: torch.Tensor, vt: torch.Tensor, rank: int
) -> tuple[torch.Tensor, torch.Tensor, Truncation]:
    """Factors from the first singular triplets, the singular values shared between them."""
    rank = min(rank, len(s))
    root = s[:rank].sqrt()
    cut = Truncation(name, rank, float(s[rank:].norm()), float(s.norm()))
    return root[:, None] * vt[:rank], u[:, :rank] * root, cut


def _coefficients(plan: Plan, tensor: TensorPlan) -> list[float]:
    """What each change is multiplied by in a weighted sum."""
    if plan.method.name == "average":
        return list(tensor.weights)
    total = math.fsum(tensor.weights)
    divisor = total if tensor.arguments["normalize"] and total != 0 else 1.0
    return [tensor.arguments["lambda_"] * w / divisor for w in tensor.weights]


def _fuse_whole(plan: Plan, tensor: TensorPlan, adapters: Sequence[Adapter], known: tuple[float, ...]) -> torch.Tensor:
    """A tensor that adapters have whole (a head), fused as in a full checkpoint."""
    assert tensor.method is not None
    return fuse_in_memory(
        tensor.method, [adapter[tensor.spec.name] for adapter in adapters], tensor.weights,
        base=_base_value(adapters[0].base, tensor.spec.name) if tensor.method.base == "required" else None,
        name=tensor.spec.name, seed=plan.recipe.seed, survey=known or None, **_values(tensor),
    )  # fmt: skip


def _base_value(base: Checkpoint, name: str) -> torch.Tensor:
    """The base's tensor, whose name may lack the first part."""
    return base[name if name in base.infos else name.partition(".")[2]]


def _value(plan: Plan, info: TensorInfo) -> torch.Tensor:
    value = plan.files.whole(info).double()
    if not bool(value.isfinite().all()):
        raise InputError(f"tensor {info.name}", expected=f"finite values in {info.file}", found="NaN or infinity")
    return value


def _name_of_whole(name: str, adapters: Sequence[Adapter]) -> str:
    """What an adapter calls a tensor that it has whole; a bias stands beside the factors of its module."""
    module, _, last = name.rpartition(".")
    adapted = any(f"{module}.weight" in adapter.low_rank for adapter in adapters)
    return f"{PREFIX}{module}.base_layer.{last}" if adapted else PREFIX + name


def _rounded(tensors: dict[str, torch.Tensor], dtype: str) -> dict[str, torch.Tensor]:
    import torch

    wanted = torch.float32 if dtype == "auto" else getattr(torch, dtype)
    found = {name: narrow(tensor.double(), wanted) for name, tensor in tensors.items()}
    for name, tensor in found.items():
        if not bool(tensor.isfinite().all()):
            raise InputError(f"tensor {name}", expected=f"finite values in {dtype}", found="infinity or NaN")
    return found


def _named(name: str, a: torch.Tensor, b: torch.Tensor, adapters: Sequence[Adapter]) -> dict[str, torch.Tensor]:
    module = PREFIX + name.removesuffix(".weight")
    part = next(adapter.low_rank[name] for adapter in adapters if name in adapter.low_rank)
    side = "lora_embedding_{}" if part.embedding else "lora_{}.weight"
    return {f"{module}.{side.format('A')}": a.contiguous(), f"{module}.{side.format('B')}": b.contiguous()}


def _settings(adapters: Sequence[Adapter], cuts: Sequence[Truncation]) -> dict[str, Any]:
    """The configuration of an adapter of scale one whose matrices may differ in rank."""
    first = adapters[0]
    ranks = {cut.name.removesuffix(".weight"): cut.rank for cut in cuts}
    usual = max(ranks.values())
    other = {module: rank for module, rank in ranks.items() if rank != usual}
    heads = list(dict.fromkeys(module for adapter in adapters for module in adapter.settings.get("modules_to_save") or ()))
    biases = [adapter.settings.get("bias", "none") for adapter in adapters]
    return {
        **first.settings,
        "base_model_name_or_path": first.base.source,
        "r": usual,
        "lora_alpha": usual,
        "use_rslora": False,
        "init_lora_weights": True,
        "rank_pattern": other,
        "alpha_pattern": other,
        "target_modules": sorted(ranks),
        "exclude_modules": None,
        "layers_to_transform": None,
        "layers_pattern": None,
        "modules_to_save": heads or None,
        "bias": next((bias for bias in biases if bias != "none"), "none"),
        "inference_mode": True,
    }


def _write(directory: Path, tensors: dict[str, torch.Tensor], settings: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    save_file(tensors, directory / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    (directory / ADAPTER_CONFIG).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _overall(cuts: Sequence[Truncation]) -> float:
    """The share of the norm of all changes together that was lost."""
    norm = math.hypot(*(cut.norm for cut in cuts))
    return math.hypot(*(cut.lost for cut in cuts)) / norm if norm > 0 else 0.0
