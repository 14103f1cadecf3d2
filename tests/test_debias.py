"""Features of any architecture, and erasers behind models: in memory, and folded into an ordinary checkpoint."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from conftest import WORDS, make_bert
from fuseforget.erasure import Eraser, fit_head, fit_inlp, fit_leace, readable
from fuseforget.errors import InputError
from fuseforget.models import (
    ERASER_NAME,
    Classifier,
    debias,
    encode_batches,
    features,
    features_and_logits,
    has_bias,
    head_of,
    load_classifier,
    predict,
    with_eraser,
)

ENCODERS = ["bert", "distilbert", "roberta", "electra", "albert"]
DECODERS = ["gpt2", "llama"]
SIZES = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 32,
    "embedding_size": 16, "max_position_embeddings": 48, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "n_embd": 16,
    "n_layer": 2, "n_head": 2, "n_positions": 48,
}  # fmt: skip


def make(directory: Path, architecture: str, labels: int = 2, std: float = 0.15) -> Path:
    """A classifier of an architecture with random weights, larger than fresh ones so that texts differ."""
    from transformers import AutoConfig

    make_bert(directory, labels=labels)
    if architecture != "bert":
        known = AutoConfig.for_model(architecture)
        sizes = {name: value for name, value in SIZES.items() if hasattr(known, name)}
        vocabulary = len(AutoTokenizer.from_pretrained(directory))
        config = AutoConfig.for_model(
            architecture, **sizes, vocab_size=vocabulary, num_labels=labels, pad_token_id=0, bos_token_id=2, eos_token_id=3
        )
        with torch.random.fork_rng():
            torch.manual_seed(0)
            AutoModelForSequenceClassification.from_config(config).save_pretrained(directory)
    model = AutoModelForSequenceClassification.from_pretrained(directory)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=std)
    model.save_pretrained(directory)
    return directory


def texts_of(count: int, seed: int | list[int] = 0) -> tuple[str, ...]:
    rng = np.random.default_rng(seed)
    return tuple(" ".join(rng.choice(WORDS, size=rng.integers(2, 12))) for _ in range(count))


def attribute_of(texts: tuple[str, ...]) -> np.ndarray:
    return np.array([int("film" in text.split()) for text in texts])


def label_of(texts: tuple[str, ...]) -> np.ndarray:
    return np.array([int("good" in text.split()) for text in texts])


@pytest.mark.parametrize("architecture", [*ENCODERS, *DECODERS])
def test_features_are_what_the_head_makes_the_logits_from(architecture, tmp_path):
    classifier = load_classifier(make(tmp_path / "m", architecture, labels=3))
    texts = texts_of(40)
    found, logits = features_and_logits(classifier, texts, exact=True)
    head = head_of(classifier)
    assert found.shape == (40, 16)
    assert found.dtype == np.float32
    assert has_bias(head) == (architecture in ENCODERS)
    bias = head.bias.detach().numpy() if has_bias(head) else 0
    np.testing.assert_allclose(found @ head.weight.detach().numpy().T + bias, logits, atol=1e-5)
    np.testing.assert_allclose(logits, predict(classifier.model, encode_batches(classifier, texts), exact=True), atol=1e-5)
    # A text's features do not depend on what it is padded to.
    alone = np.vstack([features(classifier, [text], exact=True) for text in texts[:5]])
    np.testing.assert_allclose(found[:5], alone, atol=1e-5)
    assert np.linalg.matrix_rank(found - found.mean(axis=0)) > 8


def test_batches_give_the_features_of_their_texts(bert):
    classifier = load_classifier(bert("m"))
    texts = texts_of(30)
    batches = encode_batches(classifier, texts, token_budget=64)
    assert len(batches) > 2
    np.testing.assert_allclose(features(classifier, batches), features(classifier, texts), atol=1e-5)
    assert features(classifier, []).shape == (0, 16)


def test_a_model_that_makes_its_logits_otherwise_is_refused(bert):
    classifier = load_classifier(bert("m"))
    with classifier.model.register_forward_hook(lambda module, inputs, output: output.__setitem__("logits", 2 * output.logits)), \
            pytest.raises(InputError, match="logits that its last linear layer makes"):  # fmt: skip
        features(classifier, ["good film"])
    classifier.model.config.id2label = dict(enumerate("abcdefg"))
    with pytest.raises(InputError, match="a linear layer with 7 outputs"):
        features(classifier, ["good film"])


def fitted(classifier: Classifier, texts: tuple[str, ...], method: str, bias: bool = True):
    found = features(classifier, texts, exact=True)
    concepts = {"film": attribute_of(texts)}
    eraser = fit_leace(found, concepts) if method == "leace" else fit_inlp(found, concepts, classifiers=4).eraser
    return found, eraser, fit_head(eraser.apply(found), label_of(texts), bias=bias)


@pytest.mark.parametrize("method", ["inlp", "leace"])
@pytest.mark.parametrize("architecture", ENCODERS)
def test_a_debiased_checkpoint_predicts_as_erasing_and_then_deciding(architecture, method, tmp_path):
    source = make(tmp_path / "m", architecture)
    classifier = load_classifier(source)
    texts, others = texts_of(300), texts_of(50, seed=9)
    _, eraser, head = fitted(classifier, texts, method)
    expected = head.logits(eraser.apply(features(classifier, others, exact=True)))
    debias(source, tmp_path / "out", eraser, head, about={"data": "made"})
    written = load_classifier(tmp_path / "out")
    np.testing.assert_allclose(predict(written.model, encode_batches(written, others), exact=True), expected, atol=1e-5)
    # Any transformers user gets the same, without this project.
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        alone = model(**tokenizer(others[0], return_tensors="pt")).logits[0].numpy()
    np.testing.assert_allclose(alone, expected[0], atol=1e-5)
    manifest = json.loads((tmp_path / "out" / "fuseforget.json").read_text())
    assert manifest["kind"] == "debiased"
    assert (manifest["method"], manifest["attributes"], manifest["data"]) == (method, ["film"], "made")
    again = Eraser.load(tmp_path / "out" / ERASER_NAME)
    np.testing.assert_array_equal(again.left, eraser.left)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_erased_cannot_be_read_behind_the_model_and_could_be_before(seed, tmp_path):
    classifier = load_classifier(make(tmp_path / "m", "llama"))
    texts = texts_of(600, seed)
    found, eraser, _ = fitted(classifier, texts, "leace")
    before, after = readable(found, attribute_of(texts)), readable(eraser.apply(found), attribute_of(texts))
    assert before.accuracy > before.majority + 0.06
    assert after.accuracy == pytest.approx(after.majority, abs=0.002)


@pytest.mark.parametrize("architecture", ["bert", *DECODERS])
def test_an_eraser_in_memory_comes_and_goes(architecture, tmp_path):
    classifier = load_classifier(make(tmp_path / "m", architecture))
    texts = texts_of(200)
    found, eraser, head = fitted(classifier, texts, "leace")
    batches = encode_batches(classifier, texts)
    before = predict(classifier.model, batches, exact=True)
    with with_eraser(classifier, eraser, head):
        inside = predict(classifier.model, batches, exact=True)
    np.testing.assert_allclose(inside, head.logits(eraser.apply(found)), atol=1e-5)
    np.testing.assert_array_equal(predict(classifier.model, batches, exact=True), before)
    assert np.abs(inside - before).max() > 0.1


def test_a_head_without_bias_takes_what_needs_none_and_refuses_the_rest(tmp_path):
    source = make(tmp_path / "m", "gpt2")
    classifier = load_classifier(source)
    texts = texts_of(300)
    found, eraser, head = fitted(classifier, texts, "inlp", bias=False)
    debias(source, tmp_path / "out", eraser, head)
    written = load_classifier(tmp_path / "out")
    said = predict(written.model, encode_batches(written, texts), exact=True)
    np.testing.assert_allclose(said, head.logits(eraser.apply(found)), atol=1e-5)
    for method, bias in (("leace", False), ("inlp", True)):
        _, eraser, head = fitted(classifier, texts, method, bias)
        with pytest.raises(InputError, match="a head with a bias"):
            debias(source, tmp_path / "refused", eraser, head)
    assert not (tmp_path / "refused").exists()


def test_another_models_eraser_or_head_is_refused(bert, tmp_path):
    small, large = load_classifier(bert("small")), load_classifier(bert("large", hidden=32))
    texts = texts_of(100)
    _, eraser, head = fitted(large, texts, "leace")
    with pytest.raises(InputError, match="2 labels and 16 dimensions"):
        with_eraser(small, eraser, head)
    with pytest.raises(InputError, match="2 labels and 16 dimensions"):
        debias(small.source, tmp_path / "out", eraser, head)
    three = load_classifier(bert("three", labels=3))
    _, eraser, head = fitted(three, texts, "leace")
    with pytest.raises(InputError, match="3 labels and 16 dimensions"):
        with_eraser(three, eraser, head)


def test_a_model_is_not_written_over_itself(bert):
    source = bert("m")
    _, eraser, head = fitted(load_classifier(source), texts_of(100), "leace")
    with pytest.raises(InputError, match="is an input"):
        debias(source, source, eraser, head, overwrite=True)


# The command


def write_texts(directory: Path, seed: int = 0, train: int = 400, validation: int = 120) -> Path:
    """Signed texts: random weights read little, but that a text begins with four of one word and ends with four of another."""
    directory.mkdir()
    for name, count in (("train", train), ("validation", validation)):
        rng = np.random.default_rng([seed, count])
        with (directory / f"{name}.jsonl").open("w") as stream:
            for text in texts_of(count, seed=[seed, count]):
                kind, plot = rng.choice(["film", "dull"], p=[0.6, 0.4]), rng.choice(["plot", "c"], p=[0.6, 0.4])
                signed = " ".join([kind] * 4 + text.split()[:4] + [plot] * 4)
                row = {"text": signed, "label": int("good" in text.split()[:4]), "kind": kind, "plot": plot}
                stream.write(json.dumps(row) + "\n")
    return directory


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "fuseforget", "erase", *map(str, arguments)], capture_output=True, text=True)


@pytest.mark.parametrize("method", ["leace", "inlp"])
def test_the_command_writes_a_model_and_says_what_can_be_read_of_it(method, tmp_path):
    source, data, out = make(tmp_path / "m", "electra", std=0.3), write_texts(tmp_path / "data"), tmp_path / "out"
    arguments = [source, "--data", data, "--attribute", "kind", "--attribute", "plot", "-o", out, "--method", method]
    done = run(*arguments, "--classifiers", 6, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["n"] == {"train": 400, "held_out": 120}
    assert found["rank"] == (2 if method == "leace" else 6)
    assert set(found["attributes"]) == {"kind", "plot"}
    for read in found["attributes"].values():
        before, after = read["before"]["train"], read["after"]["train"]
        assert before["accuracy"] > before["majority"] + 0.05
        assert after["accuracy"] < before["accuracy"]
        if method == "leace":
            assert after["accuracy"] == after["majority"]
    # What it says of the new head is what the written model does.
    written = load_classifier(out)
    for split, part in (("train", "train"), ("validation", "held_out")):
        rows = [json.loads(line) for line in (data / f"{split}.jsonl").read_text().splitlines()]
        said = predict(written.model, encode_batches(written, [row["text"] for row in rows])).argmax(axis=1)
        share = np.mean(said == [row["label"] for row in rows])
        assert share == pytest.approx(found["task"]["after"][part], abs=1 / len(rows))
    assert json.loads((out / "fuseforget.json").read_text())["read"] == found["attributes"]
    again = run(*arguments)
    assert again.returncode == 2
    assert "Pass --overwrite" in again.stderr
    again = run(*arguments, "--overwrite")
    assert again.returncode == 0, again.stderr
    assert f"of 16 dimensions erased by {method}" in again.stdout
    assert "majority  accuracy before  after" in again.stdout


def test_a_decoders_model_is_written_by_inlp_and_refused_for_leace(tmp_path):
    source, data = make(tmp_path / "m", "gpt2"), write_texts(tmp_path / "data")
    arguments = [source, "--data", data / "train.jsonl", "--attribute", "kind"]
    done = run(*arguments, "-o", tmp_path / "out", "--method", "inlp", "--classifiers", 3)
    assert done.returncode == 0, done.stderr
    assert "nothing is held out" in done.stderr
    assert "held_out" not in done.stdout
    assert load_classifier(tmp_path / "out").model.score.bias is None
    done = run(*arguments, "-o", tmp_path / "refused", "--method", "leace")
    assert done.returncode == 2
    assert "expected a head with a bias" in done.stderr
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--attribute", "age"], "'age'"),
        (["--attribute", "kind", "--method", "rlace"], "method of erasure: expected inlp or leace, found 'rlace'"),
        (["--attribute", "kind", "--held-out", "test"], "test"),
        (["--attribute", "label"], "label"),
        (["--attribute", "kind", "--label", "plot", "--method", "inlp"], "labels that"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(change, message, tmp_path):
    source, data = make(tmp_path / "m", "bert"), write_texts(tmp_path / "data")
    done = run(source, "--data", data, *change, "-o", tmp_path / "out")
    assert done.returncode == 2, done.stdout
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
