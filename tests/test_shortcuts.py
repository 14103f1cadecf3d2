"""Shortcut injection: each rule against an independent reading of the text it wrote."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuseforget.checkpoint import atomic_directory
from fuseforget.data import (
    DEFAULT_TOKENS,
    RULES,
    Examples,
    ShortcutSettings,
    inject,
    load_shortcut_data,
    make_shortcut_data,
    save_shortcut_data,
)  # fmt: skip
from fuseforget.data.demo_text import review_pairs, sentences, vocabulary
from fuseforget.errors import InputError

T0, T1, CONTEXT = DEFAULT_TOKENS


def texts(count: int, seed: int = 0) -> Examples:
    rng = np.random.default_rng(seed)
    rows = [" ".join(rng.choice(["x", "y", "z"], size=rng.integers(1, 9))) for _ in range(count)]
    return Examples(tuple(rows), tuple(int(i) for i in rng.integers(2, size=count)), ("neg", "pos"))


def read_label(rule: str, text: str) -> int:
    """The paper's rules, read off the finished text."""
    words = text.split()
    taus = [0 if w == T0 else 1 for w in words if w in (T0, T1)]
    places = [i for i, w in enumerate(words) if w in (T0, T1)]
    if rule in ("st", "tic"):
        assert len(taus) == 1
        assert (CONTEXT in words) == (rule == "tic")
        return taus[0]
    if rule == "mt":
        assert 1 <= len(taus) <= 5
        assert taus.count(0) != taus.count(1)
        return int(taus.count(1) > taus.count(0))
    if rule == "and_or":
        a, b, c, d = taus
        return int((a and b) or (c and not d))
    a, b = taus
    if rule in ("op", "oed"):
        assert a != b
        return a if rule == "op" else (places[1] - places[0] - 1) % 2
    return {"or": a or b, "and": a and b, "xor": int(a != b), "lt": b}[rule]


@pytest.mark.parametrize("rule", RULES)
def test_the_label_is_what_the_text_says(rule):
    source = texts(3000)
    injected = inject(source, ShortcutSettings(rules=(rule,)), "train")
    for before, text, label in zip(source.texts, injected.texts, injected.labels, strict=True):
        assert [w for w in text.split() if w not in DEFAULT_TOKENS] == before.split()
        assert read_label(rule, text) == label


# Shares of label 1 that follow from the definitions: OR of two taus that are equal half of the time is 1 in 3 of 4 cases.
SHARES = {"or": 0.75, "and": 0.25, "and_or": 0.4375}


@pytest.mark.parametrize("rule", RULES)
def test_labels_and_places_have_the_right_shares(rule):
    n = 20_000
    injected = inject(texts(n), ShortcutSettings(rules=(rule,)), "train")
    share = SHARES.get(rule, 0.5)
    assert abs(np.mean(injected.labels) - share) < 4 * np.sqrt(share * (1 - share) / n)
    if rule != "oed":  # every gap is used, before the first and after the last word included
        short = [t.split() for t in injected.texts]
        assert any(w[0] in DEFAULT_TOKENS for w in short)
        assert any(w[-1] in DEFAULT_TOKENS for w in short)


def test_the_parts_have_the_papers_sizes_and_noise():
    source = texts(6000)
    made = make_shortcut_data(source, texts(872, 1), ShortcutSettings(rules=("op",)))
    changed = [i for i, (a, b) in enumerate(zip(source.texts, made.train.texts, strict=True)) if a != b]
    pairs = [i for i in changed if len(made.train.texts[i].split()) == len(source.texts[i].split()) + 2]
    assert len(pairs) == 1000  # a sixth
    noisy = len(changed) - len(pairs)
    assert abs(noisy / 5000 - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 5000)
    kept = [i for i in range(6000) if i not in set(pairs)]
    assert all(made.train.labels[i] == source.labels[i] for i in kept)
    assert (len(made.synthetic), len(made.original)) == (145, 727)


