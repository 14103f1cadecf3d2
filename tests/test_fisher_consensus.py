"""Consensus with tables filtered by Fisher information: the filter by hand and by an oracle, the engine, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from fuseforget.errors import InputError
from fuseforget.fuse import InPlace, fuse
from fuseforget.methods import METHODS, fuse_in_memory
from fuseforget.methods.lengths import Lengths

Array = npt.NDArray[np.float64]
METHOD = METHODS["fisher_consensus"]
PLAIN = METHODS["spectral_consensus"]
TABLE = "transformer.wte.weight"
AS_IT_IS = Lengths(1.0, 0.0, 0.0, 1.0)  # of a model whose filtered changes are of the average's length: nothing is made up for


def draw(shape: Sequence[int], seed: int) -> torch.Tensor:
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def information(shape: Sequence[int], count: int, seed: int) -> list[torch.Tensor]:
    """Of very different sizes, as that of rare and frequent tokens; nothing about the first row's first value."""
    found = [draw(shape, seed + i).mul(3).exp() * 1e-8 for i in range(count)]
    for one in found:
        one[0, 0] = 0
    return found


def by_definition(
    changes: Sequence[Array], fishers: Sequence[Array], weight: Sequence[float], forget: float
) -> tuple[Array, float]:  # fmt: skip
    """The filtered change of a table and the factor that makes up for its length, value by value."""
    odds = forget / (1 - forget)
    mean = sum(a * d for a, d in zip(weight, changes, strict=True))
    kept = np.ones_like(mean)
    for place in np.ndindex(mean.shape):
        found = np.array([f[place] for f in fishers])
        middle = np.average(found, weights=weight)
        if middle > 0:
            varied = np.average((found - middle) ** 2, weights=weight)
            kept[place] = middle**2 / (middle**2 + odds**2 * varied)
    of_models = sum(a * np.square(d).sum() for a, d in zip(weight, changes, strict=True))
    of_mean, squares = np.square(mean).sum(), sum(a * a for a in weight)
    common = of_mean - min(1.0, squares / (1 - squares)) * (of_models - of_mean)
    back = min(1.0, max(0.0, common) / of_models / 0.25)
    wanted = (1 - forget) * of_mean + forget * back**2 * of_models
    return kept * mean, math.sqrt(wanted / np.square(kept * mean).sum())


