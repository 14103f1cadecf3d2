"""Train the embeddings of the tokens that the data have, and leave the rest of the vocabulary alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fuseforget.models.batches import padded
from fuseforget.models.running import evaluating

__all__ = ["UsedVocabulary", "used_vocabulary"]

PROVED_ON = 8  # rows, the longest and the shortest of the data


@dataclass(frozen=True)
class UsedVocabulary:
    """A model's input embeddings cut down to the rows of some tokens, in place.

    Attributes:
        model: has the cut ones from the beginning.
        whole: the embeddings of the whole vocabulary, whose used rows are those of the beginning until they are put back.
        cut: those of the used tokens, which take the ids of the whole vocabulary.
        used: which tokens these are, ascending.
    """

    model: Any
    whole: nn.Embedding
    cut: nn.Embedding
    used: torch.Tensor

    def restore(self) -> None:
        """Give the model its whole vocabulary, with the used rows as they are now."""
        with torch.no_grad():
            self.whole.weight[self.used] = self.cut.weight
        self.model.set_input_embeddings(self.whole)

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        """The same inside the block, which may read any text and does not train."""
        self.restore()
        try:
            yield
        finally:
            self.model.set_input_embeddings(self.cut)


def used_vocabulary(model: Any, rows: Sequence[Sequence[int]], pad: int) -> UsedVocabulary | None:
    """Cut a model's input embeddings down to the tokens of ``rows`` and the padding token, or return None.

    No other row gets a gradient, and without weight decay none changes: a training ends in the same model, but for the
    rounding of the gradient's norm. None, and the model is as it was, where the embeddings are also the output's or frozen,
    where they do more than look rows up, where all of them are used, and where a batch's logits are not the same to the bit.
    """
    whole = model.get_input_embeddings()
    if not _looks_up(whole) or not whole.weight.requires_grad or _owners(model, whole.weight) > 1:
        return None
    used = torch.tensor(sorted({pad, *(token for row in rows for token in row)}), device=whole.weight.device)
    if len(used) >= whole.num_embeddings:
        return None
    proof = _ends(rows)
    expected = _logits(model, proof, pad)
    vocabulary = UsedVocabulary(model, whole, _UsedRows(whole, used), used)
    model.set_input_embeddings(vocabulary.cut)
    if model.get_input_embeddings() is vocabulary.cut and torch.equal(_logits(model, proof, pad), expected):
        return vocabulary
    model.set_input_embeddings(whole)
    return None


class _UsedRows(nn.Embedding):
    """The rows of some tokens, looked up by their ids in the whole vocabulary: whatever else reads ids sees the same ones.

    A token that is not among them has a place past the end, which no lookup accepts.
    """

    def __init__(self, whole: nn.Embedding, used: torch.Tensor) -> None:
        place = torch.full((whole.num_embeddings,), len(used), dtype=torch.long, device=used.device)
        place[used] = torch.arange(len(used), device=used.device)
        filler = whole.padding_idx
        kept = None if filler is None or place[filler] == len(used) else int(place[filler])
        super().__init__(len(used), whole.embedding_dim, padding_idx=kept, _weight=whole.weight.detach()[used].clone())
        self.place: torch.Tensor
        self.register_buffer("place", place, persistent=False)
        self.train(whole.training)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(self.place[input])


def _looks_up(module: Any) -> bool:
    """Whether a module returns the rows of its weight and does nothing else."""
    return type(module) is nn.Embedding and module.max_norm is None and not module.scale_grad_by_freq and not module.sparse


def _owners(model: Any, weight: nn.Parameter) -> int:
    return sum(parameter is weight for _, parameter in model.named_parameters(remove_duplicate=False))


def _ends(rows: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    """Some of the shortest and of the longest rows: they have padding, where any have."""
    ordered = sorted(rows, key=len)
    return [*ordered[: PROVED_ON // 2], *ordered[PROVED_ON // 2 :][-PROVED_ON // 2 :]]


def _logits(model: Any, rows: Sequence[Sequence[int]], pad: int) -> torch.Tensor:
    ids, mask = padded(rows, pad)
    with evaluating(model), torch.inference_mode():
        logits: torch.Tensor = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).logits
    return logits
