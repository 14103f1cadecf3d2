"""Logits of batches: on a CPU by several at once, each by a core of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fuseforget.models.batches import Batch
from fuseforget.models.lanes import in_lanes
from fuseforget.models.precast import precast
from fuseforget.models.running import autocast

__all__ = ["predict"]

Logits = npt.NDArray[np.float32]


def predict(model: Any, batches: Sequence[Batch], *, exact: bool = False, lanes: int | None = None) -> Logits:
    """Return float32 logits (examples x labels) in the order of the texts.

    On a CPU batches are worked on side by side, each by one thread: a core then multiplies without waiting for another,
    and the logits do not depend on how many there are.

    Args:
        exact: compute in float32 even where the hardware multiplies faster in bfloat16.
        lanes: batches that a CPU works on at once; default: one a core.
    """
    model.eval()
    logits = np.empty((sum(len(batch.rows) for batch in batches), model.config.num_labels), dtype=np.float32)
    if model.device.type == "cpu":
        _on_cpu(model, batches, logits, exact=exact, lanes=lanes)
    else:
        _on_gpu(model, batches, logits, exact=exact)
    return logits


def _on_cpu(model: Any, batches: Sequence[Batch], logits: Logits, *, exact: bool, lanes: int | None) -> None:
    def lane(mine: Iterator[Batch]) -> None:
        for batch in mine:
            logits[batch.rows] = model(input_ids=batch.input_ids, attention_mask=batch.mask).logits.float().numpy()

    largest_first = sorted(batches, key=lambda batch: -batch.input_ids.numel())
    with precast(model, exact=exact):
        in_lanes(lane, largest_first, exact=exact, lanes=lanes)


def _on_gpu(model: Any, batches: Sequence[Batch], logits: Logits, *, exact: bool) -> None:
    """Nothing waits for the device before all is asked of it: a batch is sent there while those before it are computed."""
    where, found = model.device, []
    with torch.inference_mode(), autocast(exact=exact):
        for batch in batches:
            ids = batch.input_ids.pin_memory().to(where, non_blocking=True)
            mask = None if batch.mask is None else batch.mask.pin_memory().to(where, non_blocking=True)
            found.append(model(input_ids=ids, attention_mask=mask).logits.float())
    for batch, part in zip(batches, found, strict=True):
        logits[batch.rows] = part.cpu().numpy()
