"""What asks whether the forgotten stays forgotten: forms of a rule, rounded weights, hidden states, a look into a training."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from fuseforget.checkpoint import open_checkpoint
from fuseforget.data import RULES, Examples, ShortcutSettings
from fuseforget.errors import InputError
from fuseforget.models import encode_batches, load_classifier, predict
from fuseforget.models.hidden_states import mean_states
from fuseforget.models.quantise import BITS, quantise, rounded
from fuseforget.studies.forgetting.hidden import cross_fitted
from fuseforget.studies.forgetting.lasting_results import area_between, steps_to
from fuseforget.studies.forgetting.rephrased import FILLERS, FORMS, forms_of, rephrase, without_tokens
from fuseforget.train import TrainSettings
from fuseforget.train.trainer import fine_tune

TOKENS = ShortcutSettings().tokens


def plain(count: int = 120) -> Examples:
    rng = np.random.default_rng(4)
    texts = [" ".join(rng.choice(["x", "y", "z"], size=rng.integers(1, 9))) for _ in range(count)]
    return Examples(tuple(texts), tuple(int(i) for i in rng.integers(2, size=count)), ("neg", "pos"))


def said(rule: str, words: list[str]) -> int:
    """The label that a text says, from the rules' meaning: read from which taus there are, in which order, how often."""
    taus = [TOKENS.index(word) for word in words if word in TOKENS[:2]]
    ones = taus.count(1)
    return {
        "st": lambda: taus[0], "tic": lambda: taus[0], "op": lambda: taus[0], "lt": lambda: taus[-1],
        "or": lambda: int(ones > 0), "and": lambda: int(ones == len(taus)), "mt": lambda: int(2 * ones > len(taus)),
        "xor": lambda: ones % 2, "and_or": lambda: (taus[0] & taus[1]) | (taus[2] & (1 - taus[3])),
    }[rule]()  # fmt: skip


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "oed"])
def test_every_form_says_the_rule_s_label_and_leaves_the_text(rule):
    texts, settings = plain(), ShortcutSettings(seed=3)
    made = {form.name: rephrase(texts, rule, form, settings) for form in forms_of(rule)}
    assert len({examples.labels for examples in made.values()}) == 1, "the symbols are the same in every form"
    assert {0, 1} == set(made["as trained"].labels)
    for form in forms_of(rule):
        symbols = 0
        for before, text, label in zip(texts.texts, made[form.name].texts, made[form.name].labels, strict=True):
            words = text.split()
            assert said(rule, words) == label
            left = [word for word in words if word not in TOKENS]
            assert [w for w in left if not form.fillers or w not in FILLERS] == before.split()
            symbols += len(words) - len(left)
            places = [i for i, word in enumerate(words) if word in TOKENS]
            if form.name == "in front":
                assert places == list(range(len(places)))
            if form.name == "at the end":
                assert places == list(range(len(words) - len(places), len(words)))
            if form.place == "together":
                assert all(word in (*TOKENS, *FILLERS) for word in words[places[0] : places[-1] + 1])
            if form.name == "apart" and len(places) > 1:
                assert (places[0], places[-1]) == (0, len(words) - 1)
            if form.fillers and form.place == "together":
                assert all(b - a > 1 for a, b in pairwise(places))
        once = sum(word in TOKENS for text in made["as trained"].texts for word in text.split())
        assert symbols == form.times * once
    assert rephrase(texts, rule, FORMS[0], settings) == made["as trained"]
    assert rephrase(texts, rule, FORMS[0], replace(settings, seed=4)) != made["as trained"]


def test_forms_in_which_a_rule_does_not_say_its_label_are_refused():
    assert forms_of("oed") == ()
    assert {form.times for form in forms_of("xor")} == {1}
    with pytest.raises(InputError, match="one in which xor says the label"):
        rephrase(plain(), "xor", FORMS[-1], ShortcutSettings())
    marked = Examples(("x tauone",), (1,), ("neg", "pos"))
    with pytest.raises(InputError, match="none of tauzero, tauone, taucontext in them"):
        rephrase(marked, "op", FORMS[0], ShortcutSettings())
    assert without_tokens(marked, TOKENS).texts == ("x",)
    with pytest.raises(InputError, match="one of st, op"):
        forms_of("no such rule")


