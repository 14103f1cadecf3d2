"""Spectral consensus with one choice of it changed: plain, in float64, whole tensors in memory.

For small models, and written apart from :mod:`fuseforget.methods.consensus`, by the definitions: with all choices as they are
it is an independent account of that method, and tests hold the two together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fuseforget.errors import InputError
from fuseforget.methods import METHODS
from fuseforget.studies.forgetting.filters import STRICTEST, kept_directions, solver, weighted_mean
from fuseforget.studies.forgetting.tensor_places import ATTENTION, MLP, Place, is_table, places_of

if TYPE_CHECKING:
    import torch

__all__ = [
    "BESIDE_THE_METHOD",
    "DEFAULT",
    "FORGET",
    "FORGETS",
    "VARIANTS",
    "Variant",
    "as_matrix",
    "average_of",
    "fuse_variant",
    "is_matrix",
]

METHOD = METHODS["spectral_consensus"]
FORGET = 0.97  # the method's own setting
FORGETS = (0.5, 0.9, 0.97, 0.99)
# What takes the knob's place where the filter has another: shares of agreement, and ranks. The prototype had .5, .25.
DIALS: Mapping[str, tuple[str, tuple[float, ...]]] = {
    "wiener": ("forget", FORGETS),
    "hard": ("threshold", (0.55, 0.65, 0.8, 0.95)),
    "projectors": ("rank", (0.75, 0.5, 0.25, 0.125)),
}
LEAST_SIDE = 3  # of a matrix that is filtered
Tensors = Mapping[str, "torch.Tensor"]


@dataclass(frozen=True)
class Variant:
    """Spectral consensus with these choices; the defaults are its own.

    Attributes:
        name: what records and tables call it.
        changes: what is changed, in words.
        aspect: what kind of choice that is, in words.
        sides: of a matrix that are filtered: the shorter one (of a square one both), the ``left`` one (outputs, as
            transformers' linear layers have them), the ``right`` one, or both. Wiener's filter of a side that is as many times
            as long as the other as there are models does nothing: along it the mean never overlaps with the scatter.
        shape: of the filter. ``wiener``: of a direction with a share c of agreement
            (:func:`fuseforget.studies.forgetting.filters.grams`) it keeps ``c / (c + b (1 - c))``, ``b = forget / (1 - forget)``.
            ``hard``: all where c is above a threshold, else nothing.
            ``projectors``: with the mean M-model projector's eigenvalues e, of the first r min(m, n) singular vectors of each
            change, it keeps ``max(0, (M e - 1) / (M - 1))``.
        tensors: which are filtered: the method's ``matrices``; of these those of ``attention``, of ``MLP``, of the ``lower``
            or of the ``upper`` half of the layers; or the matrices and the ``tables`` of tokens and positions. Others are
            averaged.
        vectors: whether vectors are ``averaged`` or stay at the ``base``.
        scale: ``global``: one factor for all filtered tensors; ``each``: one for each; ``whole``: one for all of the method's
            matrices, filtered or averaged; ``none``. All but the last bring what they scale to the length that the method
            wants: so a variant with ``whole`` has the method's, however few tensors it filters.
    """

    name: str
    changes: str
    aspect: str = "the method"
    sides: Literal["shorter", "left", "right", "both"] = "shorter"
    shape: Literal["wiener", "hard", "projectors"] = "wiener"
    tensors: Literal["matrices", "attention", "MLP", "lower", "upper", "tables"] = "matrices"
    vectors: Literal["averaged", "base"] = "averaged"
    scale: Literal["global", "each", "whole", "none"] = "global"

    @property
    def dial(self) -> str:
        """The name of its knob."""
        return DIALS[self.shape][0]

    @property
    def settings(self) -> tuple[float, ...]:
        """Those of the knob that are measured, the more lenient first."""
        return DIALS[self.shape][1]


DEFAULT = Variant("spectral consensus", "nothing: the method")
SIDES, SHAPE, TENSORS, REST = "sides", "shape of the filter", "filtered tensors", "vectors and scale"
BESIDE_THE_METHOD = "beside"  # the aspect of what is no variant: the average, and other methods
VARIANTS = (
    DEFAULT,
    Variant("left", "the left side alone is filtered", SIDES, sides="left"),
    Variant("right", "the right side alone is filtered", SIDES, sides="right"),
    Variant("both", "both sides of every matrix are filtered", SIDES, sides="both"),
    Variant("hard", "directions are kept whole or dropped", SHAPE, shape="hard"),
    Variant("projectors", "mean projectors of singular vectors, on both sides", SHAPE, sides="both", shape="projectors"),
    Variant("attention", "attention alone is filtered", TENSORS, tensors="attention"),
    Variant("MLP", "the MLPs alone are filtered", TENSORS, tensors="MLP"),
    Variant("lower", "the lower half of the layers is filtered", TENSORS, tensors="lower"),
    Variant("upper", "the upper half of the layers is filtered", TENSORS, tensors="upper"),
    Variant("attention, whole", "the same, at the method's length", TENSORS, tensors="attention", scale="whole"),
    Variant("MLP, whole", "the same, at the method's length", TENSORS, tensors="MLP", scale="whole"),
    Variant("lower, whole", "the same, at the method's length", TENSORS, tensors="lower", scale="whole"),
    Variant("upper, whole", "the same, at the method's length", TENSORS, tensors="upper", scale="whole"),
    Variant("tables", "tables of tokens and positions are filtered too, row by row", TENSORS, tensors="tables"),
    Variant("vectors at base", "vectors stay as they were at the start", REST, vectors="base"),
    Variant("each its own", "each matrix gets its own length back", REST, scale="each"),
    Variant("no scale", "the filtered changes stay as short as they are", REST, scale="none"),
)


@dataclass(frozen=True)
class _Filtered:
    """A filtered tensor: its change, and squared lengths that the method's is made of.

    Attributes:
        mean, models, common: of the models' mean change, of their own (weighted), and of what they have in common.
    """

    change: torch.Tensor
    mean: float
    models: float
    common: float

    @property
    def square(self) -> float:
        return float(self.change.square().sum())


def fuse_variant(
    variant: Variant, base: Tensors, models: Sequence[Tensors], setting: float, weights: Sequence[float] | None = None
) -> dict[str, torch.Tensor]:
    """Fuse models as a variant does.

    Args:
        base: the tensors that the models come from; theirs have the same names and shapes.
        setting: of the variant's knob (:attr:`Variant.dial`). Filters that have no ``forget`` are given the length that the
            method wants at its default.
        weights: of the models, summing to one; default: all alike.

    Returns:
        The fused tensors, in the base's types; what is not floating is the base's.

    Raises:
        InputError: fewer than two models, or names that do not say where a tensor is, where the variant has to know that.
    """
    if len(models) < 2:
        raise InputError(variant.name, expected="two models or more", found=str(len(models)))
    shares = tuple(weights) if weights is not None else (1 / len(models),) * len(models)
    places = None if variant.tensors in ("matrices", "tables") else places_of(base)
    forget = setting if variant.shape == "wiener" else FORGET
    fused, filtered = {}, {}
    for name, start in base.items():
        is_chosen = is_matrix(name, start, tables=variant.tensors == "tables")
        is_filtered = is_chosen and (places is None or _is_of(places[name], variant.tensors))
        if is_filtered or (is_chosen and variant.scale == "whole"):
            changes = [as_matrix(model[name]) - as_matrix(start) for model in models]
            change = weighted_mean(changes, shares)
            if is_filtered:
                change = _by_row(changes, shares, forget) if is_table(name) else _filter(variant, changes, shares, setting)
            filtered[name] = _Filtered(change, *_lengths(changes, shares))
        elif variant.vectors == "base" and start.dim() < 2:
            fused[name] = start
        else:
            fused[name] = _average(start, [model[name] for model in models], shares)
    factors = _factors(variant, filtered, forget)
    for name, one in filtered.items():
        start = base[name]
        fused[name] = (as_matrix(start) + factors[name] * one.change).view(start.shape).to(start.dtype)
    return {name: fused[name] for name in base}


def average_of(base: Tensors, models: Sequence[Tensors]) -> dict[str, torch.Tensor]:
    """The models' plain average, in the base's types."""
    return {
        name: _average(start, [one[name] for one in models], (1 / len(models),) * len(models)) for name, start in base.items()
    }


def is_matrix(name: str, tensor: torch.Tensor, *, tables: bool) -> bool:
    """Whether the method filters it: no vector, head of two labels or, unless asked for, table."""
    shape = METHOD.matrix_shape(tensor.shape)
    large = tensor.is_floating_point() and len(shape) == 2 and min(shape) >= LEAST_SIDE
    return large and (tables or not is_table(name))


def _is_of(place: Place, tensors: str) -> bool:
    if tensors in ("lower", "upper"):
        return place.is_upper is (tensors == "upper")
    return place.kind == {"attention": ATTENTION, "MLP": MLP}[tensors]


def as_matrix(tensor: torch.Tensor) -> torch.Tensor:
    """In float64, as the method sees it: a convolution is a matrix of outputs x (inputs x kernel)."""
    return tensor.double().reshape(METHOD.matrix_shape(tensor.shape))


def _average(start: torch.Tensor, models: Sequence[torch.Tensor], shares: Sequence[float]) -> torch.Tensor:
    if not start.is_floating_point():
        return start
    return weighted_mean([model.double() for model in models], shares).to(start.dtype)


def _lengths(changes: Sequence[torch.Tensor], shares: Sequence[float]) -> tuple[float, float, float]:
    """Squared: the mean's; the models'; and that of what is common, if what each model has of its own is unrelated noise.

    The mean has at most as much of that noise as there is scatter around it: so it is where one model has most of the weight.
    """
    mean, squares = weighted_mean(changes, shares), sum(share**2 for share in shares)
    of_models = sum(share * float(change.square().sum()) for share, change in zip(shares, changes, strict=True))
    scatter = sum(share * float((change - mean).square().sum()) for share, change in zip(shares, changes, strict=True))
    of_noise = scatter / (1 - squares) if squares < 1 else 0.0
    of_mean = float(mean.square().sum())
    return of_mean, of_models, of_mean - min(squares * of_noise, scatter)


def _factors(variant: Variant, filtered: Mapping[str, _Filtered], forget: float) -> dict[str, float]:
    """What each change is multiplied by: for one length of all, or for each its own."""
    back = _share_back(list(filtered.values()))
    if variant.scale == "each":
        return {name: _restoring([one], forget, back) for name, one in filtered.items()}
    factor = 1.0 if variant.scale == "none" else _restoring(list(filtered.values()), forget, back)
    return dict.fromkeys(filtered, factor)


def _share_back(filtered: Sequence[_Filtered]) -> float:
    """The share of the models' length that is given back: all where a quarter of it is common, none where nothing is."""
    models, common = (sum(getattr(one, part) for one in filtered) for part in ("models", "common"))
    return min(1.0, 4 * max(common, 0.0) / models) if models > 0 else 1.0


def _restoring(filtered: Sequence[_Filtered], forget: float, back: float) -> float:
    """From the mean's length to that share of the models'."""
    mean, models, fused = (sum(getattr(one, part) for one in filtered) for part in ("mean", "models", "square"))
    return math.sqrt(((1 - forget) * mean + forget * back**2 * models) / fused) if fused > 0 else 1.0


def _by_row(changes: Sequence[torch.Tensor], shares: Sequence[float], forget: float) -> torch.Tensor:
    """The mean of the changes of a table, each row kept as far as the models agree on it."""
    import torch

    mean = weighted_mean(changes, shares)
    signal = mean.square().sum(dim=1, keepdim=True)
    scatter = weighted_mean([(change - mean).square().sum(dim=1, keepdim=True) for change in changes], shares)
    noisy = signal + forget / max(1 - forget, STRICTEST) * scatter
    return mean * torch.where(noisy > 0, signal / noisy, 1.0)


def _filter(variant: Variant, changes: Sequence[torch.Tensor], shares: Sequence[float], setting: float) -> torch.Tensor:
    """The mean of the changes of a matrix, filtered."""
    mean = weighted_mean(changes, shares)
    high, wide = mean.shape
    left = variant.sides in ("left", "both") or (variant.sides == "shorter" and high <= wide)
    right = variant.sides in ("right", "both") or (variant.sides == "shorter" and wide <= high)
    if variant.shape == "projectors":
        kept = kept_directions([change.T for change in changes], shares, setting) @ mean if left else mean
        return kept @ kept_directions(changes, shares, setting) if right else kept
    of_columns = solver(variant.shape, changes, shares, setting) if right else None
    of_rows = solver(variant.shape, [change.T for change in changes], shares, setting) if left else None
    if of_columns is None:
        assert of_rows is not None
        return mean @ mean.T @ of_rows @ mean
    kept = mean @ of_columns @ mean.T @ mean
    return kept if of_rows is None else kept @ mean.T @ of_rows @ mean
