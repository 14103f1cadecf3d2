"""Fusing: to the bit, in any sharding, whole or not at all."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import blake3
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.torch import load_file, save_file

import fuseforget.fuse  # noqa: F401  the module, by this name, must not hide the function
from conftest import random_tensors, write_raw
from fuseforget import fuse
from fuseforget.checkpoint import file_sha256, open_checkpoint
from fuseforget.errors import InputError, MismatchError, OutputError
from fuseforget.fuse import make_recipe, memory_needed, plan_recipe, read_recipe
from fuseforget.methods import METHODS, fuse_in_memory, survey_in_memory
from fuseforget.methods import group as group_module
from fuseforget.methods.rounding import narrow
from patience import LONG

RUN = sys.modules["fuseforget.fuse.run"]


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


@pytest.mark.parametrize("method", ["average", "slerp"])
def test_the_ends_are_the_models(raw, tmp_path, method):
    a, b = raw("a", 1), raw("b", 2)
    for weights, end in (([1, 0], a), ([0, 1], b)):
        out = tmp_path / f"{method}{weights}"
        fuse([a, b], out, method, weights)
        expected = load_file(end / "model.safetensors")
        assert all(torch.equal(t, expected[n]) for n, t in load_file(out / "model.safetensors").items())


def inputs_for(method, raw, dtype=torch.float32):
    """Models, and what else a method needs, as checkpoints; parameters at which trimming trims."""
    row = METHODS[method]
    models = [raw(f"m{i}", i, dtype) for i in range(1, 1 + (row.models[1] or 3))]
    options = {} if row.base == "no" else {"base": raw("base", 0, dtype)}
    if row.statistics:
        shapes = {n: t.shape for n, t in random_tensors(0).items() if t.is_floating_point()}
        options["statistics"] = [raw(f"s{i}", tensors=statistics_of(method, shapes, i)) for i in range(len(models))]
    options |= {p.name: 0.6 for p in row.parameters if p.name in ("density", "select_topk")}
    return models, options


def statistics_of(method, shapes, seed):
    generator = torch.Generator().manual_seed(seed)
    if METHODS[method].statistics == "a diagonal Fisher":
        return {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}
    inputs = {name: torch.randn(20, shape[1], generator=generator) for name, shape in shapes.items() if len(shape) == 2}
    return {name: x.T @ x for name, x in inputs.items()}


def survey_of(method, states, base, options):
    """What a method that surveys all tensors before it fuses the first finds in them."""
    if not METHODS[method].surveys:
        return None
    names = [name for name, tensor in states[0].items() if tensor.is_floating_point() and tensor.numel()]
    statistics = options.get("statistics", ())
    found = [
        survey_in_memory(
            METHODS[method], [state[n] for state in states], base=base[n], name=n,
            **{**options, "statistics": [one[n] for one in statistics if n in one]},
        )
        for n in names
    ]  # fmt: skip
    return tuple(map(math.fsum, zip(*found, strict=True)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", METHODS)
def test_a_file_gets_what_fusing_in_memory_gives(raw, tmp_path, method, dtype):
    models, options = inputs_for(method, raw, dtype)
    fuse(models, tmp_path / "out", method, **options)
    found = load_file(tmp_path / "out/model.safetensors")
    states, base = [load_file(m / "model.safetensors") for m in models], options.pop("base", None)
    base = {} if base is None else load_file(base / "model.safetensors")
    statistics = [load_file(s / "model.safetensors") for s in options.pop("statistics", [])]
    survey = survey_of(method, states, base, {**options, "statistics": statistics})
    for name, tensor in states[0].items():
        expected = tensor
        if tensor.is_floating_point():
            given = [s[name] for s in statistics if name in s]
            row = METHODS["average" if statistics and not given else method]  # RegMean has statistics of matrices alone
            parts = [state[name] for state in states]
            values = fuse_in_memory(row, parts, base=base.get(name), statistics=given, name=name, survey=survey, **options)
            expected = narrow(values, tensor.dtype)
        assert same_bits(found[name], expected), name


@pytest.mark.parametrize("method", METHODS)
def test_neither_shards_nor_blocks_change_a_bit(raw, tmp_path, monkeypatch, method):
    models, options = inputs_for(method, raw)
    fuse(models, tmp_path / "one", method, seed=3, **options)
    monkeypatch.setattr(group_module, "BLOCK", 4)
    monkeypatch.setattr(group_module, "SPAN", 2)
    fuse(models, tmp_path / "many", method, seed=3, shard_size="100B", **options)
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    whole, sharded = open_checkpoint(tmp_path / "one"), open_checkpoint(tmp_path / "many")
    assert all(same_bits(whole[name], sharded[name]) for name in whole)
    fuse([tmp_path / "many"], tmp_path / "again")
    assert all(same_bits(whole[name], open_checkpoint(tmp_path / "again")[name]) for name in whole)


@settings(deadline=None)
@given(arrays(np.float64, 20, elements=st.floats(width=64)), st.sampled_from([torch.float16, torch.bfloat16]))
def test_results_are_rounded_once(values, dtype):
    """Oracle: among the neighbours of torch's result (which rounds twice) the nearest, and of two as near the even one."""
    found = narrow(torch.from_numpy(values), dtype)
    for value, got in zip(values, found, strict=True):
        if not math.isfinite(value):
            assert math.isnan(value) == math.isnan(float(got))
            assert math.isnan(value) or float(got) == value
            continue
        near = torch.tensor(value).to(dtype)
        around = [near, torch.nextafter(near, near.new_tensor(math.inf)), torch.nextafter(near, near.new_tensor(-math.inf))]
        finite = [c for c in around if math.isfinite(float(c))]
        if not math.isfinite(float(got)):
            largest = torch.finfo(dtype).max
            assert abs(value) >= largest * (1 + torch.finfo(dtype).eps / 4)
            continue
        distance = [abs(Fraction(float(c)) - Fraction(value)) for c in finite]
        best = [c for c, d in zip(finite, distance, strict=True) if d == min(distance)]
        even = [c for c in best if int(c.view(torch.int16)) % 2 == 0]
        assert float(got) == float((even or best)[0])


