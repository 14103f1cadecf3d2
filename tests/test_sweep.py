"""The engine of sweeps: the same answers whoever asks, in however many lanes, beside whatever else; nothing read twice."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import WORDS, make_bert
from fuseforget import path
from fuseforget.checkpoint import open_checkpoint
from fuseforget.errors import InputError, Stopped
from fuseforget.knowledge import Probe
from fuseforget.models import encode_batches, intra_op, load_classifier, predict, seeded, together
from fuseforget.models.batches import batch_tokens, by_length
from fuseforget.paths import path_points, points
from fuseforget.records import read_records
from fuseforget.sweep import Resident, Sweep, on_device, resident
from fuseforget.sweep.on_device import OnDevice
from fuseforget.workers import Here


def sentences(count: int, seed: int, longest: int = 12) -> tuple[str, ...]:
    rng = np.random.default_rng(seed)
    return tuple(" ".join(rng.choice(WORDS, size=rng.integers(1, longest + 1))) for _ in range(count))


def probe(name: str, count: int, seed: int) -> Probe:
    labels = np.random.default_rng(seed).integers(2, size=count)
    return Probe(name, sentences(count, seed), tuple(map(int, labels)))


PROBES = [probe("task", 90, 0), probe("op", 70, 1), Probe("again", probe("task", 90, 0).texts[::-1], (0,) * 90)]


def tiny_bert(directory, seed):
    return make_bert(directory, seed=seed)


def tiny_gpt2(directory, seed):
    from transformers import GPT2Config

    return with_tokenizer(directory, seed, GPT2Config(n_layer=2, n_embd=16, n_head=2, n_positions=40, **OF_DECODERS))


def tiny_llama(directory, seed):
    from transformers import LlamaConfig

    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 32,
    }
    return with_tokenizer(directory, seed, LlamaConfig(**sizes, **OF_DECODERS))


OF_DECODERS = {"vocab_size": 40, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}


def with_tokenizer(directory, seed, config):
    """A tiny classifier with random weights, and the tokenizer of the tiny BERT."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    make_bert(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    with seeded(seed):
        AutoModelForSequenceClassification.from_config(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return [make_bert(root / name, seed=seed) for seed, name in enumerate(("a", "b", "c"))]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 100), st.integers(0, 100))
@settings(deadline=None)
def test_batches_hold_every_row_once_within_the_budget_and_pad_no_more_than_they_must(lengths, budget, least):
    least = min(least, budget)
    groups = by_length(lengths, budget, least=least)
    assert sorted(row for group in groups for row in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[row] for row in group) <= budget
        shortest = [row for row in group if lengths[row] == min(lengths[r] for r in group)]
        if len({lengths[row] for row in group}) > 1:
            assert len(shortest) * lengths[shortest[0]] < least, "a length that fills a batch is alone in it"
    if least == 0:
        assert all(len({lengths[row] for row in group}) == 1 for group in groups)
    ends = [(lengths[group[0]], lengths[group[-1]]) for group in groups]
    assert all(before[1] <= after[0] for before, after in pairwise(ends))


@pytest.mark.parametrize("exact", [False, True])
def test_lanes_and_threads_change_no_bit(models, exact):
    classifier = load_classifier(models[0])
    batches = encode_batches(classifier, sentences(300, 3), token_budget=64)
    assert len(batches) > 20
    alone = predict(classifier.model, batches, exact=exact, lanes=1)
    assert np.ptp(alone[:, 0]) > 0
    for lanes in (2, 3, 7):
        assert np.array_equal(predict(classifier.model, batches, exact=exact, lanes=lanes), alone)
    for threads in (1, 2):
        with intra_op(threads):
            assert np.array_equal(predict(classifier.model, batches, exact=exact), alone)
            assert torch.get_num_threads() == threads, "left as it was"


def test_an_error_in_a_lane_ends_the_others_and_comes_up(models, monkeypatch):
    classifier = load_classifier(models[0])
    batches = encode_batches(classifier, sentences(300, 3), token_budget=16)
    whole, seen = classifier.model.forward, []

    def forward(**given):
        seen.append(given)
        if len(seen) == 5:
            raise RuntimeError("out of memory")
        return whole(**given)

    monkeypatch.setattr(classifier.model, "forward", forward)
    with pytest.raises(RuntimeError, match="out of memory"):
        predict(classifier.model, batches, lanes=2)
    assert len(seen) < len(batches) / 2 > 10


