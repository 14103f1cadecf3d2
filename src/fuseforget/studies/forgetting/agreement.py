"""The spectrum of agreement: of the directions in which two models changed, how far they changed alike.

A direction's share of agreement c (:func:`fuseforget.studies.forgetting.filters.grams`) is 1 where both changed alike, one half
where one changed alone, 0 where they changed against each other. Each counts by the energy that both changes have along it, that
of T + N. The sign of one change turned round exchanges T and N: c becomes 1 - c, and the energy stays. Two changes that have
nothing to do with each other are as likely with either sign, so chance has as much above one half as below; what is more above
than below is what two models have in common. By the energy of the mean change it would not be so: that is c times as much.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fuseforget import stopping
from fuseforget.checkpoint import Checkpoint, file_sha256
from fuseforget.records import Run
from fuseforget.studies.forgetting.ablated import as_matrix, is_matrix
from fuseforget.studies.forgetting.ablation_results import PART
from fuseforget.studies.forgetting.bench import CONTROL, START
from fuseforget.studies.forgetting.examined import PAIR
from fuseforget.studies.forgetting.filters import agreements, grams
from fuseforget.studies.forgetting.shared import KEPT
from fuseforget.studies.forgetting.sources import Source
from fuseforget.studies.forgetting.tensor_places import ATTENTION, MLP, places_of
from fuseforget.studies.shortcuts.settings import SHARED

if TYPE_CHECKING:
    import torch

__all__ = ["BINS", "Pair", "described", "pairs_to_look_at", "record_agreement", "spectrum_of"]

BINS = 40  # of the histogram, from 0 to 1
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
ROUNDING = 1e-6  # by which a share has to differ from one half to be above or below it
Say = Callable[[str], None]
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Pair:
    """Two models of one start.

    Attributes:
        about: what they have in common, in words.
        names: what records call them.
    """

    about: str
    names: tuple[str, str]
    start: Checkpoint
    models: tuple[Checkpoint, Checkpoint]


def record_agreement(run: Run, sources: Sequence[Source], say: Say) -> None:
    """Record an ``agreement_spectrum`` for each pair of :func:`pairs_to_look_at` and each group, attention and MLP.

    Of each: ``histogram``, shares of the energy in bins of equal width from 0 to 1; ``quantiles``, by energy; ``above_half``, the
    share of the energy in directions in which the two changed alike more than against each other; and ``flipped``, the same
    where one of the two changes has the opposite sign, which is what is below one half. Chance has as much of either. Of a group
    that did not change quantiles and shares are None, and the histogram is zero.
    """
    for pair in pairs_to_look_at(sources):
        where = {"part": PART, "source": sources[0].name, "models": list(pair.names)}
        places = places_of(pair.start)
        for group in (ATTENTION, MLP):
            if run.find("agreement_spectrum", **where, group=group) is not None:
                continue
            stopping.check("a spectrum")
            names = [
                name for name, place in places.items() if place.kind == group and is_matrix(name, pair.start[name], tables=False)
            ]
            if not names:
                continue
            found = [spectrum_of(pair.start[name], [model[name] for model in pair.models]) for name in names]
            shares, energy = (np.concatenate(column) for column in zip(*found, strict=True))
            run.add("agreement_spectrum", **where, about=pair.about, group=group, **described(shares, energy))
        of = " and ".join(pair.names)
        say(f"the spectrum of agreement of {of}, {pair.about}")


def pairs_to_look_at(sources: Sequence[Source]) -> list[Pair]:
    """Pairs that differ in what they have in common, of models that the first source has, and of a second one's same start.

    A specialist of another source counts only where that one started from the same weights: changes from two starts, with heads
    and new tokens of their own, cannot be compared.
    """
    source = sources[0]
    rules = [rule for rule in PAIR if source.has(rule)]
    first = rules[0] if rules else source.settings["rules"][0]
    other = next((rule for rule in (*PAIR, *source.settings["rules"]) if rule != first and source.has(rule)), None)
    wanted = [("the task alone", first, other), ("the task alone, one without a rule", first, CONTROL)]
    both = tuple(SHARED)
    wanted.append((f"the task and {KEPT}", both[0], both[1]))
    start = source.model(START)
    pairs = [
        Pair(about, (a, b), start, (source.model(a), source.model(b)))
        for about, a, b in wanted if b is not None and source.has(a) and source.has(b)
    ]  # fmt: skip
    for another in sources[1:]:
        if another.has(first) and _same_start(start, another.model(START)):
            names = (f"{first} of {source.name}", f"{first} of {another.name}")
            pairs.append(Pair(f"the task and {first}", names, start, (source.model(first), another.model(first))))
    return pairs


def spectrum_of(start: torch.Tensor, models: Sequence[torch.Tensor]) -> tuple[Values, Values]:
    """The shares of agreement of two changes of a matrix's shorter side, ascending, and both changes' energy along each.

    Returns:
        Two arrays of the length of that side. The energies sum to the mean of the changes' squared lengths.
    """
    changes = [as_matrix(model) - as_matrix(start) for model in models]
    if changes[0].shape[0] < changes[0].shape[1]:
        changes = [change.T for change in changes]
    mean, scatter = grams(changes, (1 / len(changes),) * len(changes))
    shares, directions = agreements(mean, scatter)
    # With V^T (T + N) V = 1 the inverse of V is V^T (T + N), and T + N the sum of the squares of its rows, one a direction.
    energy = (directions.T @ (mean + scatter)).square().sum(dim=1)
    return shares.clamp(0, 1).numpy(), energy.numpy()


def described(shares: Values, energy: Values) -> Mapping[str, Any]:
    """What :func:`record_agreement` records of directions' shares of agreement and energies."""
    total = energy.sum()
    order = np.argsort(shares, kind="stable")
    below = np.cumsum(energy[order])
    at = [float(shares[order][np.searchsorted(below, quantile * total)]) if total > 0 else None for quantile in QUANTILES]
    above, flipped = (
        float(energy[chosen].sum() / total) if total > 0 else None
        for chosen in (shares > 0.5 + ROUNDING, shares < 0.5 - ROUNDING)
    )
    histogram, _ = np.histogram(shares, bins=BINS, range=(0, 1), weights=energy / total if total > 0 else energy)
    return {
        "directions": len(shares), "above_half": above, "flipped": flipped,
        "quantiles": {f"{quantile:g}": value for quantile, value in zip(QUANTILES, at, strict=True)},
        "histogram": [float(value) for value in histogram],
    }  # fmt: skip


def _same_start(first: Checkpoint, second: Checkpoint) -> bool:
    return [file_sha256(file) for file in first.files] == [file_sha256(file) for file in second.files]