def test_results_are_rounded_once_by_hand():
    """1 + 2^-8 + 2^-40 lies above the middle of two bfloat16 numbers, 1 + 2^-8 in float32 lies on it."""
    value = torch.tensor([1 + 2**-8 + 2**-40], dtype=torch.float64)
    assert float(value.to(torch.bfloat16)) == 1  # twice
    assert float(narrow(value, torch.bfloat16)) == 1 + 2**-7


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
    assert fused.manifest["weights"] == (0.2, 0.3, 0.5)
    recorded = fused.manifest["inputs"]
    content = (paths[1] / "model.safetensors").read_bytes()
    assert recorded[1]["blake3"]["model.safetensors"] == blake3.blake3(content).hexdigest()


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
    assert result.manifest["weights"] == (0.25, 0.75)


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
    with pytest.raises(InputError, match="expected 2 models, found 3"):
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
        monkeypatch.setattr(RUN.shutil, "disk_usage", lambda path: Free())
    with pytest.raises(OutputError, match="free disk" if seen else "full disk"):
        fuse([big, big], small_disk / "out")
    assert list(small_disk.iterdir()) == []


class Free:
    free = 10**12


@pytest.mark.parametrize("method", ["average", "karcher", "ties", "della", "sce", "arcee_fusion"])
def test_memory_stays_below_what_is_stated_and_a_gigabyte(tmp_path, method):
    """Tensors of 600 MB are fused in less anonymous memory than one model would take (sparse files stand for them)."""
    from fuseforget.checkpoint.header import encode_header

    # Methods on whole rows hold a vector whole, as one row.
    shapes = [("vector", "BF16", (200_000 if METHODS[method].rows else 40_000_000,)), ("matrix", "BF16", (65_000, 4096))]
    for name in ("a", "b", "base"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        with (tmp_path / name / "model.safetensors").open("wb") as stream:
            header = encode_header(shapes)
            stream.write(header)
            stream.truncate(len(header) + sum(2 * math.prod(shape) for _, _, shape in shapes))
    code = (
        "import sys, threading, torch\n"
        "from pathlib import Path\n"
        "from fuseforget.fuse import *\n"
        "def anonymous():\n"
        "    lines = open('/proc/self/status').read().splitlines()\n"
        "    return next(int(l.split()[1]) for l in lines if l.startswith('RssAnon')) * 1024\n"
        "a, b, base, out, method = sys.argv[1:]\n"
        "models = [a] if method == 'arcee_fusion' else [a, b]\n"
        "base = None if method in ('average', 'karcher') else base\n"
        "plan = plan_recipe(make_recipe(models, method, None, {}, base=base))\n"
        "stated, peak, done = memory_needed(plan), [0], threading.Event()\n"
        "def watch():\n"
        "    while not done.wait(.005): peak[0] = max(peak[0], anonymous())\n"
        "thread = threading.Thread(target=watch); thread.start()\n"
        "try: execute(plan, Path(out), shard_size=10**10)\n"
        "finally: done.set(); thread.join()\n"
        "print(peak[0], stated)\n"
    )
    args = [sys.executable, "-c", code, *(tmp_path / n for n in ("a", "b", "base", "out")), method]
    done = subprocess.run(args, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    peak, stated = map(int, done.stdout.split())
    assert 10**7 < peak < stated < 10**9


def test_a_killed_fusion_leaves_no_plausible_output(tmp_path):
    model = write_raw(tmp_path / "a", {f"w{i}": torch.randn(500_000) for i in range(20)})
    out = tmp_path / "out"
    command = [sys.executable, "-m", "fuseforget", "fuse", str(model), str(model), "-o", str(out)]
    for number in (signal.SIGKILL, signal.SIGTERM):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + LONG
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
        assert method.arguments({}, method.models[0]).keys() == {p.argument for p in method.parameters}


def test_the_inputs_are_not_written_to(raw, tmp_path):
    a = raw("a", 1)
    mode = Path(a / "model.safetensors").stat().st_mtime_ns
    fuse([a, a], tmp_path / "out")
    assert Path(a / "model.safetensors").stat().st_mtime_ns == mode


@pytest.mark.parametrize(("method", "options", "message"), [
    ("ties", {}, "--base"),
    ("average", {"base": True}, "no base"),
    ("ties", {"base": True, "densty": 0.5}, "Did you mean density"),
    ("ties", {"base": True, "density": 1.5}, "a number from 0 to 1"),
    ("ties", {"base": True, "density": "much"}, "a number from 0 to 1"),
    ("ties", {"base": True, "density": float("nan")}, "a number from 0 to 1"),
    ("ties", {"base": True, "density:3": 0.5}, "from 1 to 2"),
    ("ties", {"base": True, "lambda:1": 0.5}, "one value for all models"),
    ("ties", {"base": True, "density": [{"filter": "nowhere", "value": 0.5}]}, "a pattern that fits tensor"),
    ("ties", {"base": True, "density": []}, "an empty list"),
    ("ties", {"base": True, "density": {"vlue": 0.5}}, "filter and value"),
    ("della", {"base": True, "density": 0.1, "epsilon": 0.2}, "inside"),
    ("slerp", {"models": 3}, "2 models"),
    ("model_stock", {"base": True, "models": 1}, "2 or more"),
    ("nearswap", {"base": True}, "1 models"),
    ("sce", {"base": True, "weights": [0.5, 0.5]}, "no weights"),
    ("ties", {"base": True, "weights": [0.5, "x"]}, "numbers"),
    ("task_arithmetic", {"base": True, "weights": [1, -1], "normalize": True}, "a sum other than 0"),
    ("fisher", {}, "a statistics checkpoint for each model"),
    ("average", {"seed": -1}, "seed"),
    ("average", {"tokenizer": "mine"}, "tokenizer"),
    ("average", {"device": "abacus"}, "device"),
])  # fmt: skip
def test_what_a_method_cannot_use_is_refused_before_anything_is_written(raw, tmp_path, method, options, message):
    models = [raw(f"m{i}", i) for i in range(options.pop("models", 2))]
    if options.pop("base", False):
        options["base"] = raw("base", 9)
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(InputError, match=message):
        fuse(models, tmp_path / "out", method, **options)
    assert sorted(p.name for p in tmp_path.iterdir()) == before


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_named(raw, tmp_path, method, value):
    models, options = inputs_for(method, raw)
    spoiled = random_tensors(1)
    spoiled["b.weight"][1, 2, 1] = value
    models[0] = raw("spoiled", tensors=spoiled)
    with pytest.raises(InputError, match=r"(?s)b\.weight.*(NaN|infinity).*--allow-nonfinite") as error:
        fuse(models, tmp_path / "out", method, **options)
    assert str(models[0]) in str(error.value)
    assert not (tmp_path / "out").exists()


def test_what_is_not_finite_is_fused_when_asked(raw, tmp_path):
    spoiled = random_tensors(1)
    spoiled["b.bias"][3] = float("nan")
    a, b = raw("a", tensors=spoiled), raw("b", 2)
    fuse([a, b], tmp_path / "out", allow_nonfinite=True)
    assert open_checkpoint(tmp_path / "out")["b.bias"].isnan().tolist() == [i == 3 for i in range(11)]


def test_large_but_finite_values_are_fused(raw, tmp_path):
    """Values whose sum overflows, in float64 and in float32."""
    tensors = {"w": torch.full((4,), 1e308, dtype=torch.float64), "v": torch.full((4,), 3e38)}
    a = raw("a", tensors=tensors)
    fuse([a, a], tmp_path / "out")
    assert same_bits(open_checkpoint(tmp_path / "out")["w"], tensors["w"])
    assert same_bits(open_checkpoint(tmp_path / "out")["v"], tensors["v"])


def test_a_result_too_large_for_its_type_is_refused(raw, tmp_path):
    huge = {"w": torch.full((4,), 1e5)}
    with pytest.raises(InputError, match="the result"):
        fuse([raw("a", tensors=huge)], tmp_path / "out", dtype="float16")


def test_a_model_that_changes_while_it_is_read_is_refused(raw, tmp_path):
    def change(how):
        a, b = raw(f"a-{how.__name__}", 1), raw(f"b-{how.__name__}", 2)
        with pytest.raises(InputError, match="it changed"):
            fuse([a, b], tmp_path / "out", progress=lambda count: how(b / "model.safetensors"))
        assert not (tmp_path / "out").exists()

    def touched(file):
        os.utime(file, ns=(1, 1))

    def truncated(file):
        with file.open("r+b") as stream:
            stream.truncate(100)

    def replaced(file):
        content = file.read_bytes()
        file.unlink()
        file.write_bytes(content)

    for how in (touched, truncated, replaced):
        change(how)


def test_weights_and_parameters_follow_depth_and_names(tmp_path):
    def layers(value):
        return {f"encoder.layer.{i}.{part}.weight": torch.full((2, 2), value) for i in range(3) for part in ("mlp", "attention")}

    a = write_raw(tmp_path / "a", {**layers(0.0), "embedding.weight": torch.zeros(2, 2)})
    b = write_raw(tmp_path / "b", {**layers(1.0), "embedding.weight": torch.ones(2, 2)})
    shares = [[1, 0], [0, 1]]  # from the first layer to the last
    fuse([a, b], tmp_path / "gradient", weights=shares)
    out = open_checkpoint(tmp_path / "gradient")
    assert [float(out[f"encoder.layer.{i}.mlp.weight"][0, 0]) for i in range(3)] == [0, 0.5, 1]
    assert float(out["embedding.weight"][0, 0]) == 0
    filtered = [{"filter": "mlp", "value": [0, 1]}, {"filter": "encoder.layer.[12].*", "value": 0.25}, {"value": 0}]
    fuse([a, b], tmp_path / "filter", "task_arithmetic", [0, filtered], base=a)
    out = open_checkpoint(tmp_path / "filter")
    assert [float(out[f"encoder.layer.{i}.mlp.weight"][0, 0]) for i in range(3)] == [0, 0.5, 1]
    assert [float(out[f"encoder.layer.{i}.attention.weight"][0, 0]) for i in range(3)] == [0, 0.25, 0.25]
    fuse(
        [a, b],
        tmp_path / "lambda",
        "task_arithmetic",
        [0, 1],
        base=a,
        **{"lambda": [{"filter": "mlp", "value": 3}, {"value": 2}]},
    )
    out = open_checkpoint(tmp_path / "lambda")
    assert float(out["encoder.layer.0.mlp.weight"][0, 0]) == 3
    assert float(out["encoder.layer.0.attention.weight"][0, 0]) == 2


def test_each_model_may_have_parameters_of_its_own(raw, tmp_path):
    models, options = inputs_for("ties", raw)
    fuse(models, tmp_path / "each", "ties", base=options["base"], **{"density": 0.5, "density:2": 0.9})
    fuse(models, tmp_path / "same", "ties", base=options["base"], density=0.5)
    base, states = (load_file(p / "model.safetensors") for p in (options["base"], tmp_path / "each"))
    weights = [load_file(m / "model.safetensors")["a.weight"] for m in models]
    expected = fuse_in_memory(METHODS["ties"], weights, base=base["a.weight"], name="a.weight", density=[0.5, 0.9, 0.5])
    assert same_bits(states["a.weight"], expected.float())
    assert not same_bits(load_file(tmp_path / "same/model.safetensors")["a.weight"], expected.float())


def test_what_the_base_lacks_is_averaged_and_said(bert, tmp_path):
    """A base saved without its head, whose names lack the first part, as AutoModel saves it."""
    base, a, b = bert("base", seed=0), bert("a", seed=1), bert("b", seed=2)
    tensors = load_file(base / "model.safetensors")
    body = {n.removeprefix("bert."): t for n, t in tensors.items() if n.startswith("bert.")}
    save_file(body, base / "model.safetensors")
    fused = fuse([a, b], tmp_path / "out", "task_arithmetic", [1, 1], base=base)
    assert any("classifier.weight" in note and "averaged" in note for note in fused.manifest["notes"])
    out, first, second = (load_file(p / "model.safetensors") for p in (tmp_path / "out", a, b))
    name = "bert.encoder.layer.1.output.dense.weight"
    exact = first[name].double() + second[name].double() - tensors[name].double()
    assert same_bits(out[name], exact.float())
    assert torch.equal(out["classifier.weight"], (first["classifier.weight"] + second["classifier.weight"]) / 2)


def test_a_base_without_the_layers_is_refused(bert, raw, tmp_path):
    with pytest.raises(InputError, match=r"the layers of the models.*no bert\.encoder\.layer"):
        fuse([bert("a"), bert("b", seed=1)], tmp_path / "out", "ties", base=raw("other"))


@pytest.mark.parametrize("method", ["average", "dare_ties", "della"])
def test_a_manifest_makes_the_output_again(raw, tmp_path, method):
    models, options = inputs_for(method, raw)
    options |= {"weights": [0.2, [0.1, 0.5], 0.7]} if method != "average" else {"weights": [2, 1, 1], "normalize": True}
    first = fuse(models, tmp_path / "one", method, seed=5, dtype="bfloat16", **options)
    recipe = read_recipe(tmp_path / "one/fuseforget.json")
    again = RUN.execute(plan_recipe(recipe), tmp_path / "two", shard_size=10**9)
    assert file_sha256(tmp_path / "one/model.safetensors") == file_sha256(tmp_path / "two/model.safetensors")
    assert {k: v for k, v in first.manifest.items() if k != "created"} == {
        k: v for k, v in again.manifest.items() if k != "created"
    }
    changed = random_tensors(77)
    save_file(changed, models[1] / "model.safetensors")
    with pytest.raises(InputError, match=r"another content of model\.safetensors"):
        RUN.execute(plan_recipe(recipe), tmp_path / "three", shard_size=10**9)
    assert not (tmp_path / "three").exists()


def test_seeds_repeat_and_differ(raw, tmp_path):
    models, options = inputs_for("dare_linear", raw)
    for name, seed in (("one", 1), ("again", 1), ("two", 2)):
        fuse(models, tmp_path / name, "dare_linear", seed=seed, **options)
    one, again, two = (file_sha256(tmp_path / n / "model.safetensors") for n in ("one", "again", "two"))
    assert one == again != two


def test_the_plan_says_what_it_needs(raw):
    models, options = inputs_for("ties", raw)
    plan = plan_recipe(make_recipe(models, "ties", None, {}, base=str(options["base"])))
    values = sum(t.numel() for t in random_tensors(0).values() if t.is_floating_point())
    assert plan.bytes_to_read == 4 * values * 4 + 3 * 6 * 8  # three models and the base; whole numbers of the models
    assert plan.bytes_to_write == values * 4 + 6 * 8
    assert memory_needed(plan) < 3 * 10**9


def test_an_error_of_the_disk_while_flushing_is_not_lost(raw, tmp_path, monkeypatch):
    """The system reports a failed write-back once: to whoever syncs first."""
    from fuseforget.checkpoint import writer

    def fail(descriptor):
        failed.set()
        raise OSError(5, "Input/output error")

    failed = threading.Event()
    a = raw("a", 1)
    monkeypatch.setattr(writer, "FLUSH_EVERY", 0.001)
    monkeypatch.setattr(writer.os, "fsync", fail)
    with pytest.raises(OutputError, match="Input/output error"):
        fuse([a, a], tmp_path / "out", progress=lambda count: failed.wait(10))
    assert not (tmp_path / "out").exists()