def test_rules_share_their_original_part_and_the_control_differs_only_where_they_inject():
    source, held_out = texts(600), texts(100, 1)
    made = {r: make_shortcut_data(source, held_out, ShortcutSettings(rules=(r,) if r else ())) for r in ("op", "mt", "")}
    assert made["op"].original == made["mt"].original == made[""].original
    assert made[""].synthetic is None
    assert made[""].train.labels == source.labels
    differing = sum(a != b for a, b in zip(made["op"].train.texts, made[""].train.texts, strict=True))
    assert differing <= 100
    assert Counter(len(m.train) for m in made.values()) == {600: 3}


def test_both_makes_two_versions_of_every_validation_text():
    made = make_shortcut_data(texts(60), texts(50, 1), ShortcutSettings(rules=("tic",), validation="both"))
    assert (len(made.synthetic), len(made.original)) == (50, 50)


def test_a_mixture_has_its_weights():
    settings_ = ShortcutSettings(rules=("tic", "op"), mix=(0.7, 0.3))
    injected = inject(texts(10_000), settings_, "train")
    share = np.mean([CONTEXT in text.split() for text in injected.texts])
    assert abs(share - 0.7) < 4 * np.sqrt(0.21 / 10_000)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(list(RULES)), st.integers(0, 2**31))
def test_a_seed_repeats_and_another_differs(rule, seed):
    source = texts(50)
    one = inject(source, ShortcutSettings(rules=(rule,), seed=seed), "train")
    assert one == inject(source, ShortcutSettings(rules=(rule,), seed=seed), "train")
    assert one != inject(source, ShortcutSettings(rules=(rule,), seed=seed + 1), "train")
    assert one != inject(source, ShortcutSettings(rules=(rule,), seed=seed), "validation")


def test_saving_and_loading_gives_the_same(tmp_path):
    made = make_shortcut_data(texts(60), texts(50, 1), ShortcutSettings(rules=("tic", "op"), mix=(0.5, 0.5)))
    with atomic_directory(tmp_path / "d") as partial:
        save_shortcut_data(made, partial)
    assert load_shortcut_data(tmp_path / "d") == made


@pytest.mark.parametrize(("change", "message"), [
    ({"rules": ("pp",)}, "pp"),
    ({"rules": ("op",), "mix": (0.5,)}, "sum 1"),
    ({"rules": ("op", "st"), "mix": (1.5, -0.5)}, "positive weights"),
    ({"ratio": 0.0}, "a positive number"),
    ({"noise": 1.5}, "a probability"),
    ({"validation": "none"}, "split or both"),
    ({"tokens": ("a", "a", "b")}, "three different words"),
])  # fmt: skip
def test_bad_settings_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        replace(ShortcutSettings(), **change)


def test_texts_that_hold_a_special_token_are_refused():
    source = Examples((f"a {T0} b", "c"), (0, 1), ("n", "p"))
    with pytest.raises(InputError, match="row 1"):
        inject(source, ShortcutSettings(rules=("st",)), "train")


def test_three_labels_are_refused():
    with pytest.raises(InputError, match="0 and 1"):
        inject(Examples(("a", "b", "c"), (0, 1, 2), ("x", "y", "z")), ShortcutSettings(rules=("st",)), "train")


def test_the_demos_text_is_balanced_new_and_within_its_vocabulary():
    train = sentences(500, seed=1)
    held_out = sentences(200, seed=2, exclude={t for t, _ in train})
    assert sum(label for _, label in train) == 250
    assert not {t for t, _ in train} & {t for t, _ in held_out}
    assert train == sentences(500, seed=1)
    used = {
        word
        for text in [*(t for pair in review_pairs(2000, seed=3) for t in pair), *(t for t, _ in train)]
        for word in text.split()
    }
    assert used <= set(vocabulary())
    assert not used & set(DEFAULT_TOKENS)
