"""Texts as the batches that a model reads: taken apart once, of similar length, padded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from fuseforget.models.classifier import Classifier
from fuseforget.models.pretrained import positions
from fuseforget.models.running import device

__all__ = [
    "Batch",
    "batch_tokens",
    "by_length",
    "describe_cut",
    "encode_batches",
    "max_tokens",
    "padded",
    "plan_batches",
    "tokenise",
]

TOKEN_BUDGET = 4096  # tokens in a batch, padding included
# Tokens in a prediction batch, and how many of one length are a batch of their own. What a CPU works on stays in its caches.
ON_CPU, ON_GPU = (2048, 0), (1 << 16, 1 << 15)
MAX_LENGTH = 512


@dataclass(frozen=True)
class Batch:
    """Examples of similar length, padded once.

    Attributes:
        rows: which examples these are.
        input_ids, attention_mask: examples x tokens.
        cut: how many of the texts were longer than the model can read.
    """

    rows: npt.NDArray[np.int64]
    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    cut: int = 0

    @property
    def mask(self) -> torch.Tensor | None:
        """The attention mask where there is padding to hide; without one, attention takes its faster way."""
        return None if bool(self.attention_mask.all()) else self.attention_mask


def encode_batches(classifier: Classifier, texts: Sequence[str], *, token_budget: int | None = None) -> list[Batch]:
    """Tokenise once and group by length: each batch holds at most ``token_budget`` tokens, padding included.

    On a CPU texts of one length alone are together: nothing is computed for padding, and attention needs no mask. A GPU is
    idle over batches of rare lengths: there lengths are mixed until a batch is worth it.

    Args:
        token_budget: default: what the device works best with.
    """
    return plan_batches(classifier, *tokenise(classifier, texts), token_budget=token_budget)


def plan_batches(
    classifier: Classifier, ids: Sequence[list[int]], cut: set[int], *, token_budget: int | None = None
) -> list[Batch]:
    """The same of texts that :func:`tokenise` has taken apart."""
    budget, least = ON_GPU if device().type == "cuda" else ON_CPU
    if token_budget is not None:
        budget, least = token_budget, min(least, token_budget)
    return batch_tokens(classifier, ids, cut, token_budget=budget, least=least)


def batch_tokens(
    classifier: Classifier, ids: Sequence[list[int]], cut: set[int], *, token_budget: int, least: int | None = None
) -> list[Batch]:
    """Texts that :func:`tokenise` has taken apart, as batches of rows that :func:`by_length` puts together."""
    pad = classifier.tokenizer.pad_token_id
    groups = by_length([len(one) for one in ids], token_budget, least=least)
    return [Batch(np.asarray(g), *padded([ids[i] for i in g], pad), len(cut.intersection(g))) for g in groups]


def by_length(lengths: Sequence[int], token_budget: int, *, least: int | None = None) -> list[list[int]]:
    """Numbers of the rows that are read at once, shortest first: a batch holds at most so many tokens, padding included.

    Args:
        least: tokens of a batch to which rows of another length are no longer added; 0: no batch has padding. Default: the
            budget, for as few batches as it allows.
    """
    enough = token_budget if least is None else least
    groups: list[list[int]] = [[]]
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):  # ascending, so the newest is the longest of its batch
        group = groups[-1]
        if group:
            longer = lengths[i] > lengths[group[0]] and len(group) * lengths[group[-1]] >= enough
            if longer or (len(group) + 1) * lengths[i] > token_budget:
                groups.append(group := [])
        group.append(i)
    return [group for group in groups if group]


def padded(ids: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids, filled up to the longest row, and the attention mask that hides what was filled up: rows x tokens."""
    width = max(max(map(len, ids)), 1)
    input_ids = torch.full((len(ids), width), pad, dtype=torch.long)
    mask = torch.zeros((len(ids), width), dtype=torch.long)
    for i, sequence in enumerate(ids):
        input_ids[i, : len(sequence)] = torch.tensor(sequence, dtype=torch.long)
        mask[i, : len(sequence)] = 1
    return input_ids, mask


def tokenise(classifier: Classifier, texts: Sequence[str]) -> tuple[list[list[int]], set[int]]:
    """Token ids of each text, cut to what the model can read, and the rows of the texts that were cut."""
    if not texts:
        return [], set()
    whole = classifier.tokenizer(list(texts), return_attention_mask=False, verbose=False)["input_ids"]
    ids = [list(one) for one in whole]
    limit = max_tokens(classifier)
    cut = [row for row, one in enumerate(ids) if len(one) > limit]
    if cut:
        # Again, and not sliced: the tokenizer keeps the special token that ends a text.
        long = [texts[row] for row in cut]
        shortened = classifier.tokenizer(long, truncation=True, max_length=limit, return_attention_mask=False)["input_ids"]
        for row, one in zip(cut, shortened, strict=True):
            ids[row] = list(one)
    return ids, set(cut)


def max_tokens(classifier: Classifier) -> int:
    """How many tokens of a text the model reads."""
    return min(MAX_LENGTH, int(classifier.tokenizer.model_max_length), positions(classifier.model.config) or MAX_LENGTH)


def describe_cut(cut: int, texts: int, limit: int) -> str:
    """What to say where texts were cut; nothing where none was."""
    return f"{cut} of {texts} texts cut to the {limit} tokens that the model reads" if cut else ""
