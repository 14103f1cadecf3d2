"""Fusion methods as mathematics: what each must satisfy, by property, by hand, and against textbook implementations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fuseforget.errors import InputError
from fuseforget.methods import METHODS, fuse_in_memory, kernels, rng
from fuseforget.methods import group as group_module
from fuseforget.methods.group import InMemory
from fuseforget.methods.selection import keep_between, magnitude_bits, order_statistics

Tensors = list[torch.Tensor]
SHAPES = [(6, 5), (12,), (1,), (), (0,), (0, 3), (3, 0), (2, 3, 4), (5, 1), (1, 5)]
DTYPES = [torch.float32, torch.float64, torch.bfloat16]
DENSE = {"density": 1.0}

# How each method returns one model, or equal models, as they are: parameters, and how many models. What is left out of a
# method's row, and what is no row at all, is listed in CHANGES with the reason.
RETURNS: list[tuple[str, dict[str, Any], tuple[int, ...]]] = [
    ("average", {}, (1, 2, 3)),
    ("geometric_mean", {}, (1, 2, 3)),
    ("slerp", {}, (2,)),
    ("nuslerp", {}, (2,)),
    ("nuslerp", {"flatten": False}, (2,)),
    ("nuslerp", {"flatten": False, "row_wise": True}, (2,)),
    ("multislerp", {}, (1, 2, 3)),
    ("karcher", {}, (1, 2, 3)),
    ("task_arithmetic", {}, (1, 2, 3)),
    ("ties", DENSE, (1, 2, 3)),
    ("dare_linear", DENSE, (1, 2, 3)),
    ("dare_ties", {**DENSE, "normalize": True}, (1, 2, 3)),
    ("della", DENSE, (1, 2, 3)),
    ("della_linear", DENSE, (1, 2, 3)),
    ("breadcrumbs", DENSE, (1, 2, 3)),
    ("breadcrumbs_ties", {**DENSE, "normalize": True}, (1, 2, 3)),
    ("sce", {}, (1, 2, 3)),
    ("model_stock", {}, (2, 3)),
    ("model_stock", {"filter_wise": True}, (2, 3)),
    ("nearswap", {"t": 1e30}, (1,)),
    ("ram", {"epsilon": 0.0}, (1, 2, 3)),
    ("passthrough", {}, (1,)),
    ("fisher", {}, (1, 2, 3)),
    ("regmean", {}, (1, 2, 3)),
    ("tsv_m", {}, (1,)),
    ("consensus", {}, (1, 2, 3)),
    ("spectral_consensus", {}, (1, 2, 3)),
    ("fisher_consensus", {}, (1, 2, 3)),
]
CHANGES = {
    "tsv_m": "each of T models keeps one T-th of its singular triplets: only one model comes back",
    "iso_c": "replaces the singular values even of one model",
    "negmerge": "takes the models' common change away from the base, to unlearn",
    "arcee_fusion": "keeps the base's values where the change is unimportant, on purpose",
}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def least(method: str) -> int:
    """How many models a test takes: three where the method allows."""
    low, high = METHODS[method].models
    return high if high is not None else max(low, 3)


def convex(count: int, seed: int = 0) -> list[float]:
    numbers = torch.rand(count, generator=seeded(seed), dtype=torch.float64) + 0.2
    return (numbers / numbers.sum()).tolist()


def statistics_for(method: str, shape: Sequence[int], count: int, seed: int = 0) -> Tensors:
    """Fisher information, or inner products of layer inputs with an input that never occurs."""
    if METHODS[method].statistics == "a diagonal Fisher":
        return [torch.rand(tuple(shape), generator=seeded(seed + i), dtype=torch.float64) for i in range(count)]
    if method == "regmean" and len(shape) == 2:
        inputs = [torch.randn(3 * shape[1] + 1, shape[1], generator=seeded(seed + i), dtype=torch.float64) for i in range(count)]
        for x in inputs:
            x[:, :1] = 0
        return [x.T @ x for x in inputs]
    return [torch.empty(0)] * count if METHODS[method].statistics else []


def case(
    method: str, shape: Sequence[int] = (6, 5), dtype: torch.dtype = torch.float64, seed: int = 0, count: int | None = None
) -> tuple[Tensors, dict[str, Any]]:
    """Random models of a method, and what else :func:`fuse_in_memory` takes."""
    count = count or least(method)
    base = torch.randn(tuple(shape), generator=seeded(seed), dtype=torch.float64)
    deltas = [torch.randn(tuple(shape), generator=seeded(seed + i + 1), dtype=torch.float64) / 4 for i in range(count)]
    row = METHODS[method]
    rest: dict[str, Any] = {"weight": None if row.weights == "no" else convex(count, seed)}
    if row.base == "required":
        rest["base"] = base.to(dtype)
    if row.statistics:
        rest["statistics"] = statistics_for(method, shape, count, seed)
    return [(base + delta).to(dtype) for delta in deltas], rest


def fused(method: str, models: Tensors, **rest: Any) -> torch.Tensor:
    return fuse_in_memory(METHODS[method], models, **rest)


def test_every_method_returns_a_model_or_is_listed_with_the_reason():
    assert {name for name, _, _ in RETURNS} | set(CHANGES) == set(METHODS)


# Values of a float32 tensor and its base, of very different sizes; beyond these squares overflow, or are denormal.
sizes = st.floats(2.0**-40, 2.0**40, width=32)
values32 = st.one_of(st.just(0.0), sizes, sizes.map(lambda x: -x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("method", "parameters", "counts"), RETURNS)
@settings(deadline=None, max_examples=25, derandomize=True)
@given(pair=arrays(np.float32, (2, 3, 4), elements=values32), seed=st.integers(0, 99), with_base=st.booleans())
def test_one_model_and_equal_models_come_back_to_the_bit(method, parameters, counts, dtype, pair, seed, with_base):
    base, model = (torch.from_numpy(part).to(dtype) for part in pair)
    row = METHODS[method]
    rest: dict[str, Any] = {"base": base} if row.base == "required" or (row.base == "optional" and with_base) else {}
    for count in counts:
        weight = None if row.weights == "no" or row.default_weight == "sum" else convex(count, seed)
        found = fused(
            method, [model] * count, weight=weight, statistics=statistics_for(method, model.shape, count), **rest, **parameters
        )
        assert torch.equal(found.to(dtype), model), (count, weight, found, model)


@pytest.mark.parametrize(("method", "parameters", "counts"), RETURNS)
def test_equal_float64_models_come_back_within_rounding(method, parameters, counts):
    """There is no wider type to compute float64 in, so the last bits (of 52) may differ."""
    for count in counts:
        models, rest = case(method, count=count)
        if METHODS[method].default_weight == "sum":
            rest["weight"] = None
        found = fused(method, [models[0]] * count, **rest, **parameters)
        torch.testing.assert_close(found, models[0], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_any_shape_is_fused_in_a_type_wide_enough(method, shape, dtype):
    models, rest = case(method, shape, dtype)
    found = fused(method, models, **rest)
    assert found.shape == tuple(shape)
    assert found.dtype == (torch.float32 if dtype == torch.bfloat16 else torch.float64)
    assert bool(found.isfinite().all())


@pytest.mark.parametrize("method", METHODS)
def test_models_are_not_written_to(method):
    models, rest = case(method)
    before = [m.clone() for m in models]
    fused(method, models, **rest)
    assert all(torch.equal(m, b) for m, b in zip(models, before, strict=True))


SPARSE = {
    "ties": {"density": 0.5},
    "breadcrumbs": {"density": 0.5, "gamma": 0.1},
    "breadcrumbs_ties": {"density": 0.5, "gamma": 0.1},
}


@pytest.mark.parametrize("method", [name for name in METHODS if METHODS[name].models[1] != 1])
def test_the_order_of_the_models_does_not_matter(method):
    """Random methods at density 1: each model has random draws of its own."""
    models, rest = case(method)
    parameters = SPARSE.get(method, {"select_topk": 0.5} if method == "sce" else {"r": 0.1} if method == "ram" else {})
    expected = fused(method, models, **rest, **parameters)

    def turn(values: list[Any]) -> list[Any]:
        return values[1:] + values[:1]

    turned = {key: turn(value) if isinstance(value, list) else value for key, value in rest.items()}
    torch.testing.assert_close(fused(method, turn(models), **turned, **parameters), expected, rtol=1e-12, atol=1e-12)


SCALE = 2.0**-24  # a power of two changes no digit, and is far below any absolute epsilon
SCALED = [
    (name, parameters)
    for name, row in METHODS.items()
    for parameters in (
        [{}, {"density": 0.5}] if name != "breadcrumbs" and any(p.name == "density" for p in row.parameters)
        else [{"filter_wise": False}, {"filter_wise": True}] if name == "model_stock"
        else [{"flatten": True}, {"flatten": False}, {"flatten": False, "row_wise": True}] if name == "nuslerp"
        else [{"select_topk": 1.0}, {"select_topk": 0.4}] if name == "sce"
        else [{"epsilon": 0.0}, {"epsilon": 0.0, "r": 0.1}] if name == "ram"
        else [{"density": 0.5, "gamma": 0.1}] if name == "breadcrumbs"
        else [{}]
    )
]  # fmt: skip


@pytest.mark.parametrize(("method", "parameters"), [c for c in SCALED if c[0] != "arcee_fusion"])
def test_scaling_the_deltas_scales_the_change(method, parameters):
    """Without a base, scaling the models scales the result.

    The parameters in units of the weights go along: NearSwap's t is scaled, RAM's epsilon is zero. Arcee Fusion is left out: its
    importance holds a divergence of softmaxes, which is not homogeneous.
    """
    row = METHODS[method]
    count = least(method)
    base = torch.randint(-8, 8, (6, 5), generator=seeded(0)).double() / 8  # multiples of 1/8, so that no sum is rounded
    deltas = [torch.randint(-99, 99, (6, 5), generator=seeded(i + 1)).double() / 64 for i in range(count)]
    rest: dict[str, Any] = {"weight": None if row.weights == "no" else convex(count), "seed": 3}
    if row.statistics:
        rest["statistics"] = statistics_for(method, (6, 5), count)
    has_base = row.base != "no"
    origin = base if has_base else torch.zeros_like(base)
    if has_base:
        rest["base"] = base

    def change(scale: float) -> torch.Tensor:
        own = {"t": 0.3 * scale} if method == "nearswap" else {}
        return fused(method, [origin + scale * delta for delta in deltas], **rest, **parameters, **own) - origin

    large, small = change(1.0), change(SCALE)
    assert float(large.abs().max()) > 0.01
    torch.testing.assert_close(small / SCALE, large, rtol=1e-9, atol=1e-15 / SCALE)


def test_the_scale_of_the_variances_does_not_underflow():
    """Task vectors of size 2^-80 have variances of size 2^-160, which are zero in float32."""
    generator = seeded(5)
    deltas = [torch.randn(64, generator=generator, dtype=torch.float64) for _ in range(3)]
    zero = torch.zeros(64, dtype=torch.float64)
    large = fused("sce", deltas, base=zero, select_topk=0.4)
    small = fused("sce", [d * 2.0**-80 for d in deltas], base=zero, select_topk=0.4)
    assert 0 < int((large == 0).sum()) < 64
    torch.testing.assert_close(small * 2.0**80, large, rtol=1e-12, atol=0)


TASK_VECTOR = ["ties", "dare_linear", "dare_ties", "della", "della_linear", "breadcrumbs", "breadcrumbs_ties"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", TASK_VECTOR)
def test_density_zero_is_the_base_and_density_one_keeps_all(method, dtype):
    models, rest = case(method, dtype=dtype)
    assert torch.equal(fused(method, models, **rest, density=0.0).to(dtype), rest["base"])
    weight = convex(3)
    whole = fused(method, models, base=rest["base"], weight=weight, density=1.0, normalize=False)
    if "linear" in method or method == "breadcrumbs":
        assert torch.equal(whole, fused("task_arithmetic", models, base=rest["base"], weight=weight))
    else:
        assert torch.equal(whole, fused("ties", models, base=rest["base"], weight=weight, normalize=False))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if row.base == "required"])
def test_models_without_change_give_the_base(method, dtype):
    _, rest = case(method, dtype=dtype)
    parameters = {"density": 0.5} if method in TASK_VECTOR else {}
    found = fused(method, [rest["base"]] * least(method), **rest, **parameters)
    if dtype == torch.float64 and METHODS[method].name not in ("nearswap", "arcee_fusion", "ram", "negmerge", "iso_c"):
        torch.testing.assert_close(found, rest["base"], rtol=1e-15, atol=0)
    else:
        assert torch.equal(found.to(dtype), rest["base"])


@pytest.mark.parametrize("method", ["slerp", "nuslerp", "multislerp", "karcher", "geometric_mean", "average"])
def test_zero_models_give_zero(method):
    zero = torch.zeros(3, 4)
    assert torch.equal(fused(method, [zero] * least(method)), zero.double())


def with_blocks(monkeypatch: pytest.MonkeyPatch, block: int, span: int, run: Callable[[], torch.Tensor]) -> torch.Tensor:
    with monkeypatch.context() as patch:
        patch.setattr(group_module, "BLOCK", block)
        patch.setattr(group_module, "SPAN", span)
        return run()


def variants(method: str) -> list[dict[str, Any]]:
    names = {p.name for p in METHODS[method].parameters}
    found: list[dict[str, Any]] = [{}]
    if "density" in names:
        found.append({"density": 0.6})
    if "rescale" in names:
        found += [{"density": 0.6, "rescale": rescale, "normalize": True} for rescale in (True, False)]
    if method == "nuslerp":
        found += [{"flatten": False}, {"flatten": False, "row_wise": True}]
    if method == "sce":
        found.append({"select_topk": 0.3})
    if method == "model_stock":
        found.append({"filter_wise": True})
    if method == "ram":
        found.append({"r": 0.1})
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("method", "parameters"), [(name, v) for name in METHODS for v in variants(name)])
def test_the_size_of_blocks_changes_no_bit(monkeypatch, method, parameters, dtype):
    """Of what is written: sums over blocks are float64, taken in another order here, and round to the same output."""
    models, rest = case(method, (23, 7), dtype, seed=11)

    def run() -> torch.Tensor:
        return fused(method, models, **rest, **parameters, seed=5).to(dtype)

    whole = with_blocks(monkeypatch, 1 << 30, 1, run)
    for block, span in ((1, 1), (7, 3), (15, 2), (50, 1000)):
        assert torch.equal(with_blocks(monkeypatch, block, span, run), whole), (block, span)


@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if row.random])
def test_draws_follow_the_seed_and_the_name(method):
    models, rest = case(method, (20, 10))

    def run(**key: Any) -> torch.Tensor:
        return fused(method, models, **rest, density=0.5, **key)

    first = run(seed=1, name="a")
    assert torch.equal(run(seed=1, name="a"), first)
    assert not torch.equal(run(seed=2, name="a"), first)
    assert not torch.equal(run(seed=1, name="b"), first)


def test_models_have_draws_of_their_own():
    model, base = torch.ones(4000), torch.zeros(4000)
    found = fused("dare_linear", [model, model], base=base, weight=[1.0, 1.0], density=0.5, rescale=False)
    share = [float((found == k).double().mean()) for k in (0, 1, 2)]
    assert share == pytest.approx([0.25, 0.5, 0.25], abs=4 * math.sqrt(0.25 / 4000))


def squares(counter: int, key: int) -> int:
    """Widynski 2020 (arXiv 2004.06278), Figure 1, in Python's integers."""
    mask = (1 << 64) - 1
    x = y = (counter * key) & mask
    z = (y + key) & mask
    for add in (y, z, y):
        x = (x * x + add) & mask
        x = ((x >> 32) | (x << 32)) & mask
    return ((x * x + z) & mask) >> 32


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**40), st.integers(1, 20))
@settings(deadline=None)
def test_random_numbers_are_those_of_the_squares_generator(key, start, count):
    found = rng.uniform(key, start, count)
    assert found.tolist() == [(squares(i, key) >> 8) / 2**24 for i in range(start, start + count)]


