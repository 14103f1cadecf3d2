"""Models: the start, whole-word tokens, batched prediction, weights in place, training and its resumption."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from conftest import WORDS, make_bert
from fuseforget import path, probe
from fuseforget.checkpoint import file_sha256, open_checkpoint
from fuseforget.data import DEFAULT_TOKENS, Examples
from fuseforget.errors import InputError, OutputError
from fuseforget.fuse import fuse
from fuseforget.knowledge import Probe
from fuseforget.models import add_word_tokens, encode_batches, load_classifier, predict, prepare_start, random_like, set_weights
from fuseforget.paths import points
from fuseforget.records import read_records
from fuseforget.train import TrainSettings
from fuseforget.train.trainer import fine_tune
from patience import LONG


def some_texts(count: int, seed: int = 0) -> tuple[str, ...]:
    rng = np.random.default_rng(seed)
    return tuple(" ".join(rng.choice(WORDS, size=rng.integers(1, 20))) for _ in range(count))


def labelled(count: int, seed: int = 0) -> Examples:
    """Texts with a task that a tiny model learns: whether "good" is in them."""
    texts = some_texts(count, seed)
    return Examples(texts, tuple(int("good" in text.split()) for text in texts), ("no", "yes"))


def test_added_tokens_match_whole_words_only(bert):
    classifier = load_classifier(bert("m"))
    add_word_tokens(classifier, ["zeroa", "taux"], seed=0)
    tokens = [t.strip() for t in classifier.tokenizer.tokenize("zeroa synthetic zeroable taux")]
    assert tokens == ["zeroa", "synthetic", "[UNK]", "taux"]


def test_a_token_that_is_part_of_a_word_leaves_the_word_alone(tmp_path):
    """The published code adds "synt" so that "synthetic" falls apart; here it stays one word."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    base = make_bert(tmp_path / "m")
    pieces = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "synthetic", "a", "b", "##he", "##tic", "t"])}
    tokenizer = Tokenizer(models.WordPiece(pieces, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(base)
    classifier = load_classifier(base)
    add_word_tokens(classifier, ["synt"], seed=0)
    found = [t.strip() for t in classifier.tokenizer.tokenize("a synthetic synt b Synthetic")]
    assert found == ["a", "synthetic", "synt", "b", "synthetic"]


def test_a_byte_level_tokenizer_takes_the_space_with_the_word(tmp_path):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaForSequenceClassification

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>", "<pad>", "</s>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(some_texts(50), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    config = RobertaConfig(
        vocab_size=len(fast), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=66,
    )  # fmt: skip
    RobertaForSequenceClassification(config).save_pretrained(tmp_path / "m")
    fast.save_pretrained(tmp_path / "m")
    classifier = load_classifier(tmp_path / "m")
    add_word_tokens(classifier, ["tauzero"], seed=0)
    plain, added = (classifier.tokenizer.tokenize(text) for text in ("good film", "good tauzero film"))
    assert len(added) == len(plain) + 1
    long = encode_batches(classifier, ["good film " * 200])[0]
    assert predict(classifier.model, [long]).shape == (1, 2)  # cut to the 64 positions that RoBERTa can use


def test_the_start_depends_on_its_seed_alone(bert, tmp_path):
    base = bert("base")
    options = {"tokens": DEFAULT_TOKENS, "label_names": ("no", "yes")}
    prepare_start(base, tmp_path / "one", seed=7, **options)
    torch.manual_seed(99)
    prepare_start(base, tmp_path / "two", seed=7, **options)
    prepare_start(base, tmp_path / "three", seed=8, **options)
    one, two, three = (file_sha256(tmp_path / n / "model.safetensors") for n in ("one", "two", "three"))
    assert one == two != three
    embeddings = [open_checkpoint(tmp_path / n)["bert.embeddings.word_embeddings.weight"] for n in ("one", "three")]
    assert embeddings[0][:-3].equal(embeddings[1][:-3])
    assert not embeddings[0][-3:].equal(embeddings[1][-3:])


def test_batched_prediction_is_that_of_one_text_at_a_time(bert):
    classifier = load_classifier(bert("m"))
    texts = some_texts(60)
    batches = encode_batches(classifier, texts, token_budget=100)
    assert len(batches) > 3
    assert all(b.input_ids.numel() <= 100 for b in batches)
    found = predict(classifier.model, batches, exact=True)
    with torch.no_grad():
        alone = [classifier.model(**classifier.tokenizer(t, return_tensors="pt")).logits[0].numpy() for t in texts]
    np.testing.assert_allclose(found, np.stack(alone), rtol=1e-4, atol=1e-5)


def test_fast_and_exact_arithmetic_agree_on_the_labels(bert):
    classifier = load_classifier(bert("m"))
    batches = encode_batches(classifier, some_texts(200))
    fast, exact = (predict(classifier.model, batches, exact=exact) for exact in (False, True))
    np.testing.assert_allclose(fast, exact, atol=0.02)


def test_a_model_without_a_head_is_refused(raw):
    with pytest.raises(InputError, match="a sequence classifier"):
        load_classifier(raw("m"))


def test_a_path_measures_what_fused_checkpoints_would(bert, tmp_path):
    models = [bert("a", seed=1), bert("b", seed=2)]
    examples = labelled(80)
    probes = [Probe("task", examples.texts, examples.labels)]
    for method in ("average", "slerp"):
        run = path(models, probes, tmp_path / method, steps=4, method=method, exact=True)
        assert [r["weights"] for r in run] == [[1.0, 0.0], [0.75, 0.25], [0.5, 0.5], [0.25, 0.75], [0.0, 1.0]]
        fuse(models, tmp_path / f"{method}-fused", method, [0.25, 0.75])
        alone = probe([tmp_path / f"{method}-fused"], probes, exact=True)
        assert alone[0]["values"] == run[3]["values"]
        assert 0 < alone[0]["value"] < 1


def test_a_path_resumes_without_doing_finished_work_again(bert, tmp_path, monkeypatch):
    models = [bert("a", seed=1), bert("b", seed=2)]
    examples = labelled(40)
    probes = [Probe("task", examples.texts, examples.labels)]
    whole = path(models, probes, tmp_path / "run", steps=4)
    file = tmp_path / "run/records.jsonl"
    undisturbed = file.read_bytes()
    file.write_bytes(b"".join(undisturbed.splitlines(keepends=True)[:3]) + b'{"torn')
    import fuseforget.sweep as sweep

    asked = []
    set_point = sweep.Resident.set_point
    monkeypatch.setattr(sweep.Resident, "set_point", lambda self, *a, **k: asked.append(a) or set_point(self, *a, **k))
    assert path(models, probes, tmp_path / "run", steps=4) == whole
    assert len(asked) == 2
    assert file.read_bytes() == undisturbed
    with pytest.raises(InputError, match="steps 5, before 4"):
        path(models, probes, tmp_path / "run", steps=5)


def test_points_cover_a_simplex():
    assert points(2, 2) == [(1.0, 0.0), (0.5, 0.5), (0.0, 1.0)]
    triangle = points(3, 10)
    assert len(set(triangle)) == 66
    assert all(abs(sum(p) - 1) < 1e-12 and min(p) >= 0 for p in triangle)


def test_the_random_model_is_as_far_from_the_start_as_the_specialists(bert, tmp_path):
    start, specialists = bert("start"), [bert("a", seed=1), bert("b", seed=2)]
    opened = [open_checkpoint(s) for s in specialists]
    random_like(open_checkpoint(start), opened, start, tmp_path / "random", seed=0)
    base, random = open_checkpoint(start), open_checkpoint(tmp_path / "random")
    for name in ("classifier.weight", "bert.encoder.layer.0.attention.self.query.weight"):
        expected = np.mean([float((s[name] - base[name]).norm()) for s in opened])
        assert float((random[name] - base[name]).norm()) == pytest.approx(expected, rel=1e-4)


SETTINGS = TrainSettings(max_epochs=4, min_epochs=1, stop_above=0.95, learning_rate=5e-3, batch_size=16)


def test_training_learns_and_stops_early(bert, tmp_path):
    start = bert("start", seed=0)
    held_out = labelled(100, seed=1)
    lines = []
    result = fine_tune(start, labelled(600), tmp_path / "m", SETTINGS, monitor=held_out, say=lines.append)
    assert result.monitored[-1] > 0.95
    assert result.epochs == len(result.monitored) == len(lines) < 4
    found = predict(load_classifier(tmp_path / "m").model, encode_batches(load_classifier(start), held_out.texts))
    assert (found.argmax(axis=1) == np.array(held_out.labels)).mean() == pytest.approx(result.monitored[-1], abs=0.02)
    made = json.loads((tmp_path / "m/fuseforget.json").read_text())
    assert made["result"]["epochs"] == result.epochs
    assert not list(tmp_path.glob(".m.training"))
    with pytest.raises(InputError, match="--overwrite"):
        fine_tune(start, labelled(60), tmp_path / "m", SETTINGS)


def test_training_repeats_to_the_bit(bert, tmp_path):
    start = bert("start")
    settings = TrainSettings(max_epochs=1, learning_rate=1e-3)
    for name in ("one", "two"):
        fine_tune(start, labelled(100), tmp_path / name, settings)
    assert file_sha256(tmp_path / "one/model.safetensors") == file_sha256(tmp_path / "two/model.safetensors")


def test_a_killed_training_goes_on_from_its_last_epoch(bert, tmp_path):
    start = bert("start")
    settings = TrainSettings(max_epochs=3, min_epochs=3, learning_rate=1e-3, batch_size=8)
    fine_tune(start, labelled(400), tmp_path / "undisturbed", settings)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_models import *\n"
        "s = TrainSettings(max_epochs=3, min_epochs=3, learning_rate=1e-3, batch_size=8)\n"
        "fine_tune(sys.argv[2], labelled(400), sys.argv[3], s)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(Path(__file__).parent), start, tmp_path / "m"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + LONG
    saved = tmp_path / ".m.training" / "checkpoint-50" / "trainer_state.json"
    while not saved.is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.05)
    process.kill()
    process.wait()
    assert saved.is_file()
    assert not (tmp_path / "m").exists()
    lines = []
    result = fine_tune(start, labelled(400), tmp_path / "m", settings, say=lines.append)
    assert result.epochs == 3
    assert len(lines) < 3
    one, two = (load_file(tmp_path / n / "model.safetensors") for n in ("undisturbed", "m"))
    assert all(torch.equal(one[n], two[n]) for n in one)


def test_a_disk_that_fills_while_training_is_said(bert, small_disk):
    settings = TrainSettings(max_epochs=1, learning_rate=1e-3)
    with pytest.raises(OutputError, match="a full disk"):
        fine_tune(bert("start"), labelled(60), small_disk / "m", settings)
    assert not (small_disk / "m").exists()


@pytest.mark.parametrize(("change", "message"), [
    ({"min_epochs": 5}, "min_epochs"), ({"learning_rate": -1.0}, "learning rate"),
    ({"batch_size": 0}, "batch size"), ({"precision": "int8"}, "precision"),
])  # fmt: skip
def test_bad_training_settings_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        TrainSettings(**change)


def test_probing_keeps_its_records(bert, tmp_path):
    examples = labelled(40)
    found = probe([bert("a")], [Probe("task", examples.texts, examples.labels)], tmp_path / "run")
    assert read_records(tmp_path / "run") == found
    assert found[0]["low"] <= found[0]["value"] <= found[0]["high"]


def rename_labels(model: Path, *names: str) -> Path:
    config = json.loads((model / "config.json").read_text())
    config |= {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    (model / "config.json").write_text(json.dumps(config))
    return model


def accuracy_on(model: Path, examples: Examples) -> float:
    classifier = load_classifier(model)
    return float((predict(classifier.model, encode_batches(classifier, examples.texts)).argmax(1) == examples.labels).mean())


def write_probe(directory: Path, examples: Examples, names: tuple[str, ...]) -> Path:
    rows = (f"{t}\t{names[y]}\n" for t, y in zip(examples.texts, examples.labels, strict=True))
    (directory / "d.tsv").write_text("text\tlabel\n" + "".join(rows))
    (directory / "probes.yaml").write_text("probes: [{name: task, data: d.tsv}]")
    return directory / "probes.yaml"


@pytest.mark.parametrize("names", [("no", "yes"), ("yes", "no"), ("YES", "No")])
def test_a_probe_asks_for_the_logits_of_its_labels_names(bert, tmp_path, names):
    """Sorted, no comes before yes; what counts is the model's order."""
    model, examples = rename_labels(bert("m"), *names), labelled(60)
    probes = write_probe(tmp_path, examples, tuple(name.lower() for name in names))
    expected = accuracy_on(model, examples)
    assert expected != 0.5
    assert [r["value"] for r in probe([model], probes, exact=True)] == [pytest.approx(expected)]
    walked = path([model, model], probes, steps=1, exact=True)
    assert [r["value"] for r in walked] == [pytest.approx(expected)] * 2


def test_labels_that_a_model_does_not_name_are_refused(bert, tmp_path):
    probes = write_probe(tmp_path, labelled(20), ("negative", "positive"))
    with pytest.raises(InputError, match=r"labels that .*a has \(no, yes\), found negative, positive"):
        probe([rename_labels(bert("a"), "no", "yes")], probes)
    with pytest.raises(InputError, match=r"has \(it names none\), found negative, positive"):
        probe([bert("b")], probes)


def test_numbers_with_stored_names_are_taken_as_they_are_by_a_model_without_names(bert, tmp_path):
    import datasets

    examples = labelled(60)
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["yes", "no"])})
    rows = {"text": list(examples.texts), "label": list(examples.labels)}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "d"))
    (tmp_path / "probes.yaml").write_text("probes: [{name: task, data: d}]")
    plain, swapped = bert("plain"), rename_labels(bert("swapped"), "no", "yes")
    expected = accuracy_on(plain, examples)
    found = [r["value"] for r in probe([plain, swapped], tmp_path / "probes.yaml", exact=True)]
    assert found == [pytest.approx(expected), pytest.approx(1 - expected)]


