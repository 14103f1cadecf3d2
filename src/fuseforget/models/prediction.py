"""Logits of batches: on a CPU by several at once, each by a core of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fuseforget.models.batches import Batch
from fuseforget.models.running import autocast, cores, intra_op

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
        _on_cpu(model, batches, logits, exact=exact, lanes=lanes or cores())
    else:
        _on_gpu(model, batches, logits, exact=exact)
    return logits


def _on_cpu(model: Any, batches: Sequence[Batch], logits: Logits, *, exact: bool, lanes: int) -> None:
    waiting = deque(sorted(batches, key=lambda batch: batch.input_ids.numel()))  # the last, and so the largest, goes first

    def lane() -> None:
        # These are of a thread, and so is the number of threads that its operations compute with.
        with intra_op(1), torch.inference_mode(), autocast(exact=exact):
            while waiting:
                try:
                    batch = waiting.pop()
                except IndexError:  # another lane was faster
                    return
                logits[batch.rows] = model(input_ids=batch.input_ids, attention_mask=batch.mask).logits.float().numpy()

    lanes = min(lanes, len(batches))
    if lanes < 2:
        lane()
        return
    with intra_op(1), ThreadPoolExecutor(lanes, "lane") as pool:
        try:
            for done in wait([pool.submit(lane) for _ in range(lanes)], return_when=FIRST_EXCEPTION).done:
                done.result()
        except BaseException:
            waiting.clear()  # the other lanes would go on to the end
            raise


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
