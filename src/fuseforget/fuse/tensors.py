"""Plan each tensor of a fusion: its sources, lined up, and its weights and parameters at its depth and under its name."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from fuseforget.checkpoint import DTYPES, Adapter, Checkpoint, TensorSpec
from fuseforget.checkpoint.compare import missing_prefix, tied_twin
from fuseforget.errors import InputError, some_names
from fuseforget.fuse.adapted import Adapted
from fuseforget.fuse.align import Alignment
from fuseforget.fuse.plan import TensorPlan
from fuseforget.fuse.recipe import Recipe, Slice
from fuseforget.fuse.settings import Depth, Setting, in_stack, layer_of, number_of_layers
from fuseforget.fuse.sources import Files, Gathered, Source, Stored
from fuseforget.fuse.statistics import Statistics
from fuseforget.methods import METHODS, Method

__all__ = ["OUTPUT_DTYPES", "TensorPlanner", "check_weights"]

OUTPUT_DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
WEIGHT_TOLERANCE = 1e-6
# Tensors outside of layers that come before them: a recipe that stacks slices takes these from its first slice, all others
# (norms, heads) from its last.
BEFORE_LAYERS = ("emb", "wte", "wpe", "patch", "stem", "feature_extractor")


def check_weights(weights: Sequence[float] | None, count: int, *, normalize: bool = False) -> tuple[float, ...]:
    """Return convex weights (Eq. 1: alpha_i >= 0, sum 1), or raise InputError saying which rule is broken.

    A sum that is one up to rounding (1e-6) is made one exactly.
    """
    values = [1 / count] * count if weights is None else _finite(weights)
    if len(values) != count:
        raise InputError("weights", expected=f"one for each of {count} models", found=f"{len(values)}")
    if any(w < 0 for w in values):
        raise InputError("weights", expected="no negative weight (Eq. 1 is a convex combination)", found=str(values))
    total = math.fsum(values)
    if total == 0 or (abs(total - 1) > WEIGHT_TOLERANCE and not normalize):
        hint = "" if total == 0 else "Pass --normalize to divide them by their sum."
        raise InputError("weights", expected="a sum of 1", found=f"{values}, a sum of {total:g}", action=hint)
    return tuple(w / total for w in values)


def _finite(weights: Sequence[Any]) -> list[float]:
    try:
        values = [float(w) for w in weights]
    except (TypeError, ValueError):
        raise InputError("weights", expected="numbers", found=str(list(weights))) from None
    if not all(math.isfinite(w) for w in values):
        raise InputError("weights", expected="finite numbers", found=str(values))
    return values


class TensorPlanner:
    """Makes the plan of each tensor; keeps what the user is to be told."""

    def __init__(
        self, recipe: Recipe, method: Method, checkpoints: Sequence[Checkpoint], base: Checkpoint | None,
        statistics: Sequence[Checkpoint], alignments: Sequence[Alignment], files: Files,
    ) -> None:  # fmt: skip
        self._recipe, self._method, self._files, self._alignments = recipe, method, files, alignments
        self._checkpoints, self._base = checkpoints, base
        self._base_prefix = "" if base is None else missing_prefix(checkpoints[0], base)
        self._statistics = Statistics(recipe, method, checkpoints, statistics, self._source)
        self._without_base: list[str] = []
        self._arguments: dict[Any, dict[str, Any]] = {}

    def whole(self) -> Iterator[TensorPlan]:
        """Tensors of a fusion of whole models: those that all of them have (others are tied copies)."""
        names = [name for name in self._checkpoints[0] if all(name in c.infos for c in self._checkpoints)]
        depth = Depth.of(names)
        for name in names:
            yield self._tensor(name, self._recipe.slices[0], [name] * len(self._checkpoints), depth(name))

    def stacked(self) -> Iterator[TensorPlan]:
        """Tensors of an output whose layers are slices of the models' layers."""
        for checkpoint in self._checkpoints:
            _require_one_stack(checkpoint)
        stacks = [number_of_layers(c) for c in self._checkpoints]
        slices = self._recipe.slices
        for one in slices:
            _check_slice(one, [stacks[m] for m in one.models], [self._checkpoints[m].source for m in one.models])
        first, last = slices[0], slices[-1]
        for name in self._outside(first):
            if _before_layers(name):
                yield self._tensor(name, first, [name] * len(first.models), 0.0)
        number = 0
        for one in slices:
            assert one.layers is not None
            count = one.layers[0][1] - one.layers[0][0]
            for offset in range(count):
                yield from self._layer(one, stacks, offset, number, offset / (count - 1) if count > 1 else 1.0)
                number += 1
        for name in self._outside(last):
            if not _before_layers(name):
                yield self._tensor(name, last, [name] * len(last.models), 0.0)

    def notes(self) -> list[str]:
        """What was decided that a user may not expect, once all tensors are planned."""
        found = self._statistics.notes()
        if self._without_base:
            found.insert(0, f"base: has no {some_names(self._without_base)}; averaged over the models instead")
        return found

    def _outside(self, one: Slice) -> list[str]:
        first = self._checkpoints[one.models[0]]
        stack = number_of_layers(first)
        shared = [n for n in first if all(n in self._checkpoints[m].infos for m in one.models)]
        return [n for n in shared if stack is None or not in_stack(n, stack[0])]

    def _layer(
        self, one: Slice, stacks: Sequence[tuple[str, int] | None], offset: int, number: int, depth: float
    ) -> Iterator[TensorPlan]:
        assert one.layers is not None
        prefix = stacks[one.models[0]][0]  # type: ignore[index]  # checked
        origin = [f"{stacks[m][0]}{start + offset}." for m, (start, _) in zip(one.models, one.layers, strict=True)]  # type: ignore[index]
        members = [self._checkpoints[m] for m in one.models]
        found = [[n[len(o) :] for n in c if n.startswith(o)] for c, o in zip(members, origin, strict=True)]
        for checkpoint, start, rests in zip(members, origin, found, strict=True):
            if set(rests) != set(found[0]):
                odd = ", ".join(sorted(set(rests) ^ set(found[0])))
                raise InputError(f"layer {start}* of {checkpoint.source}", expected=f"tensors as in {origin[0]}*", found=odd)
        for rest in found[0]:
            yield self._tensor(f"{prefix}{number}.{rest}", one, [f"{o}{rest}" for o in origin], depth)

    def _tensor(self, name: str, one: Slice, names: Sequence[str], depth: float) -> TensorPlan:
        twins = self._twins(one, names)
        sources, base, moved = self._sources(one, names, twins[0])
        shapes = [source.shape for source in sources]
        if len(set(shapes)) > 1:
            raise InputError(f"tensor {name}", expected="one shape in all models", found=", ".join(map(str, map(list, shapes))))
        if base is not None and base.shape != shapes[0]:
            rows = len(base.shape) > 0 and base.shape[1:] == shapes[0][1:] and self._recipe.tokenizer == "same"
            hint = "If these are rows of tokens, pass --tokenizer first: they are lined up by token." if rows else ""
            thing = f"tensor {name} of the base"
            raise InputError(thing, expected=f"shape {list(shapes[0])}", found=str(list(base.shape)), action=hint)
        floating = DTYPES[sources[0].nominal].floating
        dtype = _output_dtype([s.nominal for s in sources], self._recipe.dtype) if floating else sources[0].dtype
        readers = tuple(self._checkpoints[m].source for m in one.models)
        spec = TensorSpec(name, dtype, shapes[0])
        if not floating:
            return TensorPlan(spec, sources, None, (), None, (), {}, readers)
        method = self._method
        if base is None and method.base == "required":
            if layer_of(name) is not None:  # a head may be new, a layer is not
                raise InputError(
                    f"base {self._recipe.base}", expected="the layers of the models that come from it", found=f"no {name}"
                )  # fmt: skip
            self._without_base.append(name)
            row = METHODS["average"]
            return TensorPlan(spec, sources, None, (), row, check_weights(None, len(sources)), {}, readers)
        statistics = self._statistics.of(one.models, twins, moved)
        weights = self._weights(one, names, depth)
        arguments = self._evaluated(one, name, names, depth)
        return TensorPlan(spec, sources, base, statistics, method, weights, arguments, readers)

    def _source(self, checkpoint: Checkpoint, name: str) -> Source:
        info = checkpoint.infos.get(name)
        if info is None:
            raise InputError(f"tensor {name}", expected="it in all models that take part", found=f"not in {checkpoint.source}")
        stored = Stored(self._files, info)
        adapter = checkpoint.low_rank.get(name) if isinstance(checkpoint, Adapter) else None
        return stored if adapter is None else Adapted(self._files, stored, adapter)

    def _sources(
        self, one: Slice, names: Sequence[str], in_base: str
    ) -> tuple[tuple[Source, ...], Source | None, list[Alignment]]:  # fmt: skip
        """The tensor in each model and, by its name there, in the base, lined up, and by what."""
        plain = [self._source(self._checkpoints[m], n) for m, n in zip(one.models, names, strict=True)]
        found = None if self._base is None else self._base_info(in_base)
        base = None if found is None or self._base is None else self._source(self._base, found)
        moved = []
        for alignment in self._alignments:
            sizes = [alignment.sizes[m] for m in one.models] + ([] if base is None else [alignment.sizes[-1]])
            everyone = [*plain, *([] if base is None else [base])]
            if alignment.fits(names[0], [source.shape for source in everyone], sizes):
                plain, base = _line_up(alignment, one.models, plain, base)
                moved.append(alignment)
        return tuple(plain), base, moved

    def _twins(self, one: Slice, names: Sequence[str]) -> list[str]:
        """What the base and the statistics are asked for: the names, or those of what a tensor repeats that the base lacks.

        So a head that models store beside the table of tokens that it is, and their base does not, is fused as that table is.
        """
        if self._base is None or self._base_info(names[0]) is not None or layer_of(names[0]) is not None:
            return list(names)
        twins = [
            None if isinstance(self._checkpoints[m], Adapter)
            else tied_twin(self._checkpoints[m], n, lambda other: self._base_info(other) is not None)
            for m, n in zip(one.models, names, strict=True)
        ]  # fmt: skip
        found = [twin for twin in twins if twin is not None]
        return found if len(found) == len(twins) else list(names)

    def _base_info(self, name: str) -> str | None:
        assert self._base is not None
        candidates = (name, name.removeprefix(self._base_prefix))
        return next((n for n in candidates if n in self._base.infos), None)

    def _weights(self, one: Slice, names: Sequence[str], depth: float) -> tuple[float, ...]:
        count, method = len(one.models), self._method
        if one.weights is None:
            each = 1.0 if method.default_weight == "sum" else 1 / count
            return check_weights(None, count) if method.weights == "convex" else (each,) * count
        if method.weights == "no":
            raise InputError(f"method {method.name}", expected="no weights: it takes all models alike", found="weights")
        values = _finite([w.at(n, depth, "weights") for w, n in zip(one.weights, names, strict=True)])
        if method.weights == "convex":
            return check_weights(values, count, normalize=self._recipe.normalize)
        total = math.fsum(values)
        if self._recipe.normalize and total == 0:
            raise InputError("weights", expected="a sum other than 0 to normalise", found=str(values))
        return tuple(w / total for w in values) if self._recipe.normalize else tuple(values)

    def _evaluated(self, one: Slice, name: str, names: Sequence[str], depth: float) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, setting in one.settings.items():
            thing = f"parameter {key}"
            self._method.parameter(key)  # refuses what the method does not have
            if isinstance(setting, Setting):
                values[key] = setting.at(name, depth, thing)
            else:
                values[key] = tuple(s.at(n, depth, thing) for s, n in zip(setting, names, strict=True))
        identity = (len(names), tuple(sorted(values.items())))
        if identity not in self._arguments:
            self._arguments[identity] = self._method.arguments(values, len(names))
        return self._arguments[identity]


