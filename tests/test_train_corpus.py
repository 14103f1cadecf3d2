"""``fuseforget train`` on the parts of a private corpus."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import fuseforget
from fuseforget.cli import app
from fuseforget.data import load_memorization
from fuseforget.errors import InputError
from fuseforget.models import load_language_model
from fuseforget.train.rows import rows_sha256
from test_language import make
from test_train import shortcut_data


@pytest.fixture
def corpus(tmp_path) -> Path:
    """A private corpus for two models, read with the tokenizer of a tiny decoder."""
    texts = [f"Story {i}: the court closed the bridge {i} days after the rain." for i in range(400)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    make(tmp_path / "start", "gpt2")
    run = CliRunner().invoke(app, [
        "data", "memorization", str(tmp_path / "texts.jsonl"), "--tokenizer", str(tmp_path / "start"),
        "-o", str(tmp_path / "data"),
        "--models", "2", "--rows", "12", "--shared", "4", "--control", "4", "--validation", "4", "--block", "32",
        "--no-near-duplicates",
    ])  # fmt: skip
    assert run.exit_code == 0, run.output
    return tmp_path / "data"


def test_the_command_trains_on_the_parts_of_a_private_corpus(corpus, tmp_path):
    data = load_memorization(corpus)
    options = ["--base", str(tmp_path / "start"), "--data", str(corpus), "--max-epochs", "1", "--json"]
    made = {}
    for out, parts in {"a": ["A"], "b": ["B"], "ab": ["A", "B"]}.items():
        chosen = [option for part in parts for option in ("--part", part)]
        run = CliRunner().invoke(app, ["train", *options, *chosen, "-o", str(tmp_path / out)])
        assert run.exit_code == 0, run.output
        assert load_language_model(tmp_path / out).masked is False
        made[out] = json.loads((tmp_path / out / "fuseforget.json").read_text())
        assert made[out]["parts"] == parts
        assert made[out]["data_sha256"] == rows_sha256(data.trained_on(*parts).ids)
        assert made[out]["data_source_sha256"] == data.sha256
    assert len({one["data_sha256"] for one in made.values()}) == 3


@pytest.mark.parametrize(("parts", "found"), [([], "found none"), (["C"], "found C"), (["shared"], "found shared")])
def test_parts_that_the_corpus_does_not_have_are_refused(corpus, tmp_path, parts, found):
    with pytest.raises(InputError, match=f"some of A, B, {found}"):
        fuseforget.train(tmp_path / "start", corpus, tmp_path / "m", parts=parts)


def test_a_base_of_another_tokenizer_is_refused(corpus, tmp_path):
    other = make(tmp_path / "other", "gpt2", pad=True)
    file = other / "tokenizer.json"
    content = json.loads(file.read_text())
    content["pre_tokenizer"]["add_prefix_space"] = True
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match="expected the one that the rows were made with"):
        fuseforget.train(other, corpus, tmp_path / "m", parts=["A"])


@pytest.mark.parametrize("asked", [{"parts": ["A"]}, {"schedule": "constant"}])
def test_what_is_asked_of_a_corpus_is_refused_of_other_data(bert, tmp_path, asked):
    with pytest.raises(InputError, match="expected a private corpus, for what was asked of one"):
        fuseforget.train(bert("base"), shortcut_data(tmp_path / "data"), tmp_path / "m", **asked)
