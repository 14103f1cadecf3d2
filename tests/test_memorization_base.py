"""The bases that the study of memorization pretrains itself: what they are, what they learn, and the cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fuseforget.errors import InputError, OutputError
from fuseforget.models import encode, load_language_model, max_positions
from fuseforget.studies.memorization.base import BaseSettings, cached_base, pretrain_base
from patience import LONG
from test_train import same_weights
from test_train_language import loss_of

TINY = BaseSettings(vocabulary=300, layers=1, width=32, heads=2, block=16, epochs=2, learning_rate=5e-3, batch=8)
MASKED = replace(TINY, masked=True)


def sentences(count: int, seed: int = 0) -> list[str]:
    """Sentences of one grammar, with numbers in them."""
    rng = np.random.default_rng(seed)
    who, what = ["The bank", "A court", "The river", "Her team"], ["rose", "fell", "won", "closed"]
    return [f"{rng.choice(who)} {rng.choice(what)} on day {rng.integers(100, 999)} of the year." for _ in range(count)]


@pytest.mark.parametrize("settings", [TINY, MASKED], ids=["decoder", "masked"])
def test_a_base_has_learned_its_language(tmp_path, settings):
    lines: list[str] = []
    result = pretrain_base(sentences(200), tmp_path / "b", settings=replace(settings, epochs=6), say=lines.append)
    assert "million parameters" in lines[0]
    assert "from 200 texts" in lines[0]
    assert result.epochs == len(lines) - 1 == 6
    lm = load_language_model(tmp_path / "b")
    assert (lm.masked, max_positions(lm), lm.model.config.num_hidden_layers) == (settings.masked, 16, 1)
    assert result.losses[0] > result.losses[-1] + 1
    if not settings.masked:
        texts = encode(lm, sentences(40, seed=1))
        shuffled = [np.random.default_rng(0).permutation(row).tolist() for row in texts]
        assert loss_of(tmp_path / "b", texts) < loss_of(tmp_path / "b", shuffled) - 1


def test_the_default_base_has_between_five_and_ten_million_parameters():
    from transformers import BertForMaskedLM, GPT2LMHeadModel

    from fuseforget.studies.memorization.base import _decoder, _masked_model, _train_tokenizer

    settings = BaseSettings()
    for make, kind, masked in ((_decoder, GPT2LMHeadModel, False), (_masked_model, BertForMaskedLM, True)):
        config = make(_train_tokenizer(sentences(10), replace(settings, masked=masked)), settings).config
        config.vocab_size = settings.vocabulary
        with torch.device("meta"):
            size = sum(p.numel() for p in kind(config).parameters())
        assert 5e6 < size < 10e6
        drops = ("resid_pdrop", "embd_pdrop", "attn_pdrop", "hidden_dropout_prob", "attention_probs_dropout_prob")
        assert {getattr(config, name) for name in drops if hasattr(config, name)} == {0.0}
    assert _train_tokenizer(sentences(10), settings).model_max_length == 128


@pytest.mark.parametrize("settings", [TINY, MASKED], ids=["decoder", "masked"])
def test_numbers_of_equal_length_are_equally_many_tokens_and_no_text_is_unknown(tmp_path, settings):
    lm = load_language_model(_base(tmp_path, settings))
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, 10, (50, 4)).tolist()
    for write in (lambda n: "code is " + " ".join(map(str, n)), lambda n: "code is " + "".join(map(str, n)) + "."):
        ids = encode(lm, [write(number) for number in numbers])
        assert len(set(map(len, ids))) == 1
        columns = np.array(ids).T
        assert sum(len(set(column)) > 1 for column in columns.tolist()) == 4  # one token a digit, and none beside
        assert all(len({row[i] for row in ids}) <= 10 for i in range(len(ids[0])))
    odd = "Zoë 😀 \x00 ｆ"
    assert lm.tokenizer.decode(encode(lm, [odd])[0], skip_special_tokens=True) == odd


def test_documents_end_where_the_next_one_begins(tmp_path):
    lm = load_language_model(_base(tmp_path, TINY))
    assert lm.tokenizer.eos_token == "<|endoftext|>"
    assert lm.tokenizer.eos_token_id == lm.model.config.eos_token_id == 0
    with torch.no_grad():  # after a full stop that ends a text, the end is what comes
        ids = torch.tensor([encode(lm, ["The bank rose on day 123 of the year."])[0][-16:]])
        assert lm.model(ids).logits[0, -1].argmax() == 0


def test_an_interrupted_pretraining_goes_on(tmp_path):
    def die(line: str) -> None:
        if "epoch 2," in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain_base(sentences(100), tmp_path / "b", settings=TINY, say=die)
    lines: list[str] = []
    pretrain_base(sentences(100), tmp_path / "b", settings=TINY, say=lines.append)
    assert [line.split(",")[0] for line in lines[1:]] == ["b: epoch 2"]
    pretrain_base(sentences(100), tmp_path / "whole", settings=TINY)
    assert same_weights(tmp_path / "b", tmp_path / "whole")


def test_a_base_is_made_once_for_texts_and_settings(tmp_path):
    lines: list[str] = []
    texts = sentences(60)
    first = cached_base(texts, TINY, cache=tmp_path, say=lines.append)
    assert lines[0] == f"pretraining a base, once: it is kept in {first}"
    assert [line.split(":")[0].split(",")[0] for line in lines[2:]] == ["base epoch 1", "base epoch 2"]
    again: list[str] = []
    assert cached_base(list(texts), replace(TINY), cache=tmp_path, say=again.append) == first
    assert again == []
    others = [(texts, replace(TINY, seed=1)), (texts[1:], TINY), (texts[::-1], TINY)]
    assert len({first, *(cached_base(*other, cache=tmp_path) for other in others)}) == 4
    made = json.loads((first / "fuseforget.json").read_text())
    assert made["pretrained"]["vocabulary"] == 300
    assert "start" not in made


def test_two_processes_make_one_base(tmp_path):
    code = (
        "import sys, time, pathlib\n"
        "from fuseforget.studies.memorization.base import cached_base\n"
        "from test_memorization_base import TINY, sentences\n"
        "def say(line):\n"
        "    print(line, flush=True)\n"
        "    go = pathlib.Path(sys.argv[1]) / 'go'\n"
        "    while 'epoch 1,' in line and not go.exists():\n        time.sleep(0.05)\n"
        "print('done', cached_base(sentences(60), TINY, cache=sys.argv[1], say=say))\n"
    )
    env = {**os.environ, "PYTHONPATH": f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}"}

    def begin() -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=env)

    maker = begin()
    assert maker.stdout is not None
    assert "pretraining a base" in maker.stdout.readline()
    waiter = begin()
    assert waiter.stdout is not None
    assert waiter.stdout.readline().startswith("waiting for another process")
    time.sleep(0.2)
    assert waiter.poll() is None
    (tmp_path / "go").touch()
    made, waited = maker.communicate(timeout=LONG)[0], waiter.communicate(timeout=LONG)[0]
    assert made.splitlines()[-1] == waited.strip()
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == [Path(waited.strip().removeprefix("done "))]


@pytest.mark.parametrize(("named", "expected"), [("cache", "cache"), ("", "home/.cache"), (None, "home/.cache")])
def test_the_cache_is_the_users(tmp_path, monkeypatch, named, expected):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if named is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / named) if named else "")
    base = cached_base(sentences(20), replace(TINY, epochs=1))
    assert base.parent == tmp_path / expected / "fuseforget" / "bases"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocabulary": 256}, "vocabulary of a base: expected 257 or more, found 256"),
        ({"masked": True, "vocabulary": 259}, "expected 260 or more"),
        ({"width": 30, "heads": 4}, "a multiple of its 4 heads, found 30"),
        ({"layers": 0}, "layers of a base: expected 1 or more"),
        ({"seed": -1}, "seed: expected"),
    ],
)
def test_settings_that_make_no_base_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        replace(TINY, **change)


def test_too_little_text_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"at least tokens for one block of 16, found \d+ tokens in 1 texts"):
        pretrain_base(["one"], tmp_path / "b", settings=TINY)
    with pytest.raises(InputError, match="found 0 tokens in 0 texts"):
        pretrain_base([], tmp_path / "b", settings=TINY)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        cached_base(sentences(20), TINY, cache=tmp_path / "file")


def _base(tmp_path: Path, settings: BaseSettings) -> Path:
    pretrain_base(sentences(100), tmp_path / "b", settings=settings)
    return tmp_path / "b"
