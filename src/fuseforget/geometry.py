"""How the changes of fine-tuned models lie to each other: inner products, signs and lengths of their task vectors.

A task vector is what fine-tuning changed, ``tau_i = theta_i - theta_base`` (Ilharco et al. 2022, arXiv 2212.04089). All that
is kept of a tensor are sums over its values, a number a pair of models, so that any group of tensors (all of them, a layer, a
kind of weight) is a sum of these sums, and any weights can be asked for afterwards. Imports errors and checkpoint alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fuseforget.checkpoint import Checkpoint, Difference, open_checkpoint, require_same
from fuseforget.checkpoint.compare import missing_prefix, refuse
from fuseforget.checkpoint.groups import kinds_of, layers_of
from fuseforget.checkpoint.tokens import moved_tokens
from fuseforget.errors import InputError

if TYPE_CHECKING:
    import torch

__all__ = ["Geometry", "Sums", "compare_task_vectors", "open_all"]

Matrix = npt.NDArray[np.float64]
Source = str | Path | Checkpoint
BLOCK = 1 << 18  # values of a tensor that are in memory at a time, for each model


@dataclass(frozen=True)
class Sums:
    """Sums over the values of some tensors, for ``n`` models.

    Attributes:
        values: how many values each model has in these tensors.
        gram: ``<tau_i, tau_j>``, n x n.
        both: how many values both models changed, n x n.
        opposite: how many of these they changed in opposite directions, n x n.
        least: the sum of ``min(|tau_i|, |tau_j|)``, n x n.
        least_opposite: the same where the directions are opposite, n x n.
        fisher_gram: ``sum F_i tau_j tau_k``, n x n x n, the first index is the Fisher's; empty without Fishers.
    """

    values: int
    gram: Matrix
    both: Matrix
    opposite: Matrix
    least: Matrix
    least_opposite: Matrix
    fisher_gram: Matrix

    def __add__(self, other: Sums) -> Sums:
        return Sums(**{field.name: getattr(self, field.name) + getattr(other, field.name) for field in fields(self)})

    @property
    def norms(self) -> Matrix:
        """The length of each model's change."""
        length: Matrix = np.sqrt(np.diag(self.gram))
        return length

    @property
    def cosine(self) -> Matrix:
        """``<tau_i, tau_j> / (|tau_i| |tau_j|)``, n x n, in -1 to 1; NaN where a model changed nothing here."""
        # Rounding may leave the interval by an ulp.
        return np.clip(_divide(self.gram, np.outer(self.norms, self.norms)), -1, 1)

    @property
    def norm_ratio(self) -> Matrix:
        """``|tau_i| / |tau_j|``, n x n; NaN where the second changed nothing here."""
        return _divide(self.norms[:, None], np.broadcast_to(self.norms, self.gram.shape))

    @property
    def conflict(self) -> Matrix:
        """The share of values changed in opposite directions, of those that both changed; n x n, NaN where there are none.

        The sign conflict of TIES (Yadav et al. 2023, arXiv 2306.01708); unrelated changes have one half.
        """
        return _divide(self.opposite, self.both)

    @property
    def weighted_conflict(self) -> Matrix:
        """The same, each value counting by ``min(|tau_i|, |tau_j|)``: by how much they can cancel; n x n."""
        return _divide(self.least_opposite, self.least)

    def survival(self, weights: Sequence[float]) -> Matrix:
        """The share of each model's change that is in the fusion with these weights, n values.

        ``<tau_fused, tau_i> / |tau_i|^2`` with ``tau_fused = sum_j w_j tau_j``: how far the fusion goes along the way that
        model i went. 1 is all of it, ``w_i`` what is left where the other changes have nothing to do with it; other models
        that went the same way add to it, and those that went against it take from it. NaN where a model changed nothing.
        """
        return _divide(self.gram @ np.asarray(weights, dtype=np.float64), np.diag(self.gram))

    def fisher_survival(self, weights: Sequence[float]) -> Matrix:
        """:meth:`survival` with each value counting by model i's own Fisher: ``<tau_fused, tau_i>_F / <tau_i, tau_i>_F``."""
        along = np.einsum("iij,j->i", self.fisher_gram, np.asarray(weights, dtype=np.float64))
        return _divide(along, np.einsum("iii->i", self.fisher_gram))

    def fisher_rise(self, weights: Sequence[float]) -> Matrix:
        """``1/2 (theta_fused - theta_i)^T F_i (theta_fused - theta_i)``, n values, in nats an example.

        How much the second-order expansion around model i says its loss rises, with its diagonal Fisher as the curvature.
        """
        # theta_fused - theta_i = sum_j (w_j - [j = i]) tau_j
        steps = np.asarray(weights, dtype=np.float64) - np.eye(len(self.gram))
        rise: Matrix = 0.5 * np.einsum("ij,ijk,ik->i", steps, self.fisher_gram, steps)
        return rise


