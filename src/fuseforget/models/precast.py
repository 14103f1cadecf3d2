"""Weights of linear layers that are cast once for all batches of a prediction."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from fuseforget.models.running import compute_dtype

__all__ = ["precast"]

# Layers that use their weight and bias in one product and nowhere else. Of no subclass, which might do more with them.
LINEAR = (nn.Linear, Conv1D)


@contextlib.contextmanager
def precast(model: Any, *, exact: bool = False) -> Iterator[None]:
    """Inside the block, linear layers of a model on a CPU hold their weights in the type that autocast multiplies in.

    What is computed under autocast is the same to the bit. On a CPU autocast casts each layer's weights anew for every batch,
    which is a quarter of the time of batches of a few hundred tokens. Parameters with other users too (a head that is also the
    table of embeddings) stay as they are. No other thread may use the model meanwhile, nor may its weights be set.

    Args:
        exact: nothing is cast: computing is in float32.
    """
    dtype = compute_dtype()
    if exact or dtype == torch.float32 or model.device.type != "cpu":
        yield
        return
    users = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    kept = [
        (module, name, parameter)
        for module in model.modules() if type(module) in LINEAR
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.dtype == torch.float32 and users[id(parameter)] == 1
    ]  # fmt: skip
    try:
        for module, name, parameter in kept:
            setattr(module, name, nn.Parameter(parameter.detach().to(dtype), requires_grad=False))
        yield
    finally:
        for module, name, parameter in kept:
            setattr(module, name, parameter)
