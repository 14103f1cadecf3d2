"""Metrics of fairness against fairlearn and scikit-learn, by hand, and their intervals and tests in simulations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fairlearn import metrics as fairlearn
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from fuseforget.errors import InputError
from fuseforget.knowledge import check_bound
from fuseforget.knowledge.fairness import (
    FAIRNESS,
    Grouped,
    check_bound_of,
    compare_fairness,
    fairness,
    fairness_draws,
    fairness_intervals,
    group_rows,
)
from fuseforget.knowledge.resampling import resampled_sums, swapped_sums

ANSWERS = tuple(name for name, metric in FAIRNESS.items() if metric.table == "answers")
CALIBRATION = tuple(name for name, metric in FAIRNESS.items() if metric.table == "calibration")
sizes = st.tuples(st.integers(2, 4), st.integers(2, 4), st.integers(0, 2**20))


def some(groups: int, labels: int, seed: int, n: int = 200, models: int = 1, units: int | None = None):
    """A set with rows of every label in every group, predictions of models, and confidences."""
    rng = np.random.default_rng(seed)
    cells = np.concatenate([np.tile(np.arange(groups * labels), 6), rng.integers(0, groups * labels, n)])
    rng.shuffle(cells)
    truth, group = cells % labels, cells // labels
    right = rng.random((models, len(cells))) < rng.uniform(0.3, 0.9, groups)[group]
    predictions = np.where(right, truth, rng.integers(0, labels, (models, len(cells))))
    names = tuple(f"label {y}" for y in range(labels)), tuple(f"group {g}" for g in range(groups))
    data = Grouped(truth, group, *names, units=None if units is None else rng.integers(0, units, len(cells)))
    return data, predictions, rng.uniform(1 / labels, 1, predictions.shape)


def value(metric: str, data: Grouped, predictions, confidences=None) -> float:
    """The metric alone: the statistic of the counts."""
    sure = None if confidences is None else np.asarray(confidences)[None]
    return float(fairness_draws([metric], data, np.asarray(predictions)[None], confidences=sure)[0][0, 0])


@settings(deadline=None, max_examples=20)
@given(sizes)
def test_metrics_are_those_of_fairlearn_and_scikit_learn(size):
    data, predictions, _ = some(*size)
    predicted, sensitive = predictions[0], {"sensitive_features": data.groups}
    by_group = fairlearn.MetricFrame(metrics=accuracy_score, y_true=data.labels, y_pred=predicted, **sensitive)
    by_cell = fairlearn.MetricFrame(
        metrics=accuracy_score, y_true=data.labels, y_pred=predicted, sensitive_features=np.stack([data.groups, data.labels], 1)
    )
    expected = {
        "accuracy": accuracy_score(data.labels, predicted),
        "f1": f1_score(data.labels, predicted, average="macro"),
        "worst_group_accuracy": by_group.group_min(),
        "worst_cell_accuracy": by_cell.group_min(),
    }
    if size[1] == 2:
        expected["equalized_odds"] = fairlearn.equalized_odds_difference(data.labels, predicted, **sensitive)
    if size[:2] == (2, 2):
        expected["demographic_parity"] = 2 * fairlearn.demographic_parity_difference(data.labels, predicted, **sensitive)
        expected["fpr_gap"] = fairlearn.false_positive_rate_difference(data.labels, predicted, **sensitive)
        gaps = [
            fairlearn.true_positive_rate_difference(data.labels == y, predicted == y, **sensitive) for y in (0, 1)
        ]  # fmt: skip
        expected["tpr_gap"] = np.sqrt(np.mean(np.square(gaps)))
    for metric, number in expected.items():
        assert value(metric, data, predicted) == pytest.approx(number), metric


@settings(deadline=None, max_examples=20)
@given(sizes)
def test_metrics_are_their_formulas(size):
    """Those that fairlearn does not have, for any number of groups and labels, by loops over the definition."""
    data, predictions, confidences = some(*size)
    predicted, y, g = predictions[0], data.labels, data.groups
    labels, groups = range(size[1]), range(size[0])

    def rate(answer: int, *which: np.ndarray) -> float:
        return float(np.mean(predicted[np.logical_and.reduce(which)] == answer))

    dp = max(sum(abs(rate(a, g == i) - rate(a, g != i)) for a in labels) for i in groups)
    tpr = max(np.sqrt(np.mean([(rate(a, g == i, y == a) - rate(a, g != i, y == a)) ** 2 for a in labels])) for i in groups)
    asked = [1] if size[1] == 2 else labels
    fpr = max(abs(rate(a, g == i, y != a) - rate(a, g != i, y != a)) for a in asked for i in groups)
    by_group = [[rate(a, g == i, y == label) for a in labels for label in labels] for i in groups]
    for metric, expected in {
        "demographic_parity": dp,
        "tpr_gap": tpr,
        "fpr_gap": fpr,
        "equalized_odds": np.ptp(by_group, 0).max(),
    }.items():
        assert value(metric, data, predicted) == pytest.approx(expected), metric

    def error(rows: np.ndarray) -> float:
        right, sure = predicted[rows] == y[rows], confidences[0][rows]
        bins = [(sure > b / 15) & (sure <= (b + 1) / 15) for b in range(15)]
        return sum(abs(right[b].mean() - sure[b].mean()) * b.mean() for b in bins if b.any())

    errors = [error(g == i) for i in groups]
    expected = {"ece": error(g >= 0), "worst_group_ece": max(errors), "ece_gap": max(errors) - min(errors)}
    for metric, number in expected.items():
        assert value(metric, data, predicted, confidences[0]) == pytest.approx(number, abs=1e-5), metric


def test_by_hand():
    """Of every four women two are answered yes, one of them wrongly; of four men three, one of them wrongly."""
    labels, groups = np.tile([1, 1, 0, 0, 1, 1, 0, 0], 9), np.tile(np.repeat([0, 1], 4), 9)
    predicted = np.tile([1, 0, 1, 0, 1, 1, 1, 0], 9)
    data = Grouped(labels, groups, ("no", "yes"), ("women", "men"))
    expected = {
        "accuracy": 5 / 8, "worst_group_accuracy": 2 / 4, "worst_cell_accuracy": 1 / 2,
        "f1": (2 * 2 / (4 + 3) + 2 * 3 / (4 + 5)) / 2,
        "demographic_parity": 2 * (3 / 4 - 2 / 4), "tpr_gap": np.sqrt((0.5**2 + 0**2) / 2), "fpr_gap": 0,
        "equalized_odds": 1 / 2,
    }  # fmt: skip
    assert {metric: value(metric, data, predicted) for metric in ANSWERS} == pytest.approx(expected)
    sure = np.tile([0.9, 0.6, 0.9, 0.6, 0.9, 0.9, 0.9, 0.9], 9)
    # women: right - sure is .1 - .9 in the bin of .9 and -.6 + .4 in that of .6; men: .1 + .1 - .9 + .1 in that of .9
    by_group = [(0.8 + 0.2) / 4, 0.6 / 4]
    found = {metric: value(metric, data, predicted, sure) for metric in CALIBRATION}
    assert found == pytest.approx({"ece": (1.4 + 0.2) / 8, "worst_group_ece": by_group[0], "ece_gap": 0.1}, abs=1e-6)


def test_labels_never_answered_count_nothing_in_f1():
    data = Grouped(np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1]), ("a", "b"), ("f", "m"))
    assert float(FAIRNESS["f1"].from_counts(np.array([[[1, 0], [1, 0]]] * 2))) == pytest.approx((2 * 2 / 6) / 2)
    assert np.isnan(FAIRNESS["f1"].from_counts(np.array([[[2, 0], [0, 0]]] * 2)))
    assert len(data) == 4


@pytest.mark.parametrize("metric", FAIRNESS)
def test_a_perfect_model_is_ideal_and_all_are_in_range(metric):
    data, predictions, confidences = some(3, 3, 5)
    sure = np.ones(len(data))
    parity = metric == "demographic_parity"  # here labels are shared unequally, and so are right answers
    if not parity:
        assert value(metric, data, data.labels, sure) == FAIRNESS[metric].ideal
    balanced = Grouped(np.tile([0, 1, 2], 21), np.repeat([0, 1, 2], 21), data.label_names, data.group_names)
    assert value(metric, balanced, balanced.labels, np.ones(63)) == FAIRNESS[metric].ideal
    least, greatest = FAIRNESS[metric].range
    found = fairness(metric, data, predictions[0], confidences=confidences[0])
    assert least <= found.low <= found.value <= found.high <= greatest


@pytest.mark.parametrize("metric", FAIRNESS)
def test_neither_the_groups_numbers_nor_the_order_of_rows_matter(metric):
    data, predictions, confidences = some(3, 2, 11)
    found = value(metric, data, predictions[0], confidences[0])
    renamed = replace(data, groups=(data.groups + 1) % 3)
    assert value(metric, renamed, predictions[0], confidences[0]) == pytest.approx(found, abs=1e-6)
    order = np.random.default_rng(0).permutation(len(data))
    moved = replace(data, groups=data.groups[order], labels=data.labels[order])
    assert value(metric, moved, predictions[0][order], confidences[0][order]) == pytest.approx(found, abs=1e-6)


def test_answers_that_no_row_has_as_its_label_are_wrong_answers():
    data, predictions, _ = some(2, 2, 1)
    wider = replace(data, other_answers=("neither",))
    odd = np.where(np.arange(len(data)) % 5 == 0, 2, predictions[0])
    assert value("accuracy", wider, odd) == pytest.approx(np.mean(odd == data.labels))
    assert value("f1", wider, odd) == pytest.approx(f1_score(data.labels, odd, labels=[0, 1], average="macro"))
    with pytest.raises(InputError, match="predictions: expected 0 to 1"):
        fairness("accuracy", data, odd)


def test_models_share_their_resamples():
    data, predictions, confidences = some(2, 2, 3, models=2)
    same = np.stack([predictions[0], predictions[0]])
    _, draws = fairness_draws(["accuracy", "tpr_gap"], data, same)
    assert np.array_equal(draws[:, 0], draws[:, 1])
    _, draws = fairness_draws(["accuracy", "ece"], data, predictions, confidences=confidences)
    right = (predictions == data.labels).mean(axis=1)
    assert draws[:, :, 0].mean(axis=0) == pytest.approx(right, abs=0.002)
    covariance = np.cov(draws[:, 0, 0], draws[:, 1, 0])
    hits = (predictions == data.labels).astype(float)
    assert covariance == pytest.approx(np.cov(hits) / len(data), abs=0.1 * covariance[0, 0])


def test_both_ways_of_drawing_units_are_the_bootstrap():
    """Few kinds are drawn by how many of each, many one by one: means and spreads are the same."""
    rng = np.random.default_rng(0)
    few, many = rng.integers(0, 2, (3000, 1)).astype(float), rng.random((3000, 1))
    for contributions in (few, many):
        found = resampled_sums(contributions)
        assert found.mean() == pytest.approx(contributions.sum(), rel=2e-3)
        assert found.std() == pytest.approx(contributions.std() * np.sqrt(3000), rel=0.04)


@pytest.mark.parametrize("size", [50, 3000])
def test_swapping_keeps_the_sum_of_both(size):
    rng = np.random.default_rng(size)
    a, b = rng.random((2, size, 1))
    first, second = swapped_sums(a, b)
    assert first + second == pytest.approx(np.full((10_000, 1), (a + b).sum()))
    assert (first - second).std() == pytest.approx(np.sqrt(((a - b) ** 2).sum()), rel=0.04)


def simulated(seed: int, right: list[float], n: int = 600):
    """Rows of as many groups as there are shares of right answers."""
    rng = np.random.default_rng([seed, 77])
    groups, labels = rng.integers(0, len(right), n), rng.integers(0, 2, n)
    predicted = np.where(rng.random(n) < np.array(right)[groups], labels, 1 - labels)
    return Grouped(labels, groups, ("no", "yes"), tuple("abc"[: len(right)])), predicted


@pytest.mark.parametrize("right", [[0.85, 0.85], [0.85, 0.85, 0.85], [0.9, 0.8, 0.75]], ids=str)
def test_intervals_cover_the_truth(right):
    """Also where there is no gap, which no percentile interval would. In 200 sets, 95 % less three standard errors: 90 %."""
    share_of = np.array([[[p, 1 - p], [1 - p, p]] for p in right])
    truth = {metric: float(FAIRNESS[metric].from_counts(share_of)) for metric in ANSWERS}
    hits = dict.fromkeys(ANSWERS, 0)
    for trial in range(200):
        data, predicted = simulated(trial, right)
        for metric, found in zip(ANSWERS, fairness_intervals(ANSWERS, data, predicted[None], seed=trial)[0], strict=True):
            hits[metric] += found.low <= truth[metric] + 1e-9 and truth[metric] - 1e-9 <= found.high
    assert min(hits.values()) >= 0.885 * 200, hits


def clustered(seed: int, units: int = 60, of: int = 10):
    """Authors of ten rows each, all but alike in how often they are answered rightly."""
    rng = np.random.default_rng([seed, 78])
    unit = np.repeat(np.arange(units), of)
    right = np.repeat(rng.random(units) < 0.8, of) ^ (rng.random(units * of) < 0.05)
    labels = rng.integers(0, 2, units * of)
    groups = np.repeat(rng.permutation(np.arange(units) % 2), of)
    return Grouped(labels, groups, ("no", "yes"), ("f", "m"), units=unit), np.where(right, labels, 1 - labels)


def test_rows_of_one_author_are_not_independent():
    truth, hits, without = 0.8 * 0.95 + 0.2 * 0.05, 0, 0
    for trial in range(150):
        data, predicted = clustered(trial)
        found = fairness("accuracy", data, predicted, seed=trial)
        hits += found.low <= truth <= found.high
        alone = fairness("accuracy", replace(data, units=None), predicted, seed=trial)
        without += alone.low <= truth <= alone.high
    assert hits >= 0.87 * 150  # three standard errors and the percentile interval's shortfall of 60 units
    assert without <= 0.65 * 150  # a third as wide as it should be


@pytest.mark.parametrize("metric", ["accuracy", "tpr_gap"])
def test_the_randomisation_test_says_so_once_in_twenty_where_models_are_alike(metric):
    found = []
    for trial in range(300):
        data, _ = simulated(trial, [0.85, 0.8], 400)
        rng = np.random.default_rng([trial, 79])
        first, second = (np.where(rng.random(400) < 0.82, data.labels, 1 - data.labels) for _ in range(2))
        found.append(compare_fairness(metric, data, first, second, seed=trial).p < 0.05)
    assert 0.012 <= np.mean(found) <= 0.088  # three standard errors


def test_a_model_that_is_fairer_is_found_so():
    data, _ = simulated(1, [0.8, 0.8], 2000)
    rng = np.random.default_rng(2)
    fair = np.where(rng.random(2000) < 0.8, data.labels, 1 - data.labels)
    unfair = np.where((data.groups == 0) & (rng.random(2000) < 0.3), 1, fair)
    found = compare_fairness("demographic_parity", data, fair, unfair)
    assert found.value == pytest.approx(value("demographic_parity", data, fair) - value("demographic_parity", data, unfair))
    assert found.low < found.value < found.high < 0
    assert found.p < 0.001
    assert compare_fairness("demographic_parity", data, fair, fair).p == 1
    back = compare_fairness("demographic_parity", data, unfair, fair)
    assert (back.value, back.low, back.high) == pytest.approx((-found.value, -found.high, -found.low))


def test_the_bound_from_draws_is_the_bound_from_values():
    rng = np.random.default_rng(0)
    data, predictions, _ = some(2, 2, 9, models=3)
    hits = (predictions == data.labels).astype(float)
    values, draws = fairness_draws(["accuracy"], data, predictions)
    found, expected = check_bound_of(values[:, 0], draws[:, :, 0], len(data)), check_bound(hits[0], list(hits[1:]))
    assert (found.lowest, found.highest, found.verdict) == (expected.lowest, expected.highest, expected.verdict)
    ends = found.slack.value, found.slack.low, found.slack.high
    assert ends == pytest.approx((expected.slack.value, expected.slack.low, expected.slack.high), abs=0.01)
    draws[rng.integers(0, len(draws), 50), 0, 0] = np.nan  # undefined in a few resamples
    assert check_bound_of(values[:, 0], draws[:, :, 0], len(data)).verdict == expected.verdict


def test_rows_of_groups():
    data, predictions, confidences = some(3, 3, 4)
    rows = group_rows(data, predictions[0], confidences=confidences[0])
    assert [row.group for row in rows] == list(data.group_names)
    for number, row in enumerate(rows):
        own = data.groups == number
        y, a = data.labels[own], predictions[0][own]
        assert row.n == row.accuracy.n == own.sum()
        assert row.accuracy.value == pytest.approx(np.mean(y == a))
        for label, name in enumerate(data.label_names):
            assert row.selection[name].value == pytest.approx(np.mean(a == label))
            assert (row.tpr[name].value, row.tpr[name].n) == (pytest.approx(np.mean(a[y == label] == label)), np.sum(y == label))
            assert (row.fpr[name].value, row.fpr[name].n) == (pytest.approx(np.mean(a[y != label] == label)), np.sum(y != label))
            assert row.fpr[name].low < row.fpr[name].value < row.fpr[name].high
        assert row.ece is not None
    assert max(row.ece.value for row in rows) == pytest.approx(
        value("worst_group_ece", data, predictions[0], confidences[0]), abs=1e-6
    )
    assert min(row.accuracy.value for row in rows) == pytest.approx(value("worst_group_accuracy", data, predictions[0]))


def test_all_right_is_no_certainty():
    data, _, _ = some(2, 2, 4, n=0)  # six rows a cell
    limit = 1 - 0.025 ** (1 / 6)
    assert fairness("tpr_gap", data, data.labels).high == pytest.approx(limit)
    assert fairness("worst_cell_accuracy", data, data.labels).low == pytest.approx(1 - limit)
    assert fairness("accuracy", data, data.labels).low == pytest.approx(0.025 ** (1 / 24))
    copies = Grouped(*(np.tile(a, 3) for a in (data.labels, data.groups)), *NAMES, units=np.tile(np.arange(24), 3))
    assert fairness("worst_cell_accuracy", copies, copies.labels).low == pytest.approx(1 - limit)
    row = group_rows(data, data.labels)[0]
    assert (row.tpr["label 1"].low, row.tpr["label 1"].high) == pytest.approx((1 - limit, 1))


LABELS, GROUPS, NAMES = np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1]), (("no", "yes"), ("f", "m"))


@pytest.mark.parametrize(
    ("labels", "groups", "names", "reason"),
    [
        (LABELS, GROUPS[:3], NAMES, "groups: expected one a label"),
        (np.array([0, 1, 0, 0]), GROUPS, NAMES, "m has no row of label yes.*undefined there, not 0"),
        (LABELS, GROUPS * 0, NAMES, "m has no row of label no; m has no row of label yes"),
        (LABELS, GROUPS * 0, (NAMES[0], ("f",)), "groups: expected two or more, found f"),
        (LABELS, GROUPS + 1, NAMES, "groups: expected 0 to 1"),
        (LABELS * 0.5, GROUPS, NAMES, "labels: expected whole numbers"),
        (LABELS[:0], GROUPS[:0], NAMES, "found none"),
    ],
)
def test_sets_on_which_metrics_are_undefined_are_refused(labels, groups, names, reason):
    with pytest.raises(InputError, match=reason):
        Grouped(labels, groups, *names)


def test_what_cannot_be_measured_is_refused_with_the_reason():
    data, predictions, confidences = some(2, 2, 0)
    with pytest.raises(InputError, match="units: expected one a label"):
        replace(data, units=np.arange(3))
    with pytest.raises(InputError, match=f"predictions: expected one for each of {len(data)} rows"):
        fairness("tpr_gap", data, predictions[0][:-1])
    with pytest.raises(InputError, match=f"predictions: expected one for each of {len(data)} rows"):
        compare_fairness("tpr_gap", data, predictions[0], predictions[0][:-1])
    with pytest.raises(InputError, match="Did you mean tpr_gap"):
        fairness("tpr_gaps", data, predictions[0])
    with pytest.raises(InputError, match="confidence of each answer, found none"):
        fairness("ece", data, predictions[0])
    with pytest.raises(InputError, match="probabilities from 0 to 1"):
        fairness("ece", data, predictions[0], confidences=confidences[0] + 1)
    with pytest.raises(InputError, match="confidences: expected one for each"):
        fairness("ece", data, predictions[0], confidences=confidences[0][:-1])


def test_a_cell_of_few_rows_is_refused_and_named():
    labels, groups = np.tile([0, 1], 50), np.repeat([0, 1], 50)
    labels[50:98] = 0
    data = Grouped(labels, groups, *NAMES)
    with pytest.raises(InputError, match=r"tpr_gap: expected at least 99% of resamples.*1 independent of m, label yes"):
        fairness("tpr_gap", data, labels)
    assert fairness("demographic_parity", data, labels).value > 0  # takes no share of that cell
