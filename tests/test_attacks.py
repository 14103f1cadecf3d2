"""Attacks by hand and against loops, ROC against scikit-learn and in simulations, the blind baseline on real and made texts."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu, norm
from sklearn.metrics import roc_auc_score, roc_curve

from fuseforget.errors import InputError
from fuseforget.knowledge import ATTACKS, Evidence, attack, attacks_for, blind_baseline, roc_auc, tpr_at
from fuseforget.knowledge.attacks import WINDOWS

seeds = st.integers(0, 2**20)
# Few values, so that there are ties.
scores = st.lists(st.integers(-5, 5), min_size=1, max_size=25)


@dataclass(frozen=True)
class Energies:
    sums: np.ndarray
    tokens: np.ndarray


@dataclass(frozen=True)
class Tokens:
    log_probs: np.ndarray
    expected: np.ndarray
    spread: np.ndarray
    greedy: np.ndarray
    offsets: np.ndarray

    @property
    def energies(self) -> Energies:
        sums = [-self.log_probs[a:b].astype(np.float64).sum() for a, b in self.rows()]
        return Energies(np.array(sums), np.diff(self.offsets))

    def rows(self):
        return zip(self.offsets[:-1], self.offsets[1:], strict=True)


def tokens(seed: int, lengths) -> Tokens:
    rng = np.random.default_rng(seed)
    n = sum(lengths)
    return Tokens(
        -rng.exponential(3, n).astype(np.float32),
        -rng.exponential(2, n).astype(np.float32),
        (0.1 + rng.exponential(1, n)).astype(np.float32),
        rng.random(n) < 0.3,
        np.r_[0, np.cumsum(lengths)].astype(np.int64),
    )


def evidence(seed: int, lengths=(1, 2, 4, 5, 9, 10, 40, 41, 60)) -> Evidence:
    model, reference = tokens(seed, lengths), tokens(seed + 1, lengths)
    texts = [f"row {seed} " * length for length in lengths]
    return Evidence(model.energies, reference.energies, model, reference, texts)


def test_attacks_are_what_their_formulas_say():
    """Each row alone, in plain loops as the papers and their code have them."""
    given_all = evidence(5)
    model, reference = given_all.tokens, given_all.reference_tokens
    for place, (a, b) in enumerate(model.rows()):
        ours, theirs = model.log_probs[a:b].astype(np.float64), reference.log_probs[a:b].astype(np.float64)
        lowest = max(1, (b - a) // 5)
        normal = (ours - model.expected[a:b]) / model.spread[a:b]
        votes = []
        for window in WINDOWS:
            kernel = np.ones(min(window, b - a))
            votes.append(np.mean(np.convolve(ours, kernel, "valid") > np.convolve(theirs, kernel, "valid")))
        expected = {
            "loss": ours.mean(),
            "reference": ours.mean() - theirs.mean(),
            "zlib": ours.mean() / len(zlib.compress(given_all.texts[place].encode())),
            "min_k": np.sort(ours)[:lowest].mean(),
            "min_k_plus_plus": np.sort(normal)[:lowest].mean(),
            "windows": np.mean(votes),
        }
        assert expected.keys() == ATTACKS.keys()
        for name, value in expected.items():
            assert attack(name, given_all)[place] == pytest.approx(value), name


@settings(deadline=None, max_examples=10)
@given(seeds)
def test_a_row_has_its_score_whatever_the_others(seed):
    lengths = (3, 50, 1, 20)
    together = evidence(seed, lengths)
    for name in ATTACKS:
        found = attack(name, together)
        for place, (a, b) in enumerate(together.tokens.rows()):
            one = [
                replace(
                    side,
                    offsets=np.array([0, b - a]),
                    **{part: getattr(side, part)[a:b] for part in ("log_probs", "expected", "spread", "greedy")},
                )
                for side in (together.tokens, together.reference_tokens)
            ]
            alone = Evidence(one[0].energies, one[1].energies, *one, [together.texts[place]])
            assert attack(name, alone)[0] == pytest.approx(found[place], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_higher_is_more_likely_a_member(name):
    """A model to which the tokens of some rows are half the bits; above .92 in each of 20 seeds."""
    for seed in range(3):
        members, others = evidence(2 * seed, [50] * 60), evidence(2 * seed + 1000, [50] * 60)
        learned = replace(members.tokens, log_probs=members.tokens.log_probs / 2)
        members = replace(members, tokens=learned, energies=learned.energies)
        assert roc_auc(attack(name, members), attack(name, others)).value > 0.85


def test_a_certain_model_has_scores_that_are_numbers():
    """No spread: the certain token scores 0, another far below all others."""
    certain = Tokens(
        *(np.array(part, dtype=np.float32) for part in ([0, 0, -90], [0, 0, 0], [0, 0, 0])), None, np.array([0, 2, 3])
    )
    found = attack("min_k_plus_plus", Evidence(certain.energies, tokens=certain))
    assert found[0] == 0
    assert -math.inf < found[1] < -1e6


def test_equal_models_give_no_window_a_vote():
    one = tokens(0, [5, 60])
    assert attack("windows", Evidence(one.energies, tokens=one, reference_tokens=one)).tolist() == [0, 0]


def test_attacks_go_by_what_evidence_there_is():
    everything = evidence(0)
    assert attacks_for(everything) == tuple(ATTACKS)
    masked = Evidence(everything.energies, everything.reference)
    assert attacks_for(masked) == ("loss", "reference")
    with pytest.raises(InputError, match="no reference_tokens"):
        attack("windows", replace(everything, reference_tokens=None))
    with pytest.raises(InputError, match="Did you mean min_k"):
        attack("mink", everything)


@pytest.mark.parametrize(("broken", "name", "message"), [
    (lambda e: replace(e, texts=e.texts[1:]), "zlib", "one for each of 9 rows"),
    (lambda e: replace(e, tokens=tokens(0, [3] * 9)), "min_k", "as many as the energies are of"),
    (lambda e: replace(e, tokens=replace(e.tokens, log_probs=e.tokens.log_probs * np.nan)), "min_k", "not finite"),
    (lambda e: replace(e, tokens=replace(e.tokens, spread=e.tokens.spread[1:])), "min_k_plus_plus", "172 finite numbers"),
    (lambda e: replace(e, reference=tokens(0, [3] * 9).energies), "reference", "the same rows"),
    (lambda e: replace(e, energies=Energies(e.energies.sums * np.nan, e.energies.tokens)), "loss", "finite"),
])  # fmt: skip
def test_evidence_that_does_not_fit_is_refused(broken, name, message):
    with pytest.raises(InputError, match=message):
        attack(name, broken(evidence(0)))


@settings(deadline=None, max_examples=50)
@given(scores, scores)
def test_auc_and_rates_are_those_of_scikit_learn(members, others):
    labels, values = np.repeat([1, 0], [len(members), len(others)]), np.r_[members, others]
    found = roc_auc(members, others)
    assert found.value == pytest.approx(roc_auc_score(labels, values))
    if len(set(values)) > 1:
        assert found.p == pytest.approx(mannwhitneyu(members, others, use_continuity=False, method="asymptotic").pvalue)
    else:
        assert found.p == 1
    false, true, _ = roc_curve(labels, values, drop_intermediate=False)
    for rate in (0.0, 0.01, 0.1, 0.25, 1 / 3, 0.5, 1.0):
        point = tpr_at(members, others, rate)
        assert point.value == pytest.approx(true[false <= rate + 1e-9].max())
        assert point.achieved <= rate + 1e-9
        assert np.mean(np.array(members) > point.threshold) == pytest.approx(point.value)
        assert point.low <= point.value <= point.high


@settings(deadline=None, max_examples=30)
@given(scores, scores)
def test_scores_count_by_their_order_alone(members, others):
    found, swapped = roc_auc(members, others), roc_auc(others, members)
    assert swapped.value == pytest.approx(1 - found.value)
    assert swapped.p == pytest.approx(found.p)
    grown = [np.exp(np.array(side) / 2) for side in (members, others)]
    assert roc_auc(*grown) == found
    assert replace(tpr_at(*grown, 0.1), threshold=0) == replace(tpr_at(members, others, 0.1), threshold=0)


def test_auc_covers_the_truth_as_often_as_it_says():
    """Binormal scores, AUC = Phi(shift / sqrt 2): about .94, and chance's band holds .95; less 4 standard errors."""
    for shift in (0.0, 1.0):
        truth, hits, band = norm.cdf(shift / math.sqrt(2)), 0, 0
        for seed in range(70):
            rng = np.random.default_rng(seed)
            found = roc_auc(rng.normal(shift, 1, 40), rng.normal(0, 1, 50), seed=seed)
            hits += found.low <= truth <= found.high
            band += found.chance[0] <= found.value <= found.chance[1]
        assert hits >= 58
        assert band >= 58 if shift == 0 else band < 35


