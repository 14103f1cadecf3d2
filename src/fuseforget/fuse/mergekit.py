"""mergekit's YAML as recipes: models, slices of layers, base, parameters with gradients and filters, dtype, tokenizer."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from fuseforget.errors import InputError
from fuseforget.fuse.recipe import Recipe, Slice
from fuseforget.fuse.settings import Setting
from fuseforget.methods import Method, get_method

__all__ = ["from_mergekit"]

# mergekit's names of methods and what they are here, with the parameters that they fix.
NAMES = {"linear": "average", "della": "della", "ramplus_tl": "ram"}
KEYS = {
    "recipe": {"merge_method", "base_model", "models", "slices", "parameters", "dtype", "out_dtype", "tokenizer_source"},
    "model": {"model", "parameters"},
    "slice": {"sources", "parameters", "base_model"},
    "source": {"model", "layer_range", "parameters"},
}
# Parameters that say how to compute, not what; masks here take a bit a value as it is.
WITHOUT_EFFECT = {"int8_mask"}
# mergekit's names of a method's parameters and what they are here.
PARAMETERS = {
    "nuslerp": {"nuslerp_flatten": "flatten", "nuslerp_row_wise": "row_wise"},
    "multislerp": {"normalize_weights": "normalize"},
}
DTYPES = {"float32", "bfloat16", "float16"}


def from_mergekit(told: Mapping[str, Any], thing: str) -> Recipe:
    """Return the recipe that a mergekit configuration asks for.

    Raises:
        InputError: keys or parameters that are not known (all at once), or a configuration that means nothing.
    """
    told = {key: value for key, value in told.items() if value is not None}
    if "merge_method" not in told:
        raise InputError(thing, expected="merge_method", found=", ".join(map(str, told)) or "nothing")
    name = str(told["merge_method"])
    method = get_method(NAMES.get(name, name))
    _refuse_unknown(told, name, method, thing)
    if ("models" in told) == ("slices" in told):
        raise InputError(thing, expected="either models or slices", found="both" if "models" in told else "neither")
    base = None if told.get("base_model") is None else str(told["base_model"])
    reader = _Reader(method, name, base, told, thing)
    slices = [reader.models()] if "models" in told else [reader.slice(one) for one in reader.entries("slices")]
    dtype = told.get("out_dtype") or told.get("dtype") or "auto"
    if dtype not in (*DTYPES, "auto"):
        raise InputError(f"dtype in {thing}", expected=", ".join(sorted(DTYPES)), found=repr(dtype))
    taken = None if method.base == "no" else base
    return Recipe(
        method=method.name,
        models=tuple(reader.names),
        slices=tuple(slices),
        base=taken,
        normalize=reader.normalize,
        dtype=dtype,
        tokenizer=_tokenizer(told.get("tokenizer_source"), reader.names, taken, base, thing),
    )


class _Reader:
    """Reads models and slices of one configuration, and numbers the models that they name."""

    def __init__(self, method: Method, name: str, base: str | None, told: Mapping[str, Any], thing: str) -> None:
        self._method, self._name, self._base, self._told, self._thing = method, name, base, told, thing
        self.names: list[str] = []
        # mergekit's `linear` divides by the sum of the weights unless told otherwise.
        self.normalize = method.weights == "convex" and bool(self._global("normalize", True))

    def entries(self, key: str, told: Mapping[str, Any] | None = None) -> list[Any]:
        """A list that must not be empty: of models, slices, or a slice's sources."""
        found = (self._told if told is None else told).get(key)
        if not isinstance(found, list) or not found:
            raise InputError(f"{key} in {self._thing}", expected="a list with an entry at least", found=repr(found))
        return found

    def models(self) -> Slice:
        """The slice of a configuration of whole models."""
        entries = self.entries("models")
        # As in mergekit, a base that is not listed takes part all the same, where the method has no other use of it.
        if self._method.base == "no" and self._base not in (None, *(str(_part(e, "model")) for e in entries)):
            entries = [*entries, {"model": self._base}]
        return self._slice(entries, {})

    def slice(self, one: Mapping[str, Any]) -> Slice:
        """One entry of ``slices``."""
        sources = self.entries("sources", one)
        for source in sources:
            span = source.get("layer_range")
            if not isinstance(span, list | tuple) or len(span) != 2 or not all(type(n) is int for n in span):
                raise InputError(f"layer_range in {self._thing}", expected="two layer numbers", found=repr(span))
        if one.get("base_model") not in (None, self._base):
            raise InputError(f"slices in {self._thing}", expected="one base_model for all", found=str(one["base_model"]))
        return self._slice(sources, one.get("parameters") or {})

    def _slice(self, entries: Sequence[Mapping[str, Any]], own: Mapping[str, Any]) -> Slice:
        lacking = [dict(entry) for entry in entries if not isinstance(entry.get("model"), str)]
        if lacking:
            raise InputError(f"model in {self._thing}", expected="a directory or a hub id in every entry", found=str(lacking[0]))
        taken = self._in_order(entries)
        if not taken:
            raise InputError(self._thing, expected="a model beside the base_model", found=f"{self._base} alone")
        numbers = tuple(self._number(entry["model"]) for entry in taken)
        layers = tuple((e["layer_range"][0], e["layer_range"][1]) for e in taken) if "layer_range" in taken[0] else None
        if layers is not None:
            self._require_base_layers(entries, layers[0])
        # The narrowest counts: a model's in this slice, the slice's, the configuration's.
        shared = [dict(own), dict(self._told.get("parameters") or {})]
        levels = [[dict(e.get("parameters") or {}), *shared] for e in taken]
        return Slice(numbers, layers, self._weights(levels, shared), self._settings(levels, shared))

    def _in_order(self, entries: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """The entries without the base where the method takes it apart, or with the base first where it is an end."""
        of_base = [e for e in entries if e["model"] == self._base]
        others = [e for e in entries if e["model"] != self._base]
        if self._method.name == "slerp":
            if not of_base:
                raise InputError(
                    f"slerp in {self._thing}",
                    expected="a base_model, from which t counts, among the models",
                    found=str(self._base),
                )
            return of_base + others
        return list(entries) if self._method.base == "no" or self._base is None else others

    def _require_base_layers(self, entries: Sequence[Mapping[str, Any]], layers: tuple[int, int]) -> None:
        """The base takes part with the layers of the first model; refuse a recipe that asks for others of it."""
        if self._method.base == "no":
            return
        for entry in entries:
            if entry["model"] == self._base and tuple(entry["layer_range"]) != layers:
                raise InputError(
                    f"layer_range of the base_model in {self._thing}", expected=f"that of the first model, {list(layers)}",
                    found=str(list(entry["layer_range"])),
                )  # fmt: skip

    def _number(self, name: str) -> int:
        if name not in self.names:
            self.names.append(name)
        return self.names.index(name)

    def _weights(self, levels: Sequence[_Levels], shared: _Levels) -> tuple[Setting, ...] | None:
        thing = f"weight in {self._thing}"
        if self._method.name == "slerp":
            t = _resolve(shared, ["t"], f"parameter t in {self._thing}")
            if t is None:
                raise InputError(f"slerp in {self._thing}", expected="the parameter t", found="none")
            return (_from_one(t), t)
        found = [_resolve(level, ["weight"], thing) for level in levels]
        if self._method.weights == "no" or all(weight is None for weight in found):
            return None
        if any(weight is None for weight in found):
            raise InputError(thing, expected="one for each model", found=f"{sum(w is None for w in found)} without")
        return tuple(weight for weight in found if weight is not None)

    def _settings(self, levels: Sequence[_Levels], shared: _Levels) -> dict[str, Setting | tuple[Setting, ...]]:
        settings: dict[str, Setting | tuple[Setting, ...]] = {}
        if self._name == "ramplus_tl":
            settings["r"] = Setting.of(0.1, "r")  # its default there
        for p in self._method.parameters:
            names = [p.name, *(theirs for theirs, ours in PARAMETERS.get(self._name, {}).items() if ours == p.name)]
            thing = f"parameter {p.name} in {self._thing}"
            own = levels if p.name in _of_models(self._method) else [shared]
            values = [_resolve(level, names, thing, p.default) for level in own]
            if all(value is None for value in values):
                continue
            each = tuple(Setting.of(p.default, thing) if value is None else value for value in values)
            settings[p.name] = each if p.per_model else each[0]
        return settings

    def _global(self, name: str, default: Any) -> Any:
        return (self._told.get("parameters") or {}).get(name, default)


_Levels = Sequence[Mapping[str, Any]]


def _of_models(method: Method) -> set[str]:
    """The parameters that a model's entry may have; others are the slice's or the recipe's."""
    return {"weight"} | {p.name for p in method.parameters if p.per_model or method.name == "passthrough"}


def _resolve(levels: _Levels, names: Sequence[str], thing: str, default: Any = None) -> Setting | None:
    """The setting of the narrowest level; what its filters leave open is the next one's, and at last the default."""
    entries: list[Any] = []
    for value in (level[name] for level in levels for name in names if name in level):
        plain = Setting.of(value, thing).plain()
        conditional = isinstance(plain, list) and isinstance(plain[0], dict)
        if not conditional and not entries:
            return Setting.of(value, thing)
        entries += plain if conditional else [{"value": plain}]
        if "filter" not in entries[-1]:
            break
    if not entries:
        return None
    if "filter" in entries[-1] and default is not None:
        entries.append({"value": default})
    return Setting.of(entries, thing)


def _from_one(t: Setting) -> Setting:
    """``1 - t`` in the form of ``t``."""

    def away(value: Any) -> Any:
        if isinstance(value, list):
            return [away(one) for one in value]
        if isinstance(value, Mapping):
            return {**value, "value": away(value["value"])}
        try:
            return 1 - float(value)
        except ValueError:
            raise InputError("parameter t", expected="a number from 0 to 1", found=repr(value)) from None

    return Setting.of(away(t.plain()), "parameter t")


def _tokenizer(source: Any, models: Sequence[str], base: str | None, named: str | None, thing: str) -> str:
    """Whose tokens the output has; ``base`` is the one that the method takes, ``named`` the one that the recipe names."""
    if source is None:
        return "same"
    if source == "union":
        return "union"
    wanted = named if source == "base" else str(source)
    if wanted is None or wanted == models[0]:
        return "first"
    if wanted == base:
        return "base"
    raise InputError(f"tokenizer_source in {thing}", expected="union, base, or the first model", found=repr(source))


def _refuse_unknown(told: Mapping[str, Any], name: str, method: Method, thing: str) -> None:
    """Raise one InputError with every key and parameter that is not known."""
    of_models = _of_models(method) | WITHOUT_EFFECT
    shared = (
        of_models | {p.name for p in method.parameters} | set(PARAMETERS.get(name, {})) | ({"t"} if name == "slerp" else set())
    )
    everywhere = shared | ({"normalize"} if method.weights == "convex" else set())
    unknown = _unknown("", told, KEYS["recipe"]) + _unknown("parameters.", told.get("parameters"), everywhere)
    for i, entry in enumerate(_list(told.get("models"))):
        unknown += _unknown(f"models[{i}].", entry, KEYS["model"])
        unknown += _unknown(f"models[{i}].parameters.", _part(entry, "parameters"), of_models, everywhere)
    for i, one in enumerate(_list(told.get("slices"))):
        unknown += _unknown(f"slices[{i}].", one, KEYS["slice"])
        unknown += _unknown(f"slices[{i}].parameters.", _part(one, "parameters"), shared, everywhere)
        for j, source in enumerate(_list(_part(one, "sources"))):
            unknown += _unknown(f"slices[{i}].sources[{j}].", source, KEYS["source"])
            unknown += _unknown(f"slices[{i}].sources[{j}].parameters.", _part(source, "parameters"), of_models, everywhere)
    if unknown:
        raise InputError(thing, expected=f"keys that are known for {name}", found="; ".join(unknown))


def _list(value: Any) -> list[Any]:
    """A list to look into; anything else is refused where it is read."""
    return value if isinstance(value, list) else []


def _part(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, Mapping) else None


def _unknown(where: str, value: Any, known: AbstractSet[str], elsewhere: AbstractSet[str] = frozenset()) -> list[str]:
    """The keys of a mapping that are not known there, each with what may have been meant."""
    if value is None:
        return []
    if not isinstance(value, Mapping):
        return [f"{where.rstrip('.')} is {type(value).__name__}, not a mapping"]
    result = []
    for key in value:
        if key in elsewhere - known:
            result.append(f"{where}{key} (it is one for all models: put it under the recipe's parameters)")
        elif key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            result.append(f"{where}{key}" + (f" (did you mean {near[0]}?)" if near else ""))
    return result