def test_random_numbers_are_uniform():
    numbers = rng.uniform(rng.key(0, "encoder.layer.0.weight", 1), 0, 100_000).numpy()
    assert scipy.stats.kstest(numbers, "uniform").pvalue > 1e-3
    pairs = np.corrcoef(numbers[:-1], numbers[1:])[0, 1]
    assert abs(pairs) < 4 / math.sqrt(len(numbers))


def chances(method: str, delta: torch.Tensor, density: float, epsilon: float) -> np.ndarray:
    """The probability that each value is kept, from the papers."""
    if method.startswith("dare"):
        return np.full(delta.shape, density)
    ranks = scipy.stats.rankdata(delta.abs().numpy(), axis=1) - 1
    return density - epsilon + 2 * epsilon * ranks / (delta.shape[1] - 1)


@pytest.mark.parametrize("method", ["dare_linear", "della_linear"])
def test_in_expectation_over_seeds_random_dropping_is_task_arithmetic(method):
    """With the right mean and the right variance: ``sum_i (w_i delta_i)^2 (1 - p_i) / p_i``."""
    models, rest = case(method, (6, 8))
    base, weight, draws = rest["base"], rest["weight"], 600
    found = torch.stack([fused(method, models, **rest, density=0.4, seed=seed) for seed in range(draws)]).numpy()
    expected = fused("task_arithmetic", models, base=base, weight=weight).numpy()
    variance = np.zeros(expected.shape)
    for model, share in zip(models, weight, strict=True):
        p = chances(method, model - base, 0.4, 0.15)
        variance += (share * (model - base).numpy()) ** 2 * (1 - p) / p
    z = (found.mean(0) - expected) / np.sqrt(variance / draws)
    assert np.abs(z).max() < 4.5
    assert 0.8 < np.mean(found.var(0) / variance) < 1.2