def test_texts_of_several_probes_are_read_together_and_once(models, monkeypatch):
    one, rows = Resident(models[0], PROBES, exact=True), []
    monkeypatch.setattr(resident, "predict", lambda m, b, **kw: rows.append(sum(len(x.rows) for x in b)) or predict(m, b, **kw))
    found = one.logits_of([p.name for p in PROBES])
    assert rows == [len({text for p in PROBES for text in p.texts})]
    np.testing.assert_array_equal(found["again"], found["task"][::-1])
    for p in PROBES:
        np.testing.assert_allclose(found[p.name], Resident(models[0], [p], exact=True).logits(p.name), atol=1e-6)
    assert one.logits("op") is found["op"], "known, as long as the weights stay"
    assert len(rows) == 4


def test_padding_of_mixed_lengths_says_the_same(models):
    """What a GPU reads: few large batches, padded and masked."""
    classifier = load_classifier(models[0])
    texts = sentences(200, 5)
    ids = [classifier.tokenizer(text)["input_ids"] for text in texts]
    mixed = batch_tokens(classifier, ids, set(), token_budget=2000, least=1000)
    assert len(mixed) < 6
    assert any(batch.mask is not None for batch in mixed)
    alone = encode_batches(classifier, texts)
    assert all(batch.mask is None for batch in alone)
    np.testing.assert_allclose(
        predict(classifier.model, mixed, exact=True), predict(classifier.model, alone, exact=True), atol=1e-6
    )


