"""Fuse into tensors that are in memory: the points of a path, each computed from the models and never from the last point."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fuseforget.checkpoint import DTYPES, TensorSpec
from fuseforget.errors import InputError
from fuseforget.fuse.plan import Plan, TensorPlan
from fuseforget.fuse.planning import plan_recipe
from fuseforget.fuse.recipe import make_recipe
from fuseforget.fuse.stream import stream
from fuseforget.fuse.tensors import check_weights
from fuseforget.methods import get_method

if TYPE_CHECKING:
    import torch

__all__ = ["InPlace", "require_no_statistics"]


class InPlace:
    """A fusion of which only the weights change from point to point, planned once.

    The numbers are those that :func:`fuseforget.fuse.fuse` writes as float32, to the bit: it is the same engine, which reads the
    models block by block, so that a point takes no memory beside the tensors that it is written into.

    Args:
        models: directories or hub ids, in the order of the weights.
        method: a name in :data:`fuseforget.methods.METHODS`.
        base: the pretrained model, where the method takes one.
        statistics: a checkpoint of statistics for each model, where the method takes them.
        seed: of random methods.
        parameters: of the method, in the forms of :func:`fuseforget.fuse.make_recipe`.

    Raises:
        InputError: a model, a base, statistics or a parameter that cannot be used or are lacking.
        MismatchError: the models cannot be fused; all differences at once.
    """

    def __init__(
        self, models: Sequence[str | Path], method: str = "average", *, base: str | Path | None = None, seed: int = 0,
        parameters: Mapping[str, Any] | None = None, statistics: Sequence[str | Path] = (),
    ) -> None:  # fmt: skip
        recipe = make_recipe(
            models, method, None, parameters or {}, base=None if base is None else str(base),
            statistics=tuple(str(one) for one in statistics), seed=seed, dtype="float32",
        )  # fmt: skip
        self._plan = plan_recipe(recipe)
        self._files = {file for tensor in self._plan.tensors for source in tensor.all_sources for file in source.files}
        self._close()

    def into(self, targets: Mapping[str, torch.Tensor], weights: Sequence[float] | None = None) -> None:
        """Write the fusion with these weights into tensors of the models' names.

        Args:
            targets: contiguous tensors of the models' shapes; what has no target is left out.
            weights: one a model; None: the method's default.

        Raises:
            InputError: weights that the method does not take, a target of another shape, or a file that changed.
        """
        plan = self._plan
        tensors = plan.tensors
        shapes = {t.spec.name: tuple(t.spec.shape) for t in tensors}
        wrong = [name for name, target in targets.items() if shapes.get(name, target.shape) != tuple(target.shape)]
        if wrong:
            raise InputError("tensors to fuse into", expected="the models' shapes", found=f"another of {', '.join(wrong)}")
        if weights is not None:
            taken = self._weights(weights)
            tensors = tuple(_weighted(t, plan, taken) for t in tensors)
        try:
            plan.files.open(sorted(self._files))
            stream(replace(plan, tensors=tensors), _Into(targets), wanted=targets)
            plan.files.verify()
        finally:
            self._close()

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of the plan, such as tensors that the base lacks."""
        return self._plan.notes

    def _weights(self, weights: Sequence[float]) -> tuple[float, ...]:
        method, count = self._plan.method, len(self._plan.checkpoints)
        if method.weights == "no":
            raise InputError(f"method {method.name}", expected="no weights: it takes all models alike", found="weights")
        if method.weights == "convex":
            return check_weights(weights, count)
        if len(weights) != count or not all(math.isfinite(w) for w in weights):
            raise InputError("weights", expected=f"a finite number for each of {count} models", found=str(list(weights)))
        return tuple(weights)

    def _close(self) -> None:
        self._plan.files.__exit__()  # opened for each point: what stays planned holds no file open


def require_no_statistics(method: str) -> None:
    """Raise InputError for a method that needs more than the models, where these are all that is asked for."""
    row = get_method(method)
    if row.statistics:
        raise InputError(
            f"method {method}", expected="one that needs the models alone", found=f"one that needs {row.statistics} for each",
            action="Fuse it to a checkpoint with --statistics, and probe that.",
        )  # fmt: skip


def _weighted(tensor: TensorPlan, plan: Plan, weights: tuple[float, ...]) -> TensorPlan:
    """The tensor's plan with these weights, unless it is copied or, without a base of its own, averaged."""
    return replace(tensor, weights=weights) if tensor.method is plan.method else tensor


class _Into:
    """Takes the engine's results where output files would."""

    def __init__(self, targets: Mapping[str, torch.Tensor]) -> None:
        self._flat = {name: target.view(-1) for name, target in targets.items()}

    def write(self, spec: TensorSpec, start: int, values: memoryview) -> None:
        import torch

        given = torch.frombuffer(values, dtype=getattr(torch, DTYPES[spec.dtype].torch_name))
        self._flat[spec.name][start : start + given.numel()].copy_(given)