def test_by_hand():
    """Two models, b = 3: information of one alone leaves a tenth, equal information all, a third and two thirds a half."""
    changes = torch.full((3, 3), 2.0, dtype=torch.float64)
    first = torch.tensor([[1.0, 4.0, 0.0], [2.0, 5.0, 1.0], [7.0, 0.0, 0.0]], dtype=torch.float64)
    second = torch.tensor([[0.0, 4.0, 0.0], [1.0, 5.0, 2.0], [7.0, 3.0, 0.0]], dtype=torch.float64)
    models = [changes + 1, changes - 1]  # their changes differ, their mean is 2
    base = torch.zeros_like(changes)
    found = fuse_in_memory(METHOD, models, base=base, statistics=[first, second], name=TABLE, survey=AS_IT_IS, forget=0.75)
    # (2 - 1) / (2 + 1) is a third: 1 / (1 + 9 / 9).
    expected = 2 * torch.tensor([[0.1, 1.0, 1.0], [0.5, 1.0, 0.5], [1.0, 0.1, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@settings(max_examples=60)
@given(
    st.sampled_from([(9, 4), (4, 9), (5, 5), (3, 3)]), st.integers(2, 4), st.floats(0.01, 0.999), st.integers(0, 999),
    st.sampled_from([1e-12, 1.0, 1e9]),
)  # fmt: skip
def test_it_is_what_its_definition_says(shape, count, forget, seed, unit):
    base, shared = draw(shape, seed), draw(shape, seed + 50)
    changes = [shared + draw(shape, seed + 100 + i) for i in range(count)]
    weight = list(np.random.default_rng(seed).dirichlet(np.ones(count)))
    fishers = information(shape, count, seed + 200)
    filtered, factor = by_definition([c.numpy() for c in changes], [f.numpy() for f in fishers], weight, forget)
    found = fuse_in_memory(
        METHOD, [base + c for c in changes], weight, base=base, statistics=[unit * f for f in fishers], name=TABLE, forget=forget,
        **{"lambda": 1.5},
    )  # fmt: skip
    np.testing.assert_allclose((found - base).numpy(), 1.5 * factor * filtered, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("shape", [(9, 4), (4, 9), (5, 5)])
def test_everything_but_tables_is_spectral_consensus(shape):
    base = draw(shape, 0)
    models = [base + draw(shape, 1) + draw(shape, 2 + i) for i in range(2)]
    plain = fuse_in_memory(PLAIN, models, base=base, name="h.0.attn.c_attn.weight", survey=(1.0, 2.0, 1.0, 0.5))
    found = fuse_in_memory(
        METHOD, models, base=base, name="h.0.attn.c_attn.weight", statistics=information(shape, 2, 5),
        survey=(1.0, 2.0, 1.0, 0.5),
    )  # fmt: skip
    assert torch.equal(found, plain)
    assert not torch.allclose(
        found, fuse_in_memory(METHOD, models, base=base, name=TABLE, statistics=information(shape, 2, 5), survey=AS_IT_IS)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_models_come_back_whatever_they_read(dtype):
    base = draw((6, 5), 0).to(dtype)
    model = (draw((6, 5), 1)).to(dtype)
    found = fuse_in_memory(METHOD, [model] * 3, base=base, statistics=information((6, 5), 3, 2), name=TABLE)
    assert torch.equal(found.to(dtype), model)


def test_where_all_read_the_same_the_mean_is_kept_and_gets_the_models_length():
    base = draw((6, 5), 0)
    models = [base + 2 * draw((6, 5), 1) + draw((6, 5), 2 + i) for i in range(2)]
    same = information((6, 5), 1, 9) * 2
    found = fuse_in_memory(METHOD, models, base=base, statistics=same, name=TABLE, forget=0.9) - base
    mean = sum(models) / 2 - base
    factor = float(found.norm() / mean.norm())
    torch.testing.assert_close(found, factor * mean)
    assert factor > 1.01


def test_without_forgetting_it_is_the_average_whatever_is_known():
    base, models = draw((6, 5), 0), [draw((6, 5), 1 + i) for i in range(2)]
    empty = [torch.empty(0)] * 2
    found = fuse_in_memory(METHOD, models, base=base, statistics=empty, name=TABLE, forget=0)
    torch.testing.assert_close(found, sum(models) / 2)


def damaged(value: float) -> list[torch.Tensor]:
    found = information((6, 5), 2, 3)
    found[1][2, 2] = value
    return found


@pytest.mark.parametrize(("statistics", "message"), [
    (damaged(-1e-9), r"Fisher of transformer\.wte\.weight, model 2.*none negative.*found negative"),
    (damaged(math.nan), r"Fisher of transformer\.wte\.weight, model 2.*finite.*found NaN"),
    (damaged(math.inf), r"Fisher of transformer\.wte\.weight, model 2.*finite.*found infinity"),
    (information((5, 6), 2, 3), r"Fisher of transformer\.wte\.weight.*\[6, 5\].*\[5, 6\] of model 1's"),
    ([], "a diagonal Fisher for each model"),
])  # fmt: skip
def test_information_that_cannot_be_is_refused(statistics, message):
    models = [draw((6, 5), 1 + i) for i in range(2)]
    with pytest.raises(InputError, match=f"(?s){message}"):
        fuse_in_memory(METHOD, models, base=draw((6, 5), 0), statistics=statistics, name=TABLE)


# ---- from files

SHAPES = {
    TABLE: (3000, 256),  # more than a panel
    "transformer.wpe.weight": (70, 300),  # wider than high: fused transposed
    "transformer.h.0.mlp.weight": (48, 40),
    "transformer.ln_f.bias": (33,),
}


def written(raw, dtype: torch.dtype = torch.float32) -> tuple[list[Path], Path, list[Path]]:
    base = {name: draw(shape, 7) for name, shape in SHAPES.items()}
    models = [
        raw(f"m{i}", tensors={n: (t + draw(t.shape, 20) + draw(t.shape, 30 + i)).to(dtype) for n, t in base.items()})
        for i in range(2)
    ]
    tables = {n: t.shape for n, t in base.items() if "mlp" not in n and len(t.shape) == 2}
    fishers = [raw(f"f{i}", tensors={n: information(s, 1, 60 + i)[0].float() for n, s in tables.items()}) for i in range(2)]
    return models, raw("base", tensors={n: t.to(dtype) for n, t in base.items()}), fishers


@pytest.mark.parametrize("weight", [(0.5, 0.5), (0.2, 0.8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_files_are_fused_to_the_definition_with_one_length_for_matrices_and_tables(raw, tmp_path, dtype, weight):
    models, base, fishers = written(raw, dtype)
    fuse(models, tmp_path / "out", "fisher_consensus", weight, base=base, statistics=fishers, dtype="float32", forget=0.9)
    found, origin = load_file(tmp_path / "out/model.safetensors"), load_file(base / "model.safetensors")
    told = [load_file(f / "model.safetensors") for f in fishers]
    states = [load_file(m / "model.safetensors") for m in models]
    filtered = {}
    for name in told[0]:
        changes = [(state[name].double() - origin[name].double()).numpy() for state in states]
        filtered[name] = two_by_definition(changes, [one[name].double().numpy() for one in told], weight, 0.9)
    matrix = "transformer.h.0.mlp.weight"
    plain = fuse_in_memory(
        PLAIN, [s[matrix].double() for s in states], weight, base=origin[matrix].double(), survey=AS_IT_IS, forget=0.9
    )
    filtered[matrix] = (plain - origin[matrix].double()).numpy()
    rounding = 3e-3 if dtype == torch.bfloat16 else 2e-5  # a matrix's filter is kept in 16 bits for models of 16
    factors = {}
    for name, expected in filtered.items():
        change = (found[name].double() - origin[name].double()).numpy()
        factors[name] = float((change * expected).sum() / np.square(expected).sum())
        np.testing.assert_allclose(change, factors[name] * expected, rtol=1e-3, atol=rounding if name == matrix else 2e-5)
    assert max(factors.values()) / min(factors.values()) < 1.001
    assert factors[TABLE] > 1.05
    bias = "transformer.ln_f.bias"
    torch.testing.assert_close(found[bias], weight[0] * states[0][bias].float() + weight[1] * states[1][bias].float())


def two_by_definition(changes: Sequence[Array], fishers: Sequence[Array], weight: Sequence[float], forget: float) -> Array:
    """The filtered mean of two: they differ from their mean in proportion to the other's weight, so v = a b (F1 - F2)^2."""
    a, b = weight
    middle = a * fishers[0] + b * fishers[1]
    apart = np.divide(fishers[0] - fishers[1], middle, where=middle > 0, out=np.zeros_like(middle))
    return (a * changes[0] + b * changes[1]) / (1 + a * b * (forget / (1 - forget) * apart) ** 2)


@pytest.mark.parametrize("weight", [(0.5, 0.5), (0.2, 0.8), (1.0, 0.0)])
def test_in_place_it_is_what_the_file_has(raw, tmp_path, weight):
    models, base, fishers = written(raw)
    fuse(models, tmp_path / "out", "fisher_consensus", weight, base=base, statistics=fishers)
    targets = {name: torch.empty(shape) for name, shape in SHAPES.items()}
    InPlace(models, "fisher_consensus", base=base, statistics=fishers).into(targets, weight)
    for name, tensor in load_file(tmp_path / "out/model.safetensors").items():
        assert torch.equal(targets[name], tensor), name


def test_a_model_of_weight_zero_takes_no_part(raw, tmp_path):
    """Neither by its changes nor by what it knows: the other comes back, whole."""
    models, base, fishers = written(raw)
    fuse(models, tmp_path / "out", "fisher_consensus", [1, 0], base=base, statistics=fishers)
    for name, tensor in load_file(models[0] / "model.safetensors").items():
        torch.testing.assert_close(load_file(tmp_path / "out/model.safetensors")[name], tensor)


def test_what_one_model_of_hardly_any_weight_alone_knows_is_taken_away():
    """The jump that the filter has where a model's weight becomes zero; all else goes over into what one model has."""
    base, models = draw((6, 5), 0), [draw((6, 5), 1 + i) for i in range(2)]
    both = [draw((6, 5), 3 + i).abs() + 0.5 for i in range(2)]
    both[0][2] = 0
    options = {"base": base, "statistics": both, "name": TABLE, "survey": AS_IT_IS, "forget": 0.9}
    nearly, alone = (fuse_in_memory(METHOD, models, w, **options) for w in ([1 - 1e-9, 1e-9], [1, 0]))
    rest = [0, 1, 3, 4, 5]
    torch.testing.assert_close(nearly[rest], models[0][rest], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(nearly[2], base[2], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(alone, models[0])


def test_a_table_without_information_is_named_before_anything_is_written(raw, tmp_path):
    models, base, fishers = written(raw)
    lacking = [raw(f"l{i}", tensors={TABLE: load_file(f / "model.safetensors")[TABLE]}) for i, f in enumerate(fishers)]
    with pytest.raises(InputError, match=r"(?s)Fisher of transformer\.wpe\.weight.*fuseforget fisher"):
        fuse(models, tmp_path / "out", "fisher_consensus", base=base, statistics=lacking)
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="a statistics checkpoint for each model"):
        InPlace(models, "fisher_consensus", base=base)
