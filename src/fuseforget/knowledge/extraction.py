"""Verbatim extraction: how much of a row follows when its beginning is given and the model continues greedily."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fuseforget.errors import InputError
from fuseforget.knowledge.statistics import Interval, bootstrap_mean

__all__ = ["Extraction", "verbatim"]


@dataclass(frozen=True)
class Extraction:
    """What of rows a model continues word for word.

    Attributes:
        rows: the places of the rows that are long enough, of length n.
        leading: how many of each one's suffix tokens are reproduced before the first that is not.
        extracted: whether all are.
        rate: the share of these rows that is extracted, with its interval over them.
        share: the mean share of the suffix that ``leading`` is, with its interval over the rows.
        short: rows that are too short for prefix and suffix: counted, and in no share.
    """

    rows: npt.NDArray[np.int64]
    leading: npt.NDArray[np.int64]
    extracted: npt.NDArray[np.bool_]
    rate: Interval
    share: Interval
    short: int


def verbatim(greedy: npt.ArrayLike, offsets: npt.ArrayLike, *, prefix: int, suffix: int, seed: int = 0) -> Extraction:
    """Return which rows are extracted: given the first ``prefix`` tokens, greedy decoding gives exactly the next ``suffix``.

    Greedy decoding from the true prefix gives the true suffix if and only if every token of it is the most likely after the
    true tokens before it, so that one forward pass tells (extractable in the sense of Carlini et al. 2023, Definition 3.1).

    Args:
        greedy: whether each predicted token is the model's most likely, flat; a row of T tokens has T - 1 (the first is not
            predicted).
        offsets: where each row's begin in it, n + 1 places.
        prefix, suffix: in tokens, at least one each.

    Raises:
        InputError: no row that is long enough, a prefix or suffix below one, or offsets of another array.
    """
    flags, places = np.asarray(greedy, dtype=bool).ravel(), np.asarray(offsets, dtype=np.int64).ravel()
    if min(prefix, suffix) < 1:
        raise InputError("extraction", expected="a prefix and a suffix of at least one token", found=f"{prefix} and {suffix}")
    if len(places) == 0 or places[0] != 0 or places[-1] != len(flags) or (np.diff(places) < 0).any():
        raise InputError(
            "offsets of tokens", expected=f"ascending from 0 to {len(flags)}", found=f"{places[:1]} to {places[-1:]}"
        )
    lengths = np.diff(places) + 1
    rows = np.flatnonzero(lengths >= prefix + suffix)
    if rows.size == 0:
        raise InputError(
            "extraction",
            expected=f"at least one row of {prefix + suffix} tokens",
            found=f"{len(lengths)} rows of at most {lengths.max(initial=0)}",
            action="Take a shorter prefix or suffix.",
        )
    # The token at place p of a row is predicted at place p - 1.
    right = flags[places[rows][:, None] + np.arange(prefix - 1, prefix - 1 + suffix)]
    leading = np.cumprod(right, axis=1, dtype=np.int64).sum(axis=1)
    extracted = leading == suffix
    rate, share = (bootstrap_mean(values, seed=seed) for values in (extracted, leading / suffix))
    return Extraction(rows, leading, extracted, rate, share, len(lengths) - len(rows))
