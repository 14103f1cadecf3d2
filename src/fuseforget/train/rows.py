"""Rows of token ids that a language model is trained on: what cannot be trained on is refused before the work begins."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from fuseforget.errors import InputError
from fuseforget.models import LanguageModel, max_positions, tokenizer_sha256

__all__ = ["Row", "require_rows", "rows_sha256"]

Row = Sequence[int]


def require_rows(lm: LanguageModel, rows: Sequence[Row], *, tokenizer: str = "") -> None:
    """Raise InputError unless the model can learn from every row.

    A decoder predicts nothing in a row of one token, and a masked model nothing in a row of special tokens alone.

    Args:
        tokenizer: the digest of the tokenizer that made the rows, which must be the model's; "" where it is not known.
    """
    if tokenizer and tokenizer != tokenizer_sha256(lm.tokenizer):
        raise InputError(
            f"the tokenizer of {lm.source}",
            expected="the one that the rows were made with, for the same ids to be the same words",
            found="another one",
            action="Make the data with the tokenizer of the model that is trained.",
        )
    if not rows:
        raise InputError("rows to train on", expected="at least one", found="none")
    limit, vocabulary = max_positions(lm), lm.model.get_input_embeddings().num_embeddings
    special = set(lm.tokenizer.all_special_ids)
    idle = [i for i, row in enumerate(rows) if (special.issuperset(row) if lm.masked else len(row) < 2)]
    long = [i for i, row in enumerate(rows) if len(row) > limit]
    foreign = [i for i, row in enumerate(rows) if len(row) and not 0 <= min(row) <= max(row) < vocabulary]
    learnable = (
        "an ordinary token beside the special ones" if lm.masked else "2 tokens or more, of which all but the first are predicted"
    )
    for wrong, expected, found in (
        (idle, learnable, "fewer"),
        (long, f"at most the {limit} tokens that the model reads at once", "more"),
        (foreign, f"token ids from 0 to {vocabulary - 1}, the model's vocabulary", "others"),
    ):
        if wrong:
            raise InputError(
                "rows to train on",
                expected=expected,
                found=f"{found} in {len(wrong)} of {len(rows)} rows, the first row {wrong[0]}",
            )


def rows_sha256(rows: Sequence[Row]) -> str:
    """A digest of rows: their lengths and their tokens, in order."""
    digest = hashlib.sha256(np.asarray([len(row) for row in rows], dtype="<i8").tobytes())
    for row in rows:
        digest.update(np.asarray(row, dtype="<i8").tobytes())
    return digest.hexdigest()
