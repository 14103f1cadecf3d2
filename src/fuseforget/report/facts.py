"""A shortcut study's records, found by what they are about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["RANDOM", "TASK", "Curve", "Facts", "cell"]

Record = dict[str, Any]
TASK, RANDOM = "task", "random"


@dataclass(frozen=True)
class Curve:
    """One probe along a path: positions, values and their 95 % intervals."""

    probe: str
    label: str
    x: list[float]
    value: list[float]
    low: list[float]
    high: list[float]


class Facts:
    """The records of a shortcut study that is finished or not.

    Attributes:
        rules: the specialists' shortcuts.
        models: all that are asked for every probe.
        probes: the rules' and the task's.
        paths: the pairs of models that are interpolated, by the path's name, finished or not.
        at: measurements by model and probe.
        on: measurements by path, probe and weight of the second model.
        retained: retention by model and rule (or ``mean``).
        unlearned: rules whose specialist is not clearly above the control.
        compared, bounds, trained: records of these kinds, in order.
        distances_of: the models whose mean distance from the start the random model has; empty where it is not recorded.
    """

    def __init__(self, description: Record, records: list[Record]) -> None:
        settings = description["settings"]
        self._titles: dict[str, str] = description.get("about", {}).get("titles", {})
        self._steps: int = settings["steps"]
        self.rules: list[str] = list(settings["rules"])
        self.models = [*self.rules, "control", "full", "fused"]
        self.probes = [*self.rules, TASK]
        self.paths: dict[str, tuple[str, str]] = {f"{first}-{second}": (first, second) for first, second in settings["pairs"]}
        kinds: dict[str, list[Record]] = {}
        for record in records:
            kinds.setdefault(record["kind"], []).append(record)
        measured = kinds.get("measurement", [])
        self.at = {(r["model"], r["probe"]): r for r in measured if "model" in r}
        self.on = {(r["path"], r["probe"], r["weights"][1]): r for r in measured if "path" in r}
        self.retained = {(r["model"], r["rule"]): r for r in kinds.get("retention", [])}
        self.unlearned = {r["rule"]: r for r in kinds.get("unlearned", [])}
        self.compared, self.bounds = kinds.get("comparison", []), kinds.get("bound", [])
        self.trained = kinds.get("training", [])
        self.fused = bool(kinds.get("fusion"))
        self.distances_of: list[str] = kinds["random"][0]["distances_of"] if "random" in kinds else []

    def title(self, name: str) -> str:
        """The name in the paper of a rule or a model; runs of earlier versions do not hold it."""
        return self._titles.get(name, name)

    def path_title(self, path: str) -> str:
        return " to ".join(self.title(name) for name in self.paths[path])

    def expected(self, path: str) -> list[tuple[str, str, float]]:
        """The keys of :attr:`on` that a finished path has."""
        probes = [*(name for name in self.paths[path] if name != RANDOM), TASK]
        return [(path, probe, step / self._steps) for step in range(self._steps + 1) for probe in probes]

    def complete(self, path: str) -> bool:
        return all(key in self.on for key in self.expected(path))

    def curves(self, path: str) -> list[Curve]:
        """The curves of one interpolation, as far as it was measured."""
        probes: dict[str, list[tuple[float, Record]]] = {}
        for _, probe, x in (key for key in self.expected(path) if key in self.on):
            probes.setdefault(probe, []).append((x, self.on[path, probe, x]))
        return [
            Curve(
                probe, self.title(probe), [x for x, _ in points],
                *([record[key] for _, record in points] for key in ("value", "low", "high")),
            )
            for probe, points in probes.items()
        ]  # fmt: skip

    def missing(self) -> dict[str, list[str]]:
        """What the run does not have yet, in words, by sort; empty where it is finished."""
        trained = {r["name"] for r in self.trained}
        compared, bounded = {r["second"] for r in self.compared}, {r["probe"] for r in self.bounds}
        sorts = {
            "models": [self.title(name) for name in self.models if not (self.fused if name == "fused" else name in trained)],
            "measurements of models": [
                f"{self.title(p)} on {self.title(m)}" for m in self.models for p in self.probes if (m, p) not in self.at
            ],
            "measurements on paths": [
                f"{self.title(probe)} on {self.path_title(path)} at {x:g}"
                for name in self.paths
                for path, probe, x in self.expected(name)
                if (path, probe, x) not in self.on
            ],
            "conclusions": [
                *(
                    f"retention of {self.title(rule)} in {model}"
                    for model in ("fused", "full")
                    for rule in (*self.rules, *(["mean"] if len(self.unlearned) < len(self.rules) else []))
                    if rule not in self.unlearned and (model, rule) not in self.retained
                ),
                *(
                    f"the task of fused against {self.title(name)}"
                    for name in (*self.rules, "full", "control")
                    if name not in compared
                ),
                *(f"Eq. 2 on {self.title(probe)}" for probe in self.probes if probe not in bounded),
            ],
        }
        return {sort: names for sort, names in sorts.items() if names}


def cell(record: Record | None) -> str:
    """A value with its interval."""
    return "not yet" if record is None else f"{record['value']:.3f} [{record['low']:.3f}, {record['high']:.3f}]"
