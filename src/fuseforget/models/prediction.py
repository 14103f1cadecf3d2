"""Logits of batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fuseforget.models.batches import Batch
from fuseforget.models.running import autocast

__all__ = ["predict"]


def predict(model: Any, batches: Sequence[Batch], *, exact: bool = False) -> npt.NDArray[np.float32]:
    """Return float32 logits (examples x labels) in the order of the texts.

    Args:
        exact: compute in float32 even where the hardware multiplies faster in bfloat16.
    """
    model.eval()
    n = sum(len(batch.rows) for batch in batches)
    logits = np.empty((n, model.config.num_labels), dtype=np.float32)
    with torch.inference_mode(), autocast(exact=exact):
        for batch in batches:
            where = model.device
            output = model(input_ids=batch.input_ids.to(where), attention_mask=batch.attention_mask.to(where))
            logits[batch.rows] = output.logits.float().cpu().numpy()
    return logits
