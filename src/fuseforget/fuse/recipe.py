"""What is to be fused, as data: the command line, Python calls, manifests and mergekit's YAML all become a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuseforget.errors import InputError
from fuseforget.fuse.settings import Setting

__all__ = ["TOKENIZERS", "Recipe", "Slice", "from_manifest", "make_recipe", "read_recipe"]

TOKENIZERS = ("same", "first", "base", "union")
Settings = Mapping[str, "Setting | tuple[Setting, ...]"]


@dataclass(frozen=True)
class Slice:
    """Layers that follow one another in the output, made of as many layers of each of some models.

    Attributes:
        models: which of the recipe's models take part, by number.
        layers: for each, its first layer and the one after its last; None for all layers of models alike.
        weights: one a model, or None for the method's default.
        settings: of the method's parameters, one for all models or one each.
    """

    models: tuple[int, ...]
    layers: tuple[tuple[int, int], ...] | None = None
    weights: tuple[Setting, ...] | None = None
    settings: Settings = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """A fusion, from which it can be made again.

    Attributes:
        method: a name in :data:`fuseforget.methods.METHODS`.
        models: directories, hub ids, ``id@revision`` or adapters.
        slices: the output's layers, first to last; one slice without layers is a fusion of whole models.
        base: the pretrained model, where the method takes one.
        statistics: a statistics checkpoint for each model, where the method takes them.
        normalize: divide convex weights by their sum.
        dtype: of the output's floating tensors, or ``auto``.
        tokenizer: ``same`` (refuse vocabularies that differ), or whose tokens the output has: ``first``, ``base``, ``union``.
        seed: of random methods.
        allow_nonfinite: fuse tensors with NaN or infinity all the same.
        as_adapter: the rank of the one adapter that the output is, or ``sum`` (of the models' ranks); None: a full checkpoint.
        digests: for each model (then base, then statistics) what its files must hash to, where the recipe is a manifest.
    """

    method: str
    models: tuple[str, ...]
    slices: tuple[Slice, ...]
    base: str | None = None
    statistics: tuple[str, ...] = ()
    normalize: bool = False
    dtype: str = "auto"
    tokenizer: str = "same"
    seed: int = 0
    allow_nonfinite: bool = False
    as_adapter: int | str | None = None
    digests: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def sources(self) -> list[str]:
        """All checkpoints that are read: models, base, statistics."""
        return [*self.models, *([] if self.base is None else [self.base]), *self.statistics]

    def plain(self) -> dict[str, Any]:
        """The recipe as plain JSON (without hashes, which the manifest lists)."""
        return {
            "method": self.method,
            "models": list(self.models),
            "base": self.base,
            "statistics": list(self.statistics),
            "slices": [_plain_slice(one) for one in self.slices],
            "normalize": self.normalize,
            "dtype": self.dtype,
            "tokenizer": self.tokenizer,
            "seed": self.seed,
            "allow_nonfinite": self.allow_nonfinite,
            "as_adapter": self.as_adapter,
        }


def make_recipe(
    models: Sequence[Any],
    method: str,
    weights: Sequence[Any] | None,
    parameters: Mapping[str, Any],
    **options: Any,
) -> Recipe:
    """Return the recipe of a fusion of whole models.

    Args:
        weights: one a model, each a number, a list over depth or a list of ``{filter, value}``.
        parameters: each a number, a list over depth or a list of ``{filter, value}``; or, under the key ``NAME:3``, that of the
            third model alone.
        options: the other attributes of :class:`Recipe`.
    """
    if weights is not None and len(weights) != len(models):
        raise InputError("weights", expected=f"one for each of {len(models)} models", found=str(len(weights)))
    chosen = None if weights is None else tuple(Setting.of(w, "weights") for w in weights)
    whole = Slice(tuple(range(len(models))), None, chosen, _settings(parameters, len(models)))
    return Recipe(method, tuple(str(model) for model in models), (whole,), **options)


def _settings(parameters: Mapping[str, Any], models: int) -> dict[str, Setting | tuple[Setting, ...]]:
    from fuseforget.methods import METHODS

    general = {name: value for name, value in parameters.items() if ":" not in name}
    own = {name: value for name, value in parameters.items() if ":" in name}
    found: dict[str, Setting | tuple[Setting, ...]] = {
        name: Setting.of(value, f"parameter {name}") for name, value in general.items()
    }
    defaults = {p.name: p.default for row in METHODS.values() for p in row.parameters}
    for key, value in own.items():
        name, _, number = key.partition(":")
        if not number.isdecimal() or not 1 <= int(number) <= models:
            raise InputError(f"parameter {key}", expected=f"NAME:MODEL with a model from 1 to {models}", found=repr(number))
        each = found.get(name, Setting.of(general.get(name, defaults.get(name, 0.0)), f"parameter {name}"))
        listed = list(each) if isinstance(each, tuple) else [each] * models
        listed[int(number) - 1] = Setting.of(value, f"parameter {key}")
        found[name] = tuple(listed)
    return found


def read_recipe(file: Path) -> Recipe:
    """Return the recipe in a file: a manifest of this package (JSON), or mergekit's YAML.

    Raises:
        InputError: it cannot be read, or asks for what is not known; all such keys at once.
    """
    import yaml

    try:
        told = yaml.safe_load(file.read_text(encoding="utf-8"))  # JSON is YAML
    except OSError as error:
        raise InputError(str(file), expected="a recipe", found=error.strerror or str(error)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(str(file), expected="a recipe in JSON or YAML", found=str(error).splitlines()[0]) from error
    if not isinstance(told, Mapping):
        raise InputError(str(file), expected="a recipe: a manifest or mergekit's YAML", found=type(told).__name__)
    if "recipe" in told:
        return from_manifest(told, str(file))
    from fuseforget.fuse.mergekit import from_mergekit

    return from_mergekit(told, str(file))


def from_manifest(manifest: Mapping[str, Any], thing: str) -> Recipe:
    """Return the recipe that a manifest tells of, with the hashes that its inputs must have.

    Raises:
        InputError: it is no manifest of a fusion, or of another version's form.
    """
    try:
        told = dict(manifest["recipe"])
        slices = tuple(_read_slice(one) for one in told.pop("slices"))
        models, statistics = tuple(told.pop("models")), tuple(told.pop("statistics"))
        digests = {entry["model"]: dict(entry["blake3"]) for entry in manifest["inputs"]}
        return Recipe(models=models, statistics=statistics, slices=slices, digests=digests, **told)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(thing, expected="the manifest of a fusion (fuseforget.json)", found=repr(error)) from error


def _plain_slice(one: Slice) -> dict[str, Any]:
    def plain(setting: Setting | tuple[Setting, ...]) -> Any:
        return {"each": [s.plain() for s in setting]} if isinstance(setting, tuple) else setting.plain()

    return {
        "models": list(one.models),
        "layers": None if one.layers is None else [list(pair) for pair in one.layers],
        "weights": None if one.weights is None else [w.plain() for w in one.weights],
        "parameters": {name: plain(setting) for name, setting in one.settings.items()},
    }


def _read_slice(told: Mapping[str, Any]) -> Slice:
    def setting(name: str, value: Any) -> Setting | tuple[Setting, ...]:
        if isinstance(value, Mapping) and "each" in value:
            return tuple(Setting.of(v, f"parameter {name}") for v in value["each"])
        return Setting.of(value, f"parameter {name}")

    layers, weights = told["layers"], told["weights"]
    return Slice(
        tuple(int(m) for m in told["models"]),
        None if layers is None else tuple((int(a), int(b)) for a, b in layers),
        None if weights is None else tuple(Setting.of(w, "weights") for w in weights),
        {name: setting(name, value) for name, value in told["parameters"].items()},
    )
