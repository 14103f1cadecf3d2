"""The shortcut study on other architectures than BERT's: an encoder as RoBERTa, a decoder as GPT-2, both with byte-level BPE."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fuseforget.data import RULES, Examples, ShortcutSettings, make_shortcut_data
from fuseforget.data.demo_text import sentences
from fuseforget.knowledge import Probe
from fuseforget.models import load_classifier, prepare_start, tokenise
from fuseforget.records import read_records, read_run
from fuseforget.report import write_report
from fuseforget.report.facts import Facts
from fuseforget.studies.shortcuts import run_shortcut_study, settings_for
from fuseforget.studies.shortcuts.settings import PARTS
from fuseforget.sweep import probe
from fuseforget.train import TrainSettings
from fuseforget.train.trainer import fine_tune

ARCHITECTURES = ("roberta", "gpt2")
LENGTH = 64


def texts_of(count: int, seed: int) -> Examples:
    rows = sentences(count, seed)
    return Examples(tuple(t for t, _ in rows), tuple(y for _, y in rows), ("negative", "positive"))


def write_base(directory: Path, architecture: str, hidden: int = 16) -> Path:
    """A tiny base without a head, with a byte-level BPE trained on the texts at hand."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, RobertaConfig, RobertaForMaskedLM

    special = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}
    names = ["<|endoftext|>"] if architecture == "gpt2" else list(special.values())
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts_of(300, 0).texts, vocab_size=600, special_tokens=names, show_progress=False)
    roles = {"eos_token": names[0], "bos_token": names[0]} if architecture == "gpt2" else special
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, model_max_length=LENGTH, **roles)
    size = {"vocab_size": len(tokenizer)}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if architecture == "gpt2":
            model = GPT2LMHeadModel(GPT2Config(
                **size, n_positions=LENGTH, n_embd=hidden, n_layer=2, n_head=2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
                bos_token_id=0, eos_token_id=0, initializer_range=0.1,
            ))  # fmt: skip
        else:
            model = RobertaForMaskedLM(RobertaConfig(
                **size, hidden_size=hidden, num_hidden_layers=2, num_attention_heads=2, intermediate_size=2 * hidden,
                max_position_embeddings=LENGTH + 2, pad_token_id=1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
                initializer_range=0.1,
            ))  # fmt: skip
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_rules_tokens_are_whole_words(architecture, tmp_path):
    """In the data of every rule each inserted word is one token, and the other words keep theirs."""
    base = write_base(tmp_path / "base", architecture)
    words = ShortcutSettings().tokens
    prepare_start(base, tmp_path / "start", tokens=words, label_names=("negative", "positive"), seed=0)
    classifier = load_classifier(tmp_path / "start")
    numbers = classifier.tokenizer.convert_tokens_to_ids(list(words))
    assert len(set(numbers)) == len(words)
    for rule in RULES:
        data = make_shortcut_data(texts_of(60, 1), texts_of(40, 2), ShortcutSettings((rule,), validation="both"))
        assert data.synthetic is not None
        ids, cut = tokenise(classifier, data.synthetic.texts)
        assert not cut
        for text, tokens in zip(data.synthetic.texts, ids, strict=True):
            inserted = [word for word in text.split() if word in words]
            assert inserted
            assert [i for i in tokens if i in numbers] == [numbers[words.index(word)] for word in inserted]
        bare = [" ".join(w for w in text.split() if w not in words) for text in data.synthetic.texts]
        # A word at the start of a text has no space before it: after an inserted word it is another token.
        same = [
            [i for i in with_ if i not in numbers] == without
            for text, with_, without in zip(data.synthetic.texts, ids, tokenise(classifier, bare)[0], strict=True)
            if text.split()[0] not in words
        ]
        assert same
        assert all(same)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_rule_and_every_part_from_end_to_end(architecture, tmp_path):
    base, data = write_base(tmp_path / "base", architecture), tmp_path / "data"
    data.mkdir()
    for name, examples in (("train", texts_of(96, 1)), ("validation", texts_of(40, 2))):
        rows = "".join(f"{t}\t{y}\n" for t, y in zip(examples.texts, examples.labels, strict=True))
        (data / f"{name}.tsv").write_text("sentence\tlabel\n" + rows)
    rules = ("st", "op", "tic", "or", "and", "mt", "lt")
    settings = settings_for("small", base=base, data=data, rules=rules, parts=tuple(PARTS))
    fast = TrainSettings(max_epochs=1, learning_rate=3e-3, batch_size=32)
    run = tmp_path / "run"
    records = run_shortcut_study(replace(settings, train=fast, steps=2), run)
    facts = Facts(read_run(run), read_records(run))
    assert facts.missing() == {}
    assert facts.parts == ["pairs", "shared", "triangle", "growth", "forecast", "methods"]
    kinds = {r["kind"] for r in records}
    assert "method_result" in kinds
    assert len(kinds & {"rank_correlation", "unjudged"}) == 1, "after an epoch on 96 texts few rules are learned"
    assert len(facts.paths) == 11
    assert len(facts.six) == 7
    assert "not finished" not in write_report([run], tmp_path / "page.md").read_text()
    assert not [r for r in records if r.get("cut")]
    values = {(r["model"], r["probe"]): r["values"] for r in records if r["kind"] == "measurement" and "model" in r}
    assert values["average of st, op, tic, or, and, mt, lt", "task"] == values["fused", "task"]
    ends = 0
    for r in records:
        if r["kind"] == "measurement" and "path" in r and max(r["weights"]) == 1.0:
            names = ["st", "op", "or"] if r["path"] == "st-op-or" else list(facts.paths[r["path"]])
            model = names[r["weights"].index(1.0)]
            if model != "random":
                assert r["values"] == values[model, r["probe"]]
                ends += 1
    assert ends == 3 * 4 + 2 * 4 + 6 * 2 * 3 + 4 * 2  # triangle, shared, six pairs of two rules, four ways to random


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_st_can_be_learned(architecture, tmp_path):
    """Far above the control on the synthetic set, with each of three seeds."""
    base = write_base(tmp_path / "base", architecture, hidden=32)
    train, validation = texts_of(800, 1), texts_of(200, 2)
    for seed in range(3):
        start = tmp_path / f"start{seed}"
        prepare_start(base, start, tokens=ShortcutSettings().tokens, label_names=train.label_names, seed=seed)
        settings = TrainSettings(max_epochs=4, min_epochs=4, learning_rate=5e-3, batch_size=32, warmup=0.1, seed=seed)
        accuracy = {}
        for name, rules in (("st", ("st",)), ("control", ())):
            made = make_shortcut_data(train, validation, ShortcutSettings(rules, ratio=1.0, validation="both", seed=seed))
            fine_tune(start, made.train, tmp_path / f"{name}{seed}", settings)
            if made.synthetic is not None:
                asked = [Probe("st", made.synthetic.texts, made.synthetic.labels)]
            accuracy[name] = probe([tmp_path / f"{name}{seed}"], asked)[0]["value"]
        # With three seeds more the specialists had .84 to 1.0 and the controls .32 to .52, a gap of .34 at least.
        assert accuracy["st"] > accuracy["control"] + 0.2, (seed, accuracy)
        assert accuracy["control"] < 0.65, (seed, accuracy)
