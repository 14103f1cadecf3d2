"""A language model taken apart: its body, which makes hidden states, and its head, which makes logits of them.

The logits of all tokens of a batch are its largest tensor by far (GPT-2: 200 KB a token); the head can make them of a few
positions at a time. What an architecture does between hidden states and logits (BERT's transform, a soft cap, a scale) is
known to its own ``forward`` alone: the head is therefore the model itself with its body replaced by one that says the hidden
states that it is given.
"""

from __future__ import annotations

import copy
import inspect
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fuseforget.errors import InputError
from fuseforget.models.features import CLOSE
from fuseforget.models.language import LanguageModel, padding_id
from fuseforget.models.running import autocast

__all__ = ["Parts", "parts_of"]

Tensor = torch.Tensor
PROBED = 8  # tokens of a row that the parts are verified on


@dataclass(frozen=True)
class Parts:
    """Body and head of a model, or the whole of it where they cannot be told apart.

    Attributes:
        body, head: both None where the head's logits are not those of the whole model.
        vocabulary: how many logits there are.
    """

    model: Any
    body: Any
    head: Any
    vocabulary: int

    @property
    def split(self) -> bool:
        return self.head is not None

    def hidden(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """Hidden states, rows x tokens x dimensions."""
        return _first(_run(self.body, ids, mask))

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits, positions x vocabulary, of hidden states, positions x dimensions."""
        return _logits_of(self.head, hidden)

    def whole(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """Logits of every token, rows x tokens x vocabulary."""
        return _first(_run(self.model, ids, mask))


class _Says(nn.Module):
    """A body that says the hidden states that were put into it, in the form in which the true one answers."""

    def __init__(self, form: Any) -> None:
        super().__init__()
        # The kind alone: the answer's own tensors would be held for as long as the head is.
        self._kind, self._name, self._others = type(form), "", 0
        if isinstance(form, tuple):
            self._others = len(form) - 1
        else:
            self._name = next(iter(form.keys()))
        self.asked = False
        self._put = threading.local()  # several threads ask for their own at once

    def put(self, hidden: Tensor | None) -> None:
        """What this thread is told from now on."""
        self._put.hidden = hidden

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.asked, hidden = True, self._put.hidden
        return self._kind(**{self._name: hidden}) if self._name else (hidden, *[None] * self._others)


@dataclass(frozen=True)
class _Head:
    shell: Any
    says: _Says

    def __call__(self, hidden: Tensor) -> Tensor:
        self.says.put(hidden)
        ids = torch.zeros(hidden.shape[:2], dtype=torch.long, device=hidden.device)
        try:
            return _first(self.shell(input_ids=ids))
        finally:
            self.says.put(None)


def parts_of(lm: LanguageModel, row: Sequence[int]) -> Parts:
    """Take a model apart, and verify on the first tokens of a row, in float32, that the parts give the whole's logits.

    A model whose parts do not is left whole. A decoder must also predict from earlier tokens alone.

    Raises:
        InputError: a decoder's predictions depend on later tokens, or a masked model's on padding.
    """
    model = lm.model.eval()
    first = [int(token) for token in row[:PROBED]]
    other = [*first[:-1], (first[-1] + 1) % int(model.get_input_embeddings().num_embeddings)]
    ids = torch.tensor([first, other], device=model.device)
    with torch.inference_mode(), autocast(exact=True):
        logits = _first(_run(model, ids, None))
        vocabulary = int(logits.shape[-1])
        if not bool(logits.isfinite().all()):  # nothing can be compared; whoever asked learns which row it is
            return Parts(model, None, None, vocabulary)
        if not lm.masked and len(first) > 1 and not _close(logits[:1, :-1], logits[1:, :-1]):
            raise InputError(
                lm.source,
                expected="a decoder, which predicts each token from those before it",
                found="predictions that change with later tokens",
                action="An encoder with a decoder's head needs is_decoder in its config.json, and training as one.",
            )
        if lm.masked:
            _require_padding_hidden(lm, ids[:1], logits[:1])
        for body in _bodies(model):
            head = _head_behind(model, body, ids, logits)
            if head is not None:
                return Parts(model, body, head, vocabulary)
    return Parts(model, None, None, vocabulary)


def _require_padding_hidden(lm: LanguageModel, ids: Tensor, logits: Tensor) -> None:
    """A decoder's padding is later than its tokens, and needs no other proof."""
    more = torch.cat([ids, torch.full_like(ids[:, :1], padding_id(lm))], dim=1)
    mask = torch.ones_like(more)
    mask[:, -1] = 0
    if not _close(_first(_run(lm.model, more, mask))[:, :-1], logits):
        raise InputError(lm.source, expected="a model that padding is hidden from", found="predictions that change with it")


def _bodies(model: Any) -> list[Any]:
    """What may be the body: the base model; of models that call their decoder past it, the decoder."""
    found = [model.base_model, *([model.get_decoder()] if hasattr(model, "get_decoder") else [])]
    return [body for body in dict.fromkeys(found) if isinstance(body, nn.Module) and body is not model]


def _head_behind(model: Any, body: nn.Module, ids: Tensor, expected: Tensor) -> _Head | None:
    """The head, if its logits of the body's hidden states are those expected; fewer positions at once must not matter."""
    form = _run(body, ids, None)
    hidden = _first(form)
    if hidden.shape[:2] != ids.shape or not hidden.is_floating_point():
        return None
    says = _Says(form)
    head = _Head(_replaced(model, body, says), says)
    try:
        made = _logits_of(head, hidden.flatten(0, 1)[1:])
    # What a forward that looks for more than hidden states in its body's answer meets; the model is then left whole.
    except (AttributeError, TypeError, ValueError, IndexError, KeyError, RuntimeError):
        return None
    # Logits that hardly depend on the hidden states are near whatever they are made of: the head must have asked for these.
    return head if says.asked and _close(made, expected.flatten(0, 1)[1:]) else None


def _replaced(module: Any, old: nn.Module, new: nn.Module) -> Any:
    """A module with the same weights and another module in place of one below it; the module itself stays as it is."""
    if module is old:
        return new
    if not any(one is old for one in module.modules()):
        return module
    shell = copy.copy(module)
    # Accelerate gives a model that it prepares a forward of its own, which is bound to that model and so to the old body.
    shell.__dict__.pop("forward", None)
    shell.__dict__["_modules"] = {name: child and _replaced(child, old, new) for name, child in module._modules.items()}
    return shell


def _run(module: Any, ids: Tensor, mask: Tensor | None) -> Any:
    options: dict[str, Any] = {} if mask is None else {"attention_mask": mask}
    if "use_cache" in inspect.signature(module.forward).parameters:
        options["use_cache"] = False
    return module(input_ids=ids, **options)


def _first(said: Any) -> Tensor:
    first: Tensor = said[0]  # a model's logits, a body's last hidden states
    return first


def _logits_of(head: _Head, hidden: Tensor) -> Tensor:
    return head(hidden[None])[0]


def _close(found: Tensor, expected: Tensor) -> bool:
    near = CLOSE[torch.float32 if found.dtype == expected.dtype == torch.float32 else torch.bfloat16]
    largest = expected.abs().max().clamp(min=1e-6)
    return found.shape == expected.shape and bool((found - expected).abs().max() <= near * largest)
