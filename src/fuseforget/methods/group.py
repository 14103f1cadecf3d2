"""What a method sees: one tensor's values from all models, aligned, in blocks.

A method is a pure function from a :class:`Group` to a function of a :class:`Block`. It may first reduce over the whole
tensor (:meth:`Group.reduce`: norms, counts); then every block is fused by itself, in any order and on any thread. So a
tensor of any size is fused in the memory of a few blocks, and no result depends on how a file is cut or read: blocks are
of one size, and sums over them are taken in order.
"""

from __future__ import annotations

import copy
import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from fuseforget.errors import InputError

if TYPE_CHECKING:
    import torch

    from fuseforget.methods.method import Method, Surveyed

__all__ = [
    "BLOCK",
    "SPAN",
    "Block",
    "FuseBlock",
    "Group",
    "InMemory",
    "compute_dtype",
    "fuse_in_memory",
    "panel_rows",
    "row_length",
    "survey_in_memory",
    "weighted_sum",
]

T = TypeVar("T")
Range = tuple[int, int]

BLOCK = 1 << 17  # values: the blocks of a few models fit the caches of a core, and the interpreter is called seldom enough
SPAN = 4  # blocks that are read and worked on together


@dataclass(frozen=True, eq=False)
class Block:
    """Consecutive values of one tensor, flat, in the compute type; whole rows where the group has them.

    Attributes:
        start: where in the flat tensor the block begins.
        stacked: the values of each model, ``models x values``.
        base: those of the base, or None.
        statistics: those of each model's statistics, or empty.
        row_length: values in a row (one output unit: all dimensions but the first).
    """

    start: int
    stacked: torch.Tensor
    base: torch.Tensor | None
    statistics: tuple[torch.Tensor, ...]
    row_length: int

    @functools.cached_property
    def models(self) -> tuple[torch.Tensor, ...]:
        """The values of each model."""
        return self.stacked.unbind()

    @functools.cached_property
    def origin(self) -> torch.Tensor:
        """The base, which the method's row of the table requires."""
        if self.base is None:
            raise TypeError("this method needs a base")
        return self.base

    @functools.cached_property
    def deltas(self) -> tuple[torch.Tensor, ...]:
        """Task vectors (Ilharco et al. 2023): each model minus the base; the models themselves without a base."""
        if self.base is None:
            return self.models
        return tuple(model - self.base for model in self.models)


FuseBlock = Callable[[Block], "torch.Tensor"]


