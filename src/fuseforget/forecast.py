"""Predict, before fusing, how much of what each model learned the fusion will keep. Nothing is fused and nothing is run.

Zaman et al. 2023 leave open whether it can be predicted what fusing forgets. Each predictor here is a formula with a reason;
which of them are worth anything is a matter of measurement (:mod:`fuseforget.studies.forecast`), not of the reason.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fuseforget.checkpoint.groups import is_numbered
from fuseforget.errors import InputError
from fuseforget.fuse import check_weights
from fuseforget.geometry import Geometry, Source, Sums, compare_task_vectors

if TYPE_CHECKING:
    import torch

__all__ = [
    "PREDICTORS",
    "Forecast",
    "Predictor",
    "forecast",
    "forecast_from",
    "mean_of_others",
]

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Predictor:
    """A number that is meant to be greater where more of a model's knowledge is kept.

    Attributes:
        title: its name for readers.
        needs: what it is computed from: ``weights`` (of models and base), ``control`` (a model that was trained alike without
            the knowledge), ``fisher`` (of each model on its own probe), ``cross`` (Fishers of both models on the probe of
            one) or ``probe`` (a measurement of each model); several with ``+``.
        formula: with A the model whose knowledge is asked for and B the others.
        reason: why it might say what is kept.
    """

    title: str
    needs: str
    formula: str
    reason: str


PREDICTORS = {
    "survival": Predictor(
        "survival", "weights", "<tau_fused, tau_A> / |tau_A|^2",
        "How far the fusion goes along A's own change. The effect of that change is kept in this share if the model is about "
        "linear between base and A, and if all weights matter alike.",
    ),
    "layer_survival": Predictor(
        "survival, mean of layers", "weights", "mean over layers of <tau_fused, tau_A> / |tau_A|^2",
        "The same where every layer counts alike, however long its change: embeddings are most of a small model's values.",
    ),
    "cosine": Predictor(
        "cosine", "weights", "weighted mean over B of <tau_A, tau_B> / (|tau_A| |tau_B|)",
        "Models that moved the same way share what they learned. For a pair it is one number for both, and cannot say which "
        "of the two loses more.",
    ),
    "agreement": Predictor(
        "agreement of signs", "weights", "weighted mean over B of 1 - share of values changed in opposite directions",
        "What TIES (Yadav et al. 2023) resolves: values pushed both ways cancel. One number for both models of a pair.",
    ),
    "survival_beyond": Predictor(
        "survival beyond the control", "weights+control", "survival, with the control in the place of the base",
        "What models share because they learned the same task from the same texts hides where they differ. Beyond a control "
        "that learned the task alone, a change is about the knowledge that is asked for, and about what is peculiar to the "
        "control, which all changes then share.",
    ),
    "fisher_survival": Predictor(
        "survival, by Fisher", "fisher", "<tau_fused, tau_A>_F / <tau_A, tau_A>_F, F of A on A's probe",
        "Survival where the weights that A's answers depend on count for more.",
    ),
    "fisher_survival_beyond": Predictor(
        "survival beyond the control, by Fisher", "fisher+control", "the same, with the control in the place of the base",
        "Both of these reasons.",
    ),
    "fisher_likelihood": Predictor(
        "likelihood, by Fisher", "fisher", "exp(-1/2 (theta_fused - theta_A)^T F (theta_fused - theta_A))",
        "The second-order expansion of A's loss around A, as the share of the right answer's probability that stays (its "
        "geometric mean over the probe). Holds near A only: half of a task vector away is far, a diagonal leaves out how "
        "weights act together, and the empirical Fisher of a model that is sure of its answers is nearly zero.",
    ),
    "fisher_overlap": Predictor(
        "Fisher overlap", "cross", "weighted mean over B of sum sqrt(F_A F_B), both on A's probe, at unit trace",
        "The paper's Eq. 10: do both models use the same weights for A's knowledge? The paper found more overlap for knowledge "
        "that is kept.",
    ),
    "others_know": Predictor(
        "the others' accuracy", "probe", "weighted mean over B of the accuracy of B on A's probe",
        "The paper's hypothesis itself: shared knowledge is kept, so ask the others. The baseline that the rest must beat: it "
        "needs A's probe, but neither gradients nor a fusion.",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Forecast:
    """What fusing is forecast to keep of each model.

    Attributes:
        geometry: how the models' changes lie to each other.
        weights: of the fusion, one a model, summing to one.
        predictions: by predictor, a number a model in the order of ``geometry.models``; see :data:`PREDICTORS`.
    """

    geometry: Geometry
    weights: tuple[float, ...]
    predictions: dict[str, tuple[float, ...]]

    def survival_by_layer(self) -> dict[str, tuple[float, ...]]:
        """The share of each model's change that survives, by layer; NaN where a model changed nothing."""
        return {layer: _floats(sums.survival(self.weights)) for layer, sums in self.geometry.by_layer().items()}


