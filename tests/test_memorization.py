"""What was memorised, by hand, as properties, and in simulations: ALR, perplexity, exposure, extraction, harm."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import permutation_test

from fuseforget.errors import InputError
from fuseforget.knowledge import (
    Exposure,
    alr,
    canary_exposure,
    check_bound,
    compare_alr,
    compare_exposure,
    compare_perplexity,
    extractable,
    likelihood_ratio,
    mean_exposure,
    mia_recall,
    more_exposed,
    perplexity,
    ratios,
    retained,
    verbatim,
)

seeds = st.integers(0, 2**20)


@dataclass(frozen=True)
class Energies:
    sums: np.ndarray
    tokens: np.ndarray


def some(seed: int, n: int = 80, shift: float = 0.0, spread: float = 0.3) -> tuple[Energies, Energies]:
    """Energies of a model that is so many nats a token from the reference, and the reference's."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(20, 60, n)
    means = rng.gamma(9, 0.35, n)
    return Energies((means + shift + rng.normal(0, spread, n)) * tokens, tokens), Energies(means * tokens, tokens)


def test_alr_by_hand():
    """Two rows: half the likelihood a token and four times it."""
    reference = Energies(np.array([10.0, 20.0]), np.array([2, 4]))
    model = Energies(reference.sums + np.log([2, 0.25]) * reference.tokens, reference.tokens)
    assert likelihood_ratio(model, reference) == pytest.approx(np.log([2, 0.25]))
    assert alr(model, reference).value == pytest.approx((2 + 0.25) / 2)
    assert alr(model, reference, per="sum").value == pytest.approx((2**2 + 0.25**4) / 2)
    assert alr(model, reference).n == 2


@settings(deadline=None, max_examples=20)
@given(seeds)
def test_alr_of_the_reference_is_one_and_means_lie_in_their_intervals(seed):
    model, reference = some(seed, n=30)
    for per in ("token", "sum"):
        found = alr(reference, reference, per=per)
        assert (found.value, found.low, found.high) == (1, 1, 1)
    found = alr(model, reference)
    assert found.low <= found.value <= found.high
    more = Energies(model.sums - 0.1 * model.tokens, model.tokens)
    assert alr(more, reference).value == pytest.approx(math.exp(-0.1) * found.value)


def test_sums_that_overflow_are_refused_and_the_largest_that_do_not_are_not():
    tokens = np.full(50, 1024)
    reference = Energies(np.full(50, 3.0 * 1024), tokens)
    unlikely = Energies(reference.sums + 720, tokens)
    with pytest.raises(InputError, match="per='token'"):
        alr(unlikely, reference, per="sum")
    assert alr(unlikely, reference).value == pytest.approx(math.exp(720 / 1024))
    large = alr(Energies(reference.sums + 705 + 0.1 * np.arange(50) / 50, tokens), reference, per="sum")
    assert np.isfinite([large.value, large.low, large.high]).all()
    with pytest.raises(InputError, match="broken"):
        alr(Energies(reference.sums * 1000, tokens), reference)


def test_perplexity_by_hand_and_as_the_exponential_of_the_mean_loss():
    assert perplexity([2 * math.log(4), 2 * math.log(16)], [2, 2]).value == pytest.approx(8)
    # Tokens count alike, rows do not.
    assert perplexity([3 * math.log(4), math.log(64)], [3, 1]).value == pytest.approx(4 ** (6 / 4))


def test_intervals_cover_the_truth_as_often_as_they_say():
    """Rows' ratios are lognormal with mean exp(-.4 + .3^2 / 2), energies gamma: about .93 each, less 4 standard errors."""
    hits = np.zeros(2)
    for seed in range(80):
        model, reference = some(seed, n=60, shift=-0.4)
        ratio, surprise = alr(model, reference, seed=seed), perplexity(reference.sums, reference.tokens, seed=seed)
        hits += ratio.low <= math.exp(-0.4 + 0.045) <= ratio.high, surprise.low <= math.exp(9 * 0.35) <= surprise.high
    assert (hits / 80 >= 0.82).all()
    assert (hits / 80 < 1).any()


