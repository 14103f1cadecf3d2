"""Language models: loaded with their tokenizers, refused where they would give wrong numbers, saved, texts as ids."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as t
from safetensors.torch import load_file, save_file

from fuseforget.errors import InputError
from fuseforget.models import encode, load_language_model, max_positions, padding_id, save_language_model

TEXTS = [
    "The river rose after a week of rain, and the bridge was closed.",
    "A court heard the case on Monday; the judge will rule in spring.",
    "Prices fell again, said the bank, but nobody knows for how long.",
]
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
MAKERS: dict[str, Callable[[int], Any]] = {
    "gpt2": lambda v: t.GPT2LMHeadModel(t.GPT2Config(vocab_size=v, n_positions=40, n_embd=32, n_layer=2, n_head=2)),
    "bert": lambda v: t.BertForMaskedLM(t.BertConfig(vocab_size=v, max_position_embeddings=40, **SMALL)),
    "roberta": lambda v: t.RobertaForMaskedLM(
        t.RobertaConfig(vocab_size=v, max_position_embeddings=42, pad_token_id=1, bos_token_id=0, eos_token_id=2, **SMALL)
    ),
}


def make(directory: Path, kind: str, *, special: bool = True, rows: int | None = None, pad: bool = False) -> Path:
    """A tiny language model of random weights with a byte-level tokenizer trained on a few sentences.

    Args:
        special: whether the tokenizer has a mask, and a masked model's text begins and ends with special tokens.
        rows: how many embeddings the model has, else as many as the tokenizer has ids.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    masked = kind != "gpt2" and special
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    names = ["<s>", "<pad>", "</s>", *(["<mask>"] if masked else [])]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=300, special_tokens=names, initial_alphabet=alphabet))
    if masked:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    words = {"bos_token": "<s>", "eos_token": "</s>"} | ({"mask_token": "<mask>"} if masked else {})
    words |= {"pad_token": "<pad>"} if masked or pad else {}
    fast = t.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **words)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        MAKERS[kind](rows or len(fast)).save_pretrained(directory)
    fast.save_pretrained(directory)
    return directory


def configure(directory: Path, **changed: Any) -> None:
    file = directory / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changed}))


@pytest.mark.parametrize(("kind", "masked"), [("gpt2", False), ("bert", True), ("roberta", True)])
def test_a_model_is_loaded_by_its_architecture_and_saved_as_it_was(tmp_path, kind, masked):
    lm = load_language_model(make(tmp_path / "m", kind))
    assert lm.masked is masked
    assert next(lm.model.parameters()).dtype == torch.float32
    assert not lm.model.training
    (tmp_path / "out").mkdir()
    save_language_model(lm, tmp_path / "out")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("m", "out"))
    assert before.keys() == after.keys()
    assert all(before[name].equal(after[name]) for name in before)
    again = load_language_model(tmp_path / "out")
    assert encode(again, TEXTS) == encode(lm, TEXTS)
    assert again.tokenizer.pad_token_id == lm.tokenizer.pad_token_id  # a decoder without one is saved without one


def test_half_precision_is_loaded_as_float32(tmp_path):
    make(tmp_path / "m", "gpt2")
    t.GPT2LMHeadModel.from_pretrained(tmp_path / "m", dtype=torch.bfloat16).save_pretrained(tmp_path / "m")
    assert load_file(tmp_path / "m" / "model.safetensors")["transformer.wte.weight"].dtype == torch.bfloat16
    assert {p.dtype for p in load_language_model(tmp_path / "m").model.parameters()} == {torch.float32}


def test_a_decoder_reads_text_alone_a_masked_model_its_special_tokens_too(tmp_path):
    decoder, masked = (load_language_model(make(tmp_path / kind, kind)) for kind in ("gpt2", "bert"))
    ids = encode(decoder, TEXTS)
    assert [decoder.tokenizer.decode(one) for one in ids] == TEXTS
    inside = encode(masked, TEXTS)
    assert all(one[0] == 0 and one[-1] == 2 for one in inside)
    assert [masked.tokenizer.decode(one[1:-1]) for one in inside] == TEXTS
    assert len(encode(decoder, [" ".join(TEXTS * 20)])[0]) > max_positions(decoder)  # not cut
    assert encode(decoder, []) == []
    assert encode(decoder, [""]) == [[]]


def test_positions_are_those_that_the_model_can_use(tmp_path):
    found = {kind: max_positions(load_language_model(make(tmp_path / kind, kind))) for kind in MAKERS}
    assert found == {"gpt2": 40, "bert": 40, "roberta": 40}
    lm = load_language_model(tmp_path / "roberta")
    assert lm.model(torch.full((1, 40), 7)).logits.shape[1] == 40
    with pytest.raises((IndexError, RuntimeError)):
        lm.model(torch.full((1, 41), 7))


def test_without_positions_the_tokenizer_says_how_much_is_read_at_once(tmp_path):
    make(tmp_path / "m", "gpt2")
    config = t.BloomConfig(vocab_size=400, hidden_size=32, n_layer=1, n_head=2)
    t.BloomForCausalLM(config).save_pretrained(tmp_path / "m")
    assert max_positions(load_language_model(tmp_path / "m")) == sys.maxsize
    file = tmp_path / "m" / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_max_length": 77}))
    assert max_positions(load_language_model(tmp_path / "m")) == 77


def test_rows_are_filled_up_with_the_padding_the_end_or_0(tmp_path):
    assert padding_id(load_language_model(make(tmp_path / "pad", "gpt2", pad=True))) == 1
    lm = load_language_model(make(tmp_path / "end", "gpt2"))
    assert padding_id(lm) == 2
    lm.tokenizer.eos_token = None
    assert padding_id(lm) == 0


@pytest.mark.parametrize("architecture", ["BertModel", "T5ForConditionalGeneration", "BertForSequenceClassification", None])
def test_what_is_no_language_model_is_refused(tmp_path, architecture):
    make(tmp_path / "m", "bert")
    configure(tmp_path / "m", architectures=[architecture] if architecture else None)
    with pytest.raises(InputError, match=r"ForMaskedLM\), found .*(Bert|T5|no architecture).*drawn at random"):
        load_language_model(tmp_path / "m")


def test_a_masked_model_without_its_head_is_refused(tmp_path):
    """As a sentence encoder is, where its configuration names the pretraining's architecture."""
    file = make(tmp_path / "m", "bert") / "model.safetensors"
    save_file({n: v for n, v in load_file(file).items() if not n.startswith("cls.")}, file, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"no cls\.predictions.*drawn at random"):
        load_language_model(tmp_path / "m")


def test_a_tokenizer_of_more_ids_than_embeddings_is_refused(tmp_path):
    with pytest.raises(InputError, match="ids below 250, the embeddings that the model has, found 300 ids"):
        load_language_model(make(tmp_path / "m", "gpt2", rows=250))
    load_language_model(make(tmp_path / "more", "gpt2", rows=320))  # padded embeddings are common


def test_a_masked_model_whose_tokenizer_has_no_mask_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"a mask token, .* found none"):
        load_language_model(make(tmp_path / "m", "bert", special=False))


@pytest.mark.parametrize("damage", ["config.json", "tokenizer.json", "model.safetensors"])
def test_what_cannot_be_read_is_refused(tmp_path, damage):
    (make(tmp_path / "m", "gpt2") / damage).write_text("{")
    with pytest.raises(InputError, match="expected"):
        load_language_model(tmp_path / "m")
    with pytest.raises(InputError, match="expected"):
        load_language_model(tmp_path / "absent")
