"""Fusing: to the bit, in any sharding, whole or not at all."""

from __future__ import annotations

import json
import math
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.torch import load_file

import fuseforget.fuse  # noqa: F401  the module, by this name, must not hide the function
from conftest import random_tensors, write_raw
from fuseforget import fuse
from fuseforget.checkpoint import file_sha256, open_checkpoint
from fuseforget.errors import InputError, MismatchError, OutputError
from fuseforget.methods import METHODS, get_method
from fuseforget.methods.slerp import slerp, slerp_statistics

ENGINE = sys.modules["fuseforget.fuse"]


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.reshape(-1).view(torch.uint8).equal(b.reshape(-1).view(torch.uint8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_two_models_give_the_plain_float32_average_to_the_last_bit(raw, tmp_path, dtype):
    a, b = raw("a", 1, dtype), raw("b", 2, dtype)
    fuse([a, b], tmp_path / "out")
    left, right, fused = (load_file(p / "model.safetensors") for p in (a, b, tmp_path / "out"))
    for name, tensor in left.items():
        plain = ((tensor.float() + right[name].float()) / 2).to(dtype) if tensor.is_floating_point() else tensor
        assert same_bits(fused[name], plain), name


floats = st.floats(-(2.0**100), 2.0**100, width=32)


@settings(deadline=None)
@given(arrays(np.float32, (2, 17), elements=floats))
def test_the_float64_sum_rounds_like_a_float32_sum(values):
    a, b = torch.from_numpy(values[0]), torch.from_numpy(values[1])
    fused = get_method("average").function([a.double(), b.double()], [0.5, 0.5]).float()
    assert same_bits(fused, (a + b) / 2)


@settings(deadline=None)
@given(
    arrays(np.float32, 9, elements=floats),
    st.lists(st.floats(0.01, 1), min_size=1, max_size=7),
)
def test_equal_models_come_back_to_the_bit_for_any_weights(values, weights):
    normal = ENGINE.check_weights(weights, len(weights), normalize=True)
    tensor = torch.from_numpy(values)
    assert same_bits(get_method("average").function([tensor.double()] * len(weights), normal).float(), tensor)


@settings(deadline=None)
@given(arrays(np.float32, 9, elements=st.floats(-1e3, 1e3, width=32)), st.floats(0, 1))
def test_slerp_of_a_model_with_itself_is_that_model(values, t):
    tensor = torch.from_numpy(values).double()
    statistics = slerp_statistics([tensor, tensor])
    assert same_bits(slerp([tensor, tensor], [1 - t, t], statistics).float(), tensor.float())


@settings(deadline=None)
@given(arrays(np.float64, (2, 6), elements=st.floats(-10, 10).filter(lambda x: abs(x) > 1e-3)), st.floats(0, 1))
def test_slerp_agrees_with_a_rotation_in_the_plane_of_the_two(values, t):
    """Oracle: Gram-Schmidt in the plane, rotate by t times the angle, and interpolate the length along."""
    a, b = values
    unit_a, unit_b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    across = unit_b - (unit_b @ unit_a) * unit_a
    if np.linalg.norm(across) < 1e-4 or unit_a @ unit_b < -0.999:
        return
    omega = math.atan2(np.linalg.norm(across), unit_a @ unit_b)
    # In the plane's own basis (a, b), the rotated unit vector has these coefficients; lengths are not normalised.
    rotated = math.cos(t * omega) * unit_a + math.sin(t * omega) * across / np.linalg.norm(across)
    coefficients = np.linalg.lstsq(np.stack([unit_a, unit_b], axis=1), rotated, rcond=None)[0]
    expected = coefficients[0] * a + coefficients[1] * b
    tensors = [torch.from_numpy(a), torch.from_numpy(b)]
    found = slerp(tensors, [1 - t, t], slerp_statistics(tensors)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6 * np.abs(values).max())


def test_slerp_by_hand():
    """Halfway between (1, 0) and (0, 1) on the unit circle is (cos 45, sin 45)."""
    parts = [torch.tensor([1.0, 0.0]).double(), torch.tensor([0.0, 1.0]).double()]
    found = slerp(parts, [0.5, 0.5], slerp_statistics(parts))
    assert found.tolist() == pytest.approx([math.sqrt(0.5)] * 2)


@pytest.mark.parametrize("method", ["average", "slerp"])
def test_the_ends_are_the_models(raw, tmp_path, method):
    a, b = raw("a", 1), raw("b", 2)
    for weights, end in (([1, 0], a), ([0, 1], b)):
        out = tmp_path / f"{method}{weights}"
        fuse([a, b], out, method, weights)
        expected = load_file(end / "model.safetensors")
        assert all(torch.equal(t, expected[n]) for n, t in load_file(out / "model.safetensors").items())


@pytest.mark.parametrize("method", ["average", "slerp"])
def test_neither_shards_nor_parts_change_a_bit(raw, tmp_path, monkeypatch, method):
    a, b = raw("a", 1), raw("b", 2)
    fuse([a, b], tmp_path / "one", method, [0.3, 0.7])
    fuse([a, b], tmp_path / "many", method, [0.3, 0.7], shard_size="100B")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    whole, sharded = open_checkpoint(tmp_path / "one"), open_checkpoint(tmp_path / "many")
    assert all(same_bits(whole[name], sharded[name]) for name in whole)
    fuse([tmp_path / "many", tmp_path / "many"], tmp_path / "again")
    assert all(same_bits(whole[name], open_checkpoint(tmp_path / "again")[name]) for name in whole)
    if method == "average":  # elementwise: parts of three values give the same
        monkeypatch.setattr(ENGINE, "PART", 3)
        fuse([a, b], tmp_path / "parts", method, [0.3, 0.7])
        assert file_sha256(tmp_path / "parts/model.safetensors") == file_sha256(tmp_path / "one/model.safetensors")


@pytest.mark.parametrize(("given_dtypes", "option", "expected"), [
    ((torch.float32, torch.bfloat16), "auto", torch.float32),
    ((torch.float16, torch.bfloat16), "auto", torch.float32),
    ((torch.bfloat16, torch.bfloat16), "auto", torch.bfloat16),
    ((torch.float32, torch.float32), "bfloat16", torch.bfloat16),
])  # fmt: skip
def test_the_output_dtype(raw, tmp_path, given_dtypes, option, expected):
    models = [raw(str(i), i, dtype) for i, dtype in enumerate(given_dtypes)]
    fuse(models, tmp_path / "out", dtype=option)
    fused = load_file(tmp_path / "out/model.safetensors")
    assert {t.dtype for t in fused.values()} == {expected, torch.int64}
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == str(expected).removeprefix("torch.")


def test_the_result_loads_in_transformers_and_predicts_like_fusing_in_memory(bert, tmp_path):
    from transformers import AutoTokenizer, BertForSequenceClassification

    paths = [bert("a", seed=1), bert("b", seed=2), bert("c", seed=3)]
    fused = fuse(paths, tmp_path / "out", weights=[0.2, 0.3, 0.5])
    models = [BertForSequenceClassification.from_pretrained(p).eval() for p in (*paths, tmp_path / "out")]
    states = [m.state_dict() for m in models]
    expected = {n: sum(w * s[n].double() for w, s in zip([0.2, 0.3, 0.5], states, strict=False)).float() for n in states[0]}
    models[0].load_state_dict(expected)
    inputs = AutoTokenizer.from_pretrained(tmp_path / "out")(["the film is not dull"], return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(models[3](**inputs).logits, models[0](**inputs).logits)
    recorded = fused.manifest["models"]
    assert [m["weight"] for m in recorded] == [0.2, 0.3, 0.5]
    assert recorded[1]["sha256"]["model.safetensors"] == file_sha256(paths[1] / "model.safetensors")


@pytest.mark.parametrize(("weights", "message"), [
    ([0.5, 0.6], "a sum of 1.1"),
    ([float("nan"), 1], "finite"),
    ([float("inf"), 1], "finite"),
    ([-0.5, 1.5], "no negative weight"),
    ([1.0], "one for each of 2 models"),
    ([0, 0], "a sum of 0"),
])  # fmt: skip
def test_weights_that_are_not_convex_are_refused(raw, tmp_path, weights, message):
    with pytest.raises(InputError, match=message):
        fuse([raw("a", 1), raw("b", 2)], tmp_path / "out", weights=weights)
    assert not (tmp_path / "out").exists()


def test_weights_are_normalised_only_when_asked(raw, tmp_path):
    result = fuse([raw("a", 1), raw("b", 2)], tmp_path / "out", weights=[1, 3], normalize=True)
    assert [m["weight"] for m in result.manifest["models"]] == [0.25, 0.75]


def test_bad_choices_are_refused_before_anything_is_written(raw, tmp_path):
    a, b = raw("a", 1), raw("b", 2)
    cases = [
        ({"method": "averag"}, "Did you mean average"),
        ({"dtype": "int8"}, "auto, float32"),
        ({"shard_size": "5 parsecs"}, "a size such as 5GB"),
        ({"out": a}, "a directory that is an input"),
        ({"out": a, "overwrite": True}, "a directory that is an input"),
    ]
    for options, message in cases:
        with pytest.raises(InputError, match=message):
            fuse([a, b], **{"out": tmp_path / "out", **options})
    with pytest.raises(InputError, match="exactly 2"):
        fuse([a, b, a], tmp_path / "out", "slerp")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_mismatched_models_are_refused_with_every_difference(raw, tmp_path):
    other = {**random_tensors(1), "a.weight": torch.zeros(2, 2), "b.bias": torch.zeros(3)}
    with pytest.raises(MismatchError, match=r"(?s)a\.weight.*b\.bias"):
        fuse([raw("a"), raw("b", tensors=other)], tmp_path / "out")


def test_differing_integers_are_refused_and_nothing_is_left(raw, tmp_path):
    a, b = raw("a", 1), raw("b", tensors={**random_tensors(2), "positions": torch.arange(1, 7)})
    with pytest.raises(InputError, match="positions"):
        fuse([a, b], tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_an_existing_output_is_kept_unless_overwriting(raw, tmp_path):
    a, b, out = raw("a", 1), raw("b", 2), tmp_path / "out"
    fuse([a], out)
    before = file_sha256(out / "model.safetensors")
    with pytest.raises(InputError, match="--overwrite"):
        fuse([b], out)
    assert file_sha256(out / "model.safetensors") == before
    fuse([b], out, overwrite=True)
    assert file_sha256(out / "model.safetensors") != before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "out"]


@pytest.mark.parametrize("seen", [True, False], ids=["seen beforehand", "filled while writing"])
def test_a_full_disk_leaves_nothing_and_says_so(tmp_path, small_disk, monkeypatch, seen):
    big = write_raw(tmp_path / "a", {"w": torch.randn(200_000)})
    if not seen:
        monkeypatch.setattr(ENGINE.shutil, "disk_usage", lambda path: Free())
    with pytest.raises(OutputError, match="free disk" if seen else "full disk"):
        fuse([big, big], small_disk / "out")
    assert list(small_disk.iterdir()) == []


class Free:
    free = 10**12


def test_memory_does_not_grow_with_the_model(tmp_path):
    """A 600 MB tensor is fused in less anonymous memory than one model would take (a sparse file stands for it)."""
    from fuseforget.checkpoint.header import encode_header

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        with (tmp_path / name / "model.safetensors").open("wb") as stream:
            header = encode_header([("w", "BF16", (300_000_000,))])
            stream.write(header)
            stream.truncate(len(header) + 600_000_000)
    code = (
        "import sys, threading, time, fuseforget, torch\n"
        "def anonymous():\n"
        "    lines = open('/proc/self/status').read().splitlines()\n"
        "    return next(int(l.split()[1]) for l in lines if l.startswith('RssAnon')) // 1024\n"
        "before, peak = anonymous(), [0]\n"
        "watch = lambda count: peak.__setitem__(0, max(peak[0], anonymous()))\n"
        "fuseforget.fuse(sys.argv[1:3], sys.argv[3], progress=watch)\n"
        "print(peak[0] - before)\n"
    )
    args = [sys.executable, "-c", code, tmp_path / "a", tmp_path / "b", tmp_path / "out"]
    grown = int(subprocess.run(args, check=True, capture_output=True, text=True).stdout)
    assert 0 < grown < 300


def test_a_killed_fusion_leaves_no_plausible_output(tmp_path):
    model = write_raw(tmp_path / "a", {f"w{i}": torch.randn(500_000) for i in range(20)})
    out = tmp_path / "out"
    command = [sys.executable, "-m", "fuseforget", "fuse", str(model), str(model), "-o", str(out)]
    for number in (signal.SIGKILL, signal.SIGTERM):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while (
            not list(tmp_path.glob(".out.partial-*/model.safetensors")) and process.poll() is None and time.monotonic() < deadline
        ):
            time.sleep(0.002)
        process.send_signal(number)
        process.wait()
        assert not out.exists() or (out / "fuseforget.json").is_file()  # whole, had it been faster than the signal
        if number == signal.SIGTERM:
            assert process.returncode in (130, 0)
        shutil.rmtree(out, ignore_errors=True)
        for partial in tmp_path.glob(".out.partial-*"):
            assert number == signal.SIGKILL, "a terminated fusion cleans up"
            shutil.rmtree(partial)
    fuse([model, model], out)
    assert open_checkpoint(out)["w3"].equal(open_checkpoint(model)["w3"])


def test_the_table_of_methods_is_whole():
    for name, method in METHODS.items():
        assert method.name == name
        assert method.summary
        assert method.paper
        assert method.function.__doc__


def test_the_inputs_are_not_written_to(raw, tmp_path):
    a = raw("a", 1)
    mode = Path(a / "model.safetensors").stat().st_mtime_ns
    fuse([a, a], tmp_path / "out")
    assert Path(a / "model.safetensors").stat().st_mtime_ns == mode
