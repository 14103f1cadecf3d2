"""What the answers of a study of bias say: metrics with intervals, the choice of weights, Table 1 over seeds, tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
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
from fuseforget.knowledge.statistics import Interval
from fuseforget.paths import points
from fuseforget.records import Record, Run, decode_values
from fuseforget.studies.bias.answers import grouped, predictions
from fuseforget.studies.bias.choice import choose_weight
from fuseforget.studies.bias.models import seeds_of
from fuseforget.studies.bias.settings import BiasStudy

__all__ = ["CENTRE", "GROUP_METRICS", "choose", "conclude", "line_name", "mean_difference", "mean_interval", "measure_answers"]

OVERALL = ("accuracy", "f1")  # need no attribute
GROUP_METRICS = (
    "demographic_parity", "tpr_gap", "fpr_gap", "equalized_odds", "worst_group_accuracy", "worst_cell_accuracy",
)  # fmt: skip
TABLE = ("demographic_parity", "tpr_gap", "accuracy")  # Table 1 and Fig. 5
CURVES = ("demographic_parity", "tpr_gap")  # what crosses
HALF = (0.5, 0.5)
CENTRE = (1 / 3, 1 / 3, 1 / 3)  # of a triangle
FUSED = "fused"
OTHER_FUSED = ("written", "half")  # further rows of fused models, which are not tested
Values = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pair:
    """Two sides that are compared by a metric of an attribute: their names, and their predictions by seed."""

    attribute: str
    first: str
    second: str
    metric: str
    one: Sequence[Codes]
    other: Sequence[Codes]

    @property
    def names(self) -> Record:
        return {"attribute": self.attribute, "first": self.first, "second": self.second, "metric": self.metric}


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
    """Record Table 1 over the seeds that there are, the tests of the fused model against each other row, and Eq. 2's bound.

    Of three attributes also how the average of three biased models compares with each of them.
    """
    seeds = list(seeds_of(settings))
    of = {attribute: grouped(splits["test"], attribute) for attribute in settings.attributes}
    rows = {attribute: _rows(run, settings, attribute, seeds) for attribute in settings.pair}
    for attribute in settings.pair:
        _add_rows(run, attribute, of[attribute], rows[attribute], seeds)
    others = [
        Pair(attribute, FUSED, row, metric, of_row[FUSED], answers)
        for attribute, of_row in rows.items()
        for row, answers in of_row.items()
        if row not in (FUSED, *OTHER_FUSED)
        for metric in TABLE
    ]
    _compare(run, "comparison", of, others, seeds)
    if "triangle" in settings.parts:
        _compare(run, "centre", of, _against_corners(run, settings, seeds), seeds)
    for attribute in settings.pair:
        _check_bounds(run, settings, of[attribute], attribute)


def _measure(run: Run, answers: Sequence[Record], of: Grouped, metrics: Sequence[str], attribute: str | None) -> None:
    for record in answers:
        if run.find("fairness", attribute=attribute, **_where(record)) is None:
            # One by one: what is drawn for a model does not depend on which others were asked before.
            (found,) = fairness_intervals(metrics, of, predictions(record)[None])
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
    rows["written"] = [_predicted(run, seed=s, model="fused") for s in seeds]
    rows["half"] = [_predicted(run, seed=s, path=line, weights=list(HALF)) for s in seeds]
    return rows


def _against_corners(run: Run, settings: BiasStudy, seeds: Sequence[int]) -> list[Pair]:
    """The average of three biased models and each of these: its own bias, and accuracy."""
    corners = settings.attributes[:3]
    centre = [_predicted(run, seed=seed, path="-".join(corners), weights=list(CENTRE)) for seed in seeds]
    return [
        Pair(attribute, "centre", attribute, metric, centre, [_predicted(run, seed=seed, model=attribute) for seed in seeds])
        for attribute in corners
        for metric in TABLE
    ]


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
            intervals = [fairness_intervals(metrics, of, one[None])[0] for one in of_seeds]
            found = {metric: mean_interval([one[j] for one in intervals]) for j, metric in enumerate(metrics)}
            run.add("row", attribute=attribute, row=row, seeds=seeds, metrics=found)


def mean_interval(intervals: Sequence[Interval]) -> Record:
    ends = {key: float(np.mean([getattr(one, key) for one in intervals])) for key in ("value", "low", "high")}
    return {**ends, "n": intervals[0].n, "by_seed": [one.value for one in intervals]}


def _compare(run: Run, kind: str, of: Mapping[str, Grouped], pairs: Sequence[Pair], seeds: list[int]) -> None:
    """Test two sides on the same texts, pair by pair, and correct over all of these tests.

    Asked for more baselines, a run has more tests: each family of them is tested, corrected and recorded as a whole.
    """
    family = {"seeds": seeds, "tests": len(pairs)}
    if all(run.find(kind, **pair.names, **family) is not None for pair in pairs):
        return
    found = [mean_difference(pair.metric, of[pair.attribute], pair.one, pair.other) for pair in pairs]
    for pair, record, corrected in zip(pairs, found, holm([r["p"] for r in found]), strict=True):
        if run.find(kind, **pair.names, **family) is None:
            run.add(kind, **pair.names, **record, p_holm=corrected, **family)


def mean_difference(metric: str, of: Grouped, first: Sequence[Codes], second: Sequence[Codes]) -> Record:
    """The mean over the seeds of the first's metric less the second's.

    Its interval is the mean of the seeds' intervals, as that of a row is. Twice the mean of the seeds' p-values is a p-value
    whatever their dependence (Rueschendorf 1982).
    """
    each = [compare_fairness(metric, of, one, other) for one, other in zip(first, second, strict=True)]
    p = [one.p for one in each]
    corrected = p[0] if len(p) == 1 else min(1.0, 2 * float(np.mean(p)))
    ends = {key: float(np.mean([getattr(one, key) for one in each])) for key in ("value", "low", "high")}
    return {**ends, "by_seed": [one.value for one in each], "p": corrected, "p_by_seed": p}


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
