"""Weights that are cast once for all batches: not a bit of a prediction changes, nor does the model."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from conftest import WORDS, make_bert
from fuseforget.models import encode_batches, load_classifier, precast, predict, running


@pytest.fixture(autouse=True)
def bfloat16(monkeypatch):
    """As on a processor that multiplies it."""
    for module in (running, precast):
        monkeypatch.setattr(module, "compute_dtype", lambda: torch.bfloat16)


def weights_of(model):
    return dict(model.named_parameters(remove_duplicate=False))


def test_it_changes_no_bit_of_a_prediction_nor_the_model(tmp_path, monkeypatch):
    classifier, rng = load_classifier(make_bert(tmp_path / "m")), np.random.default_rng(3)
    texts = [" ".join(rng.choice(WORDS, size=rng.integers(1, 13))) for _ in range(300)]
    model, batches = classifier.model, encode_batches(classifier, texts, token_budget=64)
    before = {name: (weight, weight.detach().clone()) for name, weight in weights_of(model).items()}
    cast, exact = predict(model, batches), predict(model, batches, exact=True)
    assert all(weight is before[name][0] and torch.equal(weight, before[name][1]) for name, weight in weights_of(model).items())
    monkeypatch.setattr("fuseforget.models.prediction.precast", lambda model, *, exact: contextlib.nullcontext())
    assert np.array_equal(predict(model, batches), cast)
    assert np.array_equal(predict(model, batches, exact=True), exact)
    assert not np.array_equal(exact, cast), "bfloat16 was computed in"


def test_weights_of_linear_layers_alone_are_cast(tmp_path):
    model = load_classifier(make_bert(tmp_path / "m")).model
    with precast.precast(model):
        found = {name: weight.dtype for name, weight in weights_of(model).items()}
    assert {found[name] for name in found if "query" in name or "dense" in name} == {torch.bfloat16}
    assert {found[name] for name in found if "embeddings" in name or "LayerNorm" in name} == {torch.float32}
    with precast.precast(model, exact=True):
        assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_a_head_that_is_also_the_table_of_tokens_is_not_cast_and_an_error_leaves_nothing_cast():
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=16, n_head=2, n_positions=8, vocab_size=20))
    before = weights_of(model)
    with contextlib.suppress(RuntimeError), precast.precast(model):
        found = weights_of(model)
        raise RuntimeError("out of memory")
    assert found["lm_head.weight"] is found["transformer.wte.weight"] is before["lm_head.weight"], "tied"
    assert found["lm_head.weight"].dtype == torch.float32
    assert found["transformer.h.0.attn.c_attn.weight"].dtype == torch.bfloat16
    assert all(weight is before[name] for name, weight in weights_of(model).items())


@pytest.mark.parametrize(("flags", "dtype"), [
    ({"avx512f"}, torch.float32),
    ({"avx512_bf16", "avx512_fp16", "amx_bf16"}, torch.bfloat16),
    ({"avx512_bf16", "avx512_fp16"}, torch.float32),  # AMX, hidden by a virtual machine
    ({"avx512_bf16"}, torch.bfloat16),  # an EPYC
    ({"asimd", "bf16"}, torch.bfloat16),  # ARM
    (set(), torch.float32),
])  # fmt: skip
def test_a_processor_computes_in_what_it_is_faster_in(flags, dtype, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(running, "_cpu_flags", lambda: flags)
    assert running.compute_dtype() == dtype
