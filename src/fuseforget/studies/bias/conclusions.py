"""What the answers of a study of bias say: metrics with intervals, the choice of weights, Table 1 over seeds, tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from fuseforget.data import AttributedExamples
from fuseforget.knowledge import holm
from fuseforget.knowledge.fairness import (
    Grouped,
    check_bound_of,
    compare_fairness,
    fairness_draws,
    fairness_intervals,
    group_rows,
)  # fmt: skip
from fuseforget.knowledge.statistics import Interval, percentiles
from fuseforget.paths import points
from fuseforget.records import Record, Run, decode_values
from fuseforget.studies.bias.answers import grouped, predictions
from fuseforget.studies.bias.choice import choose_weight
from fuseforget.studies.bias.models import seeds_of
from fuseforget.studies.bias.settings import BiasStudy

__all__ = ["GROUP_METRICS", "choose", "conclude", "line_name", "measure_answers"]

OVERALL = ("accuracy", "f1")  # need no attribute
GROUP_METRICS = (
    "demographic_parity", "tpr_gap", "fpr_gap", "equalized_odds", "worst_group_accuracy", "worst_cell_accuracy",
)  # fmt: skip
TABLE = ("demographic_parity", "tpr_gap", "accuracy")  # Table 1 and Fig. 5
CURVES = ("demographic_parity", "tpr_gap")  # what crosses
HALF = (0.5, 0.5)
FUSED = "fused"
Values = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]


def line_name(settings: BiasStudy) -> str:
    return "-".join(settings.pair)


def measure_answers(run: Run, settings: BiasStudy, splits: Mapping[str, AttributedExamples]) -> None:
    """Record every metric of every model and point, with its interval over the units of the set, where it is not recorded."""
    for name in ("validation", "test"):
        answers = [r for r in run.records if r["kind"] == "answers" and r["set"] == name]
        for attribute in settings.attributes:
            of = grouped(splits[name], attribute)
            _measure(run, answers, of, GROUP_METRICS, attribute)
            if attribute == settings.attributes[0]:
                _measure(run, answers, of, OVERALL, None)
            if name == "test":
                _measure_groups(run, answers, of, attribute)


def choose(run: Run, settings: BiasStudy) -> None:
    """Record for each seed the weight near the crossing of the two biases, on validation data (as published: on test data)."""
    grid = points(2, settings.steps)
    on = "test" if settings.as_published else "validation"
    for seed in seeds_of(settings):
        if run.find("choice", seed=seed) is None:
            where = {"seed": seed, "path": line_name(settings), "set": on}
            curves = {
                metric: {
                    a: [_value(run, attribute=a, metric=metric, weights=list(w), **where) for w in grid] for a in settings.pair
                }
                for metric in CURVES
            }
            run.add("choice", seed=seed, on=on, **asdict(choose_weight([w[1] for w in grid], curves)))


def conclude(run: Run, settings: BiasStudy, splits: Mapping[str, AttributedExamples]) -> None:
    """Record Table 1 over the seeds that there are, the tests of the fused model against each other row, and Eq. 2's bound."""
    seeds = list(seeds_of(settings))
    for attribute in settings.pair:
        of = grouped(splits["test"], attribute)
        rows = _rows(run, settings, attribute, seeds)
        if any(run.find("row", attribute=attribute, row=row, seeds=seeds) is None for row in rows):
            _add_rows(run, attribute, of, rows, seeds)
    _compare(run, settings, splits, seeds)
    for attribute in settings.pair:
        _check_bounds(run, settings, grouped(splits["test"], attribute), attribute)


def _measure(run: Run, answers: Sequence[Record], of: Grouped, metrics: Sequence[str], attribute: str | None) -> None:
    lacking = [r for r in answers if run.find("fairness", attribute=attribute, **_where(r)) is None]
    if lacking:
        intervals = fairness_intervals(metrics, of, np.stack([predictions(r) for r in lacking]))
        for record, found in zip(lacking, intervals, strict=True):
            measured = {metric: asdict(interval) for metric, interval in zip(metrics, found, strict=True)}
            run.add("fairness", **_where(record), attribute=attribute, metrics=measured)


def _measure_groups(run: Run, answers: Sequence[Record], of: Grouped, attribute: str) -> None:
    """Record accuracy, rates and calibration by group, of the models whose confidence is known."""
    for record in answers:
        if "confidence" in record and run.find("groups", attribute=attribute, **_where(record)) is None:
            confidence = decode_values(record["confidence"])
            rows = [asdict(row) for row in group_rows(of, predictions(record), confidences=confidence)]
            run.add("groups", **_where(record), attribute=attribute, rows=rows)


def _where(record: Record) -> Record:
    """What an answer is of."""
    return {key: record[key] for key in ("seed", "model", "path", "weights", "set") if key in record}


def _value(run: Run, metric: str, **fields: Any) -> float:
    record = run.find("fairness", **fields)
    if record is None:
        raise RuntimeError(f"not measured: {fields}")
    return float(record["metrics"][metric]["value"])