class Group(ABC):
    """One tensor of all models, aligned.

    Attributes:
        name, shape: the tensor's.
        models: how many models there are beside the base.
        dtype, device: what blocks are given in.
        seed: of random methods.
        whole_rows: whether blocks hold whole rows, as long as those may be.
        panels: whether blocks are large, for products of matrices: then they are fused one after another, on all cores.
        transposed: whether blocks hold whole columns of the stored matrix: ``shape`` and rows are its transpose's.
        spacings: of each model's type, as it is stored or computed: from one to the next larger number.
    """

    name: str
    shape: tuple[int, ...]
    models: int
    has_base: bool
    dtype: torch.dtype
    device: str = "cpu"
    seed: int = 0
    whole_rows: bool = True
    panels: bool = False
    transposed: bool = False
    spacings: tuple[float, ...] = ()

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def row_length(self) -> int:
        """Values of one output unit: everything after the first dimension; a vector is one row."""
        return row_length(self.shape)

    def spans(self) -> list[list[Range]]:
        """The flat ranges of all blocks, ``SPAN`` together: ``BLOCK`` values, or as many whole rows as fit, at least one."""
        if self.numel == 0:
            return []
        size, together = BLOCK, SPAN
        if self.panels:
            size, together = panel_rows(self.row_length) * self.row_length, 1
        elif self.whole_rows:
            size = max(1, BLOCK // self.row_length) * self.row_length
        blocks = [(start, min(start + size, self.numel)) for start in range(0, self.numel, size)]
        return [blocks[i : i + together] for i in range(0, len(blocks), together)]

    @abstractmethod
    def load(self, span: Sequence[Range]) -> Iterator[Block]:
        """Read the blocks of a span; a block is valid until the next is asked for."""

    @abstractmethod
    def alone(self, model: int) -> Group:
        """The group of one of the models and the base, which alone are read."""

    @property
    @abstractmethod
    def companion_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the statistics, one tensor a model, whatever its shape; empty where there are none."""

    @abstractmethod
    def companion(self, model: int, first: int, last: int) -> torch.Tensor:
        """Rows of a model's statistics, as they are stored."""

    def blocks(self) -> Iterator[Block]:
        """Read all blocks in order, in this thread; each is valid until the next is asked for."""
        for span in self.spans():
            yield from self.load(span)

    def each(self, work: Callable[[Sequence[Range]], T]) -> Iterator[T]:
        """Do some work on every span and yield its results in order; an engine may do several spans at once."""
        return map(work, self.spans())

    def map(self, function: Callable[[Block], T]) -> list[T]:
        """Call a function on every block and return its results in order."""
        return [result for span in self.each(lambda span: [function(block) for block in self.load(span)]) for result in span]

    def reduce(self, function: Callable[[Block], torch.Tensor]) -> torch.Tensor:
        """Add a function's values over all blocks: within each span, then over the spans in order, on any machine alike."""

        def add(span: Sequence[Range]) -> torch.Tensor:
            total = None
            for block in self.load(span):
                value = function(block)
                total = value if total is None else total.add_(value)
            assert total is not None  # a span has a block
            return total

        results = self.each(add)
        total = next(results)
        for result in results:
            total += result
        return total

    def products(self) -> npt.NDArray[np.float64]:
        """Return the inner products ``models x models`` of the task vectors, or of the models where there is no base.

        Added up in float64, in one order on any machine.
        """
        import torch

        return self.reduce(lambda block: torch.from_numpy(_products(block))).numpy()


def _products(block: Block) -> npt.NDArray[np.float64]:
    from fuseforget.methods.kernels_linear import products

    models = block.stacked.cpu().numpy()
    base = models[0] if block.base is None else block.base.cpu().numpy()
    sums = np.zeros((len(models), len(models)))
    products(models, base, block.base is not None, np.empty(0, models.dtype), sums)
    return sums


class InMemory(Group):
    """A group of tensors that are in memory."""

    def __init__(
        self,
        models: Sequence[torch.Tensor],
        base: torch.Tensor | None = None,
        statistics: Sequence[torch.Tensor] = (),
        *,
        name: str = "",
        seed: int = 0,
        dtype: torch.dtype | None = None,
        whole_rows: bool = True,
        panels: bool = False,
        transposed: bool = False,
    ) -> None:
        import torch

        if transposed:
            models, base = [model.T for model in models], None if base is None else base.T
        self.name, self.shape, self.seed, self.whole_rows = name, tuple(models[0].shape), seed, whole_rows
        self.panels, self.transposed = panels, transposed
        self.dtype = dtype or compute_dtype([*models, *([] if base is None else [base])])
        self.device = str(models[0].device)
        self.models, self.has_base = len(models), base is not None
        self.spacings = tuple(torch.finfo(model.dtype).eps for model in models)
        self._models = [model.reshape(-1) for model in models]
        self._base = None if base is None else base.reshape(-1)
        self._companions = tuple(statistics)

    def alone(self, model: int) -> InMemory:
        part = copy.copy(self)
        part.models, part.spacings = 1, self.spacings[model : model + 1]
        part._models, part._companions = self._models[model : model + 1], ()
        return part

    @property
    def companion_shapes(self) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(one.shape) for one in self._companions)

    def companion(self, model: int, first: int, last: int) -> torch.Tensor:
        return self._companions[model][first:last].reshape(last - first, -1)

    def load(self, span: Sequence[Range]) -> Iterator[Block]:
        return (self._block(start, stop) for start, stop in span)

    def _block(self, start: int, stop: int) -> Block:
        import torch

        def wide(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.reshape(-1)[start:stop].to(self.dtype)

        return Block(
            start,
            torch.stack([wide(model) for model in self._models]),
            None if self._base is None else wide(self._base),
            () if self.panels else tuple(wide(s) for s in self._companions if s.shape == self.shape),
            self.row_length,
        )


def row_length(shape: Sequence[int]) -> int:
    """Return the values of one output unit: everything after the first dimension; a vector is one row."""
    return math.prod(shape[1:] if len(shape) > 1 else shape)


def panel_rows(columns: int) -> int:
    """Rows of a panel: many enough for products of matrices, few enough to be a part of the columns' inner products."""
    return max(1, columns // 8, BLOCK * SPAN // columns)


def compute_dtype(tensors: Sequence[torch.Tensor]) -> torch.dtype:
    """Float32 where every input has 16 bits or fewer, float64 otherwise: at least twice the digits of what is rounded."""
    import torch

    return torch.float32 if all(t.dtype.itemsize <= 2 for t in tensors) else torch.float64


def fuse_in_memory(
    method: Method,
    models: Sequence[torch.Tensor],
    weight: Sequence[float] | None = None,
    *,
    base: torch.Tensor | None = None,
    statistics: Sequence[torch.Tensor] = (),
    name: str = "",
    seed: int = 0,
    dtype: torch.dtype | None = None,
    survey: tuple[float, ...] | None = None,
    **values: Any,
) -> torch.Tensor:
    """Fuse tensors that are in memory: the same numbers as the engine's, in the compute dtype and the tensors' shape.

    Args:
        survey: of a method that has one: its sums over all tensors of a model; default: of this tensor alone.
    """
    import torch

    method.check_models(len(models))
    method.check_base(base is not None)
    if method.statistics and len(statistics) != len(models):
        raise InputError(f"method {method.name}", expected=f"{method.statistics} for each model", found=str(len(statistics)))
    arguments = method.arguments(values, len(models))
    group = _in_memory(method, models, base, arguments, statistics, name=name, seed=seed, dtype=dtype)
    arguments["weight"] = _weights(method, models, weight)
    fused = torch.empty(group.numel, dtype=group.dtype, device=models[0].device)
    if group.numel:
        function = method.function(group, **arguments)
        if method.surveys:
            function = function.function(survey or function.numbers)
        for block in group.blocks():
            values_of_block = function(block)
            fused[block.start : block.start + values_of_block.numel()] = values_of_block
    shape = models[0].shape
    return fused.view(group.shape).T.contiguous().view(shape) if group.transposed else fused.view(shape)


def survey_in_memory(
    method: Method, models: Sequence[torch.Tensor], weight: Sequence[float] | None = None, *,
    base: torch.Tensor | None = None, statistics: Sequence[torch.Tensor] = (), name: str = "", **values: Any,
) -> tuple[float, ...]:  # fmt: skip
    """What a method that surveys all tensors is to know of this one; nothing of a tensor without values."""
    arguments = method.arguments(values, len(models))
    group = _in_memory(method, models, base, arguments, statistics, name=name)
    if not method.surveys or not group.numel:
        return ()
    found: Surveyed = method.function(group, weight=_weights(method, models, weight), **arguments)
    return found.numbers


def _in_memory(
    method: Method, models: Sequence[torch.Tensor], base: torch.Tensor | None, arguments: Mapping[str, Any],
    statistics: Sequence[torch.Tensor] = (), **options: Any,
) -> InMemory:  # fmt: skip
    """The group as the method is given it."""
    shape = models[0].shape
    matrix = method.matrix_shape(shape)
    shaped = [model.reshape(matrix) for model in models], None if base is None else base.reshape(matrix)
    return InMemory(
        *shaped, statistics, whole_rows=method.rows, panels=method.in_panels(shape),
        transposed=method.transposes(shape, arguments), **options,
    )  # fmt: skip


def _weights(method: Method, models: Sequence[torch.Tensor], weight: Sequence[float] | None) -> tuple[float, ...]:
    share = 1.0 if method.default_weight == "sum" else 1 / len(models)
    return (share,) * len(models) if weight is None else tuple(weight)


def weighted_sum(parts: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """Return ``sum_i weights_i parts_i``; parts of weight zero are left out, so that they cannot spoil it (0 x inf)."""
    pairs = [(part, weight) for part, weight in zip(parts, weights, strict=True) if weight != 0]
    if not pairs:
        return parts[0].new_zeros(parts[0].shape)
    total = pairs[0][0] * pairs[0][1]
    for part, weight in pairs[1:]:
        total.add_(part, alpha=weight)
    return total


def from_base_each(block: Block, coefficients: Sequence[torch.Tensor], scale: float = 1.0) -> torch.Tensor:
    """Return ``base + scale sum_i c_i (theta_i - base)`` with coefficients for each value, as a sum over models and base."""
    import torch

    rest = 1 - scale * sum(coefficients[1:], start=coefficients[0])
    # Sums of shares such as 1/3 miss one by a few roundings; a base much larger than the models would make that visible.
    rest = torch.where(rest.abs() < 16 * torch.finfo(rest.dtype).eps, 0, rest)
    total = rest * block.origin
    for model, coefficient in zip(block.models, coefficients, strict=True):
        total.addcmul_(model, coefficient, value=scale)
    return total
