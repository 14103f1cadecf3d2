"""The machine's matrix peak, and the operations of a forward pass against torch's counter and by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fuseforget.models.peak import forward_flops, matrix_peak

WIDTH, LAYERS, HEADS, INNER, WORDS = 16, 3, 4, 24, 30
LENGTHS = (1, 3, 7, 7, 19)


def build(kind: str) -> Any:
    import transformers as t

    common: dict[str, Any] = {"vocab_size": WORDS, "num_labels": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    named = {
        **common, "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": INNER,
    }  # fmt: skip
    makers = {
        "bert": lambda: t.BertForSequenceClassification(t.BertConfig(**named)),
        "gpt2": lambda: t.GPT2ForSequenceClassification(
            t.GPT2Config(**common, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_inner=INNER)
        ),
        "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**named, num_key_value_heads=2)),
        "mixtral": lambda: t.MixtralForCausalLM(
            t.MixtralConfig(**named, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2)
        ),
        "bart": lambda: t.BartForSequenceClassification(
            t.BartConfig(
                **common, d_model=WIDTH, encoder_layers=LAYERS, decoder_layers=LAYERS, encoder_attention_heads=HEADS,
                decoder_attention_heads=HEADS, encoder_ffn_dim=INNER, decoder_ffn_dim=INNER,
            )
        ),
    }  # fmt: skip
    return makers[kind]()


def by_hand(kind: str, tokens: int) -> int:
    """Multiply-adds times two, from the shapes: what a token takes, what a text takes, and attention."""
    attention = 2 * tokens * WIDTH * LAYERS  # its two products
    a_token, a_text = {
        "bert": (LAYERS * (4 * WIDTH**2 + 2 * WIDTH * INNER), WIDTH**2 + 2 * WIDTH),
        "gpt2": (LAYERS * (4 * WIDTH**2 + 2 * WIDTH * INNER) + 2 * WIDTH, 0),
        "llama": (LAYERS * (3 * WIDTH**2 + 3 * WIDTH * INNER) + WORDS * WIDTH, 0),
        "mixtral": (LAYERS * (3 * WIDTH**2 + 4 * WIDTH + 2 * 3 * WIDTH * INNER) + WORDS * WIDTH, 0),
    }[kind]
    return 2 * (tokens * (a_token + attention) + a_text)


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama", "mixtral"])
def test_operations_are_those_of_the_shapes(kind):
    assert forward_flops(build(kind), LENGTHS) == sum(by_hand(kind, n) for n in LENGTHS)


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama", "bart"])
@pytest.mark.parametrize("tokens", [5, 33])
def test_operations_are_those_that_torch_counts(kind, tokens):
    model = build(kind).eval()
    ids = torch.full((1, tokens), 3)
    ids[0, -1] = model.config.eos_token_id
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(input_ids=ids)
    assert forward_flops(model, [tokens]) == counter.get_total_flops()


def test_counting_leaves_modes_and_random_numbers_alone():
    model = build("bert").train()
    model.bert.embeddings.eval()
    modes = [module.training for module in model.modules()]
    before = torch.random.get_rng_state()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert forward_flops(model, [6]) == by_hand("bert", 6)
    assert forward_flops(model, []) == 0
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_peak_is_measured_once_with_the_threads_that_are_asked_for(monkeypatch):
    from fuseforget.models import peak

    threads = torch.get_num_threads()
    monkeypatch.setattr(peak, "SIDES", {"cpu": (64,)})
    peak._matrix_peak.cache_clear()
    asked = []
    product = torch.mm
    monkeypatch.setattr(torch, "mm", lambda *given, **named: (asked.append(torch.get_num_threads()), product(*given, **named))[1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = matrix_peak(torch.float32, threads=1)
    once = len(asked)
    assert set(asked) == {1}
    assert matrix_peak(torch.float32, 1, "cpu") == found > 0
    assert len(asked) == once
    assert torch.get_num_threads() == threads
    peak._matrix_peak.cache_clear()
