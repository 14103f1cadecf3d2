"""Which methods free two biased models of their biases, and leave a bias that both have: on the models of a bias study.

A contender's setting is chosen on the validation texts of the study's first seed; what it does is told on the test texts of all
seeds and ratios.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fuseforget.data import AttributedExamples, read_attributed
from fuseforget.data.tables import read_table
from fuseforget.errors import InputError
from fuseforget.knowledge import Probe
from fuseforget.knowledge.fairness import compare_fairness, fairness_intervals
from fuseforget.records import Record, Run, encode_values, read_records, read_run
from fuseforget.studies.bias.answers import grouped, predictions
from fuseforget.studies.bias.models import at_ratio
from fuseforget.studies.forgetting.bias_results import ALONE, GAPS, both, conclude_bias, learned_in
from fuseforget.studies.forgetting.fusions import AVERAGE, Contends, Finished, Fusion, Studied, fusions_of
from fuseforget.sweep import Point, Sweep
from fuseforget.workers import Workers

__all__ = ["BiasCase", "BiasModels", "Candidate", "choose_least_biased", "do_bias", "measure_bias", "read_bias_models"]

COMMAND = "study bias"
SETS = ("validation", "test")
Say = Callable[[str], None]
Codes = npt.NDArray[np.int64]


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

    def chooser(self) -> BiasCase:
        """The case that settings are chosen on."""
        return BiasCase(self.seeds[0], f"ratio {self.ratio:g}", self.pair)

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


@dataclass(frozen=True)
class Candidate:
    """A contender's setting on validation texts: its accuracy, and the mean of the biases relative to the biased models'."""

    fusion: Fusion
    accuracy: float
    bias: float


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
    values = about["about"]["attributes"]
    read = {name: _read_split(path / "data" / "splits", name, {a: values[a] for a in pair}) for name in SETS}
    found = BiasModels(path, pair, ratio, tuple(sorted(whole)), tuple(seeds), read, answers)
    _require_same_texts(found, records)
    return found


def do_bias(run: Run, sources: Sequence[Finished], settings: Studied, workers: Workers, say: Say) -> None:
    """The part ``bias``: :func:`measure_bias` of every study of bias among the sources."""
    for source in sources:
        if source.command == COMMAND:
            measure_bias(run, source.name, source.path, settings.contenders, settings.allowance, workers, say)


def measure_bias(
    run: Run, source: str, path: Path, contenders: Sequence[Contends], allowance: float, workers: Workers, say: Say
) -> None:  # fmt: skip
    """Ask every contender's settings, choose one of each, ask these on all cases, and record what they come to.

    Records: ``unlearned`` (a bias that a model did not take on), ``point`` (a model made, and its metrics on a split),
    ``chosen`` and ``forgetting_result``, all of the part ``bias``; what the run has is not done again.

    Args:
        source: what the records call the study.
        allowance: how far below the average's the accuracy of a chosen setting may be on validation texts.
    """
    study = read_bias_models(path)
    bench = _Bench(run, source, study, workers, say)
    for case in (study.chooser(), *study.cases()):
        bench.take_over(case)
    learned = _learned(bench)
    if not learned:
        say(f"{source}: no model took on its bias; nothing can be forgotten")
        return
    chosen = _choose(bench, contenders, learned, allowance)
    for case in study.cases():
        bench.ask(case, chosen, "test")
    conclude_bias(run, source, study.pair, {a: grouped(study.splits["test"], a) for a in study.pair}, learned)


def choose_least_biased(candidates: Sequence[Candidate], average: float, allowance: float) -> tuple[Candidate, bool]:
    """The candidate with the least bias among those whose accuracy is at most ``allowance`` below the average's.

    Where there is none, the one with the highest accuracy. Returned with whether there was one.
    """
    sound = [
        one for one in candidates if one.accuracy >= average - allowance - 1e-9
    ]  # shares of right answers differ in rounding
    if sound:
        return min(sound, key=lambda one: one.bias), True
    return max(candidates, key=lambda one: one.accuracy), False


def _read_split(directory: Path, name: str, attributes: Mapping[str, Sequence[str]]) -> AttributedExamples:
    """A split that a study kept, with its units where it has any."""
    unit = "unit" if "unit" in read_table(directory / f"{name}.jsonl", "") else None
    return read_attributed(directory, split=name, attributes=attributes, unit=unit)


def _called(attribute: str, ratio: float, of_study: float) -> str:
    return attribute if ratio == of_study else at_ratio(attribute, ratio)


class _Bench:
    """A study's models and texts, and a resident model that takes any fusion of them."""

    def __init__(self, run: Run, source: str, study: BiasModels, workers: Workers, say: Say) -> None:
        self.run, self.source, self.study, self.say = run, source, study, say
        probes = [Probe(name, part.examples.texts, part.examples.labels) for name, part in study.splits.items()]
        self._sweep = Sweep(study.file(study.seeds[0], "start"), probes, workers=workers)

    def find(self, case: BiasCase, fusion: Fusion, split: str) -> Record | None:
        return self.run.find("point", **self._where(case, fusion, split))

    def ask(self, case: BiasCase, fusions: Sequence[Fusion], split: str) -> None:
        """Record what fusions of a case's models answer on a split, where the run does not have it."""
        lacking = [fusion for fusion in fusions if self.find(case, fusion, split) is None]
        points = [self._point(case, fusion, split) for fusion in lacking]
        for fusion, (_, answers) in zip(lacking, self._sweep.answers(points), strict=True):
            self._keep(case, fusion, split, answers.by_probe[split].logits.argmax(axis=1))

    def take_over(self, case: BiasCase) -> None:
        """Record what the study's own models answered: what fusing starts from."""
        for model in case.models:
            alone = BiasCase(case.seed, ALONE.row, (model,))
            for record in self.study.answers:
                if (record["seed"], record["model"]) == (case.seed, model) and self.find(alone, ALONE, record["set"]) is None:
                    self._keep(alone, ALONE, record["set"], predictions(record))

    def _keep(self, case: BiasCase, fusion: Fusion, split: str, predicted: Codes) -> None:
        metrics = metrics_of(self.study, split, predicted)
        kept = encode_values(predicted.astype(np.float64))
        self.run.add("point", **self._where(case, fusion, split), metrics=metrics, predicted=kept)
        gaps = ", ".join(f"{a} DP {metrics[a]['demographic_parity']['value']:.3f}" for a in self.study.pair)
        self.say(f"{case.name} by {fusion.label}, {split}: accuracy {metrics['accuracy']['value']:.3f}, {gaps}")

    def _point(self, case: BiasCase, fusion: Fusion, split: str) -> Point:
        models = tuple(self.study.file(case.seed, model) for model in case.models)
        base = self.study.file(case.seed, "start") if fusion.takes_base else None
        return Point(
            {"model": f"{case.name} by {fusion.label}"}, models, fusion.weights(len(models)), (split,), fusion.method, base,
            case.seed, fusion.parameters,
        )  # fmt: skip

    def _where(self, case: BiasCase, fusion: Fusion, split: str) -> Record:
        return {"part": "bias", "source": self.source, **case.where, **fusion.where, "split": split}