@pytest.mark.parametrize("method", ["dare_ties", "della"])
def test_random_dropping_keeps_what_it_should_as_often_as_it_should(method):
    """One model, elected by itself: kept values come back scaled by 1 / p, the others are the base's."""
    base = torch.zeros(5, 9, dtype=torch.float64)
    model = torch.randn(5, 9, generator=seeded(2), dtype=torch.float64)
    p = chances(method, model, 0.6, 0.15)
    draws = 800
    kept = np.zeros(base.shape)
    for seed in range(draws):
        found = fused(method, [model], base=base, weight=[1.0], density=0.6, normalize=False, seed=seed).numpy()
        here = found != 0
        np.testing.assert_allclose(found[here], (model.numpy() / p)[here], rtol=1e-6)  # probabilities are float32
        kept += here
    z = (kept / draws - p) / np.sqrt(p * (1 - p) / draws)
    assert np.abs(z).max() < 4.5


@pytest.mark.parametrize(("density", "epsilon"), [(0.1, 0.1), (0.9, 0.1), (0.5, 0.6)])
def test_della_refuses_chances_outside_the_unit_interval(density, epsilon):
    models, rest = case("della")
    with pytest.raises(InputError, match="density - epsilon"):
        fused("della", models, **rest, density=density, epsilon=epsilon)