@pytest.mark.parametrize(
    ("shift", "members", "others", "rate"), [(1, 500, 500, 0.01), (2, 2000, 2000, 0.001), (1, 100, 100, 0.1)]
)
def test_a_rate_covers_the_truth_as_often_as_it_says(shift, members, others, rate):
    """The interval is somewhat wide, never too narrow: .97 and more in 300 simulations, less 4 standard errors."""
    truth, hits = norm.sf(norm.isf(rate) - shift), 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        found = tpr_at(rng.normal(shift, 1, members), rng.normal(0, 1, others), rate, seed=seed)
        hits += found.low <= truth <= found.high
    assert hits >= 90


def test_scores_that_say_nothing_are_within_chance():
    """Exact: at most 5 % of the p-values below .05, 95 % of the rates in the band; 300 simulations, 4 standard errors."""
    below, band = 0, 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        found = tpr_at(rng.normal(0, 1, 150), rng.normal(0, 1, 200), 0.05, seed=seed)
        below += found.p < 0.05
        band += found.chance[0] <= found.value <= found.chance[1]
    assert below <= 30
    assert band >= 270


def test_separated_scores_are_no_certainty():
    found = roc_auc(np.arange(10, 30), np.arange(8))
    assert (found.value, found.high) == (1, 1)
    assert found.low == pytest.approx(0.025 ** (1 / 8))
    assert roc_auc(np.arange(8), np.arange(10, 30)).high == pytest.approx(1 - 0.025 ** (1 / 8))
    tied = roc_auc(np.zeros(20), np.zeros(20))
    assert (tied.value, tied.p) == (0.5, 1)
    assert tied.low < 0.5 < tied.high
    none = tpr_at(np.zeros(100), np.ones(100), 0.1)
    assert none.value == none.low == 0
    assert none.high >= 1 - 0.025 ** (1 / 100)
    every = tpr_at(np.ones(100), np.zeros(100), 0.1)
    assert every.value == every.high == 1
    assert every.low <= 0.025 ** (1 / 100)