def metrics_of(study: BiasModels, split: str, predicted: Codes) -> Record:
    """Accuracy, and both gaps of each attribute, of one model's predictions on a split, with their intervals."""
    found: Record = {}
    for attribute in study.pair:
        accuracy, *gaps = fairness_intervals(["accuracy", *GAPS], grouped(study.splits[split], attribute), predicted[None])[0]
        found |= {"accuracy": asdict(accuracy), attribute: {m: asdict(one) for m, one in zip(GAPS, gaps, strict=True)}}
    return found


def _learned(bench: _Bench) -> list[str]:
    """The attributes whose biased model is clearly more biased in them than the other one; others are recorded as unlearned."""
    case, study = bench.study.chooser(), bench.study
    predicted = {}
    for model in case.models:
        record = bench.find(BiasCase(case.seed, ALONE.row, (model,)), ALONE, "validation")
        assert record is not None
        predicted[model] = predictions(record)
    for own, other in (study.pair, study.pair[::-1]):
        of = grouped(study.splits["validation"], own)
        found = compare_fairness("demographic_parity", of, predicted[own], predicted[other])
        fields: Record = {"part": "bias", "source": bench.source, "attribute": own}
        if bench.run.find("knowledge", **fields) is None:
            bench.run.add("knowledge", **fields, learned=found.low > 0, **asdict(found))
    return learned_in(bench.run, bench.source)


def _choose(bench: _Bench, contenders: Sequence[Contends], learned: Sequence[str], allowance: float) -> list[Fusion]:
    """The chosen setting of each contender, recorded with what spoke for it."""
    case, chosen, level = bench.study.chooser(), [], 0.0
    for fusions in fusions_of(contenders, len(case.models)):
        bench.ask(case, fusions, "validation")
        candidates = [_candidate(bench, case, fusion, learned) for fusion in fusions]
        level = candidates[0].accuracy if fusions[0] == AVERAGE else level
        best, sound = choose_least_biased(candidates, level, allowance)
        fields: Record = {"part": "bias", "source": bench.source, **best.fusion.where}
        if bench.run.find("chosen", **fields) is None:
            bench.run.add("chosen", **fields, sound=sound, accuracy=best.accuracy, bias=best.bias, average=level)
        chosen.append(best.fusion)
    return chosen


def _candidate(bench: _Bench, case: BiasCase, fusion: Fusion, learned: Sequence[str]) -> Candidate:
    record = bench.find(case, fusion, "validation")
    assert record is not None
    shares = []
    for attribute in learned:
        alone = bench.find(BiasCase(case.seed, ALONE.row, (attribute,)), ALONE, "validation")
        assert alone is not None
        shares += [record["metrics"][attribute][m]["value"] / alone["metrics"][attribute][m]["value"] for m in GAPS]
    return Candidate(fusion, record["metrics"]["accuracy"]["value"], float(np.mean(shares)))


def _require_same_texts(study: BiasModels, records: Sequence[Record]) -> None:
    """Raise unless the texts give the accuracies that the study recorded: labels are numbered and ordered as they were."""
    recorded = next(r for r in records if r["kind"] == "fairness" and r["attribute"] is None and r.get("model") == study.pair[0])
    answer = next(r for r in study.answers if all(r[key] == recorded[key] for key in ("seed", "model", "set")))
    labels, predicted = np.asarray(study.splits[recorded["set"]].examples.labels), predictions(answer)
    same = len(labels) == len(predicted) and abs(np.mean(labels == predicted) - recorded["metrics"]["accuracy"]["value"]) < 1e-9
    if not same:
        raise InputError(str(study.path / "data" / "splits"), expected="the texts that its records are about", found="others")
