"""Linear combinations as tensors are stored: the compiled loops, and that the engine's short way gives the general one's bits."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from conftest import write_raw
from fuseforget import fuse
from fuseforget.errors import InputError
from fuseforget.fuse import streamed
from fuseforget.methods import METHODS, InMemory, fuse_in_memory
from fuseforget.methods.combination import Combination, from_base
from fuseforget.methods.kernels_linear import combine, products
from fuseforget.methods.rounding import narrow

# Sizes around the loops' tiles (512, 2,048, 4,096 values), and one of several blocks (131,072 values).
SIZES = [1, 511, 512, 513, 2049, 4097, 131_071, 300_001]
COMBINED = [name for name in METHODS if name in (
    "average", "slerp", "nuslerp", "multislerp", "karcher", "task_arithmetic", "model_stock", "passthrough",
)]  # fmt: skip


def bits_of(values: torch.Tensor) -> np.ndarray:
    return values.view(torch.uint16).numpy()


def numbers(count: int, size: int, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn((count, size), generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("size", SIZES)
def test_a_combination_of_bfloat16_is_that_of_float32_rounded_once(size):
    models, base = numbers(3, size), numbers(1, size, 1)[0]
    coefficients, rest = np.array([0.25, -1.5, 0.7], np.float32), np.float32(0.3)
    out = np.empty(size, np.uint16)
    assert combine(bits_of(models), bits_of(base), coefficients, rest, out) == -1
    wide, expected = models.float().numpy(), None
    for part, factor in zip([*wide, base.float().numpy()], [*coefficients, rest], strict=True):
        expected = part * factor if expected is None else expected + part * factor
    assert (out == bits_of(torch.from_numpy(expected).bfloat16())).all()


def test_rounding_to_bfloat16_is_torchs_for_every_upper_half():
    """All sign, exponent and upper fraction bits, with lower halves around the tie; one model times one."""
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    for lower in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF):
        values = (upper | np.uint32(lower)).view(np.float32)[None]
        out = np.empty(values.shape[1], np.uint16)
        combine(values, values[0], np.ones(1, np.float32), np.float32(0), out)
        expected = torch.from_numpy(values[0].copy()).bfloat16()
        assert ((out == bits_of(expected)) | expected.isnan().numpy()).all()
        assert np.isnan((out.astype(np.uint32) << 16).view(np.float32))[expected.isnan().numpy()].all()


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_products_are_those_of_float64(size, centred):
    models, base = numbers(3, size), numbers(1, size, 1)[0]
    sums = np.full((3, 3), 2.0)  # added to what is there
    assert products(bits_of(models), bits_of(base), centred, np.empty(0, np.float32), sums) == -1
    wide = (models.float() - base.float() * centred).double().numpy()
    np.testing.assert_allclose(sums - 2, wide @ wide.T, rtol=1e-12, atol=1e-12 * size)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([0.0, 1.0, -2.5, math.inf, math.nan]), min_size=3, max_size=3), st.integers(0, 5000))
def test_what_is_not_finite_is_counted_to_its_source(values, place):
    """Two models and a base, each with one odd value at one place; the first that is not finite is named."""
    stored = np.ones((3, 5001), np.float32)
    stored[:, place] = values
    odd = next((i for i, value in enumerate(values) if not math.isfinite(value)), -1)
    out = np.empty(5001, np.float32)
    assert combine(stored[:2], stored[2], np.ones(2), 1.0, out) == odd
    assert products(stored[:2], stored[2], True, np.empty(0), np.zeros((2, 2))) == odd


def test_a_sum_that_overflows_is_counted_to_the_result():
    stored = np.full((2, 10), 3e38, np.float32)
    out = np.empty(10, np.float32)
    assert combine(stored, stored[0], np.ones(2), 0.0, out) == 3


def test_a_part_with_coefficient_zero_cannot_spoil_the_result():
    block = next(iter(InMemory([torch.tensor([math.nan]), torch.tensor([5.0])], torch.tensor([math.inf])).load([(0, 1)])))
    assert Combination((0.0, 0.5))(block).tolist() == [2.5]
    assert Combination((0.0, 0.0))(block).tolist() == [0.0]


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=4))
def test_coefficients_from_the_base_sum_to_one(coefficients):
    made = from_base(coefficients)
    assert math.fsum([*made.coefficients, made.rest]) == pytest.approx(1, abs=1e-11)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("method", COMBINED)
def test_the_short_way_gives_the_bits_of_the_general_one(tmp_path, monkeypatch, method, dtype):
    """Tensors of several blocks; the general way by taking the short one away, and in memory."""
    row = METHODS[method]
    states = [{"w": numbers(3, 100_003, i, dtype), "b": numbers(1, 513, i, dtype)[0]} for i in range(1 + (row.models[1] or 3))]
    models = [write_raw(tmp_path / str(i), state) for i, state in enumerate(states)]
    options = {} if row.base == "no" else {"base": models[0]}
    options |= {"scale": 1.5} if method == "passthrough" else {}
    fuse(models[1:], tmp_path / "short", method, **options)
    monkeypatch.setattr(streamed, "stored_group", lambda *_: None)
    fuse(models[1:], tmp_path / "general", method, **options)
    short, general = (load_file(tmp_path / name / "model.safetensors") for name in ("short", "general"))
    base = states[0] if options.pop("base", None) else {}
    for name in short:
        values = fuse_in_memory(row, [state[name] for state in states[1:]], base=base.get(name), name=name, **options)
        assert torch.equal(short[name], general[name])
        assert torch.equal(short[name], narrow(values, dtype))
        assert short[name].float().std() > 0.3


@pytest.mark.parametrize(("dtype", "imported"), [(torch.bfloat16, False), (torch.float32, False), (torch.float16, True)])
def test_the_short_way_does_not_import_torch(tmp_path, dtype, imported):
    tensors = {"w": numbers(2, 50, 0, dtype), "positions": torch.arange(6)}
    models = [str(write_raw(tmp_path / name, tensors)) for name in "ab"]
    code = (
        "import sys; from fuseforget import fuse; fuse(sys.argv[1:3], sys.argv[3], 'slerp'); "
        "print('torch' in sys.modules)"
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code, *models, str(tmp_path / "out")], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(imported)
    assert torch.equal(load_file(tmp_path / "out/model.safetensors")["w"], tensors["w"])


@pytest.mark.parametrize(("where", "message"), [("a", "finite values in .*/a.*NaN"), ("base", "finite values in the base.*NaN")])
def test_a_late_value_that_is_not_finite_is_named(tmp_path, where, message):
    """In the last of several blocks, while others are being written."""
    models = {name: write_raw(tmp_path / name, {"w": numbers(1, 400_000, i)[0]}) for i, name in enumerate(("base", "a", "b"))}
    state = load_file(models[where] / "model.safetensors")
    state["w"][399_999] = math.nan
    save_file(state, models[where] / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=message):
        fuse([models["a"], models["b"]], tmp_path / "out", "task_arithmetic", [0.3, 0.3], base=models["base"])
    assert not (tmp_path / "out").exists()


def test_a_result_too_large_for_bfloat16_is_refused(tmp_path):
    huge = write_raw(tmp_path / "huge", {"w": torch.full((5,), 3e38, dtype=torch.bfloat16)})
    zero = write_raw(tmp_path / "zero", {"w": torch.zeros(5, dtype=torch.bfloat16)})
    with pytest.raises(InputError, match=r"finite values in the result.*infinity"):
        fuse([huge], tmp_path / "out", "task_arithmetic", [2], base=zero)
