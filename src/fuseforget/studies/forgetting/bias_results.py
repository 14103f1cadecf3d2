"""What the answers of fused biased models come to over the seeds: what is left of each bias, and paired tests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from fuseforget.knowledge import Interval
from fuseforget.knowledge.fairness import Grouped, fairness_draws
from fuseforget.knowledge.statistics import reflected
from fuseforget.records import Record, Run
from fuseforget.studies.bias.answers import predictions
from fuseforget.studies.bias.conclusions import mean_difference, mean_interval
from fuseforget.studies.forgetting.families import record_family
from fuseforget.studies.forgetting.fusions import AVERAGE, Fusion

__all__ = ["ALONE", "GAPS", "both", "conclude_bias", "gone", "learned_in"]

GAPS = ("demographic_parity", "tpr_gap")
ALONE = Fusion("alone", "average")  # a model that is not fused
Codes = npt.NDArray[np.int64]


def learned_in(run: Run, source: str) -> list[str]:
    """The attributes whose bias the source's models took on."""
    known = [r for r in run.records if r["kind"] == "knowledge" and (r["part"], r["source"]) == ("bias", source)]
    return [r["attribute"] for r in known if r["learned"]]


def gone(of: Grouped, fused: Codes, own: Sequence[Codes]) -> dict[str, Interval]:
    """Return ``1 - gap(fused) / mean gap(own)`` of each gap: 1 is a bias that is gone, 0 one that stayed.

    The intervals are over resamples of the units, the same for all models; as those of differences of gaps they are
    :func:`fuseforget.knowledge.statistics.reflected` ones.

    Args:
        own: predictions of the models that have the bias: one of them, or both of two that share it.
    """
    values, draws = fairness_draws(GAPS, of, np.stack([fused, *own]))
    shares, drawn = 1 - values[0] / values[1:].mean(axis=0), 1 - draws[:, 0] / draws[:, 1:].mean(axis=1)
    return {
        metric: Interval(float(shares[j]), *reflected(float(shares[j]), drawn[:, j], (-math.inf, math.inf)), len(of.labels))
        for j, metric in enumerate(GAPS)
    }


def conclude_bias(
    run: Run, source: str, pair: Sequence[str], of: Mapping[str, Grouped], learned: Sequence[str], chosen: Sequence[Fusion]
) -> None:  # fmt: skip
    """Record for every group of cases and every chosen fusion what its test points come to, where it is not recorded.

    Test points of other settings, chosen before on fewer seeds, are not looked at. Tests against the average are
    corrected over all contenders and metrics of a group: :func:`fuseforget.studies.forgetting.families.record_family`.
    """
    told = {one.row: one.where for one in (ALONE, *chosen)}
    points = [
        r
        for r in run.records
        if r["kind"] == "point" and (r["part"], r["source"], r["split"]) == ("bias", source, "test")
        and all(r[key] == value for key, value in told.get(r["row"], {"row": None}).items())
    ]  # fmt: skip
    results = _Results(points, pair, of, learned)
    groups = dict.fromkeys(r["group"] for r in points if r["group"] != ALONE.row)
    for group in [g for g in groups if not _shared(g) or g in map(both, learned)]:
        rows = list(dict.fromkeys(r["row"] for r in points if r["group"] == group))
        seeds = [r["seed"] for r in points if (r["group"], r["row"]) == (group, AVERAGE.row)]
        where: Record = {"part": "bias", "source": source, "group": group, "seeds": seeds}
        found = [
            run.find("forgetting_result", **where, **told[row])
            or run.add("forgetting_result", **{**where, "row": row, **results.of_row(group, row)})
            for row in rows
        ]
        record_family(run, where, found)


class _Results:
    """The test points of a source, by group, contender and seed."""

    def __init__(
        self, points: Sequence[Record], pair: Sequence[str], of: Mapping[str, Grouped], learned: Sequence[str]
    ) -> None:  # fmt: skip
        self._pair, self._of, self._learned = pair, of, learned
        self._alone = {(r["seed"], r["models"][0]): r for r in points if r["group"] == ALONE.row}
        self._at: dict[tuple[str, str], list[Record]] = {}
        for record in points:
            self._at.setdefault((record["group"], record["row"]), []).append(record)

    def of_row(self, group: str, row: str) -> Record:
        """What a contender comes to on a group of cases."""
        records = self._at[group, row]
        lost = {attribute: self._lost(group, records, attribute) for attribute in self._attributes(group)}
        parts = [one for by_metric in lost.values() for found in by_metric.values() for one in found]
        alone = [self._alone[r["seed"], m] for r in records for m in r["models"]]
        return {
            **{key: records[0][key] for key in ("method", "parameters")},
            "seeds": [r["seed"] for r in records],
            "accuracy": _mean([r["metrics"]["accuracy"] for r in records]),
            "own_accuracy": _ends([r["metrics"]["accuracy"] for r in alone]),
            "gaps": {a: {m: _mean([r["metrics"][a][m] for r in records]) for m in GAPS} for a in self._pair},
            "own_gaps": {a: {m: self._own(group, records, a, m) for m in GAPS} for a in lost},
            "gone": {a: {m: _mean([asdict(one) for one in found]) for m, found in by.items()} for a, by in lost.items()},
            "gone_mean": _ends([asdict(one) for one in parts]),
            "against_average": [] if row == AVERAGE.row else self._tests(group, records),
        }

    def _lost(self, group: str, records: Sequence[Record], attribute: str) -> dict[str, list[Interval]]:
        """How much of a bias that the fused models have is gone, in each seed."""
        own = [[predictions(self._alone[r["seed"], m]) for m in self._biased(group, r, attribute)] for r in records]
        each = [gone(self._of[attribute], predictions(r), of) for r, of in zip(records, own, strict=True)]
        return {metric: [one[metric] for one in each] for metric in GAPS}

    def _attributes(self, group: str) -> list[str]:
        """The attributes that models of a group are biased in."""
        return [a for a in self._learned if not _shared(group) or group == both(a)]

    def _biased(self, group: str, record: Record, attribute: str) -> list[str]:
        """The models of a case that are biased in an attribute: one of two, or both."""
        return list(record["models"]) if _shared(group) else [record["models"][self._pair.index(attribute)]]

    def _own(self, group: str, records: Sequence[Record], attribute: str, metric: str) -> Record:
        names = [(r["seed"], m) for r in records for m in self._biased(group, r, attribute)]
        return _ends([self._alone[one]["metrics"][attribute][metric] for one in names])

    def _tests(self, group: str, records: Sequence[Record]) -> list[Record]:
        """The contender's metrics less the average's on the same texts, mean over the seeds."""
        average = {r["seed"]: predictions(r) for r in self._at[group, AVERAGE.row]}
        sides = [predictions(r) for r in records], [average[r["seed"]] for r in records]
        asked = [(self._pair[0], "accuracy"), *((a, m) for a in self._attributes(group) for m in GAPS)]
        return [{"attribute": a, "metric": m, **mean_difference(m, self._of[a], *sides)} for a, m in asked]


def both(attribute: str) -> str:
    """The group of the cases whose models are all biased in one attribute."""
    return f"both {attribute}"


def _shared(group: str) -> bool:
    return group.startswith(both(""))


def _mean(found: Sequence[Mapping[str, Any]]) -> Record:
    """The mean of measured values over seeds, and of their intervals' ends."""
    return mean_interval([Interval(**one) for one in found])


def _ends(found: Sequence[Mapping[str, Any]]) -> Record:
    """The same of what is not one a seed."""
    return {key: value for key, value in _mean(found).items() if key != "by_seed"}
