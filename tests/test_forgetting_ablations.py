"""Spectral consensus with one choice changed: an oracle of the method, what each choice does, and the study's part."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import write_raw
from fuseforget.checkpoint import open_checkpoint
from fuseforget.errors import InputError
from fuseforget.fuse import InPlace, fuse
from fuseforget.methods import token_filter
from fuseforget.models import encode_batches, load_classifier, predict, set_weights
from fuseforget.records import Run, decode_values, facts, read_records
from fuseforget.report.blocks import Paragraphs, Pictures, Table
from fuseforget.report.forgetting_ablations import ablations_blocks
from fuseforget.studies.forgetting.ablated import DEFAULT, FORGET, FORGETS, VARIANTS, Variant, average_of, fuse_variant
from fuseforget.studies.forgetting.ablation_results import LENGTHENED, Row, conclude_ablations, knob_at_its_end, mix_at_task
from fuseforget.studies.forgetting.ablations import OTHER_METHODS, do_ablations, spread
from fuseforget.studies.forgetting.agreement import described, pairs_to_look_at, spectrum_of
from fuseforget.studies.forgetting.choice import Tried
from fuseforget.studies.forgetting.filters import agreements, grams
from fuseforget.studies.forgetting.probes import choosing_probes
from fuseforget.studies.forgetting.retained import Fused, Piece, mean_of_cases
from fuseforget.studies.forgetting.settings import ForgettingStudy
from fuseforget.studies.forgetting.sources import SHORTCUTS, Source
from fuseforget.studies.forgetting.tensor_places import ATTENTION, MLP, OTHER, TABLE, Place, is_table, places_of
from fuseforget.workers import Here

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


def models_of(count: int, size: float = 0.3) -> tuple[Tensors, list[Tensors]]:
    """A base and models with a change in common and one of their own, of that size."""
    base, common = drawn(0), drawn(1)
    own = [drawn(2 + number) for number in range(count)]
    return base, [{name: base[name] + 0.3 * common[name] + size * one[name] for name in SHAPES} for one in own]


def length(tensors: Tensors, base: Tensors, names: list[str] | None = None) -> float:
    return sum(float((tensors[name] - base[name]).double().square().sum()) for name in names or base) ** 0.5


@pytest.mark.parametrize("forget", [0.0, 0.5, *FORGETS, 1.0])
@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.7, 0.3), (0.5, 0.3, 0.2)], ids=str)
@pytest.mark.parametrize("own", [0.2, 0.7])  # so that more or less than a quarter is common
def test_the_default_is_the_products_method(tmp_path, weights, forget, own):
    base, models = models_of(len(weights), own)
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


def wanted_squares(
    base: Tensors, models: list[Tensors], average: Tensors, names: list[str], forget: float
) -> dict[str, float]:  # fmt: skip
    """The squared lengths of two models' filtered tensors: all of the models' where a quarter of these is common."""
    own = {name: sum(length(model, base, [name]) ** 2 / 2 for model in models) for name in names}
    common = sum(float(((models[0][name] - base[name]) * (models[1][name] - base[name])).double().sum()) for name in names)
    share = min(1, 4 * common / sum(own.values()))
    return {name: (1 - forget) * length(average, base, [name]) ** 2 + forget * share**2 * own[name] for name in names}


def test_each_choice_changes_what_it_says():
    base, models = models_of(2)
    average, method = average_of(base, models), fuse_variant(DEFAULT, base, models, FORGET)
    matrices = [name for name, shape in SHAPES.items() if len(shape) > 1 and "embed" not in name and "classifier" not in name]
    of = {"attention": [name for name in matrices if "attention" in name], "MLP": [n for n in matrices if n.startswith(BERT)]}
    of["MLP"] = [name for name in of["MLP"] if "attention" not in name]
    of |= {half: [n for n in matrices if n.startswith(f"{BERT}.{i}.")] for i, half in enumerate(("lower", "upper"))}
    of |= {"tables": [*matrices, "bert.embeddings.word_embeddings.weight"]}
    assert [len(names) for names in of.values()] == [4, 4, 4, 4, 10]
    for variant in VARIANTS:
        setting = variant.settings[2]
        found = fuse_variant(variant, base, models, setting)
        filtered = of.get(variant.tensors, matrices)
        vectors = base if variant.vectors == "base" else average
        lengthened = matrices if variant.scale == "whole" else []
        for name, shape in SHAPES.items():
            changed = name in filtered or name in lengthened
            expected = vectors if len(shape) == 1 else average
            assert torch.equal(found[name], expected[name]) != changed, (variant.name, name)
        for name in set(lengthened) - set(filtered):
            by = (found[name] - base[name]) / (average[name] - base[name])
            torch.testing.assert_close(by, by.mean().expand(by.shape), rtol=1e-3, atol=1e-3)
        if variant != DEFAULT:
            assert any(not torch.equal(found[name], method[name]) for name in SHAPES), variant.name
        if variant.scale != "none":
            wanted = [*lengthened] or filtered
            forget = setting if variant.shape == "wiener" else FORGET
            squares = wanted_squares(base, models, average, wanted, forget)
            assert length(found, base, wanted) ** 2 == pytest.approx(sum(squares.values()), rel=1e-4), variant.name
        if variant.scale == "each":
            assert all(length(found, base, [name]) ** 2 == pytest.approx(squares[name], rel=1e-4) for name in wanted)
    bare = fuse_variant(named("no scale"), base, models, FORGET)
    factors = torch.stack([((method[name] - base[name]).norm() / (bare[name] - base[name]).norm()) for name in matrices])
    torch.testing.assert_close(factors, factors[:1].expand(len(factors)), rtol=1e-4, atol=0)
    assert float(factors[0]) > 1


def test_the_shorter_side_is_the_left_of_a_wide_matrix_and_the_right_of_a_high_one():
    base, models = models_of(2)
    found = {
        sides: fuse_variant(replace(DEFAULT, sides=sides, scale="none"), base, models, FORGET)
        for sides in ("shorter", "left", "right", "both")
    }
    average = average_of(base, models)

    def same(name: str, one: Tensors, other: Tensors) -> bool:
        apart = float((one[name] - other[name]).norm() / (other[name] - base[name]).norm())
        return apart < 1e-3

    for end, sides, longer in (("intermediate.dense.weight", "right", "left"), ("0.output.dense.weight", "left", "right")):
        name = next(one for one in SHAPES if one.endswith(end))
        assert same(name, found[sides], found["shorter"]), name
        assert same(name, found[longer], average), "twice as long as the other, of two models: it filters nothing"
        assert not same(name, average, found["shorter"])
    square = f"{BERT}.0.attention.self.query.weight"
    for name, sides in ((square, "both"), ("conv.weight", "right")):
        for other in ("left", "right", "both"):
            assert same(name, found[other], found["shorter"]) == (other == sides), (name, other)


def diagonal(*values: float) -> Tensors:
    return {"layer.0.mlp.weight": torch.diag(torch.tensor(values))}


def kept(variant: Variant, setting: float, *changes: tuple[float, ...]) -> list[float]:
    zero = diagonal(*[0.0] * len(changes[0]))
    fused = fuse_variant(replace(variant, scale="none"), zero, [diagonal(*one) for one in changes], setting)
    return [round(float(value), 5) for value in fused["layer.0.mlp.weight"].diagonal()]


def test_filters_by_hand():
    """Directions common to both, of the first alone, and of both with strengths 3 and 1: c = 1, 1/2 and 4/5."""
    changes = (2.0, 2.0, 0.0, 3.0), (2.0, 0.0, 0.0, 1.0)
    mean, scatter = grams([torch.diag(torch.tensor(one, dtype=torch.float64)) for one in changes], (0.5, 0.5))
    assert mean.diagonal().tolist() == [4, 1, 0, 4]
    assert scatter.diagonal().tolist() == [0, 1, 0, 1]
    torch.testing.assert_close(
        agreements(mean, scatter)[0], torch.tensor([0, 0.5, 0.8, 1], dtype=torch.float64), rtol=1e-6, atol=1e-9
    )
    # forget .75 is b = 3: c / (c + 3 (1 - c)) is 1/4 and 4/7.
    for sides, power in (("left", 1), ("right", 1), ("both", 2), ("shorter", 2)):
        wiener = replace(DEFAULT, sides=sides)
        assert kept(wiener, 0.75, *changes) == pytest.approx([2, 1 / 4**power, 0, 2 * (4 / 7) ** power], abs=1e-4)
        hard = replace(named("hard"), sides=sides)
        assert kept(hard, 0.75, *changes) == pytest.approx([2, 0, 0, 2], abs=1e-4)
        assert kept(hard, 0.45, *changes) == pytest.approx([2, 1, 0, 2], abs=1e-4)
        assert kept(hard, 0.85, *changes) == pytest.approx([2, 0, 0, 0], abs=1e-4)
    # First two directions each: (1, 4) beside (1, 4); with one of the first two alone (4) beside (1), which have none in common.
    prototype = named("projectors")
    assert kept(prototype, 0.5, (2.0, 1.0, 0.5, 3.0), (3.0, 1.0, 0.5, 2.0)) == pytest.approx([2.5, 0, 0, 2.5], abs=1e-4)
    assert kept(prototype, 0.25, (2.0, 1.0, 0.5, 3.0), (3.0, 1.0, 0.5, 2.0)) == pytest.approx([0, 0, 0, 0], abs=1e-4)
    # Of three models two have a direction: e = 2/3, and (3 e - 1) / 2 is a half, on each side.
    three = (2.0, 0.0, 0.0, 0.0), (2.0, 0.0, 0.0, 0.0), (0.0, 0.0, 2.0, 0.0)
    assert kept(prototype, 0.25, *three) == pytest.approx([4 / 3 / 4, 0, 0, 0], abs=1e-4)


@pytest.mark.parametrize(("high", "wide"), [(9, 5), (5, 9)], ids=str)
def test_sides_of_a_matrix_that_is_not_square(high, wide):
    """Of the longer side, whose Gram matrices are singular: what is common stays, what one has alone goes."""
    generator = torch.Generator().manual_seed(0)
    lefts, rights = (torch.linalg.qr(torch.randn(n, 3, generator=generator)).Q for n in (high, wide))
    own = [torch.outer(lefts[:, i], rights[:, i]) for i in range(3)]
    name = "layer.0.mlp.weight"
    base, models = {name: torch.zeros(high, wide)}, [{name: own[0] + own[i]} for i in (1, 2)]
    for sides in ("left", "right", "both", "shorter"):
        fused = fuse_variant(replace(DEFAULT, sides=sides, scale="none"), base, models, 0.99)[name]
        held = [float((fused * one).sum()) for one in own]
        power = 2 if sides == "both" else 1
        assert held == pytest.approx([1, 0.5 / 100**power, 0.5 / 100**power], abs=1e-4), sides


def test_places_by_names_of_four_families():
    known = {
        "bert.encoder.layer.{}.attention.self.query.weight": ATTENTION,
        "bert.encoder.layer.{}.attention.output.dense.weight": ATTENTION,
        "bert.encoder.layer.{}.attention.output.LayerNorm.weight": OTHER,
        "bert.encoder.layer.{}.intermediate.dense.weight": MLP,
        "bert.encoder.layer.{}.output.dense.weight": MLP,
        "transformer.h.{}.attn.c_attn.weight": ATTENTION,
        "transformer.h.{}.mlp.c_fc.weight": MLP,
        "transformer.h.{}.ln_1.weight": OTHER,
        "model.layers.{}.self_attn.q_proj.weight": ATTENTION,
        "model.layers.{}.mlp.gate_proj.weight": MLP,
        "model.layers.{}.input_layernorm.weight": OTHER,
        "decoder.block.{}.layer.0.SelfAttention.q.weight": ATTENTION,
        "decoder.block.{}.layer.1.EncDecAttention.o.weight": ATTENTION,
        "decoder.block.{}.layer.2.DenseReluDense.wi.weight": MLP,
        "decoder.block.{}.layer.2.layer_norm.weight": OTHER,
    }
    for pattern, kind in known.items():
        names = [pattern.format(number) for number in range(5)]
        assert places_of(names) == {name: Place(kind, number > 2) for number, name in enumerate(names)}, "the middle one is lower"
    for name in (
        "bert.embeddings.word_embeddings.weight",
        "transformer.wte.weight",
        "model.embed_tokens.weight",
        "shared.weight",
    ):
        assert places_of([name]) == {name: Place(TABLE)}
    assert places_of(["bert.pooler.dense.weight"]) == {"bert.pooler.dense.weight": Place(OTHER)}
    with pytest.raises(InputError, match=r"tensor blocks.0.mixer.in.weight: expected a name that says attention or MLP"):
        places_of(["blocks.0.mixer.in.weight"])
    strange = {"blocks.0.mixer.in.weight": torch.randn(5, 5)}
    fuse_variant(DEFAULT, strange, [strange, strange], FORGET)
    with pytest.raises(InputError, match="attention or MLP"):
        fuse_variant(named("MLP"), strange, [strange, strange], FORGET)
    with pytest.raises(InputError, match="two models or more"):
        fuse_variant(DEFAULT, strange, [strange], FORGET)


def test_tables_are_those_that_the_method_leaves_out():
    tables = (
        "bert.embeddings.word_embeddings.weight", "bert.embeddings.position_embeddings.weight", "cls.predictions.decoder.weight",
        "transformer.wte.weight", "transformer.wpe.weight", "wte.weight", "lm_head.weight",
        "model.embed_tokens.weight", "shared.weight", "encoder.embed_tokens.weight", "tok_emb.weight", "model.Embed.weight",
    )  # fmt: skip
    others = (
        "bert.encoder.layer.0.attention.self.query.weight", "bert.pooler.dense.weight", "cls.predictions.transform.dense.weight",
        "transformer.h.0.attn.c_attn.weight", "transformer.h.0.mlp.c_proj.weight", "score.weight",
        "model.layers.0.self_attn.q_proj.weight", "model.norm.weight",
        "decoder.block.0.layer.1.EncDecAttention.o.weight",
        "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        "xembed.weight", "wtex.weight", "my.reembedding.weight", "member.weight", "emb",
        "albert.encoder.embedding_hidden_mapping_in.weight", "electra.embeddings_project.weight",
        "vit.embeddings.patch_embeddings.projection.weight", "deberta.embeddings.embed_proj.weight",
    )  # fmt: skip
    for names, expected in ((tables, True), (others, False)):
        assert [is_table(name) for name in names] == [expected] * len(names)
        assert [token_filter.is_table(name) for name in names] == [expected] * len(names)


FRAGMENTS = (
    ".",
    ".",
    "_",
    "x",
    "embed",
    "emb",
    "word",
    "tok",
    "wte",
    "wpe",
    "lm_head",
    "shared",
    "weight",
    "predictions",
    "decoder",
    "project",
    "_proj.",
    "hidden_mapping",
)


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=6).map("".join))
def test_any_name_is_a_table_to_both(name):
    assert is_table(name) == token_filter.is_table(name)


def test_equal_task_accuracy_is_on_the_lines_between_settings():
    first, second, third = Tried({"forget": 0.1}, 0.6, 0.90), Tried({"forget": 0.5}, 0.2, 0.88), Tried({"forget": 0.9}, 0.3, 0.89)
    assert mix_at_task([first, second], 0.9, 0.005)[0] == ((0, pytest.approx(0.75)), (1, pytest.approx(0.25)))
    assert mix_at_task([first, second], 0.9, 0.005)[1]
    assert mix_at_task([first, second, third], 0.88, 0.005) == (((1, 1.0),), True), "all are allowed: the least"
    mixed = mix_at_task([first, second, third], 0.89, 0.005)[0]
    assert mixed == ((1, pytest.approx(0.5)), (2, pytest.approx(0.5))), "left .25; the other crossing .28"
    assert mix_at_task([first, second, third], 0.95, 0.005) == (((0, 1.0),), False), "none: the best at the task"


@pytest.mark.parametrize(
    ("tried", "ended"),
    [
        (((0.6, 0.92), (0.2, 0.91)), True),
        (((0.2, 0.92), (0.6, 0.91)), True),
        (((0.6, 0.92), (0.2, 0.88)), False),
        (((0.2, 0.92), (0.6, 0.88)), False),
        (((0.6, 0.92), (0.2, 0.9 - 0.005)), False),
        (((0.6, 0.92), (0.1, 0.80), (0.5, 0.91)), False),
        (((0.6, 0.82), (0.2, 0.81)), False),
        (((0.6, 0.92),), False),
    ],
    ids=["least at the end", "least before it", "crosses", "least before it, crosses", "at the limit", "and back", "none", "one"],
)
def test_a_knob_that_ends_above_the_limit_is_told(tried, ended):
    found = [Tried({"forget": number}, left, task) for number, (left, task) in enumerate(tried)]
    assert knob_at_its_end(found, mix_at_task(found, 0.9, 0.005)[0], 0.9, 0.005) == ended


def test_what_is_cut_at_zero_is_cut_in_each_part_of_a_mixture():
    """Of 100 texts the specialist solves 90 and who knows nothing 50: 30 right are -1/2, 70 are 1/2."""
    right = {count: (np.arange(100) < count).astype(float) for count in (30, 50, 60, 70, 90)}
    case = ("op", "tic")

    def piece(fused: int, reference: int, share: float = 1.0) -> Piece:
        return Piece("s", case, "op", right[fused], right[reference], right[90], right[50], (right[50],), share)

    task = [Fused("s", case, right[90], right[90])]
    whole = {count: mean_of_cases([piece(count, 60)], task) for count in (30, 70)}
    assert [whole[count]["unshared_clipped"]["value"] for count in (30, 70)] == pytest.approx([0, 0.5])
    assert [whole[count]["unshared_clipped_difference"]["value"] for count in (30, 70)] == pytest.approx([-0.25, 0.25])
    assert [whole[count]["unshared_difference"]["value"] for count in (30, 70)] == pytest.approx([-0.75, 0.25])
    mixed = mean_of_cases([piece(30, 60, 0.25), piece(70, 60, 0.75)], task)
    for name in ("unshared", "unshared_clipped", "unshared_difference", "unshared_clipped_difference", "retention_clipped"):
        on_line = 0.25 * whole[30][name]["value"] + 0.75 * whole[70][name]["value"]
        assert mixed[name]["value"] == pytest.approx(on_line, abs=1e-12), name
    assert mixed["unshared_clipped"]["value"] == pytest.approx(0.375), "not the .25 of cutting what is mixed"
    assert (mixed["pieces"], mixed["unshared_pieces"], mixed["unshared_clipped"]["n"]) == (1, 1, 1)
    # The same mixture on both sides: nothing is between them, in any resample.
    shares = {30: 0.25, 70: 0.75}
    same = [piece(one, other, shares[one] * shares[other]) for one in shares for other in shares]
    found = mean_of_cases(same, task)["unshared_clipped_difference"]
    assert (found["value"], found["low"], found["high"]) == pytest.approx((0, 0, 0), abs=1e-12)


class MadeUp:
    """A bench of made-up answers: how many of 100 texts are right on OP, TiC and the task, by row and setting."""

    source, split = SimpleNamespace(name="made up"), "validation"

    def __init__(self, right: dict[str, dict[float, tuple[int, int, int]]]) -> None:
        self._right = right

    def place(self, part: str, row: str, method: str, parameters: dict[str, float], case: tuple[str, ...]) -> dict[str, Any]:
        return {"row": row, "setting": parameters.get("forget", 0.0)}

    def record_at(self, where: dict[str, Any]) -> dict[str, float]:
        return {"norm": 1.0, "cosine_average": 1.0, "cosine_method": 1.0}

    def fused_at(self, where: dict[str, Any]) -> dict[str, np.ndarray]:
        counts = self._right[where["row"]][where["setting"]]
        return {name: self._values(count) for name, count in zip(("op", "tic", "task"), counts, strict=True)}

    def alone(self, model: str, rule: str) -> np.ndarray:
        return self._values(90 if model == rule else 50)

    @staticmethod
    def _values(count: int) -> np.ndarray:
        return (np.arange(100) < count).astype(float)


def test_what_is_told_between_settings_is_on_the_line_it_was_chosen_on(tmp_path):
    """In one setting a rule is below zero, in the next it is not: what is cut after mixing would be less."""
    right = {
        DEFAULT.name: {0.9: (30, 90, 92), FORGET: (60, 50, 80)},
        "left": {0.9: (74, 66, 90), FORGET: (30, 58, 88)},
        "average": {0.0: (80, 80, 90)},
    }
    rows = [Row(name, "x", "", "", tuple({"forget": at} if at else {} for at in of)) for name, of in right.items()]
    with Run(tmp_path / "run", command="study forgetting", settings={}) as run:
        conclude_ablations(run, MadeUp(right), [("op", "tic")], rows, 0.005)
    found = {r["row"]: r["equal_task"] for r in read_records(tmp_path / "run") if r["kind"] == "ablation_result"}
    # Left: (0, 1) and (1/4, 0) at 92 and 80, limit 89.5; of the variant (.6, .4) and (0, .2) at 90 and 88.
    first, second = 2.5 / 12, 0.25
    expected = {DEFAULT.name: (1 - first) * 0.5 + first * 0.125, "left": (1 - second) * 0.5 + second * 0.1, "average": 0.75}
    for row, value in expected.items():
        assert found[row]["unshared_clipped"]["value"] == pytest.approx(value), row
        if row != DEFAULT.name:
            apart = found[row]["difference"]
            assert apart["value"] == pytest.approx(value - expected[DEFAULT.name]), row
            assert apart["low"] <= apart["value"] <= apart["high"]
    for row in (DEFAULT.name, "left"):
        assert found[row]["task"]["value"] == pytest.approx(0.895)
        assert not found[row]["knob_at_its_end"]
    assert [share for _, share in found["left"]["mix"]] == pytest.approx([1 - second, second])


def test_pairs_are_spread_over_the_rules():
    cases = list(combinations("abcdefg", 2))
    for most in (0, 3, 6):
        taken = spread(cases, most)
        assert len(taken) == most
        assert taken == [case for case in cases if case in taken]
        assert taken == spread(cases, most)
    used = [sum(rule in case for case in spread(cases, 6)) for rule in "abcdefg"]
    assert max(used) - min(used) <= 1
    assert spread(cases[:2], 6) == cases[:2]


def test_the_spectrum_of_changes_with_and_without_something_in_common():
    generator = torch.Generator().manual_seed(0)
    start, first, second, both = torch.randn(4, 60, 20, generator=generator)
    for shape in (lambda one: one, lambda one: one.T, lambda one: one[:20]):
        apart = [shape(start + first), shape(start + second)]
        alike = [shape(start + both + first / 10), shape(start + both + second / 10)]
        for models in (apart, alike):
            shares, energy = spectrum_of(shape(start), models)
            assert len(shares) == 20
            assert ((shares >= 0) & (shares <= 1)).all()
            squares = [float((model - shape(start)).double().square().sum()) for model in models]
            assert energy.sum() == pytest.approx(sum(squares) / 2, rel=1e-6)
        assert above_half(*spectrum_of(shape(start), alike)) > 0.98
    shares, _ = spectrum_of(start, [start + first, start + first])
    assert shares == pytest.approx(1, abs=1e-6)
    one = torch.zeros(60, 20)
    one[3, 4] = 2.0
    shares, energy = spectrum_of(start, [start + one, start])
    assert shares[energy > 1e-9] == pytest.approx([0.5], abs=1e-5)


def above_half(shares: np.ndarray, energy: np.ndarray) -> float:
    return float(energy[shares > 0.5].sum() / energy.sum())


@pytest.mark.parametrize("shape", [(20, 20), (40, 20), (20, 60)], ids=str)
def test_chance_has_as_much_above_one_half_as_below(shape):
    """A draw of these shapes is off by .04: the mean of 30 by .007. By the energy of the mean change they have .65 to .82."""
    found = []
    for seed in range(30):
        start, first, second = torch.randn(3, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        shares, energy = spectrum_of(start, [start + first, start + second])
        flipped_shares, flipped_energy = spectrum_of(start, [start + first, start - second])
        assert flipped_shares[::-1] == pytest.approx(1 - shares, abs=1e-6)
        assert flipped_energy[::-1] == pytest.approx(energy, rel=1e-5)
        found.append(above_half(shares, energy))
    assert np.mean(found) == pytest.approx(0.5, abs=0.05)


@pytest.fixture(scope="module")
def source(shortcut_models) -> Source:
    """The small study of OP and TiC; its further texts are made."""
    return Source(shortcut_models, SHORTCUTS, {"rules": ["op", "tic"], "data": None, "seed": 0}, 0)


def ask(source: Source, out: Path, *more: Source, variants: tuple[Variant, ...] = VARIANTS) -> list[dict[str, Any]]:
    said: list[str] = []
    with Run(out, command="study forgetting", settings={}) as run:
        do_ablations(run, [source, *more], ForgettingStudy((str(source.path),), texts=60), Here(), said.append, variants=variants)
    return read_records(out)


@pytest.fixture(scope="module")
def measured(source, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("ablations") / "run"
    ask(source, out)
    return out


def test_each_point_is_what_the_fused_model_says(measured, source, tmp_path):
    records = read_records(measured)
    points = {(r["row"], *r["parameters"].values()): r for r in records if r["kind"] == "point"}
    assert len(points) == len([r for r in records if r["kind"] == "point"]) == len(VARIANTS) * 4 + 4 + 1 + len(OTHER_METHODS)
    assert {r["part"] for r in points.values()} == {"ablations"}
    start, models = source.model("start"), [source.model(name) for name in ("op", "tic")]
    probes = choosing_probes(source, 60, 0)
    of_average = average_of(start, models)
    own = fuse_variant(DEFAULT, start, models, 0.97)

    def change(tensors: Any) -> torch.Tensor:
        return torch.cat([(tensors[name] - start[name]).double().flatten() for name in start if start[name].is_floating_point()])

    for row, setting in (("spectral consensus", 0.97), ("MLP", 0.97), ("hard", 0.8)):
        variant, point = named(row), points[row, setting]
        tensors = fuse_variant(variant, start, models, setting)
        classifier = load_classifier(start.path)
        set_weights(classifier.model, tensors)
        for probe in probes:
            right = predict(classifier.model, encode_batches(classifier, probe.texts)).argmax(axis=1) == np.array(probe.labels)
            assert decode_values(point["probes"][probe.name]["values"]).tolist() == right.tolist(), (row, probe.name)
        assert point["norm"] == pytest.approx(float(change(tensors).norm() / change(of_average).norm()))
        cosine = torch.cosine_similarity(change(tensors), change(of_average), dim=0)
        assert point["cosine_average"] == pytest.approx(float(cosine))
        if variant.dial == "forget":
            assert point["cosine_method"] == pytest.approx(float(torch.cosine_similarity(change(tensors), change(own), dim=0)))
    assert points["average",]["norm"] == pytest.approx(1)
    for forget in FORGETS:
        long, method = points[LENGTHENED, forget], points[DEFAULT.name, forget]
        assert long["norm"] == pytest.approx(method["norm"], rel=1e-5)
        assert long["cosine_average"] == pytest.approx(1)
        assert method["cosine_method"] == pytest.approx(1)
        assert long["cosine_method"] == pytest.approx(method["cosine_average"], rel=1e-5)
    fuse([one.path for one in models], tmp_path / "ties", "ties", base=start.path)
    (cosine, norm) = (points["ties",][name] for name in ("cosine_average", "norm"))
    by_product = change(open_checkpoint(tmp_path / "ties"))
    assert norm == pytest.approx(float(by_product.norm() / change(of_average).norm()))
    assert cosine == pytest.approx(float(torch.cosine_similarity(by_product, change(of_average), dim=0)))


def test_results_are_those_of_the_points(measured):
    records = read_records(measured)
    alone = {(r["model"], r["probe"]): r["value"] for r in records if r["kind"] == "measurement"}
    assert all(alone[rule, rule] > alone["control", rule] + 0.2 for rule in ("op", "tic")), "it was there"
    assert next(r["cases"] for r in records if r["kind"] == "ablation_cases") == [["op", "tic"]]
    results = {r["row"]: r for r in records if r["kind"] == "ablation_result"}
    assert list(results) == [*(one.name for one in VARIANTS), LENGTHENED, "average", *OTHER_METHODS]
    points = {(r["row"], *r["parameters"].values()): r["probes"] for r in records if r["kind"] == "point"}

    def left(of: dict[str, Any]) -> float:
        shares = []
        for rule, other in (("op", "tic"), ("tic", "op")):
            floor = max(alone["control", rule], alone[other, rule])
            shares.append((of[rule]["value"] - floor) / (alone[rule, rule] - floor))
        return float(np.maximum(shares, 0).mean())

    average = points["average",]["task"]["value"]
    for row, result in results.items():
        assert result["average_task"] == pytest.approx(average)
        for one in result["settings"]:
            of = points[(row, *one["parameters"].values())]
            assert one["task"] == pytest.approx(of["task"]["value"])
            assert one["unshared_clipped"] == pytest.approx(left(of))
        tried = [Tried(one["parameters"], one["unshared_clipped"], one["task"]) for one in result["settings"]]
        mix, is_allowed = mix_at_task(tried, average, 0.005)
        at = result["equal_task"]
        assert at["allowed"] == is_allowed
        assert [share for _, share in at["mix"]] == pytest.approx([share for _, share in mix])
        assert at["task"]["value"] == pytest.approx(sum(share * tried[number].task for number, share in mix))
        assert at["unshared_clipped"]["value"] == pytest.approx(sum(share * tried[number].retention for number, share in mix))
        assert at["knob_at_its_end"] == knob_at_its_end(tried, mix, average, 0.005)
        assert ("difference" in at) == (row != DEFAULT.name)
        own = results[DEFAULT.name]
        for where in ("equal_task", "equal_norm"):
            here, method = result[where], own[where]
            if row != DEFAULT.name:
                apart = here["unshared_clipped"]["value"] - method["unshared_clipped"]["value"]
                assert here["difference"]["value"] == pytest.approx(apart, abs=1e-9)
                assert here["difference"]["low"] <= here["difference"]["value"] <= here["difference"]["high"]
                assert here["task_difference"]["value"] == pytest.approx(
                    here["task"]["value"] - method["task"]["value"], abs=1e-9
                )
    equal = {row for row, result in results.items() if result["equal_norm"]["equal"]}
    assert {DEFAULT.name, "left", "both", "hard", "projectors", "each its own", "MLP, whole", LENGTHENED} <= equal
    assert "no scale" not in equal
    lengths = {
        (r["row"], r["parameters"].get("forget")): r["norm"] for r in records
        if r["kind"] == "point" and r["row"] in (DEFAULT.name, "no scale")
    }  # fmt: skip
    assert lengths["no scale", 0.99] / lengths[DEFAULT.name, 0.99] < 0.95
    assert [r["row"] for r in records if r["kind"] == "update_relation"] == list(results)


def test_an_interrupted_part_goes_on_to_the_same_facts(measured, source, tmp_path):
    shutil.copytree(measured, tmp_path / "run")
    file = tmp_path / "run/records.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:50]))
    (_, warning) = ablations_blocks(read_records(tmp_path / "run"))
    assert isinstance(warning, Paragraphs)
    assert "Not finished" in warning.lines[0]
    ask(source, tmp_path / "run")
    assert facts(read_records(tmp_path / "run")) == facts(read_records(measured))
    before = file.read_bytes()
    ask(source, tmp_path / "run")
    assert file.read_bytes() == before, "nothing is done twice"
    with pytest.raises(InputError, match="spectral consensus among them"):
        ask(source, tmp_path / "none", variants=VARIANTS[1:])


def test_other_methods_are_told_at_what_was_chosen_since(measured, source, tmp_path):
    """Also where that is what they were asked at before: their defaults."""
    shutil.copytree(measured, tmp_path / "run")

    def said() -> dict[str, str]:
        return {r["row"]: r["changes"] for r in read_records(tmp_path / "run") if r["kind"] == "ablation_result"}

    before = said()
    assert "the run has chosen none" in before["ties"]
    with Run(tmp_path / "run", command="study forgetting", settings={}) as run:
        run.add("chosen", part="pairs", sources=[source.name], row="ties", parameters={})
    ask(source, tmp_path / "run")
    assert said() == before | {"ties": "another method, at the setting chosen on pairs"}


def test_spectra_are_of_pairs_that_differ_in_what_they_share(measured, source, tmp_path):
    spectra = [r for r in read_records(measured) if r["kind"] == "agreement_spectrum"]
    assert [(r["models"], r["group"]) for r in spectra] == [
        (["op", other], g) for other in ("tic", "control") for g in (ATTENTION, MLP)
    ]
    for record in spectra:
        assert sum(record["histogram"]) == pytest.approx(1)
        values = list(record["quantiles"].values())
        assert values == sorted(values)
        assert record["above_half"] == pytest.approx(sum(record["histogram"][20:]), abs=1e-3)
        assert record["above_half"] + record["flipped"] == pytest.approx(1, abs=1e-3)
    twin = tmp_path / "twin"
    shutil.copytree(source.path, twin)
    for name in ("tic+op", "tic+or"):
        shutil.copytree(source.path / "models/tic", twin / "models" / name)
    more = replace(source, path=twin)
    names = [pair.names for pair in pairs_to_look_at([more, source])]
    of_both = (f"op of {twin.name}", f"op of {source.name}")
    assert names == [("op", "tic"), ("op", "control"), ("tic+op", "tic+or"), of_both]
    shutil.rmtree(twin / "models/start")
    shutil.copytree(source.path / "models/control", twin / "models/start")
    assert of_both not in [pair.names for pair in pairs_to_look_at([more, source])], "of another start"


def test_the_report_has_the_numbers_of_the_records(measured, tmp_path):
    records = read_records(measured)
    assert ablations_blocks([]) == []
    assert ablations_blocks([r for r in records if r["kind"] == "measurement"]) == []
    blocks = ablations_blocks(records)
    results = {r["row"]: r for r in records if r["kind"] == "ablation_result"}
    tables = {block.title: block for block in blocks if isinstance(block, Table)}
    assert len(tables) == 4
    table = tables["At equal task accuracy, on validation data"]
    assert [row[0] for row in table.rows] == list(results)
    for row in table.rows:
        at = results[row[0]]["equal_task"]
        assert row[3].startswith(f"{at['unshared_clipped']['value']:.3f} [")
        assert row[5].startswith(f"{at['task']['value']:.3f} [")
        assert row[2].endswith("*") != at["allowed"]
        assert row[2].endswith("(knob at its end)") == at["knob_at_its_end"]
    assert {row[0]: row[2].endswith("*") for row in tables["At the method's update norm, on validation data"].rows} == {
        name: not r["equal_norm"]["equal"] for name, r in results.items()
    }
    for table in tables.values():
        assert all(len(row) == len(table.header) for row in table.rows), table.title
    pictures = [one for block in blocks if isinstance(block, Pictures) for one in block.pictures]
    assert [(one.name, len(one.figure.axes)) for one in pictures] == [("ablations", 4), ("agreement", 2)]
    nothing = [{"kind": "ablation_cases", "part": "ablations", "cases": []}]
    assert "nothing to compare" in ablations_blocks(nothing)[1].lines[0]


def told(method: dict[str, Any], **variants: dict[str, Any]) -> list[str]:
    """The first sentences of a report on made-up results at equal task accuracy, with changes to what is given of each."""

    def result(row: str, aspect: str, of: dict[str, Any]) -> dict[str, Any]:
        interval = {"value": 0.2, "low": 0.1, "high": 0.3}
        here = {"unshared_clipped": interval, "task": interval, "difference": interval, "task_difference": interval}
        settings = [{"parameters": {"forget": 0.9}, "unshared_clipped": 0.2, "task": 0.9, "norm": 1.0,
                     "cosine_average": 1.0, "cosine_method": 1.0}]  # fmt: skip
        at = {"allowed": True, "knob_at_its_end": False, "mix": [[{"forget": 0.9}, 1.0]], "norm": 1.0, **here}
        return {"kind": "ablation_result", "part": "ablations", "source": "s", "row": row, "changes": "", "aspect": aspect,
                "settings": settings, "equal_task": at | of,
                "equal_norm": {"parameters": {"forget": 0.9}, "of_method": 1.0, "equal": True, **here}}  # fmt: skip

    records = [
        {"kind": "ablation_cases", "part": "ablations", "cases": [["op", "tic"]]},
        result(DEFAULT.name, DEFAULT.aspect, method),
        *(result(row, "sides", of) for row, of in variants.items()),
        result(LENGTHENED, "beside", {}),
        result("average", "beside", {}),
    ]
    related = {"at": {"forget": 0.99}, "norm": 1.0, "cosine_average": 1.0, "cosine_method": 1.0}
    rows = [record["row"] for record in records[1:]]
    records += [{"kind": "update_relation", "part": "ablations", "row": row, **related} for row in rows]
    lead = next(block for block in ablations_blocks(records) if isinstance(block, Paragraphs))
    return lead.lines[1:]


def test_the_lead_compares_only_what_is_at_equal_task_accuracy():
    less = {"difference": {"value": -0.2, "low": -0.3, "high": -0.1}}
    unclear = {"difference": {"value": 0.0, "low": -0.1, "high": 0.1}}
    variants: dict[str, dict[str, Any]] = {
        "more": {}, "less": less, "unclear": unclear, "ended": {"knob_at_its_end": True},
        "less, ended": less | {"knob_at_its_end": True}, "lost": {"allowed": False},
    }  # fmt: skip
    first, *rest = told({}, **variants)
    assert first.startswith("At equal task accuracy the method leaves 0.200 [")
    assert rest == [
        "More is clearly left by: more.",
        "Less is clearly left by: less.",
        "At no setting keeps the task: lost.",
        "Not compared, for their knob ends above the limit of accuracy: ended; less, ended.",
    ]
    for method, said in (({"allowed": False}, "No setting of the method keeps the task"),
                         ({"knob_at_its_end": True}, "The method's knob ends above the limit of accuracy")):  # fmt: skip
        lines = told(method, **variants)
        assert lines[0].startswith(said)
        assert "nothing is compared at equal accuracy" in lines[0]
        assert not any("clearly" in line or line.startswith("At equal") for line in lines)


def test_a_group_that_did_not_change_has_no_numbers(measured):
    """As it is recorded, and as the report prints it."""
    shares, energy = spectrum_of(torch.ones(6, 4), [torch.ones(6, 4)] * 2)
    still = {"kind": "agreement_spectrum", "part": "ablations", "models": ["a", "b"], "about": "nothing", "group": MLP,
             **described(shares, energy)}  # fmt: skip
    assert (still["above_half"], still["flipped"], set(still["quantiles"].values())) == (None, None, {None})
    (table,) = [block for block in ablations_blocks([still]) if isinstance(block, Table)]
    assert table.rows == [["a and b", "nothing", MLP, *[""] * 7]]
    spectra = [r for r in read_records(measured) if r["kind"] == "agreement_spectrum"]
    (table,) = [block for block in ablations_blocks([*spectra, still]) if isinstance(block, Table)]
    assert [row[3] for row in table.rows] == [*(f"{r['above_half']:.3f}" for r in spectra), ""]
    assert [row[4] for row in table.rows] == [*(f"{r['flipped']:.3f}" for r in spectra), ""]
