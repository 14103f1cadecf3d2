"""How task vectors lie to each other: hand-worked values, properties, and the refusal of what does not fit."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

import fuseforget.geometry as geometry
from fuseforget.errors import InputError, MismatchError
from fuseforget.geometry import compare_task_vectors

SHAPES = {"embeddings.weight": (6, 4), "layer.0.query.weight": (4, 4), "layer.0.norm.bias": (4,),
          "layer.1.query.weight": (4, 4), "layer.10.query.weight": (4, 4), "head.weight": (3, 4)}  # fmt: skip


def tensors(seed: int, shapes: dict = SHAPES) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.fixture
def family(raw):
    """A base of zeros, and models whose weights are therefore their changes."""

    def make(*changes, base=None):
        start = {name: torch.zeros_like(value) for name, value in changes[0].items()} if base is None else base
        return [raw(f"model{i}", tensors=change) for i, change in enumerate(changes)], raw("base", tensors=start)

    return make


def one(*values: float) -> dict[str, torch.Tensor]:
    return {"w": torch.tensor(values, dtype=torch.float32)}


def test_hand_worked_vectors(family):
    models, base = family(one(3, 4, 0, 0), one(4, -3, 5, 0))
    whole = compare_task_vectors(models, base).whole
    assert whole.gram.tolist() == [[25, 0], [0, 50]]
    assert whole.cosine[0, 1] == 0
    assert whole.norm_ratio[0, 1] == pytest.approx(1 / math.sqrt(2))
    assert whole.norm_ratio[1, 0] == pytest.approx(math.sqrt(2))
    # Both changed the first two values, the second of them in opposite directions; 3 of min(3, 4) + min(4, 3).
    assert whole.conflict[0, 1] == whole.conflict[1, 0] == 1 / 2
    assert whole.weighted_conflict[0, 1] == 3 / 6
    assert whole.conflict[0, 0] == 0
    # tau_fused = (.25 a + .75 b): .25 * 25 / 25 and .75 * 50 / 50.
    assert whole.survival([0.25, 0.75]).tolist() == [0.25, 0.75]


def test_hand_worked_fishers(family):
    models, base = family(one(2, 1), one(0, 3))
    fishers = [one(1, 4), one(5, 2)]
    whole = compare_task_vectors(models, base, fishers=fishers).whole
    # tau_fused = (1, 2). By F_0: <tau_fused, tau_0> = 1*1*2 + 4*2*1 = 10 of 1*4 + 4*1 = 8; by F_1: 2*2*3 = 12 of 2*9.
    assert whole.fisher_survival([0.5, 0.5]).tolist() == pytest.approx([10 / 8, 12 / 18])
    # theta_fused - theta_0 = (-1, 1): (1*1 + 4*1) / 2; theta_fused - theta_1 = (1, -1): (5 + 2) / 2.
    assert whole.fisher_rise([0.5, 0.5]).tolist() == pytest.approx([2.5, 3.5])
    assert whole.fisher_rise([1, 0])[0] == 0


def test_layers_and_kinds_come_from_names(family):
    models, base = family(tensors(0), tensors(1))
    found = compare_task_vectors(models, base)
    assert list(found.by_layer()) == ["embeddings", "layer 0", "layer 1", "layer 10", "head"]
    assert set(found.by_kind()) == {"embeddings", "query", "norm", "head"}
    for groups in (found.by_layer(), found.by_kind()):
        assert sum(sums.values for sums in groups.values()) == found.whole.values == sum(v.numel() for v in tensors(0).values())
        np.testing.assert_allclose(sum(sums.gram for sums in groups.values()), found.whole.gram, rtol=1e-12)


@pytest.mark.parametrize("block", [1, 7, 1 << 18])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_streaming_is_the_same_as_in_memory(family, monkeypatch, block, dtype):
    monkeypatch.setattr(geometry, "BLOCK", block)
    changes = [{name: value.to(dtype) for name, value in tensors(seed).items()} for seed in range(3)]
    start = {name: value.to(dtype) for name, value in tensors(9).items()}
    fishers = [{name: value.square() for name, value in tensors(20 + i).items()} for i in range(3)]
    models, base = family(*changes, base=start)
    whole = compare_task_vectors(models, base, fishers=fishers).whole
    flat = [torch.cat([(c[n].double() - start[n].double()).ravel() for n in SHAPES]).numpy() for c in changes]
    curves = [torch.cat([f[n].double().ravel() for n in SHAPES]).numpy() for f in fishers]
    for i, a in enumerate(flat):
        for j, b in enumerate(flat):
            np.testing.assert_allclose(whole.gram[i, j], a @ b, rtol=1e-10, atol=1e-10)
            assert whole.opposite[i, j] == np.sum(a * b < 0)
            assert whole.both[i, j] == np.sum((a != 0) & (b != 0))
            least = np.minimum(abs(a), abs(b))
            np.testing.assert_allclose(whole.least[i, j], least.sum(), rtol=1e-10)
            np.testing.assert_allclose(whole.least_opposite[i, j], least[a * b < 0].sum(), rtol=1e-10)
            for k, curve in enumerate(curves):
                np.testing.assert_allclose(whole.fisher_gram[k, i, j], (curve * a) @ b, rtol=1e-10, atol=1e-10)


def test_scaling_changes_lengths_alone(family, raw):
    a, b = tensors(0), tensors(1)
    models, base = family(a, b)
    plain = compare_task_vectors(models, base).whole
    scaled = compare_task_vectors([models[0], raw("large", tensors={n: 8 * v for n, v in b.items()})], base).whole
    np.testing.assert_allclose(scaled.cosine, plain.cosine, rtol=1e-12)
    assert (scaled.conflict == plain.conflict).all()
    np.testing.assert_allclose(scaled.norm_ratio[0, 1], plain.norm_ratio[0, 1] / 8, rtol=1e-12)


def test_equal_models_survive_whole_and_unrelated_ones_by_their_weight(family, raw):
    a = tensors(0)
    models, base = family(a, a)
    np.testing.assert_allclose(compare_task_vectors(models, base).whole.survival([0.5, 0.5]), [1, 1], rtol=1e-14)
    unrelated = [raw(f"unit{i}", tensors=one(*np.eye(4)[i])) for i in range(4)]
    whole = compare_task_vectors(unrelated, raw("zero", tensors=one(0, 0, 0, 0))).whole
    assert whole.survival([1 / 4] * 4).tolist() == [1 / 4] * 4
    opposed = compare_task_vectors([raw("up", tensors=one(1, 2)), raw("down", tensors=one(-1, -2))], raw("o", tensors=one(0, 0)))
    assert opposed.whole.survival([0.5, 0.5]).tolist() == [0, 0]
    assert opposed.whole.conflict[0, 1] == 1


def test_permuting_models_permutes_the_result(family):
    models, base = family(*(tensors(seed) for seed in range(4)))
    fishers = [{name: value.square() for name, value in tensors(30 + i).items()} for i in range(4)]
    order, weights = [2, 0, 3, 1], np.array([0.1, 0.2, 0.3, 0.4])
    plain = compare_task_vectors(models, base, fishers=fishers).whole
    turned = compare_task_vectors([models[i] for i in order], base, fishers=[fishers[i] for i in order]).whole
    np.testing.assert_allclose(turned.cosine, plain.cosine[np.ix_(order, order)], rtol=1e-12, atol=1e-15)
    for name in ("survival", "fisher_survival", "fisher_rise"):
        np.testing.assert_allclose(getattr(turned, name)(weights[order]), getattr(plain, name)(weights)[order], rtol=1e-10)


def test_a_layer_that_nobody_changed_has_no_number(family, raw):
    a, b = tensors(0), tensors(1)
    a["layer.1.query.weight"] = torch.zeros(4, 4)
    models, base = family(a, b)
    layer = compare_task_vectors(models, base).by_layer()["layer 1"]
    assert math.isnan(layer.cosine[0, 1])
    assert math.isnan(layer.conflict[0, 1])
    assert [math.isnan(share) for share in layer.survival([0.5, 0.5])] == [True, False]
    with pytest.raises(InputError, match="no change that could survive"):
        compare_task_vectors([*models, base], base)


def test_integer_tensors_and_tied_copies_are_not_compared(raw):
    a, b = ({**tensors(seed), "positions": torch.arange(6)} for seed in (0, 1))
    a["copy"] = a["embeddings.weight"].clone()
    models = [raw("a", tensors=a), raw("b", tensors=b)]
    base = raw("base", tensors={**tensors(5), "positions": torch.arange(6)})
    assert set(compare_task_vectors(models, base).tensors) == set(SHAPES)


def test_what_the_base_lacks_is_left_out_by_name(raw):
    grown = {**tensors(0), "embeddings.weight": torch.ones(8, 4)}
    models = [raw("a", tensors={f"bert.{n}": v for n, v in grown.items()}),
              raw("b", tensors={f"bert.{n}": 2 * v for n, v in grown.items()})]  # fmt: skip
    base = raw("base", tensors={name: value for name, value in tensors(5).items() if name != "head.weight"})
    found = compare_task_vectors(models, base)
    assert set(found.left_out) == {"bert.embeddings.weight", "bert.head.weight"}
    assert "bert.layer.0.query.weight" in found.tensors


def test_what_does_not_fit_is_refused(family, raw):
    models, base = family(tensors(0), tensors(1))
    with pytest.raises(InputError, match="two or more"):
        compare_task_vectors(models[:1], base)
    with pytest.raises(MismatchError, match=r"missing: head\.weight"):
        compare_task_vectors(
            [models[0], raw("headless", tensors={n: v for n, v in tensors(2).items() if n != "head.weight"})], base
        )
    narrow = raw("narrow", tensors=tensors(2, {**SHAPES, "head.weight": (3, 5), "layer.0.norm.bias": (5,)}))
    with pytest.raises(MismatchError, match=r"2 differences(.|\n)*head\.weight"):
        compare_task_vectors(models, narrow)
    with pytest.raises(InputError, match="none in common"):
        compare_task_vectors(models, raw("other", tensors=one(1)))
    broken = tensors(3)
    broken["layer.1.query.weight"][1, 2] = math.nan
    with pytest.raises(InputError, match=r"layer.1.query.weight: expected finite"):
        compare_task_vectors([models[0], raw("broken", tensors=broken)], base)


def test_a_base_with_its_tokens_in_other_rows_is_refused(bert):
    models, base = [bert("a", seed=1), bert("b", seed=2)], bert("base")
    compare_task_vectors(models, base)
    tokenizer = json.loads((base / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    words["good"], words["bad"] = words["bad"], words["good"]
    (base / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(InputError, match="2 in other rows: 'good'"):
        compare_task_vectors(models, base)


@pytest.mark.parametrize("damage", ["missing", "shape", "negative", "nan", "count"])
def test_a_fisher_that_does_not_fit_is_refused(family, damage):
    models, base = family(tensors(0), tensors(1))
    fishers = [{name: value.square() for name, value in tensors(i).items()} for i in (4, 5)]
    if damage == "missing":
        del fishers[1]["head.weight"]
    elif damage == "shape":
        fishers[1]["head.weight"] = torch.ones(4, 3)
    elif damage == "count":
        fishers.pop()
    else:
        fishers[1]["head.weight"][0, 0] = {"negative": -1.0, "nan": math.nan}[damage]
    with pytest.raises(InputError, match="Fisher"):
        compare_task_vectors(models, base, fishers=fishers)