def forecast(
    models: Sequence[Source], base: Source, *,
    weights: Sequence[float] | None = None, fishers: Sequence[Mapping[str, torch.Tensor]] | None = None,
) -> Forecast:  # fmt: skip
    """Forecast how much of what each model learned a weighted average of them keeps.

    Args:
        models: two or more checkpoints of one architecture.
        base: what they were tuned from.
        weights: of the fusion; default: all alike.
        fishers: for each model its diagonal Fisher on a probe of what it knows (a mapping from tensor name to tensor, such
            as a checkpoint that holds one); without them the predictors that need them are left out.

    Raises:
        InputError: weights that are no convex combination; and as :func:`compare_task_vectors` does.
    """
    convex = check_weights(weights, len(models))
    return forecast_from(compare_task_vectors(models, base, fishers=fishers), convex)


def forecast_from(geometry: Geometry, weights: Sequence[float]) -> Forecast:
    """Forecast from a geometry that is known already: any weights, without reading a tensor again."""
    whole = geometry.whole
    predictions = {
        "survival": whole.survival(weights),
        "layer_survival": layer_survival(geometry.by_layer(), weights),
        "cosine": mean_of_others(whole.cosine, weights),
        "agreement": mean_of_others(1 - whole.conflict, weights),
    }
    if len(whole.fisher_gram):
        _require_curvature(geometry)
        predictions["fisher_survival"] = whole.fisher_survival(weights)
        predictions["fisher_likelihood"] = np.exp(-whole.fisher_rise(weights))
    return Forecast(geometry, tuple(weights), {name: _floats(values) for name, values in predictions.items()})


def layer_survival(layers: Mapping[str, Sums], weights: Sequence[float]) -> Vector:
    """The mean over numbered layers of :meth:`Sums.survival`; a layer that a model did not change does not count for it.

    Where no tensor has a number, or a model changed none of the numbered ones, NaN.
    """
    rows = [sums.survival(weights) for layer, sums in layers.items() if is_numbered(layer)]
    if not rows:
        return np.full(len(weights), math.nan)
    values = np.stack(rows)
    known = ~np.isnan(values)
    counts = known.sum(axis=0)
    mean: Vector = np.divide(np.where(known, values, 0).sum(axis=0), counts, out=np.full(len(counts), math.nan), where=counts > 0)
    return mean


def mean_of_others(values: Vector, weights: Sequence[float]) -> Vector:
    """For each model the mean of its row over the *other* models, by their weights: ``sum_B w_B v_AB / sum_B w_B``.

    Args:
        values: n x n, a row a model.

    Returns:
        n values; NaN for a model that has all the weight.
    """
    others = np.asarray(weights, dtype=np.float64) * (1 - np.eye(len(weights)))  # A x B
    total = others.sum(axis=1)
    summed = (np.where(others > 0, values, 0) * others).sum(axis=1)
    mean: Vector = np.divide(summed, total, out=np.full(len(total), math.nan), where=total > 0)
    return mean


def _require_curvature(geometry: Geometry) -> None:
    own = np.einsum("iii->i", geometry.whole.fisher_gram)
    blind = [model for model, value in zip(geometry.models, own, strict=True) if not value > 0]
    if blind:
        raise InputError(
            f"Fisher of {', '.join(blind)}", expected="some curvature where the model changed", found="zero in all these values"
        )


def _floats(values: Vector) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
