"""Membership inference attacks: from what a model says of a row to a score, higher where the row is more likely a member.

Each attack is a pure function and a row of :data:`ATTACKS`. An attack that needs no reference asks whether the model finds a
row easy; one with a reference asks whether it finds it easier than a model that never saw it, which is far stronger.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fuseforget.errors import InputError
from fuseforget.knowledge.memorization import RowEnergies, likelihood_ratio, token_means

__all__ = ["ATTACKS", "WINDOWS", "Attack", "Evidence", "TokenLogProbs", "TokenScores", "attack", "attacks_for"]

Values = npt.NDArray[np.float64]
LOWEST = 0.2  # the share of a row's tokens that Min-K% and Min-K%++ look at (the k = 20 % of both papers)
LEAST_SPREAD = 1e-6  # nats: below it, float32 log-probabilities do not tell the spread from none
WINDOWS = (2, 3, 4, 6, 9, 13, 18, 25, 32, 40)  # tokens, geometrically spaced: the windows of Chen et al. 2026


class TokenLogProbs(Protocol):
    """Log-probabilities of each predicted token of rows, flat: row i has the places ``offsets[i]`` to ``offsets[i + 1]``.

    Attributes:
        log_probs: log p of the true token.
        offsets: n + 1 places.
    """

    @property
    def log_probs(self) -> npt.NDArray[np.floating]: ...

    @property
    def offsets(self) -> npt.NDArray[np.integer]: ...


class TokenScores(TokenLogProbs, Protocol):
    """What a decoder says of each predicted token of rows, flat as its log-probabilities.

    Attributes:
        expected, spread: mean and standard deviation of log p over the vocabulary, under p.
        greedy: whether the true token is the most likely.
    """

    @property
    def expected(self) -> npt.NDArray[np.floating]: ...

    @property
    def spread(self) -> npt.NDArray[np.floating]: ...

    @property
    def greedy(self) -> npt.NDArray[np.bool_]: ...


@dataclass(frozen=True)
class Evidence:
    """What an attacker has of n rows.

    Attributes:
        energies: the attacked model's; of any language model.
        reference: those of a reference that never saw the rows (the pretrained base).
        tokens: the attacked model's token scores; of a decoder.
        reference_tokens: the reference's.
        texts: the rows as texts.
    """

    energies: RowEnergies
    reference: RowEnergies | None = None
    tokens: TokenScores | None = None
    reference_tokens: TokenLogProbs | None = None
    texts: Sequence[str] | None = None


@dataclass(frozen=True)
class Attack:
    """A score for each row, higher where it is more likely a member.

    Attributes:
        formula: its definition; E is the energy in nats, T the number of predicted tokens.
        source: the paper.
        needs: what it takes of :class:`Evidence` beside the energies, by name.
        score: ``Evidence -> n scores``.
    """

    name: str
    formula: str
    source: str
    needs: tuple[str, ...]
    score: Callable[[Evidence], Values]


def attack(name: str, evidence: Evidence) -> Values:
    """Return the scores of an attack in :data:`ATTACKS`, one for each row, higher where it is more likely a member.

    Raises:
        InputError: an attack that there is not, evidence that it needs and that is not there, or of other rows, or token scores
            that are not finite.
    """
    if name not in ATTACKS:
        near = get_close_matches(name, ATTACKS, n=3)
        action = f"Did you mean {' or '.join(near)}?" if near else ""
        raise InputError("attack", expected=f"one of {', '.join(ATTACKS)}", found=repr(name), action=action)
    chosen = ATTACKS[name]
    missing = [need for need in chosen.needs if getattr(evidence, need) is None]
    if missing:
        raise InputError(f"attack {name}", expected=f"evidence of {', '.join(chosen.needs)}", found=f"no {', '.join(missing)}")
    _check(evidence, chosen.needs)
    return chosen.score(evidence)


def attacks_for(evidence: Evidence) -> tuple[str, ...]:
    """The names of the attacks whose needs the evidence meets: without token scores (a masked model), those on energies."""
    return tuple(name for name, row in ATTACKS.items() if all(getattr(evidence, need) is not None for need in row.needs))


def _check(evidence: Evidence, needs: Sequence[str]) -> None:
    n = len(evidence.energies.sums)
    if "texts" in needs and evidence.texts is not None and len(evidence.texts) != n:
        raise InputError("texts of the rows", expected=f"one for each of {n} rows", found=str(len(evidence.texts)))
    for need, parts in (("tokens", ("log_probs", "expected", "spread")), ("reference_tokens", ("log_probs",))):
        scores = getattr(evidence, need) if need in needs else None
        if scores is not None:
            _check_tokens(need.replace("_", " "), scores, parts, evidence.energies)


def _check_tokens(thing: str, scores: TokenLogProbs, parts: Sequence[str], energies: RowEnergies) -> None:
    lengths = np.diff(scores.offsets)
    if not np.array_equal(lengths, np.asarray(energies.tokens)) or lengths.min(initial=1) < 1:
        raise InputError(f"scores of the {thing}", expected="as many as the energies are of, one or more a row", found="others")
    for part in parts:
        values = np.asarray(getattr(scores, part))
        if len(values) != scores.offsets[-1] or not np.isfinite(values).all():
            found = f"{len(values)}, of which {np.sum(~np.isfinite(values))} are not finite"
            raise InputError(f"{part} of the {thing}", expected=f"{scores.offsets[-1]} finite numbers", found=found)


def _loss(evidence: Evidence) -> Values:
    return -token_means(evidence.energies)


def _reference(evidence: Evidence) -> Values:
    assert evidence.reference is not None
    return -likelihood_ratio(evidence.energies, evidence.reference)


def _zlib(evidence: Evidence) -> Values:
    assert evidence.texts is not None
    sizes = np.array([len(zlib.compress(text.encode())) for text in evidence.texts])
    scores: Values = -token_means(evidence.energies) / sizes
    return scores


def _min_k(evidence: Evidence) -> Values:
    assert evidence.tokens is not None
    return _mean_of_lowest(np.asarray(evidence.tokens.log_probs, dtype=np.float64), evidence.tokens.offsets)


def _min_k_plus_plus(evidence: Evidence) -> Values:
    assert evidence.tokens is not None
    scores = evidence.tokens
    gap = np.asarray(scores.log_probs, dtype=np.float64) - scores.expected
    # Where the model is certain there is no spread. Of the certain token itself the gap is none either, and the score the
    # limit, 0; any other is as far below as a number can say and stays finite.
    return _mean_of_lowest(gap / np.maximum(scores.spread, LEAST_SPREAD), scores.offsets)


def _mean_of_lowest(values: Values, offsets: npt.NDArray[np.integer]) -> Values:
    """The mean of the lowest fifth of each row's values, rounded down but of one at least."""
    lengths = np.diff(offsets)
    rows = np.repeat(np.arange(len(lengths)), lengths)
    ranked = values[np.lexsort((values, rows))]
    kept = np.maximum(1, np.floor(lengths * LOWEST + 1e-9).astype(np.int64))
    among = np.arange(len(values)) - offsets[rows] < kept[rows]
    means: Values = np.bincount(rows[among], weights=ranked[among], minlength=len(lengths)) / kept
    return means


