"""Intervals of fairness metrics against a plain loop over resampled rows.

    python benchmarks/bootstrap.py [--rows 10000] [--rounds 3] [--loop 20]

For each metric: the seconds of one interval from 10,000 resamples (the median over the rounds, after a first call that is
not counted), of one in which 2,000 units of rows are resampled, and of a paired test between two models. Beside it, where
fairlearn or scikit-learn has the metric, the seconds of a loop that calls it on resampled rows: run for fewer resamples
(--loop) and scaled to 10,000.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import numpy as np
from fairlearn.metrics import (
    MetricFrame,
    demographic_parity_difference,
    equalized_odds_difference,
    false_positive_rate_difference,
)
from sklearn.metrics import accuracy_score, f1_score

from fuseforget.knowledge.fairness import FAIRNESS, Grouped, compare_fairness, fairness
from fuseforget.knowledge.resampling import RESAMPLES

UNITS = 2_000
Array = np.ndarray[Any, Any]


def worst_group_accuracy(truth: Array, answers: Array, *, sensitive_features: Array) -> float:
    frame = MetricFrame(metrics=accuracy_score, y_true=truth, y_pred=answers, sensitive_features=sensitive_features)
    return float(frame.group_min())


LOOPS: dict[str, Callable[[Array, Array, Array], float]] = {
    "accuracy": lambda y, a, g: accuracy_score(y, a),
    "f1": lambda y, a, g: f1_score(y, a, average="macro"),
    "worst_group_accuracy": lambda y, a, g: worst_group_accuracy(y, a, sensitive_features=g),
    "worst_cell_accuracy": lambda y, a, g: worst_group_accuracy(y, a, sensitive_features=np.stack([g, y], axis=1)),
    "demographic_parity": lambda y, a, g: 2 * demographic_parity_difference(y, a, sensitive_features=g),
    "fpr_gap": lambda y, a, g: false_positive_rate_difference(y, a, sensitive_features=g),
    "equalized_odds": lambda y, a, g: equalized_odds_difference(y, a, sensitive_features=g),
}


def seconds(task: Callable[[], object], rounds: int) -> float:
    """The median time of a task; its first run is not counted."""
    task()
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        task()
        taken.append(time.perf_counter() - start)
    return median(taken)


def loop(metric: str, data: Grouped, answers: Array, resamples: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(resamples):
        rows = rng.integers(0, len(data), len(data))
        LOOPS[metric](data.labels[rows], answers[rows], data.groups[rows])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--loop", type=int, default=20)
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    labels, groups = rng.integers(0, 2, given.rows), rng.integers(0, 2, given.rows)
    names = ("no", "yes"), ("female", "male")
    alone = Grouped(labels, groups, *names)
    in_units = Grouped(labels, groups, *names, units=rng.integers(0, UNITS, given.rows))
    first, second = (np.where(rng.random(given.rows) < right, labels, 1 - labels) for right in (0.85, 0.8))
    sure = rng.uniform(0.5, 1, (2, given.rows))
    print(f"{RESAMPLES} resamples of {given.rows} rows, seconds; loop: {given.loop} resamples, scaled")
    print(f"{'metric':22}{'rows':>8}{'units':>8}{'test':>8}{'loop':>10}{'times':>8}")
    for metric in FAIRNESS:
        own = seconds(partial(fairness, metric, alone, first, confidences=sure[0]), given.rounds)
        units = seconds(partial(fairness, metric, in_units, first, confidences=sure[0]), given.rounds)
        test = seconds(partial(compare_fairness, metric, alone, first, second, confidences=(sure[0], sure[1])), given.rounds)
        line = f"{metric:22}{own:8.2f}{units:8.2f}{test:8.2f}"
        if metric in LOOPS:
            plain = seconds(partial(loop, metric, alone, first, given.loop), 1) * RESAMPLES / given.loop
            line += f"{plain:10.0f}{plain / own:8.0f}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
