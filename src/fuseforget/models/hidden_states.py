"""What a classifier holds of a text in each of its layers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from fuseforget.errors import InputError
from fuseforget.models.batches import encode_batches
from fuseforget.models.classifier import Classifier
from fuseforget.models.precast import precast
from fuseforget.models.running import autocast

__all__ = ["mean_states"]


def mean_states(classifier: Classifier, texts: Sequence[str], *, exact: bool = False) -> npt.NDArray[np.float32]:
    """Return the hidden states of texts, averaged over a text's tokens.

    Args:
        exact: compute in float32 even where the hardware multiplies faster in bfloat16.

    Returns:
        layers x texts x dimensions, float32, the texts in their order; the first layer is the embeddings.

    Raises:
        InputError: a model that gives no hidden states.
    """
    model = classifier.model.eval()
    batches = encode_batches(classifier, texts)
    found: npt.NDArray[np.float32] | None = None
    with precast(model, exact=exact), torch.inference_mode(), autocast(exact=exact):
        for batch in batches:
            ids, mask = batch.input_ids.to(model.device), batch.attention_mask.to(model.device)
            states = getattr(model(input_ids=ids, attention_mask=mask, output_hidden_states=True), "hidden_states", None)
            if states is None:
                raise InputError(classifier.source, expected="a model that gives its hidden states", found="none")
            shares = (mask / mask.sum(dim=1, keepdim=True))[None, :, :, None]
            means = (torch.stack(list(states)).float() * shares).sum(dim=2)  # layers x rows x dimensions
            if found is None:
                found = np.empty((len(means), len(texts), means.shape[2]), dtype=np.float32)
            found[:, batch.rows] = means.cpu().numpy()
    if found is None:
        raise InputError("texts", expected="at least one", found="none")
    return found