def test_a_rate_below_what_the_non_members_resolve_says_so():
    members, others = np.linspace(0, 1, 200), np.linspace(-0.5, 0.5, 500)
    for rate, resolved in ((0.001, False), (0.002, True), (0.0, False)):
        found = tpr_at(members, others, rate)
        assert found.resolved is resolved
        assert found.resolution == 1 / 500
    assert tpr_at(members, others, 0.001).value == np.mean(members > others.max())
    assert tpr_at(members, others, 0.001).low == 0
    assert tpr_at(np.ones(3), np.arange(100), 0.29).achieved == 0.29  # 0.29 * 100 is below 29


@pytest.mark.parametrize(("members", "others", "rate", "message"), [
    ([], [1.0], 0.1, "scores of members"),
    ([1.0], [], 0.1, "scores of non-members"),
    ([1.0, np.nan], [1.0], 0.1, "1 that are not"),
    ([1.0], [np.inf], 0.1, "1 that are not"),
    ([1.0], [1.0], 1.5, "0 to 1"),
    ([1.0], [1.0], math.nan, "0 to 1"),
])  # fmt: skip
def test_scores_that_are_none_are_refused(members, others, rate, message):
    with pytest.raises(InputError, match=message):
        tpr_at(members, others, rate)
    if 0 <= rate <= 1:
        with pytest.raises(InputError, match=message):
            roc_auc(members, others)


