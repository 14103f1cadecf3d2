"""Weights that are cast once for all batches: not a bit of a prediction changes, nor does the model."""

from __future__ import annotations

import contextlib
import sys

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from conftest import WORDS, make_bert
from fuseforget.models import encode_batches, features_and_logits, load_classifier, precast, predict, running
from fuseforget.models.hidden_states import mean_states


@pytest.fixture(autouse=True)
def bfloat16(monkeypatch):
    """As on a processor that multiplies it."""
    for module in (running, precast):
        monkeypatch.setattr(module, "compute_dtype", lambda: torch.bfloat16)


def weights_of(model):
    return dict(model.named_parameters(remove_duplicate=False))


def logits(classifier, batches, texts, *, exact):
    return [predict(classifier.model, batches, exact=exact)]


def pooled(classifier, batches, texts, *, exact):
    return features_and_logits(classifier, batches, exact=exact)


def hidden(classifier, batches, texts, *, exact):
    return [mean_states(classifier, texts, exact=exact)]


@pytest.mark.parametrize(("ask", "room"), [(logits, "prediction"), (pooled, "features"), (hidden, "hidden_states")])
def test_it_changes_no_bit_of_what_is_computed_nor_the_model(ask, room, tmp_path, monkeypatch):
    classifier, rng = load_classifier(make_bert(tmp_path / "m")), np.random.default_rng(3)
    texts = [" ".join(rng.choice(WORDS, size=rng.integers(1, 13))) for _ in range(300)]
    asked = classifier, encode_batches(classifier, texts, token_budget=64), texts
    before = {name: (weight, weight.detach().clone()) for name, weight in weights_of(classifier.model).items()}
    cast, exact = ask(*asked, exact=False), ask(*asked, exact=True)
    after = weights_of(classifier.model)
    assert all(weight is before[name][0] and torch.equal(weight, before[name][1]) for name, weight in after.items())
    # By the name of its module: a function of fuseforget.models is called as this one is.
    module = sys.modules[f"fuseforget.models.{room}"]
    monkeypatch.setattr(module, "precast", lambda model, *, exact: contextlib.nullcontext())
    for found, plain in ((cast, ask(*asked, exact=False)), (exact, ask(*asked, exact=True))):
        assert all(np.array_equal(one, other) for one, other in zip(found, plain, strict=True))
    assert not np.array_equal(exact[0], cast[0]), "bfloat16 was computed in"


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
