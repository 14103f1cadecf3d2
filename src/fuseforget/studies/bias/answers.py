"""What the models of a study of bias answer: recorded once a model and set, so that every metric can be computed later."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fuseforget.checkpoint import Checkpoint
from fuseforget.data import AttributedExamples
from fuseforget.knowledge import Probe
from fuseforget.knowledge.fairness import Grouped
from fuseforget.knowledge.probes import confidences_of
from fuseforget.records import Record, Run, decode_values, encode_values
from fuseforget.sweep import Resident

__all__ = ["answered", "ask_model", "ask_path", "encode_answers", "grouped", "predictions", "probes_of"]

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


def ask_model(run: Run, resident: Resident, checkpoint: Checkpoint, sets: Sequence[str], say: Say, **where: Any) -> None:
    """Record what a model answers on the sets, with its confidence."""
    if any(not answered(run, name, **where) for name in sets):
        resident.set_point([checkpoint], [1.0])
        _ask(run, resident, sets, say, with_confidence=True, **where)


def ask_path(
    run: Run, resident: Resident, ends: Mapping[str, Checkpoint], grid: Sequence[tuple[float, ...]], sets: Sequence[str],
    say: Say, *, seed: int,
) -> None:  # fmt: skip
    """Record what the averages of the named models answer at the grid's weights; the path is called by their names."""
    for weights in grid:
        here = {"seed": seed, "path": "-".join(ends), "weights": list(weights)}
        for name in sets:
            _copy_known(run, list(ends), weights, name, here)
        if any(not answered(run, name, **here) for name in sets):
            resident.set_point(list(ends.values()), weights)
            _ask(run, resident, sets, say, with_confidence=False, **here)


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


def _ask(run: Run, resident: Resident, sets: Sequence[str], say: Say, *, with_confidence: bool, **where: Any) -> None:
    for name in sets:
        if answered(run, name, **where):
            continue
        logits = resident.logits(name)
        accuracy = resident.judge(name, logits).interval  # refuses what is not finite
        kept = encode_answers(logits)
        if not with_confidence:
            del kept["confidence"]
        run.add("answers", **where, set=name, **kept, cut=resident.cut(name))
        say(f"{_label(where)}: accuracy on {name} {accuracy.value:.3f}")


def encode_answers(logits: npt.NDArray[np.floating[Any]]) -> Record:
    """The predicted label of each example and its probability, as they are recorded."""
    predicted = encode_values(logits.argmax(axis=1).astype(np.float64))
    return {"n": len(logits), "predicted": predicted, "confidence": encode_values(confidences_of(logits))}


def _label(where: Mapping[str, Any]) -> str:
    name = where.get("model") or "{path} at {weights}".format(**where)
    return f"seed {where['seed']}, {name}"
