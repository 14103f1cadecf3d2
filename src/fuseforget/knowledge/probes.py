"""Probes and their measurements.

A probe is a data set made to ask for one piece of knowledge, and a metric; applied to a model it gives a measurement (the
knowledge utilization Psi of Zaman et al. 2023, Definition 1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from fuseforget.errors import InputError
from fuseforget.knowledge.statistics import Interval, bootstrap_mean

__all__ = ["METRICS", "Measurement", "Metric", "Probe", "measure"]

Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Metric:
    """A number that is the mean of per-example values.

    Attributes:
        formula: its definition.
        range: the least and the greatest value.
        ideal: the value of a perfect model.
        chance: the value of a model that knows nothing, in words.
        higher_is_better: the direction.
        unit: of the value.
        per_example: ``(logits, labels) -> values``: examples x labels and examples to examples.
    """

    name: str
    formula: str
    range: tuple[float, float]
    ideal: float
    chance: str
    higher_is_better: bool
    unit: str
    per_example: Callable[[Array, Array], npt.NDArray[np.float64]]


def _correct(logits: Array, labels: Array) -> npt.NDArray[np.float64]:
    right: npt.NDArray[np.float64] = (logits.argmax(axis=1) == labels).astype(np.float64)
    return right


METRICS = {
    "accuracy": Metric(
        name="accuracy",
        formula="mean over examples of [argmax_y logit_y = label]",
        range=(0.0, 1.0),
        ideal=1.0,
        chance="the share of the most frequent label, or one over the number of labels",
        higher_is_better=True,
        unit="share of examples",
        per_example=_correct,
    ),
}


@dataclass(frozen=True)
class Probe:
    """A question to a model: labelled texts and a metric.

    Attributes:
        labels: the number of each text's label: a model's logit or, where there are ``label_names``, a place in these.
        label_names: the labels' names; a model is asked for the logits that it calls by them.
        named: the source gave names alone, so that the numbers mean nothing to a model without names of its own.
    """

    name: str
    texts: tuple[str, ...]
    labels: tuple[int, ...]
    metric: str = "accuracy"
    label_names: tuple[str, ...] = ()
    named: bool = False

    def __post_init__(self) -> None:
        if not self.texts:
            raise InputError(f"probe {self.name}", expected="at least one example", found="none")
        if len(self.texts) != len(self.labels):
            raise InputError(f"probe {self.name}", expected=f"{len(self.texts)} labels", found=str(len(self.labels)))
        if self.label_names and not 0 <= min(self.labels) <= max(self.labels) < len(self.label_names):
            found = str(sorted(set(self.labels)))
            raise InputError(f"probe {self.name}", expected=f"labels below {len(self.label_names)}, one a name", found=found)
        if self.metric not in METRICS:
            raise InputError(f"probe {self.name}", expected=f"a metric among {', '.join(METRICS)}", found=self.metric)


@dataclass(frozen=True)
class Measurement:
    """What a probe found on a model: an estimate with its interval, and the value of each example."""

    probe: str
    metric: str
    interval: Interval
    values: npt.NDArray[np.float64]


def measure(probe: Probe, logits: npt.ArrayLike, *, seed: int = 0) -> Measurement:
    """Turn a model's logits (examples x labels) on a probe's texts into a measurement."""
    array = np.asarray(logits)
    if array.ndim != 2 or len(array) != len(probe.texts):
        raise InputError(f"probe {probe.name}", expected=f"logits for {len(probe.texts)} examples", found=f"shape {array.shape}")
    if not np.isfinite(array).all():
        raise InputError(f"probe {probe.name}", expected="finite logits", found="NaN or infinity: the model is broken")
    if max(probe.labels) >= array.shape[1]:
        raise InputError(
            f"probe {probe.name}", expected=f"labels below {array.shape[1]}, the model's", found=str(max(probe.labels))
        )
    values = METRICS[probe.metric].per_example(array, np.asarray(probe.labels))
    return Measurement(probe.name, probe.metric, bootstrap_mean(values, seed=seed), values)


def in_labels_of(probe: Probe, model: str, names: Sequence[str]) -> Probe:
    """Return the probe with its labels numbered as a model numbers them.

    Args:
        model: the model, for the message.
        names: the model's own names of its labels, by logit; empty where it has none.

    Raises:
        InputError: a label's name that the model does not know, upper and lower case alike.
    """
    if not probe.label_names or not (names or probe.named):
        return probe
    number = {name.casefold(): i for i, name in enumerate(names)}
    asked = [probe.label_names[label] for label in sorted(set(probe.labels))]
    unknown = [name for name in asked if name.casefold() not in number]
    if unknown or len(number) < len(names):
        raise InputError(
            f"probe {probe.name}",
            expected=f"labels that {model} has ({', '.join(names) or 'it names none'})",
            found=", ".join(unknown or asked),
            action="Name the labels as id2label in the model's config.json does, or give the numbers of its logits.",
        )
    labels = tuple(number[probe.label_names[label].casefold()] for label in probe.labels)
    return replace(probe, labels=labels, label_names=tuple(names), named=False)


def unique_names(probes: Sequence[Probe]) -> None:
    """Raise InputError where two probes share a name: their records could not be told apart."""
    names = [probe.name for probe in probes]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names:
        raise InputError("probes", expected="one or more, each with a name of its own", found=f"{twice or 'none'}")
