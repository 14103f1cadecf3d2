"""Weights rounded to few bits, in memory: what a model says when it is deployed at int8 or int4."""

from __future__ import annotations

import torch
from torch import nn

from fuseforget.errors import InputError
from fuseforget.models.classifier import Classifier
from fuseforget.models.features import head_of

__all__ = ["BITS", "quantise", "rounded"]

BITS = {"int8": (8, None), "int4": (4, 128)}  # by name: bits, and how many inputs of an output share a scale (None: all)


def rounded(weight: torch.Tensor, bits: int, group: int | None = None) -> torch.Tensor:
    """Return a matrix rounded to the nearest of 2^bits - 1 values, symmetric about zero, and scaled back.

    Args:
        weight: outputs x inputs, floating.
        bits: 2 or more.
        group: neighbouring inputs of an output that share a scale (largest magnitude / (2^(bits - 1) - 1)); the last group is
            what is left. None: all inputs of an output share one.

    Returns:
        The same shape and type; each value at most half a step from its own.

    Raises:
        InputError: no matrix, fewer than 2 bits, a group of none.
    """
    if weight.ndim != 2 or bits < 2 or (group is not None and group < 1):
        found = f"shape {tuple(weight.shape)}, {bits} bits, groups of {group}"
        raise InputError("weights to round", expected="a matrix, 2 bits or more, groups of 1 or more", found=found)
    size = group or max(weight.shape[1], 1)
    parts = [weight[:, i : i + size] for i in range(0, weight.shape[1], size)]
    return torch.cat([_round_rows(part.double(), 2 ** (bits - 1) - 1) for part in parts], dim=1).to(weight.dtype)


def _round_rows(part: torch.Tensor, greatest: int) -> torch.Tensor:
    largest = part.abs().amax(dim=1, keepdim=True)
    step = torch.where(largest > 0, largest / greatest, 1.0)
    return (part / step).round() * step


def quantise(classifier: Classifier, bits: int, group: int | None = None) -> tuple[str, ...]:
    """Round the matrices of a classifier's linear layers in place (see :func:`rounded`), and return the layers' names.

    Embeddings, norms, biases and the layer that makes the logits stay as they are, as post-training quantisation leaves them.

    Raises:
        InputError: as :func:`rounded`; a model without linear layers beside its head.
    """
    from transformers.pytorch_utils import Conv1D

    head = head_of(classifier)
    done = []
    for name, module in classifier.model.named_modules():
        if module is head or not isinstance(module, nn.Linear | Conv1D):
            continue
        with torch.no_grad():
            # GPT-2's layers hold inputs x outputs.
            weight = module.weight.T if isinstance(module, Conv1D) else module.weight
            weight.copy_(rounded(weight, bits, group))
        done.append(name)
    if not done:
        raise InputError(classifier.source, expected="linear layers beside the head", found="none")
    return tuple(done)
