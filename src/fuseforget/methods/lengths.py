"""How long a filtered model's change is to be, from the average's length to the models' own; and what to tell of the models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["COMMON", "NOTHING", "Lengths", "remarks_on", "restoring"]

# The share of the models' changes, by squared length, that is to be common if these are to get all of their length back. Where
# less is common, so much less of the length: of models that share next to nothing, chance would be stretched. It is below what
# related models had (biased ones .29 to .36, which do best at all of it; docs/methods/spectral-consensus.md).
COMMON = 0.25
# The share of the changes in tables that are averaged from which on the user is told. It was a tenth in models whose shortcuts
# the method removes without the tables, more than a quarter in those that need them filtered (docs/results/forgetting-tiny.md).
TOLD = 0.2
ROUNDING = 1e-9  # equal models are to come back to the bit


class Lengths(NamedTuple):
    """Squared lengths of one tensor's changes, which add up over a model.

    Attributes:
        average: the mean change's, times ``1 - forget``.
        models: the models' own, their weighted mean, times ``forget``.
        common: of what the models have in common, times ``forget``; below zero where their changes point away from each other.
        fused: the filtered change's.
        averaged: of the models' own in tables of tokens and positions that are averaged, times ``forget``.
    """

    average: float
    models: float
    common: float
    fused: float
    averaged: float = 0.0

    @classmethod
    def of(cls, mean: float, scatter: float, fused: float, weight: Sequence[float], forget: float) -> Lengths:
        """From those of the mean change, of the scatter around it (weighted), and of the filtered change."""
        common = mean - _own_share(weight) * scatter
        return cls((1 - forget) * mean, forget * (mean + scatter), forget * common, fused)


NOTHING = Lengths(0.0, 0.0, 0.0, 0.0)


def restoring(lengths: Sequence[float]) -> float:
    """The factor for filtered changes, from the sums over all tensors.

    From the average's length to the models' own, with ``forget``; these times ``min(1, c / COMMON)``, where c is the common
    share.
    """
    found = Lengths(*lengths)
    if found.fused == 0:
        return 1.0
    back = min(1.0, max(0.0, found.common) / (COMMON * found.models)) if found.models > 0 else 1.0
    factor = math.sqrt((found.average + back**2 * found.models) / found.fused)
    return 1.0 if abs(factor - 1) < ROUNDING else factor


def remarks_on(lengths: Sequence[float]) -> tuple[str, ...]:
    """What the user should know of the models, from the sums over all tensors: how much of their changes is in common.

    None where nothing is filtered (``forget`` zero) or nothing changed.
    """
    found = Lengths(*lengths)
    if not found.models > 0:
        return ()
    common = max(0.0, found.common) / found.models
    told = f"{common:.0%} of the models' changes is in common (by squared length, of what is filtered)"
    if common < COMMON:
        told += f"; below {COMMON:.0%} the result is the nearer to the base, the less there is: look at the task"
    aside = found.averaged / (found.averaged + found.models)
    if not aside > TOLD:
        return (told,)
    return told, (
        f"{aside:.0%} of the changes is in tables of tokens and positions, which are averaged: what one model alone has there "
        "is not taken away; embeddings=true filters them too"
    )


def _own_share(weight: Sequence[float]) -> float:
    """What the mean has of the models' own, as a multiple of the scatter around it.

    With ``D_i = C + N_i``, C common and N_i unrelated, all of squared length n, the mean's is expected to be ``|C|^2 + h n``, h
    the sum of the squared weights, and the scatter's ``(1 - h) n``. So with ``q = h / (1 - h)``, of M equal weights
    ``1 / (M - 1)``, the mean's less q times the scatter's is ``|C|^2``; of two equal weights it is ``<D_1, D_2>``. One at most:
    a weight that goes to one leads to that model, with all that it has of its own.
    """
    squares = math.fsum(share * share for share in weight)
    return squares / (1 - squares) if squares < 0.5 else 1.0