def _line_up(
    alignment: Alignment, models: Sequence[int], sources: Sequence[Source], base: Source | None
) -> tuple[list[Source], Source | None]:
    """Sources of models (by their numbers) and of the base with the rows of the output."""
    last = len(alignment.rows) - 1  # the base's number, where there is one
    standing_in = alignment.donors(None if base is None else last)
    members = [*zip(models, sources, strict=True), *([] if base is None else [(last, base)])]
    lined: list[Source] = [
        Gathered(source, alignment.rows[m], [(other, standing_in[n]) for n, other in members if n != m]) for m, source in members
    ]
    return lined[: len(sources)], None if base is None else lined[-1]


def _before_layers(name: str) -> bool:
    return any(part in name.lower() for part in BEFORE_LAYERS)


def _check_slice(one: Slice, stacks: Sequence[tuple[str, int] | None], sources: Sequence[str]) -> None:
    assert one.layers is not None
    lengths = {stop - start for start, stop in one.layers}
    if len(lengths) > 1:
        raise InputError("slice", expected="as many layers of each model", found=", ".join(map(str, one.layers)))
    for (start, stop), stack, source in zip(one.layers, stacks, sources, strict=True):
        if stack is None:
            raise InputError(source, expected="numbered layers to slice", found="none in its tensor names")
        if not 0 <= start < stop <= stack[1]:
            raise InputError(f"layers of {source}", expected=f"a range within 0 to {stack[1]}", found=f"{start} to {stop}")


def _require_one_stack(checkpoint: Checkpoint) -> None:
    """Refuse to slice a model (an encoder-decoder, say) of which it is open which layers are meant."""
    layers = Depth.of(checkpoint).layers
    deepest = [prefix for prefix, count in layers.items() if count == max(layers.values())]
    if len(deepest) > 1:
        raise InputError(checkpoint.source, expected="one stack of layers to slice", found=", ".join(f"{p}*" for p in deepest))


def _output_dtype(dtypes: Sequence[str], wanted: str) -> str:
    if wanted != "auto":
        return OUTPUT_DTYPES[wanted]
    widest = max(DTYPES[dtype].nbytes for dtype in dtypes)
    among = {dtype for dtype in dtypes if DTYPES[dtype].nbytes == widest}
    # Types of one size hold different numbers (float16 and bfloat16, the two of 8 bits); the next wider one holds both.
    if len(among) == 1:
        return among.pop()
    return "F32" if widest == 2 else "F16"
