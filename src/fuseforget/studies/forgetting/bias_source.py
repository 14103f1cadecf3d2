"""What a finished study of bias left: its models, its texts, and what the models answered; and which of them are fused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fuseforget.data import AttributedExamples, read_attributed
from fuseforget.data.tables import read_table
from fuseforget.errors import InputError
from fuseforget.records import Record, read_records, read_run
from fuseforget.studies.bias.answers import predictions
from fuseforget.studies.bias.models import at_ratio
from fuseforget.studies.forgetting.bias_results import both

__all__ = ["COMMAND", "BiasCase", "BiasModels", "read_bias_models"]

COMMAND = "study bias"
SETS = ("validation", "test")


@dataclass(frozen=True)
class BiasCase:
    """Models of one start, to be fused, or one of them alone.

    Attributes:
        group: what cases of several seeds have in common: ``ratio 0.8``, ``both gender``.
        models: their names in the study.
    """

    seed: int
    group: str
    models: tuple[str, ...]

    @property
    def where(self) -> Record:
        return {"seed": self.seed, "group": self.group, "models": list(self.models)}

    @property
    def name(self) -> str:
        return f"seed {self.seed}, {' + '.join(self.models)}"


@dataclass(frozen=True)
class BiasModels:
    """The models and texts of a finished study of bias.

    Attributes:
        pair: the attributes that models are biased in.
        ratio: the study's; ratios: all that there are models of in every seed, ascending.
        splits: the texts that settings are chosen on, and those that tell.
        answers: what the study recorded of its models.
    """

    path: Path
    pair: tuple[str, str]
    ratio: float
    ratios: tuple[float, ...]
    seeds: tuple[int, ...]
    splits: Mapping[str, AttributedExamples]
    answers: Sequence[Record]

    def model(self, attribute: str, ratio: float) -> str:
        """What the study calls a biased model."""
        return _called(attribute, ratio, self.ratio)

    def file(self, seed: int, model: str) -> str:
        return str(self.path / "models" / f"seed{seed}" / model)

    def choosers(self) -> list[BiasCase]:
        """The cases that settings are chosen on, one of each seed; all of them are among :meth:`cases`."""
        return [BiasCase(seed, f"ratio {self.ratio:g}", self.pair) for seed in self.seeds]

    def cases(self) -> list[BiasCase]:
        """The cases that tell: two attributes at every ratio, and one attribute's models of two ratios, in every seed."""
        pairs = [
            BiasCase(seed, f"ratio {ratio:g}", tuple(self.model(a, ratio) for a in self.pair))
            for ratio in self.ratios
            for seed in self.seeds
        ]
        more = [ratio for ratio in self.ratios if ratio > self.ratio][:1]
        shared = [BiasCase(seed, both(a), (a, self.model(a, ratio))) for ratio in more for a in self.pair for seed in self.seeds]
        return [*pairs, *shared]


def read_bias_models(path: Path) -> BiasModels:
    """Read what a finished study of bias left.

    Raises:
        InputError: another study, or one whose models are not all there, or texts that its records are not about.
    """
    about, records = read_run(path), read_records(path)
    if about["command"] != COMMAND:
        raise InputError(str(path), expected="a run of study bias", found=f"a run of {about['command']}")
    settings = about["settings"]
    pair = settings["attributes"][0], settings["attributes"][1]
    seeds: list[int] = max((r["seeds"] for r in records if r["kind"] == "asked"), key=len, default=[])
    answers = [r for r in records if r["kind"] == "answers" and "model" in r]
    known = {(r["seed"], r["model"]) for r in answers if r["set"] == "test"}
    ratio, there = settings["ratio"], {r["ratio"] for r in records if r["kind"] == "data"}
    whole = [r for r in there if all((s, _called(a, r, ratio)) in known for s in seeds for a in pair)]
    if not seeds or ratio not in whole:
        raise InputError(
            str(path), expected="a bias study with the answers of both biased models of every seed",
            found=f"those of {len(known)} models", action="Run it again to finish it.",
        )  # fmt: skip
    read = {name: _read_split(path / "data" / "splits", name, pair) for name in SETS}
    found = BiasModels(path, pair, ratio, tuple(sorted(whole)), tuple(seeds), read, answers)
    _require_same_texts(found, records)
    return found


def _read_split(directory: Path, name: str, attributes: Sequence[str]) -> AttributedExamples:
    """A split that a study kept, with its units where it has any."""
    unit = "unit" if "unit" in read_table(directory / f"{name}.jsonl", "") else None
    return read_attributed(directory, split=name, attributes=attributes, unit=unit)


def _called(attribute: str, ratio: float, of_study: float) -> str:
    return attribute if ratio == of_study else at_ratio(attribute, ratio)


def _require_same_texts(study: BiasModels, records: Sequence[Record]) -> None:
    """Raise unless the texts give the accuracies that the study recorded: labels are numbered and ordered as they were."""
    recorded = next(r for r in records if r["kind"] == "fairness" and r["attribute"] is None and r.get("model") == study.pair[0])
    answer = next(r for r in study.answers if all(r[key] == recorded[key] for key in ("seed", "model", "set")))
    labels, predicted = np.asarray(study.splits[recorded["set"]].examples.labels), predictions(answer)
    same = len(labels) == len(predicted) and abs(np.mean(labels == predicted) - recorded["metrics"]["accuracy"]["value"]) < 1e-9
    if not same:
        raise InputError(str(study.path / "data" / "splits"), expected="the texts that its records are about", found="others")
