"""Training the embeddings of the used tokens alone ends in the model that training them all ends in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers as t
from hypothesis import given, settings
from hypothesis import strategies as st

from fuseforget.models import padded, used_vocabulary

SIZE = 60
SMALL = {"vocab_size": SIZE, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
SMALL_GPT2 = {"vocab_size": SIZE, "n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2}
LLAMA = {**SMALL, "num_key_value_heads": 2}
CLASSIFIERS: dict[str, Callable[[], Any]] = {
    "bert": lambda: t.BertForSequenceClassification(t.BertConfig(**SMALL)),
    "distilbert": lambda: t.DistilBertForSequenceClassification(
        t.DistilBertConfig(vocab_size=SIZE, dim=16, n_layers=2, n_heads=2, hidden_dim=24)
    ),
    # Counts its positions from the tokens that are not padding.
    "roberta": lambda: t.RobertaForSequenceClassification(t.RobertaConfig(**SMALL, pad_token_id=1, max_position_embeddings=40)),
    # Look for the last token that is not padding.
    "gpt2": lambda: t.GPT2ForSequenceClassification(t.GPT2Config(**SMALL_GPT2, pad_token_id=SIZE - 1)),
    "llama": lambda: t.LlamaForSequenceClassification(t.LlamaConfig(**LLAMA, pad_token_id=SIZE - 1)),
}


def build(kind: str, seed: int = 0) -> tuple[Any, int]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = CLASSIFIERS[kind]().eval()
    return model, int(model.config.pad_token_id)


def logits(model: Any, rows: list[list[int]], pad: int) -> torch.Tensor:
    ids, mask = padded(rows, pad)
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask).logits


@pytest.mark.parametrize("kind", CLASSIFIERS)
@settings(max_examples=15, deadline=None)
@given(rows=st.lists(st.lists(st.integers(2, SIZE - 2), min_size=1, max_size=9), min_size=1, max_size=6))
def test_logits_are_equal_to_the_bit_and_the_whole_comes_back(kind, rows):
    model, pad = build(kind)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    expected = logits(model, rows, pad)
    vocabulary = used_vocabulary(model, rows, pad)
    assert vocabulary is not None
    assert model.get_input_embeddings().num_embeddings == len({pad, *(token for row in rows for token in row)})
    assert torch.equal(logits(model, rows, pad), expected)
    vocabulary.restore()
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("kind", CLASSIFIERS)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_few_steps_give_the_weights_of_the_whole_vocabulary(kind, seed):
    rng = np.random.default_rng(seed)
    rows = [rng.integers(2, SIZE // 2, length).tolist() for length in (3, 9, 5, 7)]
    ends = []
    for cut in (False, True):
        model, pad = build(kind, seed)
        vocabulary = used_vocabulary(model, rows, pad) if cut else None
        assert (vocabulary is not None) is cut
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
        ids, mask = padded(rows, pad)
        for _ in range(3):
            model(input_ids=ids, attention_mask=mask, labels=torch.tensor([0, 1, 1, 0])).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        if vocabulary is not None:
            vocabulary.restore()
        ends.append(model.state_dict())
    start = build(kind, seed)[0].state_dict()
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert any(not torch.equal(ends[0][name], start[name]) for name in start)


def test_a_token_that_was_not_asked_for_is_refused_and_read_while_the_whole_is_back():
    model, pad = build("bert")
    expected = logits(model, [[2, 50]], pad)
    vocabulary = used_vocabulary(model, [[2, 3], [4]], pad)
    assert vocabulary is not None
    with pytest.raises(IndexError):
        logits(model, [[2, 50]], pad)
    with vocabulary.restored():
        assert torch.equal(logits(model, [[2, 50]], pad), expected)
    with pytest.raises(IndexError):
        logits(model, [[2, 50]], pad)


def tied() -> Any:
    return t.BertForMaskedLM(t.BertConfig(**SMALL))


def frozen() -> Any:
    model = CLASSIFIERS["bert"]()
    model.get_input_embeddings().weight.requires_grad_(False)
    return model


def scaled() -> Any:
    """Gemma multiplies what it looks up: its embedding is more than its rows."""
    config = t.Gemma3TextConfig(**LLAMA, head_dim=8, pad_token_id=0, tie_word_embeddings=False)
    return t.Gemma3ForCausalLM(config)


def read_by_number() -> Any:
    """A model that looks at how many embeddings it has: its logits would change."""
    model = CLASSIFIERS["bert"]()
    forward = model.forward

    def changed(**inputs: Any) -> Any:
        output = forward(**inputs)
        output.logits = output.logits * model.get_input_embeddings().num_embeddings
        return output

    model.forward = changed
    return model


@pytest.mark.parametrize("make", [tied, frozen, scaled, read_by_number])
def test_where_it_would_not_be_exact_the_model_stays_as_it_was(make):
    model = make()
    whole = model.get_input_embeddings()
    assert used_vocabulary(model, [[2, 3], [4]], 0) is None
    assert model.get_input_embeddings() is whole


def test_a_vocabulary_that_is_used_throughout_stays_whole():
    model, pad = build("bert")
    assert used_vocabulary(model, [list(range(SIZE))], pad) is None