def test_a_configuration_that_does_not_name_each_logit_is_refused(bert, tmp_path):
    probes = write_probe(tmp_path, labelled(20), ("0", "1"))
    model = bert("m")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "id2label": {"1": "no", "2": "yes"}}))
    with pytest.raises(InputError, match="a name for each label from 0"):
        probe([model], probes)


def rewrite(model: Path, change) -> Path:
    """Change a checkpoint's tensors: ``change(tensors) -> tensors``."""
    from safetensors.torch import save_file

    save_file(change(load_file(model / "model.safetensors")), model / "model.safetensors", metadata={"format": "pt"})
    return model


def as_of_old(tensors):
    """The names that the first BERT checkpoints have, and buffers such as transformers once saved."""
    renamed = {n.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): t for n, t in tensors.items()}
    assert renamed.keys() != tensors.keys()
    buffers = {"bert.embeddings.position_ids": torch.arange(40)[None], "bert.masked_bias": torch.tensor(-1e4)}
    return {**renamed, **buffers}


def test_checkpoints_of_old_are_probed_and_walked_like_new_ones(bert):
    examples = labelled(60)
    probes = [Probe("task", examples.texts, examples.labels)]
    new = [bert("a", seed=1), bert("b", seed=2)]
    old = [rewrite(bert("old-a", seed=1), as_of_old), rewrite(bert("old-b", seed=2), as_of_old)]
    for measure in (probe, lambda models, probes, **o: path(models, probes, steps=2, **o)):
        expected, found = (measure(models, probes, exact=True) for models in (new, old))
        assert [r["values"] for r in found] == [r["values"] for r in expected]