def _rows(run: Run, settings: BiasStudy, attribute: str, seeds: Sequence[int]) -> dict[str, list[Codes]]:
    """The predictions on the test set of each row of Table 1, one a seed; rows that the run was not asked for are left out."""
    rows: dict[str, list[Codes]] = {}
    models = {"biased": attribute, **{m: f"{attribute}-{m}" for m in _erased(run, attribute, seeds)}, "full": "full"}
    for row, model in models.items():
        rows[row] = [_predicted(run, seed=seed, model=model) for seed in seeds]
    line, weights = line_name(settings), {s: _chosen(run, s)["against"][attribute] for s in seeds}
    rows[FUSED] = [_predicted(run, seed=s, path=line, weights=_at(settings, weights[s])) for s in seeds]
    rows["half"] = [_predicted(run, seed=s, path=line, weights=list(HALF)) for s in seeds]
    return rows


def _erased(run: Run, attribute: str, seeds: Sequence[int]) -> list[str]:
    """The erasing baselines that the run has of an attribute's biased model of every seed, in order."""
    methods = list(dict.fromkeys(r["method"] for r in run.records if r["kind"] == "erasure" and r["attribute"] == attribute))
    return [m for m in methods if all(run.find("answers", seed=s, model=f"{attribute}-{m}", set="test") for s in seeds)]


def _at(settings: BiasStudy, weight: float) -> list[float]:
    """The grid point with this weight of the second model, as it is recorded."""
    (found,) = [list(w) for w in points(2, settings.steps) if w[1] == weight]
    return found


def _chosen(run: Run, seed: int) -> Record:
    record = run.find("choice", seed=seed)
    assert record is not None  # chosen before it is concluded
    return record


def _predicted(run: Run, **where: Any) -> Codes:
    record = run.find("answers", set="test", **where)
    if record is None:
        raise RuntimeError(f"no answers: {where}")
    return predictions(record)


def _add_rows(run: Run, attribute: str, of: Grouped, rows: Mapping[str, Sequence[Codes]], seeds: list[int]) -> None:
    """Record each row's mean over the seeds, with the mean of their intervals.

    All seeds answer the same test texts and err alike on these: the mean interval is as wide as if they erred as one.
    """
    metrics = ["accuracy", *GROUP_METRICS]
    for row, of_seeds in rows.items():
        if run.find("row", attribute=attribute, row=row, seeds=seeds) is None:
            intervals = fairness_intervals(metrics, of, np.stack(of_seeds))
            found = {metric: _mean([one[j] for one in intervals]) for j, metric in enumerate(metrics)}
            run.add("row", attribute=attribute, row=row, seeds=seeds, metrics=found)


def _mean(intervals: Sequence[Interval]) -> Record:
    ends = {key: float(np.mean([getattr(one, key) for one in intervals])) for key in ("value", "low", "high")}
    return {**ends, "n": intervals[0].n, "by_seed": [one.value for one in intervals]}


def _compare(run: Run, settings: BiasStudy, splits: Mapping[str, AttributedExamples], seeds: list[int]) -> None:
    """Test the fused model against each other row, on the same texts; corrected over all of these tests."""
    found: list[Record] = []
    for attribute in settings.pair:
        of, rows = grouped(splits["test"], attribute), _rows(run, settings, attribute, seeds)
        for row in rows:
            if row not in (FUSED, "half"):
                for metric in TABLE:
                    difference = _difference(metric, of, rows[FUSED], rows[row])
                    found.append({"attribute": attribute, "first": FUSED, "second": row, "metric": metric, **difference})
    for record, corrected in zip(found, holm([r["p"] for r in found]), strict=True):
        # Asked for more baselines, a run has more tests: each family of them is corrected, and recorded, as a whole.
        if run.find("comparison", **record, seeds=seeds, tests=len(found)) is None:
            run.add("comparison", **record, p_holm=corrected, seeds=seeds, tests=len(found))


def _difference(metric: str, of: Grouped, first: Sequence[Codes], second: Sequence[Codes]) -> Record:
    """The mean over the seeds of the first's metric less the second's.

    The interval resamples the test texts, the same for all seeds. Twice the mean of the seeds' p-values is a p-value whatever
    their dependence (Rueschendorf 1982).
    """
    values, draws = fairness_draws([metric], of, np.stack([*first, *second]))
    count = len(first)
    low, high = percentiles((draws[:, :count, 0] - draws[:, count:, 0]).mean(axis=1))
    by_seed = values[:count, 0] - values[count:, 0]
    p = [compare_fairness(metric, of, one, other).p for one, other in zip(first, second, strict=True)]
    corrected = p[0] if count == 1 else min(1.0, 2 * float(np.mean(p)))
    ends = {"value": float(by_seed.mean()), "low": low, "high": high}
    return {**ends, "by_seed": by_seed.tolist(), "p": corrected, "p_by_seed": p}


def _check_bounds(run: Run, settings: BiasStudy, of: Grouped, attribute: str) -> None:
    """Record Eq. 2 for the average at one half: whether it is between the two biased models."""
    for seed in seeds_of(settings):
        lacking = [m for m in TABLE if run.find("bound", seed=seed, attribute=attribute, metric=m) is None]
        if not lacking:
            continue
        half = _predicted(run, seed=seed, path=line_name(settings), weights=list(HALF))
        ends = [_predicted(run, seed=seed, model=name) for name in settings.pair]
        values, draws = fairness_draws(lacking, of, np.stack([half, *ends]))
        for j, metric in enumerate(lacking):
            bound = check_bound_of(values[:, j], draws[:, :, j], len(of.labels))
            run.add("bound", seed=seed, attribute=attribute, metric=metric, **asdict(bound))
