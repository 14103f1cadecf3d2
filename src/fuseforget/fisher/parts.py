"""Squares of per-example gradients of one parameter, from what its layer read and the gradient of what it returned.

A part is one use of a parameter in a forward pass of a batch: it knows the gradient of each example without holding them
all. Where a parameter is used several times, the parts of an example are added before they are squared.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.func import functional_call, vjp, vmap

from fuseforget.fisher.kernels import add_squared_outer

__all__ = ["Dense", "Outer", "Part", "Rows", "Use", "add_squares", "kind_of", "parts_of"]

Tensor = torch.Tensor
TILE = 2**19  # elements of a product that is squared while it is still in the cache
AT_ONCE = 2**22  # elements of the per-example gradients that are held at once where they have to be


@dataclass(frozen=True)
class Outer:
    """Gradients ``sum_t rows_t (x) columns_t``: examples x uses x size each."""

    rows: Tensor
    columns: Tensor


@dataclass(frozen=True)
class Rows:
    """Gradients of the rows of a table that were looked up: ids are examples x uses, values examples x uses x width."""

    ids: Tensor
    values: Tensor
    ignored: int | None = None  # the row that has no gradient


@dataclass(frozen=True)
class Dense:
    """Gradients that are made for some examples at a time: ``make(first, end)`` is examples x the parameter's shape."""

    make: Callable[[int, int], Tensor]
    examples: int


Part: TypeAlias = Outer | Rows | Dense


@dataclass(frozen=True)
class Use:
    """One call of a module on a batch, with the gradient of its output (both have the examples first)."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    gradient: Tensor


def kind_of(module: Any) -> type[Part]:
    """The sort of part that the module's weight has."""
    forward = type(module).forward
    if set(module._parameters) <= {"weight", "bias"}:
        if forward is nn.Linear.forward or _is_conv1d(module):
            return Outer
        if forward is nn.Embedding.forward and module.max_norm is None and not module.scale_grad_by_freq:
            return Rows
    return Dense


def parts_of(use: Use) -> dict[str, Part]:
    """The part of each parameter that the module owns, by the parameter's name in the module."""
    module, g = use.module, use.gradient
    examples = len(g)
    if len(use.args) == 1 and not use.kwargs:
        x = use.args[0]
        kind = kind_of(module)
        if kind is Outer:
            read, gradient = x.reshape(examples, -1, x.shape[-1]), g.reshape(examples, -1, g.shape[-1])
            weight = Outer(read, gradient) if _is_conv1d(module) else Outer(gradient, read)
            return _owned(module, weight, lambda first, end: gradient[first:end].sum(1), examples)
        if kind is Rows:
            return {"weight": Rows(x.reshape(examples, -1), g.reshape(examples, -1, g.shape[-1]), _ignored(module))}
        if type(module).forward is nn.LayerNorm.forward:
            return _layer_norm(module, x, g)
    return {name: Dense(_differentiate(use, name), examples) for name, p in module._parameters.items() if p is not None}


def add_squares(total: Tensor, parts: Sequence[Part]) -> None:
    """Add to ``total``, which has the parameter's shape, the squared gradients of all examples, in place.

    Args:
        parts: the uses of the parameter by the same examples; all of one sort.
    """
    first = parts[0]
    if any(type(part) is not type(first) for part in parts):
        raise RuntimeError("parts of different sorts cannot be added")
    if isinstance(first, Outer):
        outer = [part for part in parts if isinstance(part, Outer)]
        _add_outer(total, _join([part.rows for part in outer]), _join([part.columns for part in outer]))
    elif isinstance(first, Rows):
        looked = [part for part in parts if isinstance(part, Rows)]
        _add_rows(total, _join([part.ids for part in looked]), _join([part.values for part in looked]), first.ignored)
    else:
        _add_dense(total, [part for part in parts if isinstance(part, Dense)])


