"""Logits where they are asked for, a few positions at a time: never those of a batch x tokens x vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from fuseforget.errors import InputError, some_names
from fuseforget.models.batches import TOKEN_BUDGET, by_length, padded
from fuseforget.models.heads import Parts, parts_of
from fuseforget.models.lanes import in_lanes
from fuseforget.models.language import LanguageModel, max_positions, padding_id
from fuseforget.models.precast import precast

__all__ = ["LOGIT_BUDGET", "TOKEN_BUDGET", "Reading", "require_finite", "require_rows", "seen", "starts", "visit_logits"]

LOGIT_BUDGET = 64 << 20  # bytes of float32 logits held at once
CACHED = 2 << 20  # bytes
Sliced = TypeVar("Sliced", npt.NDArray[np.int64], torch.Tensor)
Take = Callable[[npt.NDArray[np.int64], torch.Tensor], None]


@dataclass(frozen=True)
class Reading:
    """A row that is read once.

    Attributes:
        row: token ids.
        places: positions whose logits are asked for, ascending: a decoder's at t predict t + 1, a masked model's t itself.
        masked: whether the model sees a mask in these places.
    """

    row: Sequence[int]
    places: Sequence[int]
    masked: bool = False

    @property
    def tokens(self) -> npt.NDArray[np.int64]:
        """The tokens that the row has where its places predict."""
        return np.asarray(self.row, dtype=np.int64)[np.asarray(self.places, dtype=np.int64) + (not self.masked)]


def visit_logits(
    lm: LanguageModel,
    readings: Sequence[Reading],
    take: Take,
    *,
    exact: bool = False,
    token_budget: int = TOKEN_BUDGET,
    logit_budget: int = LOGIT_BUDGET,
) -> None:
    """Show ``take`` the logits of every place of every reading, each once.

    Batches are of similar length, the longest first, so that running out of memory shows at once. Where head and body of the
    model cannot be told apart (see :mod:`fuseforget.models.heads`), whole logits are computed, in batches of as few rows as
    the budget asks; the logits of one row are then held even if they alone exceed it.

    Args:
        take: called with the numbers of some places, counted through all readings in their order, and their logits (places x
            vocabulary, float32), which it may overwrite; on a CPU by several threads at once.
        exact: compute in float32 even where the hardware multiplies faster in bfloat16.
        token_budget: tokens in a batch, padding included.
        logit_budget: bytes of float32 logits held at once by a core; on a GPU, what is computed from them needs as much again.
    """
    if not readings:
        return
    offsets = starts([len(reading.places) for reading in readings])
    parts = parts_of(lm, max((reading.row for reading in readings), key=len))
    at_once = max(1, logit_budget // (4 * parts.vocabulary))
    groups = by_length([len(reading.row) for reading in readings], token_budget if parts.split else min(token_budget, at_once))

    def lane(mine: Iterator[list[int]]) -> None:
        for group in mine:
            batch = [readings[i] for i in group]
            numbers = np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in group])
            states = _states(lm, parts, batch)
            for chunk, hidden in zip(_split(numbers, at_once), _split(states, at_once), strict=True):
                logits = parts.logits(hidden) if parts.split else hidden
                # What is computed of logits goes over them several times: slices that fit a processor's cache cost a fifth.
                fine = max(1, CACHED // (4 * parts.vocabulary)) if logits.device.type == "cpu" else at_once
                with torch.autocast(logits.device.type, enabled=False):
                    for some, part in zip(_split(chunk, fine), _split(logits, fine), strict=True):
                        take(some, part.float())

    # A GPU works on one batch after another; autocast keeps the weights that it has cast from one to the next.
    with precast(lm.model, exact=exact):
        in_lanes(lane, reversed(groups), exact=exact, lanes=None if lm.model.device.type == "cpu" else 1)


def require_rows(lm: LanguageModel, rows: Sequence[Sequence[int]], *, least: int, why: str) -> None:
    """Raise InputError, which counts and names them, where rows are too short or too long for the model, or of unknown ids.

    Args:
        least: tokens that a row must have, and ``why``.
    """
    most = max_positions(lm)
    embeddings = int(lm.model.get_input_embeddings().num_embeddings)
    known = min(embeddings, int(getattr(lm.model.get_output_embeddings(), "out_features", embeddings)))
    _refuse(rows, [len(row) < least for row in rows], f"at least {least} tokens in each, {why}", "fewer")
    _refuse(rows, [len(row) > most for row in rows], f"at most {most} tokens in each, as many as the model reads", "more")
    unknown = [bool(len(row)) and not 0 <= min(row) <= max(row) < known for row in rows]
    _refuse(rows, unknown, f"ids from 0 to {known - 1}, the vocabulary of {lm.source}", "others")


def require_finite(lm: LanguageModel, values: npt.NDArray[np.floating], row_of: npt.NDArray[np.int64]) -> None:
    """Raise InputError, which names the row, where a log-probability is no number.

    Args:
        values: log-probabilities.
        row_of: the row that each is of.
    """
    bad = np.unique(row_of[~np.isfinite(values)])
    if len(bad):
        raise InputError(
            lm.source,
            expected="a finite log-probability of every token",
            found=f"others in {len(bad)} rows (row {some_names([str(row) for row in bad])})",
            action="The model's weights hold NaN or infinity, or overflow: check them, or compute with exact=True.",
        )


def starts(counts: Sequence[int]) -> npt.NDArray[np.int64]:
    """Where each of several stretches of these lengths begins, laid end to end, and at last where they end."""
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts, dtype=np.int64)])


def _split(values: Sliced, size: int) -> list[Sliced]:
    return [values[start : start + size] for start in range(0, len(values), size)]


def seen(lm: LanguageModel, batch: Sequence[Reading]) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor]:
    """What a model is shown of a batch: ids (readings x tokens), what of them is no padding (None: all), and its places.

    The places are pairs of a reading and a position, in order.
    """
    ids, mask = padded([reading.row for reading in batch], padding_id(lm))
    rows = torch.from_numpy(np.repeat(np.arange(len(batch)), [len(reading.places) for reading in batch]))
    places = torch.from_numpy(np.concatenate([np.asarray(reading.places, dtype=np.int64) for reading in batch]))
    hidden_from = torch.tensor([reading.masked for reading in batch])[rows]
    if bool(hidden_from.any()):
        ids[rows[hidden_from], places[hidden_from]] = int(lm.tokenizer.mask_token_id)
    where = lm.model.device
    shown = None if bool(mask.all()) else mask.to(where)  # without one, attention takes its faster way
    return ids.to(where), shown, rows.to(where), places.to(where)


def _states(lm: LanguageModel, parts: Parts, batch: Sequence[Reading]) -> torch.Tensor:
    """Hidden states of a batch's places, or their logits where a model is left whole: places x dimensions."""
    ids, shown, rows, places = seen(lm, batch)
    read = parts.hidden if parts.split else parts.whole
    return read(ids, shown)[rows, places]


def _refuse(rows: Sequence[Sequence[int]], bad: Sequence[bool], expected: str, found: str) -> None:
    numbers = [str(number) for number, one in enumerate(bad) if one]
    if numbers:
        what = f"{found} in {len(numbers)} of {len(rows)} (row {some_names(numbers)})"
        raise InputError("rows", expected=expected, found=what)