@dataclass(frozen=True)
class Geometry:
    """How models' changes lie to each other.

    Attributes:
        models: the models' names, in the order of every matrix.
        base: the base's name.
        tensors: the sums of every tensor that was compared.
        left_out: floating tensors of the models that the base does not have, or has in another shape.
    """

    models: tuple[str, ...]
    base: str
    tensors: dict[str, Sums]
    left_out: tuple[str, ...] = ()

    @property
    def whole(self) -> Sums:
        """The sums over all tensors."""
        return self._total(list(self.tensors))

    def by_layer(self) -> dict[str, Sums]:
        """The sums of each layer; see :func:`fuseforget.checkpoint.groups.layers_of`."""
        return self._grouped(layers_of(list(self.tensors)))

    def by_kind(self) -> dict[str, Sums]:
        """The sums of each kind of weight; see :func:`fuseforget.checkpoint.groups.kinds_of`."""
        return self._grouped(kinds_of(list(self.tensors)))

    def _grouped(self, group_of: Mapping[str, str]) -> dict[str, Sums]:
        names: dict[str, list[str]] = {}
        for name, group in group_of.items():
            names.setdefault(group, []).append(name)
        return {group: self._total(members) for group, members in names.items()}

    def _total(self, names: Sequence[str]) -> Sums:
        first, *rest = (self.tensors[name] for name in names)
        for sums in rest:
            first = first + sums
        return first


def compare_task_vectors(
    models: Sequence[Source], base: Source, *, fishers: Sequence[Mapping[str, torch.Tensor]] | None = None
) -> Geometry:
    """Compare what models changed of their base, tensor by tensor and in blocks: memory grows with neither.

    Args:
        models: two or more full checkpoints of one architecture.
        base: the checkpoint that they were tuned from. It may lack the head and the rows of new tokens; such tensors are
            left out and named in the result. The start that the models share, with its head, leaves nothing out.
        fishers: for each model its diagonal Fisher, by the models' tensor names, none negative.

    Raises:
        InputError: fewer than two models, a model equal to the base, NaN or infinity, a Fisher that does not fit.
        MismatchError: models or base of another architecture, all differences at once.
    """
    opened, root = open_all(models, base)
    if fishers is not None and len(fishers) != len(opened):
        raise InputError("Fishers", expected=f"one for each of {len(opened)} models", found=str(len(fishers)))
    origins, left_out = _origins(opened, root)
    tensors = {
        name: _sums(name, [model[name] for model in opened], root[origin], _curvatures(name, opened, fishers))
        for name, origin in origins.items()
    }
    geometry = Geometry(tuple(model.source for model in opened), root.source, tensors, left_out)
    _require_changes(geometry)
    return geometry


def open_all(models: Sequence[Source], base: Source) -> tuple[list[Checkpoint], Checkpoint]:
    """Open models and base, and refuse what cannot be compared value by value, without reading a tensor."""
    opened = [_open(model) for model in models]
    if len(opened) < 2:
        raise InputError("models", expected="two or more to compare", found=str(len(opened)))
    require_same(opened)
    root = _open(base)
    moved = moved_tokens(opened[0], root)
    if moved:  # a change between two different tokens is none
        thing = f"tokenizers of {opened[0].source} and of the base {root.source}"
        raise InputError(thing, expected="the same rows for the same tokens", found=moved)
    return opened, root


def _origins(models: Sequence[Checkpoint], base: Checkpoint) -> tuple[dict[str, str], tuple[str, ...]]:
    """The base's name of each floating tensor that is compared, and those that it lacks or that have new rows."""
    prefix = missing_prefix(models[0], base)
    origins, left_out, differences = {}, [], []
    for name, info in models[0].infos.items():
        # What some of them lack only repeats a tensor that all have: `require_same` saw to that.
        if not info.floating or not all(name in model.infos for model in models):
            continue
        origin = base.infos.get(name.removeprefix(prefix))
        if origin is None or _has_new_rows(info.shape, origin.shape):
            left_out.append(name)
        elif origin.shape == info.shape and origin.floating:
            origins[name] = origin.name
        else:
            found = f"{origin.dtype} {list(origin.shape)}"
            differences.append(Difference("shape", name, f"{info.dtype} {list(info.shape)}", found, f"the base {base.source}"))
    refuse(differences)
    if not origins:
        raise InputError(f"base {base.source}", expected="tensors of the models", found="none in common")
    return origins, tuple(left_out)