def _add_outer(total: Tensor, rows: Tensor, columns: Tensor) -> None:
    used = (rows != 0).any(-1)  # examples x uses; padding's gradients, and others that nothing reads, are exactly zero
    counts = used.sum(1)
    if int(counts.max()) <= 1:
        # (r (x) c)^2 = r^2 (x) c^2: one product for all examples.
        picked = used.int().argmax(1)
        each = torch.arange(len(rows), device=rows.device)
        total.addmm_(rows[each, picked].square().T, columns[each, picked].square())
        return
    spans = _spans(used)
    if total.device.type == "cpu" and total.is_contiguous():
        add_squared_outer(total, rows, columns, spans)
        return
    height, width = total.shape
    step = -(-height // -(-height * width // TILE))
    product = total.new_empty(step, width)
    for number, (first, end) in enumerate(spans):
        r, c = rows[number, first:end], columns[number, first:end]
        for start in range(0, height, step):
            tile = total[start : start + step]
            out = product[: len(tile)]
            torch.mm(r[:, start : start + step].T, c, out=out)
            tile.addcmul_(out, out)


def _spans(used: Tensor) -> list[tuple[int, int]]:
    """For each example, from its first use to behind its last: what lies outside is zero."""
    marks = used.int()
    first, behind = marks.argmax(1), used.shape[1] - marks.flip(1).argmax(1)
    return list(zip(first.tolist(), torch.where(used.any(1), behind, first).tolist(), strict=True))


def _add_rows(total: Tensor, ids: Tensor, values: Tensor, ignored: int | None) -> None:
    # A row that an example looks up twice has one gradient, the sum: the pairs (example, row) are what is squared.
    pairs = ids + torch.arange(len(ids), device=ids.device).unsqueeze(1) * len(total)
    different, which = torch.unique(pairs, return_inverse=True)
    gradients = values.new_zeros(len(different), values.shape[-1])
    gradients.index_add_(0, which.flatten(), values.flatten(0, 1))
    looked_up = different % len(total)
    if ignored is not None:
        gradients[looked_up == ignored] = 0
    total.index_add_(0, looked_up, gradients.square_())


def _add_dense(total: Tensor, parts: Sequence[Dense]) -> None:
    step = max(1, AT_ONCE // max(1, total.numel()))
    for first in range(0, parts[0].examples, step):
        end = min(first + step, parts[0].examples)
        gradients = sum((part.make(first, end) for part in parts[1:]), start=parts[0].make(first, end))
        total += gradients.square().sum(0)


def _owned(module: nn.Module, weight: Part, bias: Callable[[int, int], Tensor], examples: int) -> dict[str, Part]:
    return {"weight": weight} | ({} if module._parameters.get("bias") is None else {"bias": Dense(bias, examples)})


def _layer_norm(module: Any, x: Tensor, g: Tensor) -> dict[str, Part]:
    shape = module.normalized_shape
    scaled = nn.functional.layer_norm(x, shape, eps=module.eps) * g

    def over_tokens(values: Tensor) -> Callable[[int, int], Tensor]:
        return lambda first, end: values[first:end].reshape(end - first, -1, *shape).sum(1)

    made = {"weight": over_tokens(scaled), "bias": over_tokens(g)}
    return {name: Dense(made[name], len(g)) for name, p in module._parameters.items() if p is not None}


def _differentiate(use: Use, name: str) -> Callable[[int, int], Tensor]:
    """Per-example gradients of a parameter of any module, by vectorised differentiation of the module alone."""
    module, everything = use.module, len(use.gradient)
    parameter = module._parameters[name]
    assert parameter is not None

    def batched(value: Any) -> bool:
        return isinstance(value, Tensor) and value.dim() > 0 and len(value) == everything

    keys = [key for key, value in use.kwargs.items() if batched(value)]
    places = [place for place, value in enumerate(use.args) if batched(value)]

    def one(gradient: Tensor, *inputs: Tensor) -> Tensor:
        args, kwargs = list(use.args), dict(use.kwargs)
        for place, value in zip(places, inputs, strict=False):
            args[place] = value.unsqueeze(0)
        for key, value in zip(keys, inputs[len(places) :], strict=True):
            kwargs[key] = value.unsqueeze(0)
        called: Any = vjp(lambda p: functional_call(module, {name: p}, tuple(args), kwargs).squeeze(0), parameter.detach())
        result: Tensor = called[1](gradient)[0]
        return result

    def make(first: int, end: int) -> Tensor:
        inputs = [*(use.args[place] for place in places), *(use.kwargs[key] for key in keys)]
        with warnings.catch_warnings():
            # Where an operation has no batched form its examples go one by one: slower, and the same.
            warnings.filterwarnings("ignore", message="There is a performance drop")
            result: Tensor = vmap(one)(use.gradient[first:end], *(value[first:end] for value in inputs))
        return result

    return make


def _join(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors), dim=1)


def _is_conv1d(module: nn.Module) -> bool:
    """GPT-2's linear layer, whose weight is inputs x outputs."""
    return type(module).__name__ == "Conv1D" and type(module).__module__ == "transformers.pytorch_utils"


def _ignored(module: Any) -> int | None:
    index = module.padding_idx
    return None if index is None else int(index)