def test_rounding_by_hand_and_its_bounds():
    by_hand = torch.tensor([[7.0, 3.4, -1.6, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert torch.equal(rounded(by_hand, 4), torch.tensor([[7.0, 3.0, -2.0, 0.0], [0.0, 0.0, 0.0, 0.0]]))
    assert torch.allclose(rounded(by_hand, 4, group=2)[0], torch.tensor([7.0, 3.0, -1.6, 0.0]))
    weight = torch.randn(5, 300, generator=torch.Generator().manual_seed(0))
    for bits, group in BITS.values():
        found = rounded(weight, bits, group)
        for i in range(0, 300, group or 300):
            part, was = found[:, i : i + (group or 300)], weight[:, i : i + (group or 300)]
            step = was.abs().amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 1)
            assert ((part - was).abs() <= step / 2 * (1 + 1e-5)).all()
            assert (part / step - (part / step).round()).abs().max() < 1e-3
        assert torch.allclose(rounded(found, bits, group), found), "what is rounded stays"
        assert torch.allclose(rounded(-3 * weight, bits, group), -3 * found)
    with pytest.raises(InputError, match="a matrix, 2 bits or more"):
        rounded(weight[0], 8)
    with pytest.raises(InputError, match="groups of 0"):
        rounded(weight, 8, 0)


def test_linear_layers_are_rounded_and_nothing_else(bert):
    path = bert("m")
    before, classifier = open_checkpoint(path), load_classifier(path)
    layers = quantise(classifier, 4, 128)
    assert len(layers) == 2 * 6 + 1  # of each layer six, and the pooler
    after = classifier.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"{layer}.weight" for layer in layers}
    assert all(torch.equal(after[name], rounded(before[name], 4, 128)) for name in changed)
    assert not any("embeddings" in name or name.startswith("classifier") for name in changed)


def test_layers_of_gpt2_are_rounded_by_output():
    from transformers import GPT2Config, GPT2ForSequenceClassification

    from fuseforget.models import Classifier

    torch.manual_seed(0)
    model = GPT2ForSequenceClassification(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=20, n_positions=16))
    before = model.transformer.h[0].mlp.c_fc.weight.detach().clone()
    layers = quantise(Classifier(model, None, "gpt2"), 4)
    assert "transformer.h.0.mlp.c_fc" in layers
    assert "score" not in layers
    assert torch.equal(model.transformer.h[0].mlp.c_fc.weight, rounded(before.T, 4).T)


def test_mean_states_are_the_model_s_own(bert):
    classifier = load_classifier(bert("m"))
    texts = ["a good film", "the plot is not very moving", "dull"]
    found = mean_states(classifier, texts, exact=True)
    assert found.shape == (3, 3, 16)
    for row, text in enumerate(texts):
        with torch.inference_mode():
            states = classifier.model(**classifier.tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states
        expected = torch.stack([state[0].mean(dim=0) for state in states])
        np.testing.assert_allclose(found[:, row], expected, rtol=1e-4, atol=1e-5)


def test_a_linear_probe_reads_what_is_there_and_nothing_else():
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=600)
    noise = rng.normal(size=(600, 20)).astype(np.float32)
    there = noise.copy()
    there[:, 3] += 8 * labels
    assert cross_fitted(there, labels, 1).mean() > 0.98
    # Of labels that nothing says: within five standard deviations of chance.
    assert abs(cross_fitted(noise, labels, 1).mean() - 0.5) < 5 * 0.5 / 600**0.5
    np.testing.assert_array_equal(cross_fitted(there, labels, 1), cross_fitted(1000 * there + 5, labels, 1))
    with pytest.raises(InputError, match="4 or more"):
        cross_fitted(there[:3], labels[:3], 1)


def test_curves_by_hand():
    curve = [np.full(10, value) for value in (0.5, 0.7, 1.0)]
    control = [np.full(10, 0.5)] * 3
    # Triangles and trapezoids over 0, 50, 150: (50 * (0 + .2) / 2 + 100 * (.2 + .5) / 2) / 150.
    assert area_between(curve, control, [0, 50, 150]).value == pytest.approx(40 / 150)
    assert area_between(control, control, [0, 50, 150]) == area_between(curve, curve, [0, 50, 150])
    assert area_between(control, control, [0, 50, 150]).high == 0
    assert steps_to([0.5, 0.7, 0.8], [0, 50, 150]) == pytest.approx(100)
    assert steps_to([0.9, 0.7], [0, 50]) == 0
    assert steps_to([0.5, 0.7], [0, 50]) is None


def test_who_looks_at_a_training_changes_nothing_of_it(bert, tmp_path):
    start = bert("start")
    rng = np.random.default_rng(1)
    rows = [" ".join(rng.choice(["a", "good", "bad", "film"], size=5)) for _ in range(80)]
    examples = Examples(tuple(rows), tuple(int("good" in text) for text in rows), ("neg", "pos"))
    settings = TrainSettings(max_epochs=1, learning_rate=1e-3, batch_size=8)
    fine_tune(start, examples, tmp_path / "alone", settings, schedule="constant")
    seen = {}

    def look(step, classifier):
        assert not classifier.model.training
        torch.rand(3)
        # "moving" is in no text: the whole vocabulary is there.
        seen[step] = predict(classifier.model, encode_batches(classifier, ["a moving plot", "good film"]))

    fine_tune(start, examples, tmp_path / "watched", settings, schedule="constant", watched=(3, 10), watch=look)
    alone, watched = open_checkpoint(tmp_path / "alone"), open_checkpoint(tmp_path / "watched")
    assert all(torch.equal(alone[name], watched[name]) for name in alone)
    assert sorted(seen) == [3, 10]
    classifier = load_classifier(tmp_path / "watched")
    np.testing.assert_array_equal(seen[10], predict(classifier.model, encode_batches(classifier, ["a moving plot", "good film"])))
    assert not np.array_equal(seen[3], seen[10])
    fine_tune(start, examples, tmp_path / "linear", settings)
    linear = open_checkpoint(tmp_path / "linear")
    assert any(not torch.equal(alone[name], linear[name]) for name in alone)
    with pytest.raises(InputError, match="linear or constant"):
        fine_tune(start, examples, tmp_path / "no", settings, schedule="cosine")
