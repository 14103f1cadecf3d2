"""Spectral consensus with one choice changed: an oracle of the method, what each choice does, and the study's part."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conftest import write_raw
from fuseforget.checkpoint import open_checkpoint
from fuseforget.errors import InputError
from fuseforget.fuse import InPlace
from fuseforget.studies.forgetting.ablated import (
    DEFAULT,
    FORGET,
    FORGETS,
    VARIANTS,
    Variant,
    agreements,
    average_of,
    fuse_variant,
    grams,
)
from fuseforget.studies.forgetting.tensor_places import ATTENTION, MLP, OTHER, TABLE, Place, places_of

BERT = "bert.encoder.layer"
SHAPES = {
    "bert.embeddings.word_embeddings.weight": (40, 12),
    "bert.embeddings.LayerNorm.weight": (12,),
    **{f"{BERT}.{layer}.attention.self.query.weight": (12, 12) for layer in (0, 1)},
    **{f"{BERT}.{layer}.attention.output.dense.weight": (12, 12) for layer in (0, 1)},
    **{f"{BERT}.{layer}.intermediate.dense.weight": (30, 12) for layer in (0, 1)},
    **{f"{BERT}.{layer}.output.dense.weight": (12, 30) for layer in (0, 1)},
    **{f"{BERT}.{layer}.output.dense.bias": (12,) for layer in (0, 1)},
    "conv.weight": (9, 4, 2),
    "classifier.weight": (2, 12),
}
Tensors = dict[str, torch.Tensor]


def named(variant: str) -> Variant:
    return next(one for one in VARIANTS if one.name == variant)


def drawn(seed: int) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def models_of(count: int) -> tuple[Tensors, list[Tensors]]:
    """A base and models with a change in common and one of their own."""
    base, common = drawn(0), drawn(1)
    own = [drawn(2 + number) for number in range(count)]
    return base, [{name: base[name] + 0.3 * common[name] + 0.3 * one[name] for name in SHAPES} for one in own]


def length(tensors: Tensors, base: Tensors, names: list[str] | None = None) -> float:
    return sum(float((tensors[name] - base[name]).double().square().sum()) for name in names or base) ** 0.5


@pytest.mark.parametrize("forget", [0.0, 0.5, *FORGETS, 1.0])
@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.7, 0.3), (0.5, 0.3, 0.2)], ids=str)
def test_the_default_is_the_products_method(tmp_path, weights, forget):
    base, models = models_of(len(weights))
    paths = [write_raw(tmp_path / f"m{i}", one) for i, one in enumerate([base, *models])]
    by_product = {name: torch.empty(shape) for name, shape in SHAPES.items()}
    fusion = InPlace(paths[1:], "spectral_consensus", base=paths[0], parameters={"forget": forget})
    fusion.into(by_product, weights)
    opened = [open_checkpoint(path) for path in paths]
    found = fuse_variant(DEFAULT, opened[0], opened[1:], forget, weights)
    assert found.keys() == SHAPES.keys()
    for name in SHAPES:
        apart = float((found[name] - by_product[name]).norm() / (by_product[name] - base[name]).norm())
        assert apart < 1e-5, name
    tables = fuse_variant(named("tables"), opened[0], opened[1:], forget, weights)
    InPlace(paths[1:], "spectral_consensus", base=paths[0], parameters={"forget": forget, "embeddings": True}).into(
        by_product, weights
    )
    for name in SHAPES:
        assert float((tables[name] - by_product[name]).norm() / (by_product[name] - base[name]).norm()) < 1e-5, name
