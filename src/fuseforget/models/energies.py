"""What a language model makes of each row: its energy, the negative log-likelihood of its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from fuseforget.errors import InputError, some_names
from fuseforget.models.language import LanguageModel
from fuseforget.models.logits import LOGIT_BUDGET, TOKEN_BUDGET, Reading, require_finite, require_rows, starts, visit_logits
from fuseforget.models.masks import Masks

__all__ = ["Energies", "decoder_readings", "energies", "readings_of", "summed"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Energies:
    """One energy a row, in nats.

    Attributes:
        sums: float64, rows. A decoder's (paper, Eq. 15): -sum of log p(x_t | x_<t) over t = 1 .. T - 1; the first token is
            predicted by nothing. A masked model's (Eq. 16): the mean over the row's masks of -sum of log p(x_i | the rest).
        tokens: int64, rows; the tokens that a sum is of: T - 1, or those of a mask.
    """

    sums: Floats
    tokens: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.sums)

    @property
    def means(self) -> Floats:
        """Nats a token; exp of it is a row's perplexity."""
        return self.sums / self.tokens


def energies(
    lm: LanguageModel,
    rows: Sequence[Sequence[int]],
    *,
    masks: Masks | None = None,
    exact: bool = False,
    token_budget: int = TOKEN_BUDGET,
    logit_budget: int = LOGIT_BUDGET,
) -> Energies:
    """Compute one energy a row; log-probabilities are float32 whatever the model computes in, their sums float64.

    Args:
        rows: token ids, each row read at once; padding changes no result.
        masks: for a masked model, and only for one: :func:`fuseforget.models.draw_masks` of the same rows.
        exact: compute in float32 even where the hardware multiplies faster in bfloat16.
        token_budget: tokens in a batch, padding included.
        logit_budget: bytes of float32 logits held at once; where the head cannot be told apart from the model, at least
            those of one row.

    Raises:
        InputError: rows too short (2 tokens for a decoder) or too long, ids that the model does not know, masks missing or of
            other rows, predictions that are no numbers: the rows are counted and named.
    """
    readings = readings_of(lm, rows, masks)
    wanted = torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *[reading.tokens for reading in readings]]))
    log_probs = np.empty(len(wanted), dtype=np.float32)

    def take(numbers: npt.NDArray[np.int64], logits: torch.Tensor) -> None:
        targets = wanted[torch.from_numpy(numbers)].to(logits.device)
        log_probs[numbers] = -torch.nn.functional.cross_entropy(logits, targets, reduction="none").cpu().numpy()

    visit_logits(lm, readings, take, exact=exact, token_budget=token_budget, logit_budget=logit_budget)
    per_row = max(1, len(readings) // max(1, len(rows)))  # a masked model reads a row once for each of its masks
    offsets = starts([len(reading.places) for reading in readings])
    counts = np.diff(offsets)
    require_finite(lm, log_probs, np.repeat(np.arange(len(readings)) // per_row, counts))
    return Energies(summed(-log_probs, offsets).reshape(-1, per_row).mean(axis=1), counts[::per_row])


def readings_of(lm: LanguageModel, rows: Sequence[Sequence[int]], masks: Masks | None = None) -> list[Reading]:
    """What is read for the rows' energies, of each row equally often; the errors are those of :func:`energies`."""
    return _masked_readings(lm, rows, masks) if lm.masked else decoder_readings(lm, rows, masks)


def decoder_readings(lm: LanguageModel, rows: Sequence[Sequence[int]], masks: Masks | None = None) -> list[Reading]:
    """What is read for the prediction of every token but the first.

    Raises:
        InputError: the model is no decoder, or rows it cannot read; masks, which it has no use for.
    """
    if lm.masked:
        raise InputError(lm.source, expected="a decoder", found="a masked language model")
    if masks is not None:
        raise InputError("masks", expected=f"none for the decoder {lm.source}", found=f"those of {len(masks)} rows")
    require_rows(lm, rows, least=2, why="since the first is predicted by nothing")
    return [Reading(row, range(len(row) - 1)) for row in rows]


def summed(values: npt.NDArray[np.float32], offsets: npt.NDArray[np.int64]) -> Floats:
    """Sums of stretches, none of them empty, in float64."""
    if len(offsets) == 1:
        return np.zeros(0)
    found: Floats = np.add.reduceat(values.astype(np.float64), offsets[:-1])
    return found


def _masked_readings(lm: LanguageModel, rows: Sequence[Sequence[int]], masks: Masks | None) -> list[Reading]:
    if masks is None:
        raise InputError(
            "masks",
            expected=f"those of the rows, for the masked model {lm.source}",
            found="none",
            action="Draw them once for all models that are compared (draw_masks).",
        )
    require_rows(lm, rows, least=1, why="since a token is to be masked")
    if len(masks) != len(rows):
        raise InputError("masks", expected=f"those of {len(rows)} rows", found=f"those of {len(masks)}")
    pairs = list(zip(rows, masks.chunks, strict=True))
    other = [str(number) for number, (row, chunks) in enumerate(pairs) if not _are_of(chunks, row, masks.chunks[0])]
    if other:
        what = f"others for {len(other)} rows (row {some_names(other)})"
        raise InputError("masks", expected="as many for each row, of one size, within it", found=what)
    return [Reading(row, chunk, masked=True) for row, chunks in pairs for chunk in chunks]


def _are_of(chunks: Sequence[Sequence[int]], row: Sequence[int], first: Sequence[Sequence[int]]) -> bool:
    """Whether masks can be those of a row, where another row has the masks ``first``."""
    sizes = {len(chunk) for chunk in chunks}
    inside = all(0 <= min(chunk) <= max(chunk) < len(row) for chunk in chunks if chunk)
    return len(chunks) == len(first) and len(sizes) == 1 and 0 not in sizes and inside
