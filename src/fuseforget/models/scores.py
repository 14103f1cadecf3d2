"""What a decoder gives each token of a row, in one pass: all that attacks by membership and by extraction read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from fuseforget.models.energies import Energies, decoder_readings, summed
from fuseforget.models.language import LanguageModel
from fuseforget.models.logits import LOGIT_BUDGET, TOKEN_BUDGET, require_finite, starts, visit_logits

__all__ = ["TokenScores", "token_scores"]

Floats = npt.NDArray[np.float32]
# Far below what exp takes to 0 in float32, so that it changes no moment: some models give impossible tokens -3e38.
IMPOSSIBLE = -1e4


@dataclass(frozen=True)
class TokenScores:
    """Flat arrays of the predicted tokens of all rows; those of row i are from ``offsets[i]`` to ``offsets[i + 1]``.

    The first token of a row is predicted by nothing: a row of T tokens has T - 1 of them, and ``log_probs[offsets[i] + t]``
    is that of its token t + 1.

    Attributes:
        log_probs: float32, log p(x_t | x_<t), nats.
        expected: float32, mu = sum over v of p(v | x_<t) log p(v | x_<t): the log-probability's mean under the prediction.
        spread: float32, sigma, its standard deviation under the prediction; Min-K%++ (Zhang et al. 2024, arXiv 2404.02936)
            is the mean of the lowest K % of (log_probs - expected) / spread.
        greedy: bool, the token is the likeliest. Greedy decoding gives a suffix exactly if all its tokens are.
        offsets: int64, rows + 1.
    """

    log_probs: Floats
    expected: Floats
    spread: Floats
    greedy: npt.NDArray[np.bool_]
    offsets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def energies(self) -> Energies:
        """What :func:`fuseforget.models.energies` computes of the same rows."""
        return Energies(summed(-self.log_probs, self.offsets), np.diff(self.offsets))


def token_scores(
    lm: LanguageModel,
    rows: Sequence[Sequence[int]],
    *,
    exact: bool = False,
    token_budget: int = TOKEN_BUDGET,
    logit_budget: int = LOGIT_BUDGET,
) -> TokenScores:
    """Score every predicted token of every row, for a decoder; the options are those of :func:`fuseforget.models.energies`.

    In bfloat16 the model's logits have 8 significant bits: one between 32 and 64 is off by up to 0.13, and two may be equal.
    Sums over a row average that out; what judges single tokens (extraction) is better computed with ``exact``.

    Raises:
        InputError: a masked model; else as ``energies``.
    """
    readings = decoder_readings(lm, rows)
    wanted = torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *[reading.tokens for reading in readings]]))
    offsets = starts([len(reading.places) for reading in readings])
    scores = np.empty((len(wanted), 4), dtype=np.float32)

    def take(numbers: npt.NDArray[np.int64], logits: torch.Tensor) -> None:
        scores[numbers] = _scores(logits, wanted[torch.from_numpy(numbers)].to(logits.device)).cpu().numpy()

    visit_logits(lm, readings, take, exact=exact, token_budget=token_budget, logit_budget=logit_budget)
    require_finite(lm, scores.sum(axis=1), np.repeat(np.arange(len(rows)), np.diff(offsets)))
    log_probs, expected, spread, greedy = (np.ascontiguousarray(column) for column in scores.T)
    return TokenScores(log_probs, expected, spread, greedy == 1, offsets)


def _scores(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Log-probability, mu, sigma and whether it is the likeliest, of each target; overwrites the logits.

    In place, and with dot products in place of products that are summed: one working copy of the logits.
    """
    largest, likeliest = logits.max(dim=1)
    log_p = logits.sub_(largest[:, None])
    p = log_p.exp()
    total = p.sum(dim=1, keepdim=True)
    log_p.sub_(total.log())
    p.div_(total)
    found = log_p.gather(1, targets[:, None]).squeeze(1)
    log_p.clamp_(min=IMPOSSIBLE)
    mean = torch.einsum("cv,cv->c", p, log_p)
    variance = torch.einsum("cv,cv->c", p, log_p.sub_(mean[:, None]).square_())
    return torch.stack([found, mean, variance.sqrt(), likeliest == targets], dim=1)