def _windows(evidence: Evidence) -> Values:
    assert evidence.tokens is not None
    assert evidence.reference_tokens is not None
    offsets = np.asarray(evidence.tokens.offsets)
    gains = np.asarray(evidence.tokens.log_probs, dtype=np.float64) - evidence.reference_tokens.log_probs
    lengths = np.diff(offsets)
    rows = np.repeat(np.arange(len(lengths)), lengths)
    left = offsets[1:][rows] - np.arange(len(gains))  # tokens of the row from here on
    whole = np.add.reduceat(gains, offsets[:-1]) > 0
    votes, sums, width = np.zeros(len(lengths)), np.zeros(len(gains)), 0
    for window in WINDOWS:
        # A window's sum grows by one token at a time: so it does not depend on what other rows there are.
        for ahead in range(width, min(window, len(gains))):
            sums[: len(gains) - ahead] += gains[ahead:]
        width = window
        starts = left >= window
        share = np.bincount(rows[starts], weights=sums[starts] > 0, minlength=len(lengths)) / np.maximum(1, lengths - window + 1)
        votes += np.where(lengths >= window, share, whole)
    return votes / len(WINDOWS)


ATTACKS = {
    row.name: row
    for row in (
        Attack("loss", "-E/T", "Yeom et al. 2018", (), _loss),
        Attack(
            "reference",
            "-(E - E_R)/T, the negative likelihood ratio",
            "Carlini et al. 2021; Mireshghallah et al. 2022",
            ("reference",),
            _reference,
        ),
        Attack("zlib", "-(E/T) / bytes of the text compressed by zlib", "Carlini et al. 2021", ("texts",), _zlib),
        Attack("min_k", "mean of the lowest 20 % of a row's log p", "Shi et al. 2024 (Min-K%)", ("tokens",), _min_k),
        Attack(
            "min_k_plus_plus",
            "mean of the lowest 20 % of a row's (log p - mu) / sigma, mu and sigma those of log p under p",
            "Zhang et al. 2024 (Min-K%++)",
            ("tokens",),
            _min_k_plus_plus,
        ),
        Attack(
            "windows",
            "share of a row's windows in which the sum of log p - log p_R is above 0, mean over windows of 2 to 40 tokens",
            "Chen et al. 2026 (WBC, arXiv 2601.02751)",
            ("tokens", "reference_tokens"),
            _windows,
        ),
    )
}