def test_a_point_that_lacks_a_measurement_is_asked_again_and_gets_the_same(models, tmp_path):
    path(models[:2], PROBES, tmp_path / "whole", steps=2)
    whole = (tmp_path / "whole/records.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    assert len(lines) == 9
    for kept in range(9):
        path(models[:2], PROBES, tmp_path / f"cut{kept}", steps=2)
        (tmp_path / f"cut{kept}/records.jsonl").write_bytes(b"".join(lines[:kept]))
        path(models[:2], PROBES, tmp_path / f"cut{kept}", steps=2)
        assert (tmp_path / f"cut{kept}/records.jsonl").read_bytes() == whole


def test_a_sweep_says_what_a_resident_model_says(models):
    names, grid, opened = [p.name for p in PROBES], points(3, 2), [open_checkpoint(model) for model in models]
    said = list(Sweep(models[0], PROBES).answers(path_points(opened, grid, names, name="abc")))
    assert [tuple(point.where["weights"]) for point, _ in said] == grid
    alone, seen = Resident(models[1], PROBES), set()
    for point, answers in reversed(said):
        alone.set_point(opened, point.weights)
        for name, logits in alone.logits_of(names).items():
            np.testing.assert_array_equal(answers.by_probe[name].logits, logits)
            assert answers.by_probe[name].measurement.interval == alone.judge(name, logits).interval
            seen.add(logits.tobytes())
    assert len(seen) == 3 * len(grid), "points differ"


def test_a_stop_that_was_asked_for_ends_after_the_point(models, tmp_path, monkeypatch):
    from fuseforget import stopping

    said = []

    def say(line):
        said.append(line)
        if len(said) == 4:  # within the second point
            stopping.request()

    try:
        with pytest.raises(Stopped):
            path(models[:2], PROBES, tmp_path / "run", steps=3, say=say, workers=Here())
    finally:
        stopping._asked.clear()
    assert len(read_records(tmp_path / "run")) == 6, "two whole points"
    path(models[:2], PROBES, tmp_path / "run", steps=3)
    path(models[:2], PROBES, tmp_path / "whole", steps=3)
    assert (tmp_path / "run/records.jsonl").read_bytes() == (tmp_path / "whole/records.jsonl").read_bytes()


@pytest.mark.parametrize("make", [tiny_bert, tiny_gpt2, tiny_llama])
def test_points_at_once_answer_as_one_after_another(make, tmp_path):
    """What a GPU does with a small model; a set of weights says the same whatever the others are."""
    ends = [open_checkpoint(make(tmp_path / name, seed)) for seed, name in enumerate("ab")]
    visited = path_points(ends, points(2, 4), ["task", "op"], name="a-b") + path_points(ends, points(2, 1), ["again"], name="b")
    one, four = (list(Sweep(ends[0].path, PROBES, exact=True, at_once=n).answers(visited)) for n in (1, 4))
    assert [point for point, _ in one] == [point for point, _ in four] == visited
    for (_, alone), (_, beside) in zip(one, four, strict=True):
        for name, answer in alone.by_probe.items():
            np.testing.assert_allclose(beside.by_probe[name].logits, answer.logits, atol=1e-6)
    again = list(Sweep(ends[0].path, PROBES, exact=True, at_once=4).answers(visited[3:5]))
    for (_, before), (_, after) in zip(four[3:5], again, strict=True):
        np.testing.assert_array_equal(before.by_probe["op"].logits, after.by_probe["op"].logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_averages_of_endpoints_in_a_devices_memory_are_what_fuse_writes_to_the_bit(tmp_path, dtype):
    from transformers import BertForSequenceClassification

    found = [make_bert(tmp_path / name, seed=seed) for seed, name in enumerate("abc")]
    for model in found:
        BertForSequenceClassification.from_pretrained(model, dtype=dtype).save_pretrained(model)
    opened = [open_checkpoint(model) for model in found]
    here, there = Resident(found[0], PROBES), Resident(found[0], PROBES)
    held, named = OnDevice(torch.device("cpu"), room=10**9), dict(zip("abc", opened, strict=True))
    for weights in [(1 / 3, 1 / 3, 1 / 3), (0.0, 0.7, 0.3), (1.0, 0.0, 0.0), (0.1, 0.2, 0.7)]:
        here.set_point(opened, weights)
        assert held.average_into(there.tensors(opened[0]), named, weights)
        for name, value in here.tensors(opened[0]).items():
            assert value.equal(there.tensors(opened[0])[name]), (name, weights)


def test_an_endpoint_that_is_not_finite_is_refused_before_it_is_held(models, raw):
    broken = open_checkpoint(raw("broken", tensors={"w": torch.tensor([1.0, float("nan")])}))
    with pytest.raises(InputError, match=r"finite values in .*broken"):
        OnDevice(torch.device("cpu"), room=100).average_into({"w": torch.zeros(2)}, {"broken": broken}, None)


def test_a_device_holds_each_endpoint_once_and_no_more_than_there_is_room_for(models, monkeypatch):
    opened = {str(model): open_checkpoint(model) for model in models}
    there = Resident(models[0], PROBES)
    names = list(opened[str(models[0])])
    size = sum(value.nbytes for value in there.tensors(names).values())
    sent, send = [], on_device._sent
    monkeypatch.setattr(on_device, "_sent", lambda one, *a: sent.append(one.source) or send(one, *a))
    held, (a, b, c) = OnDevice(torch.device("cpu"), room=2 * size), opened

    def average(*keys):
        return held.average_into(there.tensors(names), {key: opened[key] for key in keys}, None)

    assert average(a, b)
    assert average(b)
    assert average(b, a)
    assert len(sent) == 2 * len(names)
    assert average(c, a)
    assert held._bytes() <= 2 * size
    assert not average(a, b, c)
    assert average(a)
    assert len(sent) == 3 * len(names)
    with pytest.raises(InputError, match="sum"):
        held.average_into(there.tensors(names), {a: opened[a], c: opened[c]}, (0.5, 0.6))


def test_a_model_that_cannot_be_repeated_over_weights_is_asked_point_by_point(models, monkeypatch):
    def refuse(self, batches, **_):
        raise RuntimeError("Batching rule not implemented")

    monkeypatch.setattr(together.Together, "predict", refuse)
    visited = path_points([open_checkpoint(m) for m in models[:2]], points(2, 3), ["task"], name="a-b")
    found = [list(Sweep(models[0], PROBES, at_once=n).answers(visited)) for n in (1, 3)]
    for (_, one), (_, other) in zip(*found, strict=True):
        np.testing.assert_array_equal(one.by_probe["task"].logits, other.by_probe["task"].logits)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_compiled_model_says_the_same(models):
    visited = path_points([open_checkpoint(m) for m in models[:2]], points(2, 2), ["task", "op"], name="a-b")
    plain, compiled = (list(Sweep(models[0], PROBES, exact=True, compiled=c).answers(visited)) for c in (False, True))
    for (_, one), (_, other) in zip(plain, compiled, strict=True):
        for name, answer in one.by_probe.items():
            np.testing.assert_allclose(other.by_probe[name].logits, answer.logits, atol=1e-5)