def test_comparisons_are_paired():
    model, reference = some(0, shift=-0.4)
    better = Energies(model.sums - 0.01 * model.tokens, model.tokens)
    assert alr(better, reference).high > alr(model, reference).low  # apart, nothing is to be seen
    found = compare_alr(better, model, reference)
    assert found.value == pytest.approx(alr(better, reference).value - alr(model, reference).value)
    assert found.high < 0
    assert found.p < 0.001
    back = compare_alr(model, better, reference)
    assert (back.value, back.low) == pytest.approx((-found.value, -found.high), rel=0.05)
    surprise = compare_perplexity(better, model)
    expected = perplexity(better.sums, better.tokens).value - perplexity(model.sums, model.tokens).value
    assert surprise.value == pytest.approx(expected)
    assert surprise.high < 0
    assert surprise.p < 0.001


def test_equal_models_do_not_differ():
    model, reference = some(3)
    for found in (compare_alr(model, model, reference), compare_perplexity(model, model)):
        assert (found.value, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_models_alike_are_told_apart_as_often_as_chance_does():
    """Two models with noise of the same size: p < .05 in about one of twenty. 4 standard errors."""
    found = 0
    for seed in range(100):
        (first, reference), (second, _) = some(seed, n=40), some(seed + 10_000, n=40)
        noise = (second.sums / second.tokens - some(seed + 10_000, n=40)[1].sums / second.tokens) * reference.tokens
        found += compare_perplexity(first, Energies(reference.sums + noise, reference.tokens), seed=seed).p < 0.05
    assert found <= 14


def test_the_bound_of_equation_2_for_alr():
    one, reference = some(0, shift=-1)
    other, between = (Energies(reference.sums + shift * reference.tokens, reference.tokens) for shift in (0.2, -0.4))
    values = [ratios(model, reference) for model in (between, one, other)]
    assert check_bound(values[0], values[1:]).verdict == "holds"
    assert check_bound(values[2], [values[0], values[1]]).verdict == "broken"


def test_what_is_retained_by_hand():
    """The single model saves 2 nats a token against those that never saw the rows, the fused one half a nat."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(10, 20, 40)
    base = rng.gamma(9, 0.35, 40)
    single, fused, low, high = (Energies((base + shift) * tokens, tokens) for shift in (-2, -0.5, -0.1, 0.1))
    assert retained(fused, single, [low, high]).value == pytest.approx(0.25)
    assert retained(single, single, [low, high]).value == pytest.approx(1)
    assert retained(high, single, [low, high]).value == pytest.approx(-0.05)
    with pytest.raises(InputError, match="a specialist above the control"):
        retained(fused, low, [single, fused])
    with pytest.raises(InputError, match="at least one model"):
        retained(fused, single, [])


def test_mia_recall_by_hand():
    """Of ten validation rows one may be below the threshold: it is the second lowest, and three of four members are below."""
    validation = np.array([-1.0, -0.5, 0, 0, 0, 1, 1, 1, 1, 2])
    found = mia_recall([-2, -0.7, -0.6, -0.5], validation)
    assert (found.value, found.threshold, found.achieved) == (0.75, -0.5, 0.1)
    tied = mia_recall([-2, -0.7, -0.6, -0.5], np.repeat([-0.6, 1], [5, 5]))
    assert (tied.value, tied.threshold, tied.achieved) == (0.5, -0.6, 0)


def test_energies_of_other_rows_are_refused():
    model, reference = some(0)
    fewer = Energies(model.sums[:-1], model.tokens[:-1])
    with pytest.raises(InputError, match=r"80 rows of \d+ tokens and 79 rows"):
        alr(model, fewer)
    with pytest.raises(InputError, match="the same rows"):
        alr(Energies(model.sums, model.tokens + 1), reference)
    for sums, tokens, message in (
        ([], [], "0 and 0"),
        ([1.0], [1, 2], "1 and 2"),
        ([1.0, np.nan], [1, 1], "1 rows that are not, the first is row 1"),
        ([1.0, 2.0], [0, 1], "the first is row 0"),
    ):
        with pytest.raises(InputError, match=message):
            perplexity(sums, tokens)
    with pytest.raises(InputError, match="at most 710 nats"):
        perplexity([800.0], [1])


def test_exposure_by_hand():
    values = np.log([0.1, 0.4, 0.2, 0.2, 0.05, 0.03, 0.01, 0.01])
    assert canary_exposure(values, 1) == Exposure(1, 8, 0, 3.0)
    assert canary_exposure(values, 3) == Exposure(2, 8, 1, 2.0)  # ties rank best
    assert canary_exposure(values, 7) == Exposure(7, 8, 1, 3 - math.log2(7))
    assert canary_exposure(np.zeros(8), 5) == Exposure(1, 8, 7, 3.0)


@settings(deadline=None)
@given(st.lists(st.floats(-50, 0), min_size=2, max_size=30), st.data())
def test_exposure_is_between_none_and_all_and_sees_the_order_alone(values, data):
    true = data.draw(st.integers(0, len(values) - 1))
    found = canary_exposure(values, true)
    assert 0 <= found.exposure <= math.log2(len(values))
    assert found.rank == 1 + sorted(values, reverse=True).index(values[true])
    assert canary_exposure(np.array(values) * 2 - 1, true).rank <= found.rank


def drawn(rng: np.random.Generator, n: int) -> list[Exposure]:
    """Canaries that were never seen: every rank alike."""
    return [Exposure(int(rank), 10_000, 0, math.log2(10_000 / rank)) for rank in rng.integers(1, 10_001, n)]


def test_the_mean_exposure_of_few_canaries_covers_that_of_unseen_ones():
    """log2 e bits. Student's t falls short of 95 % for eight skewed values: .886 in 1,000 simulations, 4 standard errors here."""
    hits = 0
    for seed in range(300):
        found = mean_exposure(drawn(np.random.default_rng(seed), 8))
        hits += found.low <= math.log2(math.e) <= found.high
    assert 0.81 <= hits / 300 <= 0.96


def test_inserted_canaries_against_those_held_out():
    extracted = [Exposure(1, 10_000, 0, math.log2(10_000))] * 6
    for seed in range(3):
        held_out = drawn(np.random.default_rng(seed), 6)
        found = compare_exposure(extracted, held_out)
        assert found.low > 0
        assert found.p == pytest.approx(2 / math.comb(12, 6))  # all divisions: this one and its reverse
        first, second = drawn(np.random.default_rng(seed + 10), 5), drawn(np.random.default_rng(seed + 20), 4)
        oracle = permutation_test(
            tuple([canary.exposure for canary in side] for side in (first, second)),
            lambda a, b: abs(np.mean(a) - np.mean(b)),
            n_resamples=np.inf,
            alternative="greater",
        )
        assert compare_exposure(first, second).p == pytest.approx(oracle.pvalue)
    random = compare_exposure(drawn(np.random.default_rng(0), 20), [*extracted, *extracted])
    assert random.p < 0.001
    assert random.high < 0


def test_all_canaries_extracted_are_no_certainty():
    extracted = [Exposure(1, 1024, 0, 10.0)] * 8
    found, share = mean_exposure(extracted), extractable(extracted)
    assert (found.value, found.high, share.value) == (10, 10, 1)
    assert found.low == pytest.approx(10 * 0.025 ** (1 / 8))
    assert share.low == pytest.approx(0.025 ** (1 / 8))
    assert mean_exposure(extracted[:1]).low < 1
    assert extractable([*extracted, Exposure(2, 1024, 0, 9.0)]).value == pytest.approx(8 / 9)
    same = compare_exposure(extracted, extracted)
    assert (same.value, same.p) == (0, 1)
    assert same.low < 0 < same.high


@pytest.mark.parametrize(("values", "true", "message"), [
    ([-1.0], 0, "at least two"),
    ([-1.0, -2.0], 2, "a place below 2"),
    ([-1.0, np.nan], 0, "numbers up to 0"),
    ([-1.0, 3.0], 0, "numbers up to 0"),
])  # fmt: skip
def test_fills_that_cannot_be_ranked_are_refused(values, true, message):
    with pytest.raises(InputError, match=message):
        canary_exposure(values, true)


def test_canaries_that_cannot_be_compared_are_refused():
    one, other = Exposure(1, 8, 0, 3.0), Exposure(1, 16, 0, 4.0)
    for call in (lambda: mean_exposure([]), lambda: mean_exposure([one, other]), lambda: extractable([])):
        with pytest.raises(InputError, match="canaries"):
            call()
    with pytest.raises(InputError, match="two inserted"):
        compare_exposure([one], [one, one])


def test_verbatim_extraction_by_hand():
    """Rows of 6, 6, 5 and 2 tokens; prefix 2, suffix 3: tokens 2 to 4, predicted at places 1 to 3."""
    greedy = [[0, 1, 1, 1, 0], [1, 1, 1, 0, 1], [1, 0, 1, 1], [1]]
    offsets = np.r_[0, np.cumsum([len(row) for row in greedy])]
    found = verbatim(np.concatenate(greedy), offsets, prefix=2, suffix=3)
    assert found.rows.tolist() == [0, 1, 2]
    assert found.leading.tolist() == [3, 2, 0]
    assert found.extracted.tolist() == [True, False, False]
    assert found.rate.value == pytest.approx(1 / 3)
    assert found.share.value == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert found.short == 1


def test_nothing_extracted_is_no_certainty():
    found = verbatim(np.zeros(40, dtype=bool), np.arange(0, 41, 4), prefix=1, suffix=4)
    assert (found.rate.value, found.share.value) == (0, 0)
    assert found.rate.high == found.share.high == pytest.approx(1 - 0.025 ** (1 / 10))


@pytest.mark.parametrize(("offsets", "prefix", "suffix", "message"), [
    ([0, 4, 8], 3, 3, "2 rows of at most 5"),
    ([0, 4, 8], 0, 3, "at least one token"),
    ([0, 4, 9], 1, 2, "ascending from 0 to 8"),
    ([0, 9, 8], 1, 2, "ascending from 0 to 8"),
    ([], 1, 2, "ascending"),
])  # fmt: skip
def test_rows_that_cannot_be_extracted_are_refused(offsets, prefix, suffix, message):
    with pytest.raises(InputError, match=message):
        verbatim(np.ones(8, dtype=bool), offsets, prefix=prefix, suffix=suffix)


def test_harm_by_hand():
    """Three rows, two parents: the fused model exposes the second more than either, the first as much, the third less."""
    found = more_exposed([-1.0, -0.8, 0.0], [[-1.0, -0.5, 0.1], [0.3, -0.7, -2.0]])
    assert [row.row for row in found.rows] == [1, 0, 2]
    assert [row.parent for row in found.rows] == [1, 0, 1]
    assert [row.excess for row in found.rows] == pytest.approx([0.1, 0, -2])
    assert found.share.value == pytest.approx(1 / 3)
    assert found.chance == pytest.approx(1 / 3)
    assert (found.rows[0].p, found.rows[0].clear, found.controls, found.clear) == (None, None, None, None)
    unseen = np.linspace(-1, -0.05, 99)
    with_controls = more_exposed(
        [-1.0, -0.8, 0.0], [[-1.0, -0.5, 0.1], [0.3, -0.7, -2.0]], fused_controls=-unseen, parents_controls=np.zeros((2, 99))
    )
    assert [row.p for row in with_controls.rows] == [0.01, 0.01, 1.0]
    assert [row.clear for row in with_controls.rows] == [True, True, False]
    assert (with_controls.controls.value, with_controls.clear) == (0, 2)


def test_a_fused_model_that_is_better_at_everything_harms_nobody():
    """All rows, seen or not, gain alike: most are more exposed than by any parent, and hardly a set has a clear one."""
    wrong = 0
    for seed in range(60):
        values = np.random.default_rng(seed).normal(0, 1, (4, 400))
        values[0] -= 2
        found = more_exposed(values[0, :50], values[1:, :50], fused_controls=values[0, 50:], parents_controls=values[1:, 50:])
        assert found.share.value > 0.6
        wrong += found.clear > 0
    assert wrong <= 8  # 5 % at most, 3 standard errors


def test_rows_that_are_harmed_are_found():
    for seed in range(3):
        values = np.random.default_rng(seed).normal(0, 0.1, (3, 1200))
        values[0, :10] -= 2
        found = more_exposed(values[0, :200], values[1:, :200], fused_controls=values[0, 200:], parents_controls=values[1:, 200:])
        assert {row.row for row in found.rows[:10]} == set(range(10))
        assert all(row.clear for row in found.rows[:10])
        assert found.clear <= 13


@pytest.mark.parametrize(("fused", "parents", "message"), [
    ([], np.zeros((2, 0)), "n at least 1"),
    ([1.0], np.zeros((2, 2)), "parents x n"),
    ([1.0], np.zeros((0, 1)), "parents x n"),
    ([np.nan], np.zeros((2, 1)), "finite"),
])  # fmt: skip
def test_harm_of_other_rows_is_refused(fused, parents, message):
    with pytest.raises(InputError, match=message):
        more_exposed(fused, parents)


def test_controls_must_be_of_the_same_models():
    with pytest.raises(InputError, match="2 parents"):
        more_exposed([0.0], np.zeros((2, 1)), fused_controls=[0.0], parents_controls=np.zeros((3, 1)))
    with pytest.raises(InputError, match="found one"):
        more_exposed([0.0], np.zeros((2, 1)), fused_controls=[0.0])
