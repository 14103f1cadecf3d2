"""Which methods free two biased models of their biases, and leave a bias that both have: on the models of a bias study.

A contender's setting is chosen on the validation texts, at the study's ratio, as a mean over its seeds; what it does is told on
the test texts of all seeds and ratios.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fuseforget.knowledge import Probe
from fuseforget.knowledge.fairness import compare_fairness, fairness_intervals
from fuseforget.records import Record, Run, encode_values
from fuseforget.studies.bias.answers import grouped, predictions
from fuseforget.studies.forgetting.bias_results import ALONE, GAPS, conclude_bias, learned_in
from fuseforget.studies.forgetting.bias_source import COMMAND, BiasCase, BiasModels, read_bias_models
from fuseforget.studies.forgetting.contenders import Contender
from fuseforget.studies.forgetting.fusions import AVERAGE, Fusion, fusions_of
from fuseforget.studies.forgetting.settings import ForgettingStudy
from fuseforget.studies.forgetting.sources import Source
from fuseforget.sweep import Point, Sweep
from fuseforget.workers import Workers

__all__ = ["Candidate", "choose_least_biased", "do_bias", "measure_bias", "metrics_of"]

Say = Callable[[str], None]
Codes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Candidate:
    """A contender's setting on validation texts: accuracy, and bias relative to the biased models', as means over the seeds."""

    fusion: Fusion
    accuracy: float
    bias: float


def do_bias(run: Run, sources: Sequence[Source], settings: ForgettingStudy, workers: Workers, say: Say) -> None:
    """The part ``bias``: :func:`measure_bias` of every study of bias among the sources."""
    for source in sources:
        if source.command == COMMAND:
            measure_bias(run, source.name, source.path, settings.contenders, settings.allowance, workers, say)


def measure_bias(
    run: Run, source: str, path: Path, contenders: Sequence[Contender], allowance: float, workers: Workers, say: Say
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
    for case in study.cases():
        bench.take_over(case)
    learned = _learned(bench)
    if not learned:
        say(f"{source}: no model took on its bias; nothing can be forgotten")
        return
    chosen = _choose(bench, contenders, learned, allowance)
    for case in study.cases():
        bench.ask(case, chosen, "test")
    of = {a: grouped(study.splits["test"], a) for a in study.pair}
    conclude_bias(run, source, study.pair, of, learned, chosen)


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
    case, study = bench.study.choosers()[0], bench.study
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


def _choose(bench: _Bench, contenders: Sequence[Contender], learned: Sequence[str], allowance: float) -> list[Fusion]:
    """The chosen setting of each contender, recorded with what spoke for it."""
    cases, chosen, level = bench.study.choosers(), [], 0.0
    for fusions in fusions_of(contenders, len(bench.study.pair)):
        for case in cases:
            bench.ask(case, fusions, "validation")
        candidates = [_candidate(bench, cases, fusion, learned) for fusion in fusions]
        level = candidates[0].accuracy if fusions[0] == AVERAGE else level
        best, sound = choose_least_biased(candidates, level, allowance)
        seeds = [case.seed for case in cases]
        fields: Record = {"part": "bias", "source": bench.source, "seeds": seeds, **best.fusion.where}
        if bench.run.find("chosen", **fields) is None:
            bench.run.add("chosen", **fields, sound=sound, accuracy=best.accuracy, bias=best.bias, average=level)
        chosen.append(best.fusion)
    return chosen


def _candidate(bench: _Bench, cases: Sequence[BiasCase], fusion: Fusion, learned: Sequence[str]) -> Candidate:
    accuracies, shares = [], []
    for case in cases:
        metrics = _on_validation(bench, case, fusion)
        accuracies.append(metrics["accuracy"]["value"])
        for attribute in learned:
            alone = _on_validation(bench, BiasCase(case.seed, ALONE.row, (attribute,)), ALONE)
            shares += [metrics[attribute][m]["value"] / alone[attribute][m]["value"] for m in GAPS]
    return Candidate(fusion, float(np.mean(accuracies)), float(np.mean(shares)))


def _on_validation(bench: _Bench, case: BiasCase, fusion: Fusion) -> Record:
    record = bench.find(case, fusion, "validation")
    assert record is not None
    metrics: Record = record["metrics"]
    return metrics
