"""Settings that may differ from tensor to tensor: a number, a list over depth, or values by pattern on names.

The forms are those of mergekit's YAML, so that recipes and the command line share one reading of them.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fuseforget.errors import InputError

__all__ = ["Depth", "Setting", "in_stack", "layer_of", "number_of_layers"]

Scalar = float | int | bool | str
_LAYER = re.compile(r"(?:^|\.)(\d+)\.")


@dataclass(frozen=True)
class Setting:
    """One setting of a fusion.

    Attributes:
        form: a scalar; a list of scalars, interpolated linearly from the first layer to the last; or a list of
            ``{"filter": PATTERN, "value": scalar or list}``, of which the first whose pattern fits the tensor's name counts. A
            pattern is a part of the name, or a glob when it has ``*``, ``?`` or ``[``; without one an entry fits everything.
    """

    form: Any

    @classmethod
    def of(cls, value: Any, thing: str) -> Setting:
        """Return a setting of a user's form, or raise InputError naming what it is for."""
        if isinstance(value, Setting):
            return value
        entries = value if isinstance(value, list | tuple) else [value]
        if isinstance(value, Mapping):
            entries = [value]
        if not entries:
            raise InputError(thing, expected="a value", found="an empty list")
        kinds = {isinstance(entry, Mapping) for entry in entries}
        if kinds == {True}:
            return cls(tuple(_filtered(entry, thing) for entry in entries))
        if kinds == {False} and all(isinstance(entry, Scalar) for entry in entries):
            return cls(tuple(entries) if isinstance(value, list | tuple) else value)
        raise InputError(
            thing, expected="a value, a list of values over depth, or a list of {filter, value}", found=repr(value)
        )  # fmt: skip

    def at(self, name: str, depth: float, thing: str) -> Scalar:
        """Return the value for a tensor.

        Args:
            name: the tensor's.
            depth: 0 in the first layer, 1 in the last.
            thing: what the setting is for, in messages.
        """
        if not isinstance(self.form, tuple):
            return self.form  # type: ignore[no-any-return]
        if not isinstance(self.form[0], tuple):
            return _along(self.form, depth, thing)
        for pattern, value in self.form:
            if pattern is None or _fits(pattern, name):
                return _along(value, depth, thing) if isinstance(value, tuple) else value
        patterns = ", ".join(repr(pattern) for pattern, _ in self.form)
        raise InputError(
            thing, expected=f"a pattern that fits tensor {name}", found=patterns, action="Add an entry without filter."
        )

    def plain(self) -> Any:
        """The form as plain JSON, from which :meth:`of` makes the setting again."""
        if not isinstance(self.form, tuple):
            return self.form
        if not isinstance(self.form[0], tuple):
            return list(self.form)
        return [
            {**({} if p is None else {"filter": p}), "value": list(v) if isinstance(v, tuple) else v} for p, v in self.form
        ]  # fmt: skip


@dataclass(frozen=True)
class Depth:
    """The layers of a stack: how many there are under each prefix of names."""

    layers: Mapping[str, int]

    @classmethod
    def of(cls, names: Iterable[str]) -> Depth:
        layers: dict[str, int] = {}
        for name in names:
            if found := layer_of(name):
                layers[found[0]] = max(layers.get(found[0], 0), found[1] + 1)
        return cls(layers)

    def __call__(self, name: str) -> float:
        """Return 0 for the first layer, 1 for the last; tensors outside of layers (embeddings, heads) count as the first."""
        found = layer_of(name)
        if found is None:
            return 0.0
        count = self.layers[found[0]]
        return found[1] / (count - 1) if count > 1 else 1.0


def layer_of(name: str) -> tuple[str, int] | None:
    """Return what stands before a tensor's layer number, and the number; None for a tensor outside of layers."""
    match = _LAYER.search(name)
    return (name[: match.start(1)], int(match[1])) if match else None


def in_stack(name: str, prefix: str) -> bool:
    """Return whether a tensor is in the stack of layers that a prefix names."""
    found = layer_of(name)
    return found is not None and found[0] == prefix


def number_of_layers(names: Iterable[str]) -> tuple[str, int] | None:
    """Return the prefix and the number of layers of the deepest stack, or None without one."""
    layers = Depth.of(names).layers
    return max(layers.items(), key=lambda item: item[1]) if layers else None


def _filtered(entry: Mapping[str, Any], thing: str) -> tuple[str | None, Any]:
    unknown = sorted(entry.keys() - {"filter", "value"})
    if unknown or "value" not in entry:
        raise InputError(thing, expected="filter and value", found=", ".join(map(str, entry)))
    value = entry["value"]
    scalars = value if isinstance(value, list | tuple) else [value]
    if not scalars or not all(isinstance(v, Scalar) for v in scalars):
        raise InputError(thing, expected="a value or a list of values", found=repr(value))
    pattern = entry.get("filter")
    if pattern is not None and not isinstance(pattern, str):
        raise InputError(thing, expected="a filter that is a part of a name", found=repr(pattern))
    return (None if pattern == "*" else pattern, tuple(value) if isinstance(value, list | tuple) else value)


def _fits(pattern: str, name: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) if any(c in pattern for c in "*?[") else pattern in name


def _along(values: tuple[Scalar, ...], depth: float, thing: str) -> Scalar:
    """Interpolate numbers linearly; of anything else take the one at the depth."""
    position = depth * (len(values) - 1)
    before = int(position)
    if any(isinstance(value, bool | str) for value in values):
        numbers = [_number(value) for value in values]
        if None in numbers:
            return values[before]
        values = tuple(n for n in numbers if n is not None)
    after, share = min(before + 1, len(values) - 1), position - before
    return (1 - share) * float(values[before]) + share * float(values[after])


def _number(value: Scalar) -> float | None:
    """A number, also one that YAML reads as text (1e-3); None for what is none."""
    if isinstance(value, bool):
        return None
    try:
        return float(value)
    except ValueError:
        return None