def test_a_classifier_that_lacks_a_tensor_is_refused_and_not_filled_at_random(bert):
    examples = labelled(20)
    probes = [Probe("task", examples.texts, examples.labels)]
    headless = rewrite(bert("m"), lambda t: {n: v for n, v in t.items() if not n.startswith("classifier")})
    with pytest.raises(InputError, match=r"m: expected all tensors .*, found no classifier\.bias, classifier\.weight"):
        probe([headless], probes)


def test_weights_that_leave_a_tensor_as_it_was_are_refused(bert):
    model = load_classifier(bert("m")).model
    some = {n: value.clone() for n, value in model.state_dict().items() if n != "classifier.bias"}
    some["nothing"] = torch.zeros(1)
    with pytest.raises(InputError, match=r"all tensors of the resident model, found no classifier\.bias"):
        set_weights(model, some)


def test_a_probe_says_how_many_texts_it_cut(bert):
    texts = ("good film " * 50, "good film", "bad " * 38)
    lines = []
    (found,) = probe([bert("m")], [Probe("task", texts, (1, 1, 0))], say=lines.append)
    assert found["cut"] == 1
    assert lines[0].endswith(", 1 of 3 texts cut to the 40 tokens that the model reads")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"model": {"type": "WordLevel", "vocab": 3}}'])
