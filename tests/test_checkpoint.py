"""Opening and comparing checkpoints."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from conftest import make_bert, random_tensors
from fuseforget import check
from fuseforget.checkpoint import open_checkpoint
from fuseforget.checkpoint.header import encode_header, read_header
from fuseforget.errors import InputError


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_tensors_are_those_that_the_reference_reader_gives(raw, dtype):
    path = raw("m", dtype=dtype)
    expected = load_file(path / "model.safetensors")
    opened = open_checkpoint(path)
    assert set(opened) == set(expected)
    for name, tensor in expected.items():
        assert opened[name].dtype == tensor.dtype
        assert opened[name].shape == tensor.shape
        assert opened[name].reshape(-1).view(torch.uint8).equal(tensor.reshape(-1).view(torch.uint8))


def test_a_view_can_be_written_to_without_touching_the_file(raw):
    path = raw("m")
    before = (path / "model.safetensors").read_bytes()
    open_checkpoint(path)["a.weight"].zero_()
    assert (path / "model.safetensors").read_bytes() == before


def test_unaligned_tensors_are_read(tmp_path):
    (tmp_path / "m").mkdir()
    header = encode_header([("flag", "BOOL", (1,)), ("x", "F32", (2,))])
    (tmp_path / "m/model.safetensors").write_bytes(header + b"\1" + struct.pack("<2f", 1.5, -2.0))
    (tmp_path / "m/config.json").write_text("{}")
    assert open_checkpoint(tmp_path / "m")["x"].tolist() == [1.5, -2.0]


def test_shards_are_one_mapping(tmp_path):
    tensors = random_tensors(0)
    whole = tmp_path / "m"
    whole.mkdir()
    save_file({"a.weight": tensors["a.weight"]}, whole / "model-00001-of-00002.safetensors")
    save_file({"b.bias": tensors["b.bias"]}, whole / "model-00002-of-00002.safetensors")
    weight_map = {"a.weight": "model-00001-of-00002.safetensors", "b.bias": "model-00002-of-00002.safetensors"}
    (whole / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (whole / "config.json").write_text("{}")
    assert open_checkpoint(whole)["b.bias"].equal(tensors["b.bias"])
    (whole / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(InputError, match=r"model-00002-of-00002\.safetensors missing"):
        open_checkpoint(whole)


def corrupt(header: object, data: bytes = b"") -> bytes:
    raw_header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw_header)) + raw_header + data


ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"abc", "at least 8 bytes"),
        (struct.pack("<Q", 10**9) + b"{}", "header of 1000000000 bytes"),
        (corrupt(b"not json"), "a header in JSON"),
        (corrupt([1]), "a JSON object as header"),
        (corrupt({"x": {"dtype": "F32"}}), "dtype, shape and data_offsets"),
        (corrupt({"x": {**ONE, "dtype": "F31"}}, b"1234"), "a known dtype"),
        (corrupt({"x": {**ONE, "shape": [-1]}}, b"1234"), "whole numbers"),
        (corrupt({"x": {**ONE, "shape": [2]}}, b"1234"), "8 bytes for tensor 'x'"),
        (corrupt({"x": ONE}, b"12"), "truncated"),
        (corrupt({"x": ONE}, b"123456"), "has a tail"),
        (corrupt({"x": {**ONE, "data_offsets": [4, 8]}}, b"12345678"), "at data byte 0"),
        (corrupt(b'{"x":1,"x":2}'), "a name stands twice"),
    ],
)
def test_a_damaged_file_is_refused_with_its_name(tmp_path, content, message):
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read_header(file)
    assert str(file) in str(error.value)


@settings(max_examples=300, deadline=None)
@given(st.binary(min_size=1, max_size=6), st.integers(0, 200))
def test_whatever_byte_is_damaged_the_header_reader_is_as_strict_as_the_reference(tmp_path_factory, noise, where):
    """Where the reference reader refuses, this one does; where this one accepts, both see the same tensors."""
    file = tmp_path_factory.mktemp("fuzz") / "model.safetensors"
    save_file({"x": torch.ones(2, 3), "y": torch.zeros(4, dtype=torch.int64)}, file)
    content = bytearray(file.read_bytes())
    where %= len(content)
    content[where : where + len(noise)] = noise
    file.write_bytes(bytes(content))
    try:
        infos = read_header(file)
    except InputError:
        return
    try:
        with safe_open(file, "pt") as reference:
            assert set(reference.keys()) == set(infos)
            assert all(tuple(reference.get_slice(n).get_shape()) == i.shape for n, i in infos.items())
    except SafetensorError as error:
        # The reference also reads the free-form metadata, which this reader skips.
        assert "metadata" in str(error).lower() or "InvalidHeaderDeserialization" in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("source", "message"),
    [("./absent", "nothing at that path"), ("no/such-model", "the hub answered"), ("/x/y/z", "nothing at that path")],
)
def test_what_is_not_there_is_said(source, message):
    with pytest.raises(InputError, match=message):
        open_checkpoint(source)


def test_a_directory_that_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "m").mkdir()
    with pytest.raises(InputError, match=r"no config\.json"):
        open_checkpoint(tmp_path / "m")
    (tmp_path / "m/config.json").write_text("{")
    with pytest.raises(InputError, match="unreadable JSON"):
        open_checkpoint(tmp_path / "m")


def test_pickled_weights_are_refused_and_the_command_given_converts_them(tmp_path):
    safe = make_bert(tmp_path / "m")
    torch.save(load_file(safe / "model.safetensors"), safe / "pytorch_model.bin")
    (safe / "model.safetensors").unlink()
    with pytest.raises(InputError, match="can run code when they are opened") as error:
        open_checkpoint(safe)
    code = str(error.value).split('python -c "')[1].rstrip('"')
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert "classifier.weight" in open_checkpoint(f"{safe}-safetensors")


def test_equal_checkpoints_do_not_differ(bert):
    assert check([bert("a", seed=0), bert("b", seed=1)]) == []


def test_all_differences_come_at_once(raw):
    tensors = random_tensors(0)
    other = dict(tensors)
    other["a.weight"] = torch.zeros(7, 6)
    other["b.bias"] = torch.zeros(11, dtype=torch.int64)
    other["new"] = other.pop("b.weight")
    a = raw("a", tensors=tensors, id2label={"0": "neg", "1": "pos"}, num_attention_heads=2, dropout=0.1)
    b = raw("b", tensors=other, id2label={"0": "pos", "1": "neg"}, num_attention_heads=4, dropout=0.2, model_type="roberta")
    found = {(d.kind, d.name, d.blocks) for d in check([a, b])}
    assert found == {
        ("architecture", "model_type", True),
        ("config", "num_attention_heads", True),
        ("config", "dropout", False),
        ("label order", "id2label", True),
        ("shape", "a.weight", True),
        ("dtype", "b.bias", True),
        ("missing", "b.weight", True),
        ("extra", "new", True),
    }


def test_another_vocabulary_is_a_difference(bert):
    a, b = bert("a"), bert("b")
    text = (b / "tokenizer.json").read_text()
    (b / "tokenizer.json").write_text(text.replace('"good"', '"fine"'))
    assert [d.kind for d in check([a, b])] == ["tokenizer"]


def test_merges_belong_to_the_vocabulary(bert):
    a, b = bert("a"), bert("b")
    for path, merges in ((a, "g o\n"), (b, "o g\n")):
        (path / "tokenizer.json").unlink()
        (path / "vocab.json").write_text('{"g": 0, "o": 1, "go": 2, "og": 3}')
        (path / "merges.txt").write_text(merges)
    assert [d.kind for d in check([a, b])] == ["tokenizer"]
    (b / "merges.txt").write_text("g o\n")
    assert check([a, b]) == []


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"model": 3}', '{"model": {"vocab": [3]}}'])
def test_a_damaged_tokenizer_is_named(bert, content):
    a, b = bert("a"), bert("b")
    (b / "tokenizer.json").write_text(content)
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        check([a, b])


def test_class_numbers_that_are_none_are_refused(raw):
    with pytest.raises(InputError, match="class numbers as keys"):
        check([raw("a", id2label={"neg": 0}), raw("b", id2label={"0": "neg"})])


def test_a_tied_tensor_stored_twice_does_not_differ(raw):
    tensors = {"embed.weight": torch.randn(4, 3)}
    once = raw("once", tensors=tensors)
    twice = raw("twice", tensors={**tensors, "head.weight": tensors["embed.weight"].clone()})
    untied = raw("untied", tensors={**tensors, "head.weight": torch.randn(4, 3)})
    assert check([once, twice]) == check([twice, once]) == []
    assert [d.kind for d in check([once, untied])] == ["extra"]


def test_a_base_without_the_head_does_not_block(bert, tmp_path):
    base = bert("base")
    tensors = load_file(base / "model.safetensors")
    save_file({n: t for n, t in tensors.items() if not n.startswith("classifier")}, base / "model.safetensors")
    assert not any(d.blocks for d in check([bert("a"), bert("b")], base))


def test_a_base_without_the_tokens_that_fine_tuning_added_does_not_block(raw):
    base = raw("base", tensors={"embed.weight": torch.randn(5, 3), "dense.weight": torch.randn(5, 3)}, vocab_size=5)
    grown = raw("grown", tensors={"embed.weight": torch.randn(7, 3), "dense.weight": torch.randn(5, 3)}, vocab_size=7)
    assert {(d.name, d.blocks) for d in check([grown], base)} == {("embed.weight", False), ("vocab_size", False)}
    other = raw("other", tensors={"embed.weight": torch.randn(5, 4), "dense.weight": torch.randn(5, 3)}, vocab_size=5)
    assert ("embed.weight", True) in {(d.name, d.blocks) for d in check([grown], other)}


def test_where_both_layouts_stand_the_one_that_transformers_loads_is_read(tmp_path):
    from transformers import BertForSequenceClassification

    path = make_bert(tmp_path / "m", seed=1)
    make_bert(tmp_path / "other", seed=2)
    shard = "model-00001-of-00001.safetensors"
    (tmp_path / "other/model.safetensors").rename(path / shard)
    weight_map = dict.fromkeys(open_checkpoint(path), shard)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    loaded = BertForSequenceClassification.from_pretrained(path).classifier.weight
    assert open_checkpoint(path)["classifier.weight"].equal(loaded)


def test_quantised_weights_are_refused(raw):
    with pytest.raises(InputError, match="packed codes cannot be fused"):
        open_checkpoint(raw("m", quantization_config={"quant_method": "gptq"}))


def test_a_path_object_is_never_taken_for_a_hub_id(tmp_path):
    with pytest.raises(InputError, match="nothing at that path"):
        open_checkpoint(Path("gone"))


@pytest.mark.parametrize("shard", [3, None, ["model.safetensors"], {}])
def test_an_index_that_names_no_file_is_said(raw, shard):
    path = raw("m")
    names = load_file(path / "model.safetensors")
    (path / "model.safetensors").rename(path / "model-00001-of-00001.safetensors")
    index = {"weight_map": {**dict.fromkeys(names, "model-00001-of-00001.safetensors"), "a.weight": shard}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="a weight_map of tensor names to files"):
        open_checkpoint(path)


@pytest.mark.parametrize("dtype", [[], {}, None, 3])
def test_a_dtype_that_is_no_name_is_said(tmp_path, dtype):
    header = json.dumps({"x": {"dtype": dtype, "shape": [1], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(InputError, match="a known dtype for tensor 'x'"):
        read_header(tmp_path / "x.safetensors")
