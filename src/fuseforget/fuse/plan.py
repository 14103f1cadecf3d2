"""What a fusion will do, known from headers alone: for every output tensor, what is read, and how it is fused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from fuseforget.checkpoint import Checkpoint, TensorSpec
from fuseforget.fuse.align import AddedToken, Alignment
from fuseforget.fuse.recipe import Recipe
from fuseforget.fuse.sources import Files, Source
from fuseforget.methods import Method

__all__ = ["Plan", "TensorPlan"]


@dataclass(frozen=True)
class TensorPlan:
    """One output tensor: where its values come from and how they are fused.

    Attributes:
        spec: name, dtype and shape of the output.
        sources: its values in each model that takes part.
        base: those in the base, or None.
        statistics: those in each model's statistics checkpoint, or empty.
        method, weights, arguments: how they are fused; for integers, which are copied, ``method`` is None.
        readers: names of the models, in the order of the sources, for messages.
    """

    spec: TensorSpec
    sources: tuple[Source, ...]
    base: Source | None
    statistics: tuple[Source, ...]
    method: Method | None
    weights: tuple[float, ...]
    arguments: Mapping[str, Any]
    readers: tuple[str, ...]

    @property
    def all_sources(self) -> tuple[Source, ...]:
        return (*self.sources, *(() if self.base is None else (self.base,)), *self.statistics)

    @property
    def nbytes_to_read(self) -> int:
        return sum(source.nbytes for source in self.all_sources)


@dataclass(frozen=True)
class Plan:
    """What a fusion will do, known from headers alone.

    Attributes:
        recipe: what was asked for.
        method: its method.
        checkpoints: the models', in the recipe's order; ``base`` and ``statistics`` beside them.
        tensors: the output's, in the order in which they are made.
        config: the output's configuration.
        notes: what the user should know.
        alignments: how rows were lined up.
        files: where everything is read.
    """

    recipe: Recipe
    method: Method
    checkpoints: tuple[Checkpoint, ...]
    base: Checkpoint | None
    statistics: tuple[Checkpoint, ...]
    tensors: tuple[TensorPlan, ...]
    config: Mapping[str, Any]
    notes: tuple[str, ...]
    alignments: tuple[Alignment, ...]
    files: Files = field(repr=False)

    @property
    def opened(self) -> list[Checkpoint]:
        """All checkpoints that are read, in the order of ``recipe.sources``."""
        return [*self.checkpoints, *([] if self.base is None else [self.base]), *self.statistics]

    @property
    def inputs(self) -> list[Path]:
        """The directories that are read from."""
        return [place for checkpoint in self.opened for place in checkpoint.places]

    @property
    def added_tokens(self) -> list[AddedToken]:
        """Tokens of the output that the first model does not have."""
        return [token for one in self.alignments for token in one.added]

    @property
    def specs(self) -> list[TensorSpec]:
        return [tensor.spec for tensor in self.tensors]

    @cached_property
    def bytes_to_read(self) -> int:
        return sum(tensor.nbytes_to_read for tensor in self.tensors)

    @cached_property
    def bytes_to_write(self) -> int:
        return sum(spec.nbytes for spec in self.specs)

    @cached_property
    def weights(self) -> tuple[float, ...] | None:
        """The weights where they are the same for all tensors; else None."""
        found = {tensor.weights for tensor in self.tensors if tensor.method is self.method}
        return found.pop() if len(found) == 1 else None
