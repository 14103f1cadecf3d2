"""How far the Fishers of two networks overlap (Zaman et al. 2023, Eq. 10; Kirkpatrick et al. 2017), with an interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from fuseforget.checkpoint.groups import kinds_of, layers_of
from fuseforget.errors import FuseForgetError, InputError

__all__ = ["Overlap", "Part", "fisher_overlap", "fold_overlap", "jackknife_interval", "split_half"]

BLOCK = 2**20  # values of a tensor that are in memory in float64 at once
Values = npt.NDArray[np.float64]
Fisher = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Part:
    """The overlap within a group of tensors, each Fisher normalised to unit trace within the group.

    Attributes:
        overlap: 0 to 1; None where one of the Fishers is zero in the whole group.
        first_share, second_share: how much of each whole trace is in the group.
    """

    overlap: float | None
    first_share: float
    second_share: float


@dataclass(frozen=True)
class Overlap:
    """The overlap of two Fishers: ``sum sqrt(F1 F2)`` of diagonals with unit trace, which is ``1 - d^2`` of Eq. 10.

    1 where they are proportional, 0 where no weight has information in both.

    Attributes:
        whole: over all tensors, each Fisher normalised over all.
        by_layer, by_kind: within groups of tensors, by the group's name; see :mod:`fuseforget.checkpoint.groups`.
        leave_out: ``whole`` without each fold of the examples in turn; empty where there are no folds.
    """

    whole: float
    by_layer: dict[str, Part]
    by_kind: dict[str, Part]
    leave_out: tuple[float, ...] = ()


def fisher_overlap(first: Fisher, second: Fisher) -> Overlap:
    """Return the overlap of two diagonal Fishers of the same tensors.

    Raises:
        InputError: different tensors or shapes, a negative value, a value that is not finite, or no information at all.
    """
    return fold_overlap([first], [second], [1])


def fold_overlap(first: Sequence[Fisher], second: Sequence[Fisher], counts: Sequence[int]) -> Overlap:
    """Return the overlap of Fishers that are given by folds of the examples, and what it is without each fold.

    Args:
        first, second: for each fold the network's Fisher (a mean over the fold's examples); read a tensor at a time.
        counts: examples in each fold, the same for both.
    """
    folds = len(counts)
    if folds == 0 or len(first) != folds or len(second) != folds:
        raise InputError("folds", expected="equally many for both, one or more", found=f"{len(first)}, {len(second)}, {folds}")
    names = list(first[0])
    _require_same([*first, *second])
    # names x (all, without fold 1, ...) x (trace of the first, of the second, sum of roots)
    moments = np.stack([_moments([f[name] for f in first], [f[name] for f in second], counts, name) for name in names])
    total = moments.sum(0)
    if not (total[:, :2] > 0).all():
        raise InputError("Fisher", expected="some information in both networks", found="zeros alone")
    whole = total[:, 2] / np.sqrt(total[:, 0] * total[:, 1])
    parts = [_parts(names, groups, moments[:, 0]) for groups in (layers_of(names), kinds_of(names))]
    return Overlap(float(whole[0]), parts[0], parts[1], tuple(float(v) for v in whole[1:]))


def jackknife_interval(value: float, leave_out: Sequence[float], *, bounded: bool = True) -> tuple[float, float]:
    """Return a 95 % interval from the values without each fold (delete-a-group jackknife; Kott 2001).

    Args:
        bounded: the value is an overlap, which is neither below 0 nor above 1.
    """
    from scipy.stats import t

    folds = len(leave_out)
    if folds < 2:
        raise InputError("folds", expected="two or more for an interval", found=str(folds))
    spread = np.asarray(leave_out) - np.mean(leave_out)
    half = float(t.ppf(0.975, folds - 1)) * float(np.sqrt((folds - 1) / folds * (spread**2).sum()))
    low, high = value - half, value + half
    return (max(0.0, low), min(1.0, high)) if bounded else (low, high)


def split_half(folds: Sequence[Fisher], counts: Sequence[int]) -> float:
    """Return the overlap of a network's Fisher on one half of the folds with that on the other half.

    It says how much a Fisher depends on which examples it is of. It would bound the overlap of networks on *different* examples
    of so small a number; networks on the same examples share what is peculiar to these, and may overlap more.
    """
    if len(folds) < 2:
        raise InputError("folds", expected="two or more to be halved", found=str(len(folds)))
    names = list(folds[0])
    total = np.zeros(3)
    for name in names:
        for block in _blocks(folds[0][name].numel()):
            values = [count * _read(fold[name], block) for fold, count in zip(folds, counts, strict=True)]
            halves = np.sum(values[::2], axis=0), np.sum(values[1::2], axis=0)
            total += [halves[0].sum(), halves[1].sum(), np.sqrt(halves[0] * halves[1]).sum()]
    if not (total[:2] > 0).all():
        raise InputError("Fisher", expected="some information in both halves of the texts", found="zeros alone in one")
    return float(total[2] / np.sqrt(total[0] * total[1]))


def _moments(first: Sequence[torch.Tensor], second: Sequence[torch.Tensor], counts: Sequence[int], name: str) -> Values:
    sums = np.zeros((1 + (len(counts) if len(counts) > 1 else 0), 3))
    for block in _blocks(first[0].numel()):
        a = [count * _read(fold, block) for fold, count in zip(first, counts, strict=True)]
        b = [count * _read(fold, block) for fold, count in zip(second, counts, strict=True)]
        everything = np.sum(a, axis=0), np.sum(b, axis=0)
        if not all(np.isfinite(v.sum()) and v.min() >= 0 for v in everything):
            raise InputError(f"Fisher of {name}", expected="finite values, none negative", found="others")
        for row in range(len(sums)):
            # A difference that rounding made negative is zero.
            p, q = (
                everything if row == 0 else (np.maximum(everything[0] - a[row - 1], 0), np.maximum(everything[1] - b[row - 1], 0))
            )
            sums[row] += [p.sum(), q.sum(), np.sqrt(p * q).sum()]
    return sums


def _read(tensor: torch.Tensor, block: slice) -> Values:
    values: Values = tensor.reshape(-1)[block].double().cpu().numpy()
    return values


def _blocks(count: int) -> list[slice]:
    return [slice(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK)]


def _parts(names: Sequence[str], groups: Mapping[str, str], moments: Values) -> dict[str, Part]:
    whole = moments.sum(0)
    parts = {}
    for group in dict.fromkeys(groups.values()):
        one, two, roots = moments[[i for i, name in enumerate(names) if groups[name] == group]].sum(0)
        overlap = float(roots / np.sqrt(one * two)) if one > 0 and two > 0 else None
        parts[group] = Part(overlap, float(one / whole[0]), float(two / whole[1]))
    return parts


def _require_same(fishers: Sequence[Fisher]) -> None:
    shapes = [{name: tuple(fisher[name].shape) for name in fisher} for fisher in fishers]
    for other in shapes[1:]:
        different = sorted(name for name in shapes[0].keys() | other.keys() if shapes[0].get(name) != other.get(name))
        if different:
            name = different[0]
            raise InputError(
                "Fishers", expected="the same tensors in all",
                found=f"{len(different)} that differ, {name}: {shapes[0].get(name)} and {other.get(name)}",
            )  # fmt: skip
    if not shapes[0]:
        raise FuseForgetError("Fisher", expected="at least one tensor", found="none")
