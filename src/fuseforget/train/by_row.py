"""The gradients of single rows, by opacus: what private training rests on, and is checked before it is trusted."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fuseforget.errors import InputError, some_names
from fuseforget.models import LanguageModel, padding_id
from fuseforget.train.language import pad
from fuseforget.train.rows import Row

__all__ = ["backward", "hooks_on", "row_losses"]

TOLERANCE = 1e-3  # of a parameter's largest gradient: far above rounding in float32, far below a use that was missed
ROUNDING = 1e-6  # of the largest gradient of all: gradients that are zero but for rounding are equal


def row_losses(lm: LanguageModel, rows: Sequence[Row]) -> torch.Tensor:
    """Each row's mean loss over its predicted tokens (nats), of a decoder; shape: rows."""
    where = lm.model.device
    batch = {name: tensor.to(where) for name, tensor in pad(rows, padding_id(lm)).items()}
    ids, predicted = batch["input_ids"], batch["attention_mask"][:, 1:].float()
    if "position_ids" in inspect.signature(lm.model.forward).parameters:
        # One row of positions for the whole batch would have one gradient for all rows.
        batch["position_ids"] = torch.arange(ids.shape[1], device=where).expand_as(ids)
    logits = lm.model(**batch, use_cache=False).logits[:, :-1].float()
    nats = nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    return (nats * predicted).sum(1) / predicted.sum(1)


def hooks_on(lm: LanguageModel, rows: Sequence[Row]) -> Any:
    """Return opacus' hooks on the model, once they have given two rows the gradients of ordinary backward passes.

    Both come from the same backward pass, of the loss of one of two rows: it must be that row's gradient, and the other's
    must be zero.

    Raises:
        InputError: an architecture whose gradients opacus does not tell apart by row.
    """
    from opacus.grad_sample import GradSampleHooks

    pair = [rows[0], next((row for row in rows if list(row) != list(rows[0])), rows[0])]
    # Whatever opacus, or a model that it was not made for, meets first.
    try:
        hooks = GradSampleHooks(lm.model)
        wrong = {name for row in (0, 1) for name in _wrong_gradients(lm, pair, row)}
    except Exception as error:
        reason = " ".join(str(error).split())
        raise _not_by_row(lm, f"{type(error).__name__}: {reason:.300}") from error
    if wrong:
        raise _not_by_row(lm, f"other gradients of {some_names(sorted(wrong))}")
    return hooks


def backward(loss: torch.Tensor) -> None:
    """Go backward through a model with opacus' hooks."""
    with warnings.catch_warnings():
        # Of embeddings, whose input is no number: opacus needs the gradient of what they return alone.
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        loss.backward()  # type: ignore[no-untyped-call]


def _wrong_gradients(lm: LanguageModel, pair: Sequence[Row], row: int) -> list[str]:
    """The parameters whose gradients of single rows are not those of a backward pass."""
    backward(row_losses(lm, pair)[row] / 2)
    parameters = dict(lm.model.named_parameters())
    largest = max(float(p.grad.abs().max()) for p in parameters.values() if p.grad is not None)
    wrong = []
    for name, parameter in parameters.items():
        given, own = parameter.grad_sample, parameter.grad
        if given is None or own is None or given.shape != (2, *own.shape):
            wrong.append(name)
            continue
        expected = torch.zeros_like(given)
        expected[row] = 2 * own  # opacus multiplies by the number of rows
        allowed = TOLERANCE * float(own.abs().max()) + ROUNDING * largest
        if not float((given - expected).abs().max()) <= 2 * allowed:
            wrong.append(name)
        parameter.grad_sample = parameter.grad = None
    return wrong


def _not_by_row(lm: LanguageModel, found: str) -> InputError:
    return InputError(
        lm.source,
        expected="a model whose gradients opacus tells apart by row",
        found=found,
        action="Its private training would promise what it does not keep.",
    )
