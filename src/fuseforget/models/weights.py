"""A resident model's own storage, by the names of a checkpoint, and weights set in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from fuseforget.errors import InputError, some_names

__all__ = ["set_weights", "weight_slots"]


def weight_slots(model: Any, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """Return a resident model's parameters and buffers, its own storage, by a checkpoint's names.

    Names from before transformers renamed them are understood, and what the model does not have (position ids that it
    makes itself, a head of another task) is left out, as transformers does on loading.

    Raises:
        InputError: a parameter or a buffer of the model that none of the names is for.
    """
    state = model.state_dict()  # views of the model's own storage
    slots = {name: state[current] for name in names if (current := _current_name(name, state)) in state}
    covered = {slot.data_ptr() for slot in slots.values()}  # tied weights are one storage under several names
    unset = sorted(name for name, value in state.items() if value.numel() and value.data_ptr() not in covered)
    if unset:
        raise InputError("weights", expected="all tensors of the resident model", found=f"no {some_names(unset)}")
    return slots


def set_weights(model: Any, weights: Mapping[str, torch.Tensor]) -> None:
    """Copy tensors into a resident model's :func:`weight_slots`, in place."""
    slots = weight_slots(model, weights)
    with torch.no_grad():
        for name, slot in slots.items():
            slot.copy_(weights[name])


def _current_name(name: str, state: Mapping[str, torch.Tensor]) -> str:
    """The name in use for a tensor that the first BERT checkpoints called by another."""
    renamed = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
    return renamed if name not in state and renamed in state else name
