"""How much of a set of rows a language model has memorised, from energies alone.

An *energy* is the negative log-likelihood of a row, ``E(x; theta) = -sum_t log p(x_t | x_<t)`` (Eq. 15 of Zaman et al. 2023; for
a masked model Eq. 16), in nats. A row is what a model reads at once: a block of tokens, or an article. Rows are resampled, never
tokens: the tokens of a row are not independent of each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from fuseforget.errors import InputError
from fuseforget.knowledge.fairness import Difference
from fuseforget.knowledge.resampling import resampled_sums, swapped_sums
from fuseforget.knowledge.roc import OperatingPoint, tpr_at
from fuseforget.knowledge.statistics import Interval, percentiles, resampled_means, retention

__all__ = [
    "Per",
    "RowEnergies",
    "alr",
    "compare_alr",
    "compare_perplexity",
    "likelihood_ratio",
    "mia_recall",
    "perplexity",
    "ratios",
    "retained",
    "token_means",
]

Values = npt.NDArray[np.float64]
Sums = npt.NDArray[np.floating]
Per = Literal["token", "sum"]
LARGEST = math.log(np.finfo(np.float64).max)


class RowEnergies(Protocol):
    """Energies of rows: their sums over the tokens (nats), and how many tokens those are, both of length n."""

    @property
    def sums(self) -> npt.NDArray[np.floating]: ...

    @property
    def tokens(self) -> npt.NDArray[np.integer]: ...


def likelihood_ratio(energies: RowEnergies, reference: RowEnergies, *, per: Per = "token") -> Values:
    """Return each row's likelihood ratio ``LR(x) = E(x; theta_M) - E(x; theta_R)`` (Eq. 14 of Zaman et al. 2023), of length n.

    It is a logarithm: 0 is as likely as by the reference, and the lower, the more memorised.

    Args:
        energies, reference: of a model and of the reference (the pretrained base) on the same rows.
        per: ``token`` divides each row's energies by its tokens (nats a token), ``sum`` does not (nats).

    Raises:
        InputError: no rows, other rows, rows without a token, or energies that are not finite.
    """
    (first, second), tokens = _on_same_rows([energies, reference])
    difference: Values = first - second
    return difference / tokens if per == "token" else difference


def ratios(energies: RowEnergies, reference: RowEnergies, *, per: Per = "token") -> Values:
    """Return ``exp(LR(x))`` of each row, of which ALR is the mean.

    These are the values for :func:`fuseforget.knowledge.statistics.check_bound`: Eq. 2's bound for ALR.

    Raises:
        InputError: see :func:`likelihood_ratio`; or a mean of such ratios is beyond the largest float.
    """
    logs = likelihood_ratio(energies, reference, per=per)
    if logs.max() >= LARGEST - math.log(len(logs)):
        advice = "Use the token mean (per='token')." if per == "sum" else "The model is broken: no text is that unlikely."
        raise InputError(
            "ALR", expected=f"likelihood ratios below exp({LARGEST:.0f})", found=f"exp({logs.max():.0f})", action=advice
        )
    return np.exp(logs)


def alr(energies: RowEnergies, reference: RowEnergies, *, per: Per = "token", seed: int = 0) -> Interval:
    """Return ``ALR = mean_x exp(E(x; theta) - E(x; theta_R))``, the average likelihood ratio (Eq. 17), with its interval.

    1 is the reference itself, exactly; the lower, the more memorised; above 1 is less likely than by the reference. The paper's
    printed values are only reached with energies averaged over a row's tokens, which is the default. The sum over the tokens is
    Eq. 17 as it stands; a few rows then make nearly all of the mean, and an interval means little.

    Raises:
        InputError: see :func:`ratios`.
    """
    values = ratios(energies, reference, per=per)
    low, high = percentiles(resampled_means(values[None], seed=seed)[:, 0])
    return Interval(float(values.mean()), low, high, len(values))


def compare_alr(
    first: RowEnergies, second: RowEnergies, reference: RowEnergies, *, per: Per = "token", seed: int = 0
) -> Difference:
    """Compare two models on the same rows: the first's ALR less the second's.

    The interval is over resamples of the rows; the p-value from a paired randomisation test (Fisher 1935): were the models
    alike, the two energies of a row might as well be swapped.

    Raises:
        InputError: see :func:`ratios`.
    """
    pair = [ratios(energies, reference, per=per)[:, None] for energies in (first, second)]
    n = len(pair[0])
    return _compare(pair[0], pair[1], lambda sums: sums[:, 0] / n, seed)


def perplexity(sums: npt.ArrayLike, tokens: npt.ArrayLike, *, seed: int = 0) -> Interval:
    """Return ``exp(sum of energies / number of tokens)`` over all rows, with its interval over resamples of the rows.

    1 is the least; a model that knows nothing has the size of its vocabulary. A masked model's is the pseudo-perplexity of
    its masked positions.

    Args:
        sums, tokens: each row's energy in nats and how many tokens it is of, n each.

    Raises:
        InputError: no rows, rows without a token, energies that are not finite, or a perplexity beyond the largest float.
    """
    columns = _columns(sums, tokens).T
    drawn = resampled_sums(columns, seed=seed)
    low, high = percentiles(_perplexities(drawn))
    return Interval(float(_perplexities(columns.sum(axis=0)[None])[0]), low, high, len(columns))


def compare_perplexity(first: RowEnergies, second: RowEnergies, *, seed: int = 0) -> Difference:
    """Compare two models on the same rows: the first's perplexity less the second's (tested as :func:`compare_alr` does).

    Raises:
        InputError: see :func:`likelihood_ratio` and :func:`perplexity`.
    """
    sums, tokens = _on_same_rows([first, second])
    columns = [np.stack([side, tokens], axis=1) for side in sums]
    return _compare(columns[0], columns[1], _perplexities, seed)


def retained(fused: RowEnergies, single: RowEnergies, controls: Sequence[RowEnergies], *, seed: int = 0) -> Interval:
    """Return how much of what a single model memorised of its rows the fused model still has.

    ``(E_control - E_fused) / (E_control - E_single)`` with mean energies a token: the share of the nats a token that having seen
    the rows saved the single model. 1 is all, 0 is none: as for models that never saw them. In energies, not in ALR: the
    reference cancels, and a nat is as much at any likelihood. The interval is a paired bootstrap over the rows.

    Args:
        single: the energies of a model that was trained on these rows.
        controls: those of models alike that never saw them; their mean is what not having memorised looks like.

    Raises:
        InputError: no controls, other rows, or the single model does not clearly know its rows better than the controls (what
            was never memorised cannot be forgotten).
    """
    if not controls:
        raise InputError("memorization retained", expected="at least one model that never saw the rows", found="none")
    sums, tokens = _on_same_rows([fused, single, *controls])
    means = -sums / tokens
    return retention(means[0], means[1], means[2:].mean(axis=0), seed=seed)


def mia_recall(members: npt.ArrayLike, validation: npt.ArrayLike, *, fpr: float = 0.10, seed: int = 0) -> OperatingPoint:
    """Return the recall of the likelihood-ratio attack (MIA recall, Mireshghallah et al. 2022), with its interval.

    A row counts as a member where its LR is *below* a threshold: the highest at which at most the share ``fpr`` of the validation
    rows does. So it is :func:`fuseforget.knowledge.roc.tpr_at` of the scores -LR, whose interval takes both for samples;
    ``threshold`` is one on the LR.

    Args:
        members, validation: likelihood ratios of rows that were trained on, and of rows that were not.

    Raises:
        InputError: see :func:`fuseforget.knowledge.roc.tpr_at`.
    """
    found = tpr_at(-np.asarray(members, dtype=np.float64), -np.asarray(validation, dtype=np.float64), fpr, seed=seed)
    return found.with_threshold(-found.threshold)


def token_means(energies: RowEnergies) -> Values:
    """Return each row's energy a token, in nats, of length n.

    Raises:
        InputError: see :func:`perplexity`.
    """
    sums, tokens = _columns(energies.sums, energies.tokens)
    means: Values = sums / tokens
    return means


def _compare(first: Values, second: Values, metric: Callable[[Sums], Sums], seed: int) -> Difference:
    """The metric of the first's sums over the rows less that of the second's; rows x columns each."""
    columns = first.shape[1]
    totals = [metric(side.sum(axis=0)[None])[0] for side in (first, second)]
    drawn = resampled_sums(np.concatenate([first, second], axis=1), seed=seed)
    low, high = percentiles(metric(drawn[:, :columns]) - metric(drawn[:, columns:]))
    swapped = [metric(sums) for sums in swapped_sums(first, second, seed=seed)]
    value = float(totals[0] - totals[1])
    # Sums of the same numbers in another order differ in rounding: a draw as large as the difference must count.
    slack = abs(value) * 1e-9 + 1e-12 * max(abs(total) for total in totals)
    as_large = int(np.sum(np.abs(swapped[0] - swapped[1]) >= abs(value) - slack))
    return Difference(value, low, high, (1 + as_large) / (1 + len(swapped[0])), len(first))


def _perplexities(sums: Sums) -> Values:
    """Of total energies and tokens, draws x 2."""
    means = sums[:, 0] / sums[:, 1]
    if means.max() >= LARGEST:
        raise InputError("perplexity", expected=f"at most {LARGEST:.0f} nats a token", found=f"{means.max():.0f}")
    found: Values = np.exp(means)
    return found


def _on_same_rows(models: Sequence[RowEnergies]) -> tuple[Values, Values]:
    """The sums of models' energies, models x rows, and the rows' tokens."""
    columns = [_columns(energies.sums, energies.tokens) for energies in models]
    for other in columns[1:]:
        if other.shape != columns[0].shape or (other[1] != columns[0][1]).any():
            raise InputError(
                "energies of several models",
                expected="the same rows, each of as many tokens",
                found=f"{columns[0].shape[1]} rows of {columns[0][1].sum():.0f} tokens and "
                f"{other.shape[1]} rows of {other[1].sum():.0f}",
                action="Compute all from the same rows; a masked model's also with the same masks.",
            )
    return np.stack([sums for sums, _ in columns]), columns[0][1]


def _columns(sums: npt.ArrayLike, tokens: npt.ArrayLike) -> Values:
    """Energies and numbers of tokens, 2 x rows."""
    first, second = (np.asarray(side, dtype=np.float64).ravel() for side in (sums, tokens))
    if len(first) != len(second) or len(first) == 0:
        raise InputError(
            "energies", expected="one energy and one number of tokens a row", found=f"{len(first)} and {len(second)}"
        )
    broken = np.flatnonzero(~np.isfinite(first) | ~(second >= 1))
    if broken.size:
        row = broken[0]
        raise InputError(
            "energies",
            expected="finite sums over at least one token",
            found=f"{broken.size} rows that are not, the first is row {row} ({first[row]} over {second[row]:g})",
        )
    return np.stack([first, second])
