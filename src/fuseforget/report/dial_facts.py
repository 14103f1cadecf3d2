"""A dial's records, found by what they are about."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from fuseforget.report.unfinished import missing_measurements

__all__ = ["DialFacts"]

Record = dict[str, Any]


class DialFacts:
    """The records of a dial that is finished or not.

    Attributes:
        settings: of the run.
        default: what the method forgets without being told.
        turned: the knob's settings, from the average on.
        alone: the models that are asked as they are, the base first where it can be.
        probes: what is asked, and metrics: how, by probe.
        on: measurements by setting and probe.
        at: measurements by model and probe.
        missing: what the run does not have yet, in words.
    """

    def __init__(self, description: Record, records: list[Record]) -> None:
        self.settings: Record = description["settings"]
        self.default: float = description["about"]["default"]
        self.turned: list[float] = self.settings["forget"]
        self.alone: list[str] = self.settings["alone"]
        self.metrics: dict[str, str] = {name: probe["metric"] for name, probe in self.settings["probes"].items()}
        self.probes = list(self.metrics)
        measured = [r for r in records if r["kind"] == "measurement"]
        self.on = {(r["forget"], r["probe"]): r for r in measured if "forget" in r}
        self.at = {(r["model"], r["probe"]): r for r in measured if "model" in r}
        self.missing = missing_measurements(description, records)

    def n(self, probe: str) -> int:
        """How many examples it has."""
        return int(self.settings["probes"][probe]["n"])

    def asked(self, probe: str) -> str:
        """A probe's name and its metric, which the name may end in already."""
        metric = self.metrics[probe]
        return probe if probe.endswith(f".{metric}") else f"{probe}, {metric}"

    def title(self, model: str) -> str:
        """A model's name for a figure: the end of its path, as much of it as tells it from the others."""
        parts = {name: PurePath(name).parts for name in self.alone}
        for length in range(1, len(parts[model]) + 1):
            end = parts[model][-length:]
            if sum(other[-length:] == end for other in parts.values()) == 1:
                return "/".join(end)
        return model