def bags(rng: np.random.Generator, n: int, first: int = 0, words: int = 400) -> list[list[int]]:
    """Rows of words with Zipf's frequencies."""
    chances = 1 / np.arange(1, words + 1)
    return [list(first + rng.choice(words, 40, p=chances / chances.sum())) for _ in range(n)]


def test_a_random_split_does_not_leak():
    """One of twenty random splits at p < .05, AUC .5 on average; 4 standard errors more."""
    found = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        found.append(blind_baseline(bags(rng, 40), bags(rng, 40), folds=3, permutations=59, seed=seed))
    assert sum(one.leaks for one in found) <= 5
    assert abs(np.mean([one.auc.value for one in found]) - 0.5) < 0.07


def test_a_split_by_topic_leaks():
    for seed in range(3):
        rng = np.random.default_rng(seed)
        found = blind_baseline(bags(rng, 60), bags(rng, 60, first=30), permutations=59, seed=seed)
        assert found.leaks
        assert found.p == pytest.approx(1 / 60)
        assert found.auc.low > 0.75


def test_texts_and_their_words_numbered_are_the_same():
    rng = np.random.default_rng(0)
    sides = bags(rng, 30), bags(rng, 30, first=5)
    texts = [[" ".join(f"word{number:04}" for number in row) for row in side] for side in sides]
    numbers, words = blind_baseline(*sides, permutations=9, seed=1), blind_baseline(*texts, permutations=9, seed=1)
    assert numbers.words == words.words
    assert numbers.auc.value == pytest.approx(words.auc.value, abs=0.01)  # the order of the words moves the last digits
    assert blind_baseline(*sides, permutations=9, seed=1) == numbers


def test_halves_of_a_document_are_kept_apart():
    """Each document's own words are in two rows: without the documents they give the side away."""
    rng = np.random.default_rng(0)
    documents = [[list(400 + 30 * number + rng.choice(30, 40)) for _ in range(2)] for number in range(60)]
    rows = [half for document in documents for half in document]
    numbers = [{number} for number in range(60) for _ in range(2)]
    sides, owners = (rows[:60], rows[60:]), (numbers[:60], numbers[60:])
    assert blind_baseline(*sides, permutations=9).auc.value > 0.8
    apart = blind_baseline(*sides, documents=owners)
    assert not apart.leaks
    assert apart.auc.value < 0.65


@pytest.mark.parametrize(("members", "others", "options", "message"), [
    (["a b"] * 9, ["c d"] * 20, {}, "two of each a fold"),
    (["a b"] * 10, [[1, 2]] * 10, {}, "found both"),
    (["?"] * 10, ["!"] * 10, {}, "some words"),
    (["a1 b1"] * 10, ["c1 d1"] * 10, {"documents": ([{1}] * 9, [{2}] * 10)}, "one set for each"),
    (["a1 b1"] * 10, ["c1 d1"] * 10, {"documents": ([{1}] * 10, [{2}] * 10)}, "share no document"),
])  # fmt: skip
def test_rows_that_cannot_be_told_are_refused(members, others, options, message):
    with pytest.raises(InputError, match=message):
        blind_baseline(members, others, **options)