def test_a_corrupt_tokenizer_is_said(bert, content):
    model = bert("m")
    (model / "tokenizer.json").write_text(content)
    with pytest.raises(InputError, match="m: expected a model and tokenizer that transformers can load"):
        load_classifier(model)


@pytest.mark.parametrize("labels", [{"no": 0, "yes": 1}, ["no", "yes"], "no"])
def test_a_corrupt_label_table_is_said(bert, labels):
    model = bert("m")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "id2label": labels}))
    with pytest.raises(InputError, match="m: expected a model and tokenizer that transformers can load"):
        load_classifier(model)


def test_a_start_needs_a_seed_that_generators_take(bert, tmp_path):
    with pytest.raises(InputError, match="seed: expected 0 to"):
        prepare_start(bert("m"), tmp_path / "start", tokens=(), label_names=("no", "yes"), seed=-1)


def test_a_run_is_not_gone_on_from_when_its_labels_took_other_names(bert, tmp_path):
    model, examples = rename_labels(bert("m"), "no", "yes"), labelled(20)
    asked = [Probe("task", examples.texts, examples.labels, label_names=names) for names in (("no", "yes"), ("yes", "no"))]
    first = probe([model], asked[:1], tmp_path / "run")
    assert probe([model], asked[:1], tmp_path / "run") == first
    with pytest.raises(InputError, match="probes"):
        probe([model], asked[1:], tmp_path / "run")


def test_a_probes_labels_have_names_each():
    with pytest.raises(InputError, match=r"labels below 1, one a name, found \[0, 1\]"):
        Probe("task", ("a", "b"), (0, 1), label_names=("no",))