# Exact selection. Few distinct values, so that many are equal.
coarse = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1.0000001, 2.0, -2.0, 1e-38, 3e38])
any32 = st.one_of(coarse, st.floats(-(2.0**100), 2.0**100, width=32))
row_of_values = st.integers(1, 60).flatmap(lambda n: arrays(np.float32, n, elements=any32))


@settings(deadline=None)
@given(row_of_values, st.data(), st.sampled_from([1, 3, 64]))
def test_order_statistics_are_those_of_a_sort(values, data, block):
    tensor = torch.from_numpy(values).view(-1, 1)  # rows of one, so that blocks may end anywhere
    rank = data.draw(st.integers(0, len(values) - 1))
    end = data.draw(st.integers(rank, len(values) - 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(group_module, "BLOCK", block)
        patch.setattr(group_module, "SPAN", 2)
        group = InMemory([tensor], dtype=torch.float32)
        low, high = order_statistics(group, lambda b: magnitude_bits(b.models[0]), lambda zeros: [[rank, end]])[0]
        kept = np.concatenate(group.map(lambda b: kept_of(b, low, high)))
        from_low = np.concatenate(group.map(lambda b: kept_of(b, low, None)))
        to_high = np.concatenate(group.map(lambda b: kept_of(b, None, high)))
    size = np.abs(values)
    assert low.value == np.sort(size)[rank]
    order = np.argsort(np.argsort(size, kind="stable"), kind="stable")
    assert kept.tolist() == np.where((order >= rank) & (order < end), 0.5, 0).tolist()
    assert from_low.tolist() == np.where(order >= rank, 0.5, 0).tolist()
    assert to_high.tolist() == np.where(order < end, 0.5, 0).tolist()


def kept_of(block, low, high):
    out = np.full(block.stacked.shape[1], 7, np.float32)
    keep_between(magnitude_bits(block.models[0])[0], block.start, low, high, 0.5, out)
    return out


def test_order_statistics_of_many_equal_values_in_a_block():
    """More of one upper half than are kept as they are."""
    values = torch.cat([torch.full((20_000,), 1.5), torch.full((20_000,), 1.5000001), torch.arange(10.0)]).view(-1, 1)
    group = InMemory([values], dtype=torch.float32)
    ranks = [0, 2, 19_990, 20_001, 20_002, 39_000, 40_009]
    found = order_statistics(group, lambda b: magnitude_bits(b.models[0]), lambda zeros: [ranks])[0]
    assert [f.value for f in found] == np.sort(values.numpy().ravel())[ranks].tolist()


@settings(deadline=None)
@given(arrays(np.float32, (3, 7), elements=any32))
def test_ranks_in_rows_are_those_of_a_stable_sort(values):
    keys = kernels.rank_keys(magnitude_bits(torch.from_numpy(values).reshape(-1))[0], 7)
    keys.sort(axis=1)
    found = np.empty(21)
    kernels.keep_by_rank(keys, np.uint64(1), 0, 1.0, 1.0, True, found)  # a chance of 1 + rank keeps all, times 1 / (1 + rank)
    expected = np.argsort(np.argsort(np.abs(values), axis=1, kind="stable"), axis=1, kind="stable")
    assert np.rint(1 / found - 1).tolist() == expected.ravel().tolist()


def trimmed(delta: np.ndarray, density: float, gamma: float = 0.0) -> np.ndarray:
    """Sort, cut, put back: ascending by magnitude, equal values in their order."""
    n = delta.size
    if density >= 1:
        return delta
    kept = int(density * n)
    if gamma == 0 and density > 0:
        kept = max(1, kept)
    order = np.argsort(np.abs(delta), kind="stable")
    below = max(0, n - kept - int(gamma * n))
    result = np.zeros_like(delta)
    result[order[below : below + kept]] = delta[order[below : below + kept]]
    return result


densities = st.one_of(st.sampled_from([0.0, 0.1, 0.3, 0.9, 0.99, 1.0]), st.floats(0, 1))


@settings(deadline=None)
@given(
    arrays(np.float32, (2, 30), elements=st.one_of(st.sampled_from([0.0, 1.0, -1.0, 2.0]), st.floats(-4, 4, width=16))),
    densities,
    st.one_of(st.just(0.0), st.floats(0, 0.5)),
)
def test_trimming_is_that_of_a_sort_with_equal_values(deltas, density, gamma):
    base = torch.zeros(30)
    models = [torch.from_numpy(d) for d in deltas]
    kept = [trimmed(d.astype(np.float64), density, gamma) for d in deltas]
    found = fused("breadcrumbs", models, base=base, weight=[1.0, 0.5], density=density, gamma=gamma)
    np.testing.assert_allclose(found.numpy(), kept[0] + 0.5 * kept[1], rtol=1e-15)
    if gamma:
        return
    expected = np.zeros(30)
    for k, (a, b) in enumerate(zip(*(trimmed(d.astype(np.float64), density) for d in deltas), strict=True)):
        sign = 1 if a + 0.5 * b >= 0 else -1
        parts = [(w, v) for w, v in ((1.0, a), (0.5, b)) if v * sign > 0]
        expected[k] = sum(w * v for w, v in parts) / sum(w for w, _ in parts) if parts else 0
    np.testing.assert_allclose(fused("ties", models, base=base, weight=[1.0, 0.5], density=density), expected, rtol=1e-15)


@pytest.mark.parametrize("method", ["ties", "breadcrumbs"])
def test_rescaling_after_trimming_restores_the_sum_of_magnitudes(method):
    models, rest = case(method, count=1)
    found = fused(method, models, base=rest["base"], weight=[1.0], density=0.5, rescale=True) - rest["base"]
    assert float(found.abs().sum()) == pytest.approx(float((models[0] - rest["base"]).abs().sum()))
    assert int((found.abs() > 1e-12).sum()) == 15


def test_a_sum_of_weights_near_one_is_not_taken_for_one():
    """``1 + (1 - 5e-7) (2 - 1)``: float32 tells it from both 2 and 2 (1 - 5e-7)."""
    base, model = torch.ones(4), torch.full((4,), 2.0)
    for method in ("ties", "task_arithmetic", "breadcrumbs_ties"):
        found = fused(method, [model], base=base, weight=[1.0], **{"lambda": 1 - 5e-7})
        torch.testing.assert_close(found, torch.full((4,), 2 - 5e-7, dtype=torch.float64), rtol=1e-12, atol=0)


# One case a method, worked by hand: base, models, weights, parameters, result.
R = math.sqrt(0.5)
BY_HAND: list[tuple[str, Any, list[Any], Any, dict[str, Any], Any]] = [
    ("average", None, [[1, 2], [3, 6]], [0.25, 0.75], {}, [2.5, 5]),
    ("geometric_mean", None, [[2, -4, 1], [8, -9, -1]], [0.5, 0.5], {}, [4, -6, 0]),
    ("slerp", None, [[1, 0], [0, 1]], [0.5, 0.5], {}, [R, R]),
    ("slerp", None, [[2, 0], [0, 4]], [2 / 3, 1 / 3], {}, [2 * math.sqrt(0.75), 2]),  # sin 60 and sin 30 degrees
    ("nuslerp", None, [[1, 0], [0, 1]], [2, 2], {}, [R, R]),
    ("nuslerp", None, [[1, 0], [0, 1]], [1, -1], {}, [R, R]),  # without a sum: half way
    ("nuslerp", [5, 5], [[6, 5], [5, 6]], [1, 1], {}, [5 + R, 5 + R]),
    ("nuslerp", None, [[[1, 0], [3, 0]], [[0, 1], [5, 0]]], [1, 1], {"flatten": False}, [[R, R], [4, 0]]),
    ("nuslerp", None, [[[1, 3], [0, 0]], [[0, 5], [1, 0]]], [1, 1], {"flatten": False, "row_wise": True}, [[R, 4], [R, 0]]),
    ("multislerp", None, [[1, 0], [0, 3]], [0.5, 0.5], {}, [2 * R, 2 * R]),
    ("multislerp", None, [[1, 0], [0, 1]], [1, 1], {"normalize": False}, [2 * R, 2 * R]),
    ("karcher", None, [[1, 0], [0, 3]], [0.5, 0.5], {}, [2 * R, 2 * R]),
    ("karcher", None, [[1, 0], [0, 1]], [2 / 3, 1 / 3], {}, [math.sqrt(0.75), 0.5]),  # a third of the way: 30 degrees
    ("task_arithmetic", [1, 1], [[2, 1], [1, 3]], [1, 0.5], {}, [2, 2]),
    ("task_arithmetic", [1, 1], [[2, 1], [1, 3]], [1, -1], {"normalize": True}, [2, -1]),  # a sum of zero divides nothing
    ("task_arithmetic", [1, 1], [[2, 1], [1, 3]], [3, 1], {"normalize": True, "lambda": 2}, [2.5, 2]),
    ("ties", [0, 0, 0, 0], [[1, -4, 0.5, 3], [2, 3, -0.25, -3]], [1, 1], {"density": 0.75}, [1.5, -4, 0, 3]),
    ("ties", [1, 1], [[3, 1], [1, 5]], [1, 1], {"density": 0.5, "normalize": False, "lambda": 0.5}, [2, 3]),
    # Sums of magnitudes restored, 2 becomes 4 and outvotes -3.
    ("ties", [0, 0], [[2, 2], [0, -3]], [1, 1], {"density": 0.5, "rescale": True}, [0, 4]),
    ("dare_linear", [1, 1], [[2, 1], [1, 3]], [1, 0.5], {}, [2, 2]),
    ("dare_ties", [0, 0], [[1, -4], [2, 3]], [1, 1], {}, [3, -4]),
    ("della", [0, 0], [[1, -4], [2, 3]], [1, 1], {}, [1.5, -4]),
    ("della_linear", [1, 1], [[2, 1], [1, 3]], [1, 0.5], {}, [2, 2]),
    ("breadcrumbs", [0] * 5, [[1, 5, 3, 4, 2]], [1], {"density": 0.4, "gamma": 0.2}, [0, 0, 3, 4, 0]),
    ("breadcrumbs", [0] * 10, [list(range(10))], [1], {"density": 0.9, "gamma": 0.1}, [*range(9), 0]),
    ("breadcrumbs_ties", [0] * 4, [[1, 9, -3, 4], [2, 9, 3, 1]], [1, 0.5], {"density": 0.5, "gamma": 0.25}, [1, 0, -3, 4]),
    # mean squares 4 / 2 and 1 / 2: shares 0.8 and 0.2; the second value has one sign, so that 1 stands alone
    ("sce", [0, 0], [[2, 0], [0, 1]], None, {}, [2, 1]),
    ("sce", [0, 0], [[2, 2], [1, 1]], None, {}, [1.8, 1.8]),
    # shares 0.8 and 0.2 (36 : 9) weigh, but do not elect: the plain sum 2 - 3 is negative
    ("sce", [0] * 3, [[2, 4, 4], [-3, 0, 0]], None, {}, [-3, 4, 4]),
    # variances 1, 0, 0.25: of the two that are not zero 0.7 is one value
    ("sce", [0, 0, 0], [[3, 2, 1], [1, 2, 2]], None, {"select_topk": 0.7}, [(9 * 3 + 1) / 10, 0, 0]),
    # cosine 1 / 2, two models: t = 2 (1/2) / (1 + 1/2) = 2/3
    ("model_stock", [0, 0], [[2, 0], [1, math.sqrt(3)]], None, {}, [1, math.sqrt(3) / 3]),
    ("model_stock", [0, 0], [[1, 0], [0, 1]], None, {}, [0, 0]),
    ("model_stock", [0, 0], [[1, 0], [-1, 0]], None, {}, [0, 0]),
    (
        "model_stock", [[1, 1], [1, 1]], [[[3, 1], [2, 1]], [[2, 1 + math.sqrt(3)], [1, 2]]], None, {"filter_wise": True},
        [[2, 1 + math.sqrt(3) / 3], [1, 1]],
    ),
    ("nearswap", [1, 1, 1], [[1.25, 3, -1]], None, {"t": 0.5}, [1.25, 1.5, 0.5]),
    ("ram", [1, 1, 1], [[2, 3, 1], [1, 5, 1]], None, {}, [2, 4, 1]),
    ("ram", [0, 0], [[0.5, 0.75], [2, 0.5]], None, {"epsilon": 0.5}, [2, 0.75]),  # a change must exceed epsilon
    # Model 1: one value alone, one shared, ratio 1 but at most 0.2; model 2: two alone, one shared, ratio 0.5, at most 0.2.
    ("ram", [0] * 4, [[1, 1, 0, 0], [0, 1, 1, 1]], None, {"r": 0.5}, [1.1, 1, 1.1, 1.1]),
    ("passthrough", None, [[1, 2]], None, {"scale": 3}, [3, 6]),
    # One row, one divergence: of the changes 1 to 4 and 100 those from 3 + 1.5 (4 - 2) = 6 times it are taken.
    ("arcee_fusion", [0] * 5, [[1, -2, 3, 4, 100]], None, {}, [0, 0, 0, 0, 100]),
    # Eight values: the quartiles are the ones at int(7 / 4), int(7 / 2) and int(21 / 4): 2, 4 and 6, so that 10 is the threshold.
    ("arcee_fusion", [0] * 8, [[1, 2, 3, 4, 5, 6, 7, 10.5]], None, {}, [0] * 7 + [10.5]),
    # All changes alike: all reach the threshold, which is their own importance.
    ("arcee_fusion", [[0, 0], [1, 1]], [[[2, -2], [3, -1]]], None, {}, [[2, -2], [3, -1]]),
    ("negmerge", [1, 1, 1], [[2, 3, 1], [4, -1, 2]], None, {"lambda": 0.5}, [0, 1, 1]),
    ("consensus", [1, 1, 1], [[3, 2, 0], [2, 0, -2]], [0.5, 0.5], {}, [2, 1, 0]),
    ("consensus", [1, 1, 1], [[3, 2, 0], [2, 0, -2]], [0.5, 0.5], {"forget": 0.5, "lambda": 2.0}, [3.5, 1, -2]),
    ("consensus", [1, 1, 1], [[3, 2, 0], [2, 0, -2], [9, 9, 9]], [0.5, 0.5, 0], {}, [2, 1, 0]),  # the third has no say
]  # fmt: skip


@pytest.mark.parametrize(("method", "base", "models", "weight", "parameters", "expected"), BY_HAND)
def test_by_hand(method, base, models, weight, parameters, expected):
    def tensor(values: Any) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64)

    rest = {} if base is None else {"base": tensor(base)}
    found = fused(method, [tensor(m) for m in models], weight=weight, **rest, **parameters)
    torch.testing.assert_close(found, tensor(expected), rtol=1e-12, atol=1e-12)


def test_every_method_has_a_case_by_hand_or_a_textbook():
    # Those of the last two: test_consensus.py and test_fisher_consensus.py.
    textbooks = {"fisher", "regmean", "tsv_m", "iso_c", "spectral_consensus", "fisher_consensus"}
    assert {c[0] for c in BY_HAND} | textbooks == set(METHODS)


# Textbook implementations: whole arrays, NumPy, no blocks.


def test_fisher_is_the_textbook_weighted_mean():
    models, rest = case("fisher", seed=4)
    information = [s.numpy() for s in rest["statistics"]]
    information[0][0, 0] = information[1][0, 0] = information[2][0, 0] = 0  # nothing known: the weighted average
    weight = rest["weight"]
    above = sum(w * f * m.numpy() for w, f, m in zip(weight, information, models, strict=True))
    below = sum(w * f for w, f in zip(weight, information, strict=True))
    plain = sum(w * m.numpy() for w, m in zip(weight, models, strict=True))
    expected = np.where(below > 0, above / np.where(below > 0, below, 1), plain)
    for scale in (1.0, 1e-200, 1e308):  # Fisher information is often tiny; sums of huge ones would overflow
        found = fused("fisher", models, weight=weight, statistics=[torch.from_numpy(f * scale) for f in information])
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("input_first", [False, True])
def test_regmean_with_whole_inner_products_is_least_squares_on_the_inputs(input_first):
    """Stack the inputs and what the models make of them, and solve: no inner product is formed."""
    generator = seeded(7)
    inputs = [torch.randn(40, 5, generator=generator, dtype=torch.float64) * (i + 1) for i in range(3)]
    weights = [torch.randn(6, 5, generator=generator, dtype=torch.float64) for _ in range(3)]  # outputs x inputs
    share = convex(3)
    above = np.concatenate([math.sqrt(s) * x.numpy() for s, x in zip(share, inputs, strict=True)])
    right = np.concatenate([math.sqrt(s) * (x @ w.T).numpy() for s, x, w in zip(share, inputs, weights, strict=True)])
    expected = np.linalg.lstsq(above, right, rcond=None)[0].T
    models = [w.T.contiguous() for w in weights] if input_first else weights
    found = fused(
        "regmean", models, weight=share, statistics=[x.T @ x for x in inputs], scale=1.0, input_first=input_first
    )  # fmt: skip
    np.testing.assert_allclose((found.T if input_first else found).numpy(), expected, rtol=1e-10, atol=1e-12)


def test_regmean_shrinks_the_off_diagonal_as_the_paper_does():
    models, rest = case("regmean", seed=3)
    products = [x.numpy() + np.eye(5) for x in rest["statistics"]]
    shrunk = [0.7 * g + 0.3 * np.diag(np.diag(g)) for g in products]
    left = sum(s * g for s, g in zip(rest["weight"], shrunk, strict=True))
    right = sum(s * g @ m.numpy().T for s, g, m in zip(rest["weight"], shrunk, models, strict=True))
    found = fused("regmean", models, weight=rest["weight"], statistics=[torch.from_numpy(g) for g in products], scale=0.7)
    np.testing.assert_allclose(found.numpy(), np.linalg.solve(left, right).T, rtol=1e-10)


def test_regmean_averages_weights_of_inputs_that_never_occur():
    """Least squares leaves them open; the smallest change from the average is the average."""
    models, rest = case("regmean", seed=3)
    found = fused("regmean", models, **rest)
    average = fused("average", models, weight=rest["weight"])
    torch.testing.assert_close(found[:, 0], average[:, 0])
    assert not torch.allclose(found[:, 1:], average[:, 1:])


def test_regmean_refuses_statistics_of_another_layer():
    models, rest = case("regmean")
    with pytest.raises(InputError, match="inner products of 5 inputs"):
        fused("regmean", models, weight=rest["weight"], statistics=[torch.eye(6, dtype=torch.float64)] * 3)


@pytest.mark.parametrize("shape", [(9, 7), (7, 9), (12, 12)], ids=str)
def test_tsv_m_is_the_textbook_procedure(shape):
    """Orthogonal factors by polar decomposition (SciPy), one task after another."""
    models, rest = case("tsv_m", shape, seed=8)
    weight = [1.0, 0.5, 2.0]
    rank = min(shape) // 3
    us, ss, vs = [], [], []
    for model, share in zip(models, weight, strict=True):
        u, s, vt = np.linalg.svd((model - rest["base"]).numpy(), full_matrices=False)
        us.append(u[:, :rank])
        ss.extend(share * s[:rank])
        vs.append(vt[:rank].T)
    u, v = (scipy.linalg.polar(np.hstack(parts))[0] for parts in (us, vs))
    np.testing.assert_allclose(u.T @ u, np.eye(u.shape[1]), atol=1e-12)
    expected = rest["base"].numpy() + 0.3 * sum(s * np.outer(u[:, k], v[:, k]) for k, s in enumerate(ss))
    found = fused("tsv_m", models, base=rest["base"], weight=weight, **{"lambda": 0.3})
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shape", [(9, 7), (7, 9)], ids=str)
def test_iso_c_is_the_polar_factor_times_the_mean_singular_value(shape):
    models, rest = case("iso_c", shape, seed=8)
    weight = [1.0, 0.5, 2.0]
    total = sum(w * (m - rest["base"]).numpy() for w, m in zip(weight, models, strict=True))
    mean = np.linalg.norm(total, "nuc") / min(shape)
    expected = rest["base"].numpy() + 0.3 * mean * scipy.linalg.polar(total)[0]
    found = fused("iso_c", models, base=rest["base"], weight=weight, **{"lambda": 0.3})
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(np.linalg.svd(found - rest["base"], compute_uv=False), 0.3 * mean, rtol=1e-10)


@pytest.mark.parametrize("method", ["tsv_m", "iso_c"])
@pytest.mark.parametrize("shape", [(5,), (1, 5), (5, 1), (2, 3, 4)], ids=str)
def test_spectral_methods_average_what_is_no_matrix(method, shape):
    models, rest = case(method, shape)
    found = fused(method, models, base=rest["base"])
    torch.testing.assert_close(found, sum(models[1:], start=models[0]) / 3)


def test_tsv_m_is_not_turned_by_models_that_did_not_change_the_matrix():
    """Singular vectors of zeros are arbitrary. The other model's first half of the triplets stands as it is."""
    models, rest = case("tsv_m", (8, 6), count=1)
    u, s, vt = np.linalg.svd((models[0] - rest["base"]).numpy(), full_matrices=False)
    expected = rest["base"].numpy() + (u[:, :3] * s[:3]) @ vt[:3]
    other, _ = case("tsv_m", (8, 6), seed=5, count=1)
    for second, weight in ((rest["base"], [1.0, 1.0]), (other[0], [1.0, 0.0])):
        found = fused("tsv_m", [models[0], second], base=rest["base"], weight=weight)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", ["tsv_m", "iso_c"])
def test_spectral_methods_change_nothing_in_what_no_model_changed(method):
    """A change of rank one stays within its row and column."""
    base = torch.zeros(6, 5, dtype=torch.float64)
    models = [base.clone(), base.clone()]
    models[0][2, 3] = models[1][2, 3] = 1.0
    found = fused(method, models, base=base)
    size = {"tsv_m": 1.0, "iso_c": 2 / 5}[method]  # (2 + 0 + 0 + 0 + 0) / 5; two halves of the one direction
    assert found.abs().argmax() == 13
    assert float(found[2, 3]) == pytest.approx(size, rel=1e-12)
    assert float(found.abs().sum()) == pytest.approx(size, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "method", ["average", "geometric_mean", "slerp", "nuslerp", "multislerp", "karcher", "task_arithmetic", "fisher", "regmean"]
)
def test_all_weight_on_one_model_returns_it_to_the_bit(method, dtype):
    models, rest = case(method, dtype=dtype)
    for i, model in enumerate(models):
        rest["weight"] = [float(i == k) for k in range(len(models))]
        assert torch.equal(fused(method, models, **rest).to(dtype), model)


@pytest.mark.parametrize("method", ["slerp", "nuslerp", "multislerp", "karcher"])
def test_zero_models_have_no_direction_but_a_length(method):
    """Weights 3/4 and 1/4, of which the second is zero."""
    model = torch.tensor([3.0, 4.0])
    found = fused(method, [model, torch.zeros(2)], weight=[0.75, 0.25])
    torch.testing.assert_close(found, 0.75 * model.double())
    assert torch.equal(fused(method, [torch.zeros(2), model], weight=[1.0, 0.0]), torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize(
    ("method", "parameters"),
    [("ties", {"density": 0.3}), ("breadcrumbs", {"density": 0.3, "gamma": 0.05}), ("sce", {"select_topk": 0.3}),
     ("dare_linear", {"density": 0.3}), ("della", {"density": 0.3})],
)  # fmt: skip
def test_tensors_of_several_spans_are_fused_like_one_block(monkeypatch, method, parameters):
    models, rest = case(method, (1100, 600), torch.bfloat16)  # bfloat16: many equal magnitudes
    assert models[0].numel() > group_module.BLOCK * group_module.SPAN

    def run() -> torch.Tensor:
        return fused(method, models, **rest, **parameters).to(torch.bfloat16)

    assert torch.equal(run(), with_blocks(monkeypatch, 1 << 30, 1, run))


def test_tsv_m_of_equal_models_is_their_first_singular_triplets():
    """Directions that several models have in common are one: the half of the triplets that each of two keeps."""
    models, rest = case("tsv_m", (8, 6), count=1)
    u, s, vt = np.linalg.svd((models[0] - rest["base"]).numpy(), full_matrices=False)
    found = fused("tsv_m", models * 2, base=rest["base"])
    np.testing.assert_allclose(found.numpy(), rest["base"].numpy() + (u[:, :3] * s[:3]) @ vt[:3], rtol=1e-11, atol=1e-12)


def test_negmerge_is_the_textbook_loop():
    models, rest = case("negmerge", seed=2)
    base = rest["base"]
    expected = base.clone().reshape(-1)
    agreed = 0
    for k in range(base.numel()):
        changes = [float((m - base).reshape(-1)[k]) for m in models]
        if all(c > 0 for c in changes) or all(c < 0 for c in changes):
            agreed += 1
            expected[k] -= 0.7 * sum(w * c for w, c in zip(rest["weight"], changes, strict=True))
    assert 0 < agreed < base.numel()
    torch.testing.assert_close(fused("negmerge", models, **rest, **{"lambda": 0.7}).reshape(-1), expected)


@pytest.mark.parametrize("spread", [1.0, 1e-3])
def test_karcher_is_the_fixed_point_on_whole_vectors(spread):
    generator = seeded(9)
    centre = torch.randn(40, generator=generator, dtype=torch.float64)
    models = [(centre + spread * torch.randn(40, generator=generator, dtype=torch.float64)) * (i + 1) for i in range(4)]
    share = np.array(convex(4))
    lengths = np.array([np.linalg.norm(m) for m in models])
    units = np.stack([m.numpy() / n for m, n in zip(models, lengths, strict=True)])
    mean = units[0]
    for _ in range(2000):
        step = np.zeros(40)
        for w, u in zip(share, units, strict=True):
            across = u - (u @ mean) * mean  # the angle by its sine and cosine: exact for small angles too
            sine = np.linalg.norm(across)
            if sine > 0:
                step += w * math.atan2(sine, u @ mean) / sine * across
        mean = mean + 0.5 * step
        mean /= np.linalg.norm(mean)
    assert np.linalg.norm(step) < 1e-14
    found = fused("karcher", models, weight=share.tolist()).numpy()
    np.testing.assert_allclose(found, (share @ lengths) * mean, rtol=1e-9, atol=1e-9 * np.abs(found).max())


def test_slerp_of_small_angles_keeps_the_length():
    """Halfway along an arc of a thousandth; the chord's middle is 1e-7 shorter."""
    parts = [torch.tensor([math.cos(a), math.sin(a)], dtype=torch.float64) for a in (0.0, 1e-3)]
    for method in ("slerp", "nuslerp", "multislerp", "karcher"):
        found = fused(method, parts, weight=[0.5, 0.5])
        np.testing.assert_allclose(found, [math.cos(5e-4), math.sin(5e-4)], rtol=1e-11)


@settings(max_examples=200, deadline=None)
@given(st.floats(1e-6, 1.0), st.floats(1e-6, 1.0), st.floats(0.1, 0.9), st.integers(0, 2**31))
def test_arcs_between_opposite_vectors_are_chords(first, second, share, seed):
    """Biases of two labels, (x, -x) up to rounding in any model: of opposite signs they have no arc between them."""
    off = 1e-7 * torch.randn(2, 2, generator=seeded(seed), dtype=torch.float64)
    parts = [x * (torch.tensor([1.0, -1.0], dtype=torch.float64) + o).float() for x, o in zip((first, -second), off, strict=True)]
    weight, (a, b) = [1 - share, share], [part.double() for part in parts]
    for name, parameters in (("slerp", {}), ("nuslerp", {}), ("nuslerp", {"flatten": False})):
        models = [part.view(1, 2) for part in parts]  # a bias, and a matrix of one row
        found = fused(name, models, weight=weight, **parameters).view(2)
        torch.testing.assert_close(found, (1 - share) * a + share * b, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("method", "parameters"),
    [("model_stock", {"filter_wise": True}), ("nuslerp", {"flatten": False}), ("della", {"density": 0.5}), ("arcee_fusion", {})],
)
def test_rows_are_output_units_whatever_the_other_dimensions(method, parameters):
    models, rest = case(method, (4, 3, 5))
    flat = {key: value.view(4, 15) if isinstance(value, torch.Tensor) else value for key, value in rest.items()}
    found = fused(method, models, **rest, **parameters)
    assert torch.equal(found.view(4, 15), fused(method, [m.view(4, 15) for m in models], **flat, **parameters))


def test_tsv_m_of_more_models_than_ranks_keeps_one_triplet_each():
    models, rest = case("tsv_m", (2, 3))
    assert float((fused("tsv_m", models, base=rest["base"]) - rest["base"]).abs().max()) > 0.1


@pytest.mark.parametrize("scale", [1e-12, 1e-9, 1e-3, 1.0, 8.0, 100.0])
def test_arcee_fusion_of_changes_of_any_size(scale):
    """Two rows of one pattern: of small changes the second's, ten times as large, diverge a hundred times as much.

    Of large ones both diverge by the logarithm of the row's length.
    """
    row = torch.tensor([1.0, -2.0, 3.0, 4.0, 5.0], dtype=torch.float64) * scale
    model = torch.stack([row, row * 10])
    p, q = model.softmax(-1) + 1e-8, torch.full((2, 5), 0.2 + 1e-8, dtype=torch.float64)
    divergence = (p * (p / q).log()).sum(-1) if scale >= 1e-3 else row.var(unbiased=False) / 2 * torch.tensor([1.0, 100.0])
    importance = (model.abs() * divergence.unsqueeze(-1)).reshape(-1)
    first, median, third = importance.sort().values[[2, 4, 6]].tolist()
    expected = torch.where(importance >= median + 1.5 * (third - first), model.reshape(-1), 0).view(2, 5)
    assert 0 < int((expected != 0).sum()) < 6
    assert torch.equal(fused("arcee_fusion", [model], base=torch.zeros_like(model)), expected)


def test_multislerp_refuses_directions_that_cancel_and_averages_two():
    unit = [torch.tensor([1.0, 0.0]), torch.tensor([-0.5, math.sqrt(0.75)]), torch.tensor([-0.5, -math.sqrt(0.75)])]
    with pytest.raises(InputError, match="cancel"):
        fused("multislerp", [u.double() / u.norm() for u in unit])
    two = [torch.tensor([1.0, 2.0]), torch.tensor([-2.0, -4.0])]
    assert fused("multislerp", two).tolist() == [-0.5, -1.0]
    with pytest.raises(InputError, match="sum other than zero"):
        fused("multislerp", two, weight=[1.0, -1.0])


def test_arcee_fusion_finds_small_changes_important():
    """Changes of 1e-6 diverge by half their variance, 1e-12 or so: float64 sees it, float32 does not."""
    base = torch.randn(40, 50, generator=seeded(1), dtype=torch.float64)
    delta = torch.randn(40, 50, generator=seeded(2), dtype=torch.float64) * 1e-6
    found = fused("arcee_fusion", [base + delta], base=base)
    p = base.softmax(-1)
    divergence = (p * delta.square()).sum(-1) / 2 - (p * delta).sum(-1).square() / 2  # to second order
    importance = (delta.abs() * divergence.unsqueeze(-1)).numpy().ravel()
    ranks = np.sort(importance)[[int(q * 1999) for q in (0.25, 0.5, 0.75)]]
    expected = importance >= ranks[1] + 1.5 * (ranks[2] - ranks[0])
    taken = (found != base).numpy().ravel()
    assert 20 < expected.sum() < 600
    assert (taken != expected).mean() < 0.002


@pytest.mark.parametrize("method", ["average", "task_arithmetic"])
def test_a_weight_of_zero_leaves_a_broken_model_out(method):
    """Infinity times zero is no value. In other methods a model takes part in norms, signs or ranks at any weight."""
    models, rest = case(method)
    broken = torch.full_like(models[0], math.inf)
    rest["weight"] = [0.5, 0.5, 0.0]
    assert torch.equal(fused(method, [models[0], models[1], broken], **rest), fused(method, models, **rest))
