"""Metrics of fairness against fairlearn and scikit-learn, by hand, and their intervals and tests in simulations."""

from __future__ import annotations

import numpy as np
import pytest
from fairlearn import metrics as fairlearn
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from fuseforget.knowledge.fairness import FAIRNESS, Grouped, fairness_draws

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
