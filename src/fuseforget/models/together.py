"""Several sets of weights of one model, computed at once: a GPU is idle over a small model's operations one after another."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fuseforget.checkpoint import Checkpoint
from fuseforget.models.batches import Batch, encode_batches
from fuseforget.models.classifier import Classifier
from fuseforget.models.running import autocast

__all__ = ["Together", "at_once"]

MOST = 16  # sets of weights
VALUES = 300_000_000  # of all sets that are computed at once: 1.2 GB


def at_once(checkpoint: Checkpoint, device: str) -> int:
    """How many sets of a model's weights are worth computing at once: one on a CPU, whose cores one set keeps busy."""
    if device == "cpu":
        return 1
    return max(1, min(MOST, VALUES // sum(math.prod(info.shape) for info in checkpoint.infos.values())))


def works_together(classifier: Classifier) -> bool:
    """Whether a model's operations can all be repeated over sets of weights, tried on one short text."""
    batches = encode_batches(classifier, ["a"])
    try:
        Together(classifier.model, 2).predict(batches)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, NotImplementedError):  # an operation that vmap has no rule for
        return False
    return True


class Together:
    """Sets of weights side by side, as many for every call, so that a set's logits do not depend on the others.

    Args:
        model: whose weights are taken; it is not changed.
        count: how many sets there is room for.
    """

    def __init__(self, model: Any, count: int) -> None:
        self._model, self._count = model, count
        self._stacked = {name: own.new_zeros((count, *own.shape)) for name, own in self._changing().items()}

    def take(self, number: int) -> None:
        """Keep the weights that the model has now as set ``number``."""
        for name, own in self._changing().items():
            self._stacked[name][number].copy_(own)

    def predict(self, batches: Sequence[Batch], *, exact: bool = False) -> npt.NDArray[np.float32]:
        """Return float32 logits (sets x examples x labels), as :func:`fuseforget.models.predict` does of one set."""
        self._model.eval()
        examples = sum(len(batch.rows) for batch in batches)
        logits = np.empty((self._count, examples, self._model.config.num_labels), dtype=np.float32)
        with torch.inference_mode(), autocast(exact=exact), warnings.catch_warnings():
            # Of operations that vmap repeats a set at a time: slower than it could be, and right.
            warnings.filterwarnings("ignore", message="There is a performance drop")
            found = [self._of(batch) for batch in batches]
        for batch, part in zip(batches, found, strict=True):
            logits[:, batch.rows] = part.cpu().numpy()
        return logits

    def _of(self, batch: Batch) -> torch.Tensor:
        where = self._model.device
        ids = batch.input_ids.to(where, non_blocking=True)
        mask = None if batch.mask is None else batch.mask.to(where, non_blocking=True)

        def one(weights: dict[str, torch.Tensor]) -> torch.Tensor:
            said = torch.func.functional_call(self._model, weights, kwargs={"input_ids": ids, "attention_mask": mask})
            return said.logits  # type: ignore[no-any-return]

        return torch.vmap(one)(self._stacked).float()

    def _changing(self) -> dict[str, torch.Tensor]:
        buffers = {name: own for name, own in self._model.named_buffers() if own.is_floating_point()}
        return {**{name: own.detach() for name, own in self._model.named_parameters()}, **buffers}
