"""The pooled features of texts: what the last linear layer of a classifier makes its logits from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fuseforget.errors import InputError
from fuseforget.models.batches import Batch, encode_batches
from fuseforget.models.classifier import Classifier
from fuseforget.models.precast import precast
from fuseforget.models.running import autocast

__all__ = ["features", "features_and_logits", "has_bias", "head_of"]

Array = npt.NDArray[np.float32]
# How far the head's logits of the features found may be from the model's, relative to the largest: rounding alone.
CLOSE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}


def head_of(classifier: Classifier) -> nn.Linear:
    """The linear layer that makes the logits: the last one with as many outputs as the model has labels.

    Raises:
        InputError: the model has none.
    """
    labels = classifier.model.config.num_labels
    found = [module for module in classifier.model.modules() if isinstance(module, nn.Linear) and module.out_features == labels]
    if not found:
        raise InputError(classifier.source, expected=f"a linear layer with {labels} outputs, one a label", found="none")
    return found[-1]


def has_bias(layer: nn.Linear) -> bool:
    """Whether a linear layer has a bias; the head of GPT-2's classifiers, of Llama's and of others has none."""
    return layer.bias is not None


def features(classifier: Classifier, texts: Sequence[str] | Sequence[Batch], *, exact: bool = False) -> Array:
    """Return the pooled features of texts (see :func:`features_and_logits`)."""
    return features_and_logits(classifier, texts, exact=exact)[0]


def features_and_logits(
    classifier: Classifier, texts: Sequence[str] | Sequence[Batch], *, exact: bool = False
) -> tuple[Array, Array]:
    """Return what the last linear layer sees of each text, and the logits that the model makes of it, in one pass.

    Encoders pool a text before that layer. Decoders pool after it, the last token that is no padding: its features are taken.

    Args:
        texts: texts, or batches of them.
        exact: compute in float32 even where the hardware multiplies faster in bfloat16.

    Returns:
        Features (texts x dimensions) and logits (texts x labels), float32, in the order of the texts.

    Raises:
        InputError: the model makes its logits otherwise than by that layer from these features.
    """
    model, head = classifier.model.eval(), head_of(classifier)
    batches = _batches(classifier, texts)
    count = sum(len(batch.rows) for batch in batches)
    found = np.empty((count, head.in_features), dtype=np.float32)
    logits = np.empty((count, head.out_features), dtype=np.float32)
    seen: list[torch.Tensor] = []
    hook = head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    try:
        with precast(model, exact=exact), torch.inference_mode(), autocast(exact=exact):
            for batch in batches:
                seen.clear()
                ids, mask = batch.input_ids.to(model.device), batch.attention_mask.to(model.device)
                said = model(input_ids=ids, attention_mask=mask).logits
                pooled = _pooled(classifier, seen, ids)
                _require_the_head(classifier, head, pooled, said)
                found[batch.rows], logits[batch.rows] = pooled.float().cpu().numpy(), said.float().cpu().numpy()
    finally:
        hook.remove()
    return found, logits


def _batches(classifier: Classifier, texts: Sequence[str] | Sequence[Batch]) -> list[Batch]:
    if all(isinstance(one, Batch) for one in texts):
        return cast("list[Batch]", list(texts))
    return encode_batches(classifier, cast("Sequence[str]", texts))


def _pooled(classifier: Classifier, seen: Sequence[torch.Tensor], ids: torch.Tensor) -> torch.Tensor:
    """What the head saw, a row a text."""
    if len(seen) != 1 or seen[0].ndim not in (2, 3):
        found = f"{len(seen)} calls of it" if len(seen) != 1 else f"an input of {seen[0].ndim} dimensions"
        raise InputError(classifier.source, expected="one call of its last linear layer a batch", found=found)
    if seen[0].ndim == 2:
        return seen[0]
    positions = torch.arange(ids.shape[1], device=ids.device)
    last = (positions * (ids != classifier.model.config.pad_token_id)).argmax(dim=1)
    return seen[0][torch.arange(len(ids), device=ids.device), last]


def _require_the_head(classifier: Classifier, head: nn.Linear, pooled: torch.Tensor, said: torch.Tensor) -> None:
    """Raise unless the model's logits are the head's of the features that were found."""
    made: Any = nn.functional.linear(pooled, head.weight, head.bias)
    near = CLOSE[torch.float32 if said.dtype == made.dtype == torch.float32 else torch.bfloat16]
    if made.shape == said.shape and bool((made - said).abs().max() <= near * said.abs().max().clamp(min=1e-6)):
        return
    raise InputError(
        classifier.source,
        expected="logits that its last linear layer makes from the pooled features",
        found="others",
        action="Features of this architecture cannot be taken: use a classifier that ends in a linear layer.",
    )
