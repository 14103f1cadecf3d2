"""Rows: the sequences of token ids that a language model reads at once, and which documents they are made of."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fuseforget.errors import InputError

__all__ = ["MIN_TOKENS", "Rows", "join_rows"]

MIN_TOKENS = 5  # of a text that says anything: a mean over fewer is noise, and over none is no number


@dataclass(frozen=True)
class Rows:
    """Sequences of token ids.

    Attributes:
        ids: each row's tokens: a block of packed documents, or one article cut to a model's window.
        documents: for each row the numbers of the documents that it has tokens of, in order of appearance. Numbers below 0
            are canaries: -1 is the first one, -2 the second.
        short: texts that were left out because they have fewer than MIN_TOKENS tokens.
        cut: rows that have only the beginning of their text.
        rest: tokens (and separators) at the end that made no whole block, left out.
    """

    ids: tuple[tuple[int, ...], ...]
    documents: tuple[tuple[int, ...], ...]
    short: int = 0
    cut: int = 0
    rest: int = 0

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.documents):
            raise InputError("rows", expected=f"documents of {len(self.ids)} rows", found=str(len(self.documents)))

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, indices: Sequence[int] | np.ndarray) -> Rows:
        """Return the rows at these indices, in that order; what was left out in making them is not counted again."""
        chosen = [int(i) for i in indices]
        return Rows(tuple(self.ids[i] for i in chosen), tuple(self.documents[i] for i in chosen))

    @property
    def tokens(self) -> int:
        """How many tokens all rows have together, separators and special tokens included."""
        return sum(map(len, self.ids))

    @property
    def sha256(self) -> str:
        """A digest of ids and documents, row by row: what a record needs to say which data it was."""
        digest = hashlib.sha256()
        for lists in (self.ids, self.documents):
            lengths = np.fromiter(map(len, lists), dtype="<i8", count=len(lists))
            digest.update(np.int64(len(lists)).astype("<i8").tobytes() + lengths.tobytes())
            digest.update(np.fromiter((i for row in lists for i in row), dtype="<i8", count=int(lengths.sum())).tobytes())
        return digest.hexdigest()


def join_rows(parts: Sequence[Rows]) -> Rows:
    """All rows of several sets, one set after the other, with what was left out of them added up."""
    return Rows(
        tuple(row for part in parts for row in part.ids),
        tuple(row for part in parts for row in part.documents),
        short=sum(part.short for part in parts),
        cut=sum(part.cut for part in parts),
        rest=sum(part.rest for part in parts),
    )
