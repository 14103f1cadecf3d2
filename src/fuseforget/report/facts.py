"""A shortcut study's records, found by what they are about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fuseforget.report.training import speeds

__all__ = ["RANDOM", "TASK", "Curve", "Facts", "Record", "cell"]

Record = dict[str, Any]
TASK, RANDOM = "task", "random"
# The records that a part ends in, one of them.
JUDGED = {"forecast": {"rank_correlation", "unjudged"}, "methods": {"method_result"}}


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
        parts: what the run was asked for besides the fused model, in order; runs of earlier versions: pairs.
        shared: the name of the path between the two models that share a rule; None where the run has none.
        triangle: the corners of the triangle; empty where the run has none.
        over: measurements on the triangle by probe and weights.
        subsets: the specialists' subsets whose averages are asked.
        averaged: measurements of these by members and probe.
        growth, six, learned: records of these kinds, in order; growth_difference: the one of its kind, or None.
        distances_of: the models whose mean distance from the start the random model has; empty where it is not recorded.
    """

    def __init__(self, description: Record, records: list[Record]) -> None:
        settings = description["settings"]
        self._titles: dict[str, str] = description.get("about", {}).get("titles", {})
        self._steps: int = settings["steps"]
        self.rules: list[str] = list(settings["rules"])
        self.models = [*self.rules, "control", "full", "fused"]
        self.probes = [*self.rules, TASK]
        kinds: dict[str, list[Record]] = {}
        for record in records:
            kinds.setdefault(record["kind"], []).append(record)
        asked = kinds.get("part", [])
        self.kinds = kinds.keys()
        self._ask(asked, settings.get("pairs", []))
        measured = kinds.get("measurement", [])
        self.at = {(r["model"], r["probe"]): r for r in measured if "model" in r}
        points = [r for r in measured if "path" in r]
        self.on = {(r["path"], r["probe"], r["weights"][1]): r for r in points if len(r["weights"]) == 2}
        self.over = {(r["probe"], tuple(r["weights"])): r for r in points if len(r["weights"]) > 2}
        self.averaged = {(tuple(r["members"]), r["probe"]): r for r in measured if "members" in r}
        self.retained = {(r["model"], r["rule"]): r for r in kinds.get("retention", [])}
        self.unlearned = {r["rule"]: r for r in kinds.get("unlearned", [])}
        self.compared, self.bounds = kinds.get("comparison", []), kinds.get("bound", [])
        self.trained, self.speed = kinds.get("training", []), speeds(kinds.get("timing", []))
        self.fused = bool(kinds.get("fusion"))
        self.growth, self.six, self.learned = (kinds.get(kind, []) for kind in ("growth", "six", "learned"))
        self.growth_difference = next(iter(kinds.get("growth_difference", [])), None)
        self.distances_of: list[str] = kinds["random"][0]["distances_of"] if "random" in kinds else []

    def _ask(self, asked: list[Record], pairs: list[list[str]]) -> None:
        """What the part records ask for; the pairs of earlier versions are in the settings."""
        self.parts = list(dict.fromkeys([*(["pairs"] if pairs else []), *(r["name"] for r in asked)]))
        found = {r["name"]: r for r in asked}  # the newest of a name
        every = [*pairs, *(pair for r in asked if r["name"] == "pairs" for pair in r["pairs"])]
        self.paths: dict[str, tuple[str, str]] = {f"{first}-{second}": (first, second) for first, second in every}
        self.shared: str | None = None
        if "shared" in found:
            first, second = found["shared"]["models"]
            self.shared = f"{first}-{second}"
            self.paths[self.shared] = (first, second)
        self.triangle: list[str] = found["triangle"]["models"] if "triangle" in found else []
        self.subsets: list[tuple[str, ...]] = [tuple(s) for s in found["growth"]["subsets"]] if "growth" in found else []

    def title(self, name: str) -> str:
        """The name in the paper of a rule or a model (of two rules: joined by a plus); earlier versions do not hold it."""
        return "+".join(self._titles.get(part, part) for part in name.split("+"))

    def probes_of(self, path: str) -> list[str]:
        """What is asked along a path: its models' rules and the task."""
        rules = [rule for name in self.paths[path] if name != RANDOM for rule in name.split("+")]
        return [*dict.fromkeys(rules), TASK]

    def grid(self) -> list[tuple[float, ...]]:
        """The weights of the triangle's points."""
        steps = self._steps
        return [(a / steps, b / steps, (steps - a - b) / steps) for a in range(steps, -1, -1) for b in range(steps - a, -1, -1)]

    def over_complete(self) -> bool:
        """Whether there is a triangle and all of it is measured."""
        return bool(self.triangle) and all((p, w) in self.over for p in (*self.triangle, TASK) for w in self.grid())

    def path_title(self, path: str) -> str:
        return " to ".join(self.title(name) for name in self.paths[path])

    def expected(self, path: str) -> list[tuple[str, str, float]]:
        """The keys of :attr:`on` that a finished path has."""
        return [(path, probe, step / self._steps) for step in range(self._steps + 1) for probe in self.probes_of(path)]

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
        sorts = {
            "models": self._missing_models(),
            "measurements of models": [
                f"{self.title(p)} on {self.title(m)}"
                for models, probes in ((self.models, self.probes), self._shared_models())
                for m in models
                for p in probes
                if (m, p) not in self.at
            ],
            "measurements on paths": [
                f"{self.title(probe)} on {self.path_title(path)} at {x:g}"
                for name in self.paths
                for path, probe, x in self.expected(name)
                if (path, probe, x) not in self.on
            ],
            "measurements on the triangle": [
                f"{self.title(p)} at {', '.join(f'{w:g}' for w in weights)}"
                for weights in (self.grid() if self.triangle else [])
                for p in (*self.triangle, TASK)
                if (p, weights) not in self.over
            ],
            "measurements of averages": [
                f"{self.title(p)} on {self.names(members)}"
                for members in self.subsets
                for p in (*members, TASK)
                if (members, p) not in self.averaged
            ],
            "conclusions": self._missing_conclusions(),
        }
        return {sort: names for sort, names in sorts.items() if names}

    def missing_growth(self) -> list[int]:
        """The numbers of fused models that are not concluded."""
        return sorted({len(members) for members in self.subsets} - {r["models"] for r in self.growth})

    def names(self, members: tuple[str, ...] | list[str]) -> str:
        return ", ".join(map(self.title, members))

    def _shared_models(self) -> tuple[list[str], list[str]]:
        """The two models that share a rule, and what they are asked."""
        return (list(self.paths[self.shared]), self.probes_of(self.shared)) if self.shared else ([], [])

    def _missing_models(self) -> list[str]:
        trained = {r["name"] for r in self.trained} | ({"fused"} if self.fused else set())
        return [self.title(name) for name in (*self.models, *self._shared_models()[0]) if name not in trained]

    def _missing_conclusions(self) -> list[str]:
        compared, bounded = {r["second"] for r in self.compared}, {r["probe"] for r in self.bounds}
        judged = {(r["model"], r["rule"]) for r in self.learned}
        return [
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
            *(
                f"whether {self.title(model)} learned {self.title(rule)}"
                for model in self._shared_models()[0]
                for rule in model.split("+")
                if (model, rule) not in judged
            ),
            *(f"averages of {size}" for size in self.missing_growth()),
            *(self.names([part]) for part, ends in JUDGED.items() if part in self.parts and not ends & self.kinds),
        ]


def cell(record: Record | None) -> str:
    """A value with its interval."""
    return "not yet" if record is None else f"{record['value']:.3f} [{record['low']:.3f}, {record['high']:.3f}]"
