"""What the models of a study of bias answer: recorded once a model and set, so that every metric can be computed later."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fuseforget.checkpoint import Checkpoint
from fuseforget.data import AttributedExamples
from fuseforget.knowledge import Probe
from fuseforget.knowledge.fairness import Grouped
from fuseforget.knowledge.probes import confidences_of
from fuseforget.records import Record, Run, decode_values, encode_values
from fuseforget.sweep import Point, Sweep
from fuseforget.sweep.measured import label_of

__all__ = ["answered", "ask_models_on", "ask_path", "encode_answers", "grouped", "predictions", "probes_of"]

Say = Callable[[str], None]
Codes = npt.NDArray[np.int64]


def probes_of(splits: Mapping[str, AttributedExamples], names: Sequence[str]) -> list[Probe]:
    """The sets of these names as probes; what is asked of the answers beside accuracy is computed from the records."""
    texts = [(name, splits[name].examples) for name in names]
    return [Probe(name, e.texts, e.labels, label_names=e.own_names, named=e.named) for name, e in texts]


def grouped(data: AttributedExamples, attribute: str) -> Grouped:
    """The truth and one protected attribute of a set."""
    return Grouped(
        labels=np.asarray(data.examples.labels), groups=data.codes(attribute), label_names=data.examples.label_names,
        group_names=data.values(attribute), units=data.unit_codes(),
    )  # fmt: skip


def ask_models_on(run: Run, sweep: Sweep, models: Mapping[str, Path], sets: Sequence[str], say: Say, *, seed: int) -> None:
    """Record what models of a seed answer on the sets, with their confidence."""
    asked = [Point({"seed": seed, "model": name}, (str(path),), (1.0,), tuple(sets)) for name, path in models.items()]
    _ask(run, sweep, asked, say, with_confidence=True)


def ask_path(
    run: Run, sweep: Sweep, ends: Mapping[str, Checkpoint], grid: Sequence[tuple[float, ...]], sets: Sequence[str],
    say: Say, *, seed: int,
) -> None:  # fmt: skip
    """Record what the averages of the named models answer at the grid's weights; the path is called by their names."""
    asked = []
    for weights in grid:
        here = {"seed": seed, "path": "-".join(ends), "weights": list(weights)}
        for name in sets:
            _copy_known(run, list(ends), weights, name, here)
        asked.append(Point(here, tuple(str(end.path) for end in ends.values()), weights, tuple(sets)))
    _ask(run, sweep, asked, say, with_confidence=False)


def _copy_known(run: Run, names: Sequence[str], weights: Sequence[float], on: str, here: Mapping[str, Any]) -> None:
    """Take over the answers of the same point under another name: a corner is a model, an edge of a triangle a path.

    Their weights are the same to the bit: what has no weight adds nothing.
    """
    parts = [(name, weight) for name, weight in zip(names, weights, strict=True) if weight]
    if len(parts) == len(names) or answered(run, on, **here):
        return
    (kept, of) = zip(*parts, strict=True)
    where = {"model": kept[0]} if len(kept) == 1 else {"path": "-".join(kept), "weights": list(of)}
    known = run.find("answers", set=on, seed=here["seed"], **where)
    if known is not None:
        run.add("answers", **here, set=on, n=known["n"], predicted=known["predicted"], cut=known["cut"])


def answered(run: Run, name: str, **where: Any) -> bool:
    return run.find("answers", set=name, **where) is not None


def predictions(record: Record) -> Codes:
    """The predicted label of each example of a set."""
    return decode_values(record["predicted"]).astype(np.int64)


def _ask(run: Run, sweep: Sweep, points: Sequence[Point], say: Say, *, with_confidence: bool) -> None:
    lacking = [point for point in points if any(not answered(run, name, **point.where) for name in point.probes)]
    for point, answers in sweep.answers(lacking):
        for name, answer in answers.by_probe.items():
            if answered(run, name, **point.where):
                continue
            kept = encode_answers(answer.logits)
            if not with_confidence:
                del kept["confidence"]
            run.add("answers", **point.where, set=name, **kept, cut=answer.cut)
            say(f"{_label(point.where)}: accuracy on {name} {answer.measurement.interval.value:.3f}")


def encode_answers(logits: npt.NDArray[np.floating[Any]]) -> Record:
    """The predicted label of each example and its probability, as they are recorded."""
    predicted = encode_values(logits.argmax(axis=1).astype(np.float64))
    return {"n": len(logits), "predicted": predicted, "confidence": encode_values(confidences_of(logits))}


def _label(where: Mapping[str, Any]) -> str:
    return f"seed {where['seed']}, {label_of(where)}"
