"""The records of a study of social bias, found by what they are about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fuseforget.report.training import speeds
from fuseforget.report.unfinished import NOT_BEGUN, counted

__all__ = ["CENTRE", "ERASED", "FUSED", "METRICS", "ROWS", "BiasFacts", "Spread"]

Record = dict[str, Any]
FUSED = "fused"
CENTRE = (1 / 3, 1 / 3, 1 / 3)  # of the triangle
# What Table 1 and Fig. 5 show, with its name there.
METRICS = {"demographic_parity": "DP", "tpr_gap": "TPR-GAP", "accuracy": "accuracy"}
ROWS = {
    "biased": "biased", "refitted": "head refitted", "inlp": "INLP", "inlp-chosen": "INLP, chosen number", "leace": "LEACE",
    "inlp-both": "INLP, both attributes, chosen number", "leace-both": "LEACE, both attributes", "full": "full",
    "fused": "fused", "written": "fused, one weight for both", "half": "fused at one half",
}  # fmt: skip

ERASED = ("refitted", "inlp", "inlp-chosen", "leace", "inlp-both", "leace-both")


@dataclass(frozen=True)
class Spread:
    """One number of several seeds: the mean, the least and the greatest, and the 95 % interval where there is one seed."""

    value: float
    least: float
    greatest: float


class BiasFacts:
    """The records of a study of bias that is finished or not.

    Attributes:
        pair: the attributes between whose models the path is; corners: those of the triangle.
        seeds, parts: all that the run was asked for, at once or one after the other.
        on: values with their intervals by set, seed, place (a model's name, or path and weights), attribute (None: of a metric
            that needs none) and metric.
        rows: Table 1's cells over the seeds, by attribute, row and metric.
        compared, bounds, choices, data, groups: records of these kinds.
    """

    def __init__(self, description: Record, records: list[Record]) -> None:
        self.settings: Record = description["settings"]
        self.pair: tuple[str, str] = tuple(self.settings["attributes"][:2])
        self.corners: tuple[str, ...] = tuple(self.settings["attributes"][:3])
        kinds: dict[str, list[Record]] = {}
        for record in records:
            kinds.setdefault(record["kind"], []).append(record)
        asked = kinds.get("asked", [])
        self.seeds: list[int] = max((r["seeds"] for r in asked), key=len, default=[])
        # A run may be asked for one part after the other: it has them all.
        self.parts: list[str] = [p for p in ("baselines", "ratios", "triangle") if any(p in r["parts"] for r in asked)]
        self.on = {
            (r["set"], r["seed"], _place(r), r["attribute"], metric): found
            for r in kinds.get("fairness", [])
            for metric, found in r["metrics"].items()
        }
        self.rows = {
            (r["attribute"], r["row"], metric): found
            for r in kinds.get("row", [])
            if r["seeds"] == self.seeds
            for metric, found in r["metrics"].items()
        }
        self.compared, self.centre = (self._family(kinds.get(kind, [])) for kind in ("comparison", "centre"))
        erasures = [r for r in kinds.get("erasure", []) if r["seed"] in self.seeds]
        self.erasures = {(r["attribute"], r["method"], r["seed"]): r for r in erasures}
        self.bounds, self.groups, self.data = (kinds.get(kind, []) for kind in ("bound", "groups", "data"))
        self.choices = {r["seed"]: r for r in kinds.get("choice", []) if r["seed"] in self.seeds}
        self.trained, self.speed = kinds.get("training", []), speeds(kinds.get("timing", []))

    @property
    def line(self) -> str:
        return "-".join(self.pair)

    @property
    def ratios(self) -> list[float]:
        """The ratios of which there are biased models, the study's own among them."""
        return sorted({r["ratio"] for r in self.data if r["attribute"] in self.pair})

    def _family(self, records: list[Record]) -> list[Record]:
        """The tests of these seeds that were corrected together, the largest number of them."""
        mine = [r for r in records if r["seeds"] == self.seeds]
        most = max((r["tests"] for r in mine), default=0)
        found = [r for r in mine if r["tests"] == most]
        return found if len(found) == most else []

    def grid(self, corners: int) -> list[tuple[float, ...]]:
        """The points on the line or the triangle, in order, of which every seed has every attribute's bias and accuracy."""
        path = "-".join(self.corners[:corners])
        weights = {place[1] for on, _, place, _, _ in self.on if on == "test" and place[0] == path}
        return sorted((w for w in weights if self._whole((path, w), corners)), reverse=True)

    def _whole(self, place: tuple[str, tuple[float, ...]], corners: int) -> bool:
        return all(self.spread(place, a, m) is not None for a in self.corners[:corners] for m in METRICS)

    def spread(self, place: tuple[str, tuple[float, ...]], attribute: str, metric: str, *, on: str = "test") -> Spread | None:
        """A metric at a place over the seeds; None where a seed lacks it."""
        key = None if metric in ("accuracy", "f1") else attribute
        found = [self.on.get((on, seed, place, key, metric)) for seed in self.seeds]
        known = [record for record in found if record is not None]
        if not known or len(known) < len(found):
            return None
        values = [record["value"] for record in known]
        if len(values) == 1:
            return Spread(values[0], known[0]["low"], known[0]["high"])
        return Spread(sum(values) / len(values), min(values), max(values))

    def missing(self) -> list[str]:
        """What the run was asked for and does not have yet."""
        if not self.seeds:
            return [NOT_BEGUN]
        models = [(seed, name) for seed in self.seeds for name in self._models()]
        without = [f"{name} of seed {seed}" for seed, name in models if not self._asked(seed, name)]
        lacking = counted(without, len(models), "models")
        lacking += [f"the choice of the weight of seed {seed}" for seed in self.seeds if seed not in self.choices]
        rows = ["biased", "full", FUSED, "written", "half", *(ERASED if "baselines" in self.parts else ())]
        if any((a, row, metric) not in self.rows for a in self.pair for row in rows for metric in METRICS):
            lacking.append("Table 1")
        tested = {(r["attribute"], r["second"]) for r in self.compared}
        if any((a, row) not in tested for a in self.pair for row in rows if row not in (FUSED, "written", "half")):
            lacking.append("the tests of Table 1")
        bounded = {(r["seed"], r["attribute"], r["metric"]) for r in self.bounds}
        if any((seed, a, metric) not in bounded for seed in self.seeds for a in self.pair for metric in METRICS):
            lacking.append("Eq. 2")
        if "triangle" in self.parts and not (self.centre and self._whole(("-".join(self.corners), CENTRE), 3)):
            lacking.append("the triangle")
        return lacking

    def _models(self) -> list[str]:
        names = [*self.pair, "full", FUSED]
        if "ratios" in self.parts:
            others = [r for r in self.ratios if r != self.settings["ratio"]]
            names += [f"{attribute}@{ratio:g}" for ratio in others for attribute in self.pair]
        if "triangle" in self.parts:
            names.append(self.corners[2])
        if "baselines" in self.parts:
            names += [f"{attribute}-{method}" for attribute in self.pair for method in ERASED]
        return names

    def _asked(self, seed: int, name: str) -> bool:
        return ("test", seed, (name, ()), None, "accuracy") in self.on


def _place(record: Record) -> tuple[str, tuple[float, ...]]:
    return (record["model"], ()) if "model" in record else (record["path"], tuple(record["weights"]))