def _has_new_rows(tuned: tuple[int, ...], base: tuple[int, ...]) -> bool:
    """Whether a tensor has all rows of the base's and more, as tokens that were added make an embedding."""
    return len(tuned) > 1 and tuned[1:] == base[1:] and tuned[0] > base[0]


def _open(source: Source) -> Checkpoint:
    return source if isinstance(source, Checkpoint) else open_checkpoint(source)


def _curvatures(
    name: str, models: Sequence[Checkpoint], fishers: Sequence[Mapping[str, torch.Tensor]] | None
) -> list[torch.Tensor]:
    """The tensor of each Fisher, refused where it does not fit the model's."""
    found = []
    for model, fisher in zip(models, fishers or (), strict=False):
        shape = tuple(fisher[name].shape) if name in fisher else None
        if shape != model.infos[name].shape:
            raise InputError(
                f"Fisher of {model.source}, {name}",
                expected=f"shape {list(model.infos[name].shape)}, the model's",
                found="no such tensor" if shape is None else str(list(shape)),
            )
        found.append(fisher[name])
    return found


def _sums(name: str, tuned: Sequence[torch.Tensor], base: torch.Tensor, fishers: Sequence[torch.Tensor]) -> Sums:
    """The sums of one tensor, in float64, a block at a time."""
    n = len(tuned)
    zeros = [np.zeros((n, n)) for _ in range(5)]
    total = Sums(0, zeros[0], zeros[1], zeros[2], zeros[3], zeros[4], np.zeros((len(fishers), n, n)))
    for (start, *blocks), curvature in zip(_blocks([base, *tuned]), _blocks(fishers, count=base.numel()), strict=True):
        total = total + _block_sums(np.stack([block - start for block in blocks]), curvature)
    if not np.isfinite(total.gram).all():
        raise InputError(name, expected="finite values in the models and the base", found="NaN or infinity")
    if not np.isfinite(total.fisher_gram).all():
        raise InputError(f"Fisher, {name}", expected="finite numbers, none negative", found="something else")
    return total


def _block_sums(changes: Matrix, fishers: Sequence[Matrix]) -> Sums:
    """The sums of one block: models x values of changes, and each Fisher's values."""
    n = len(changes)
    directions = np.sign(changes)
    sizes = np.abs(changes)
    moved = np.abs(directions)
    both = moved @ moved.T
    least, least_opposite = np.zeros((n, n)), np.zeros((n, n))
    for i in range(n):
        for j in range(i + 1, n):
            smaller = np.minimum(sizes[i], sizes[j])
            against = directions[i] * directions[j] < 0
            least[i, j] = least[j, i] = smaller.sum()
            least_opposite[i, j] = least_opposite[j, i] = smaller[against].sum()
        least[i, i] = sizes[i].sum()
    # Of d = agree - oppose and b = agree + oppose.
    opposite = (both - directions @ directions.T) / 2
    # A negative Fisher is no Fisher; as NaN it is refused with what is not finite.
    weighted = [(changes * np.where(fisher >= 0, fisher, np.nan)) @ changes.T for fisher in fishers]
    return Sums(
        changes.shape[1], changes @ changes.T, both, opposite, least, least_opposite,
        np.stack(weighted) if weighted else np.zeros((0, n, n)),
    )  # fmt: skip


def _blocks(tensors: Sequence[torch.Tensor], count: int | None = None) -> Iterator[list[Matrix]]:
    """Flat blocks of aligned tensors as float64."""
    flat = [tensor.reshape(-1) for tensor in tensors]
    for start in range(0, flat[0].numel() if count is None else count, BLOCK):
        yield [part[start : start + BLOCK].double().numpy() for part in flat]


def _divide(above: Matrix, below: Matrix) -> Matrix:
    """The quotient, NaN where there is nothing below."""
    quotient: Matrix = np.divide(above, below, out=np.full(below.shape, np.nan), where=below > 0)
    return quotient


def _require_changes(geometry: Geometry) -> None:
    norms = geometry.whole.norms
    same = [model for model, norm in zip(geometry.models, norms, strict=True) if norm == 0]
    if same:
        raise InputError(
            f"models {', '.join(same)}", expected=f"weights that differ from the base's, {geometry.base}",
            found="the same weights: no change that could survive or not",
        )  # fmt: skip
