"""Probes and their measurements.

A probe is a data set made to ask for one piece of knowledge, and a metric; applied to a model it gives a measurement (the
knowledge utilization Psi of Zaman et al. 2023, Definition 1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

import numpy as np
import numpy.typing as npt

from fuseforget.errors import InputError
from fuseforget.knowledge.fairness import FAIRNESS, Grouped, fairness
from fuseforget.knowledge.statistics import Interval, bootstrap_mean

__all__ = ["METRICS", "Measurement", "Metric", "Probe", "confidences_of", "grouped_of", "measure"]

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
        metric: a name in :data:`METRICS` or, where there is an attribute, in :data:`fuseforget.knowledge.fairness.FAIRNESS`.
        label_names: the labels' names; a model is asked for the logits that it calls by them.
        named: the source gave names alone, so that the numbers mean nothing to a model without names of its own.
        attribute: the protected attribute by which the metric looks at the texts, by name; empty: none.
        groups: whose each text is, a place in ``group_names``.
        units: a number for each text, the same where texts are not independent (an author's); empty: every text is its own.
        order: the numbers of the labels in the order of the source; empty: ascending.
    """

    name: str
    texts: tuple[str, ...]
    labels: tuple[int, ...]
    metric: str = "accuracy"
    label_names: tuple[str, ...] = ()
    named: bool = False
    attribute: str = ""
    groups: tuple[int, ...] = ()
    group_names: tuple[str, ...] = ()
    units: tuple[int, ...] = ()
    order: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.texts:
            raise InputError(f"probe {self.name}", expected="at least one example", found="none")
        if len(self.texts) != len(self.labels):
            raise InputError(f"probe {self.name}", expected=f"{len(self.texts)} labels", found=str(len(self.labels)))
        if self.label_names and not 0 <= min(self.labels) <= max(self.labels) < len(self.label_names):
            found = str(sorted(set(self.labels)))
            raise InputError(f"probe {self.name}", expected=f"labels below {len(self.label_names)}, one a name", found=found)
        require_metric(f"probe {self.name}", self.metric, bool(self.attribute))
        if not self.attribute and (self.groups or self.group_names or self.units):
            raise InputError(f"probe {self.name}", expected="the name of the attribute that the groups are of", found="none")
        if self.attribute:
            grouped_of(self)

    @property
    def entry(self) -> str:
        """What probes of the same data and attribute share: the name without that of the metric."""
        return self.name.removesuffix(f".{self.metric}")


@dataclass(frozen=True)
class Measurement:
    """What a probe found on a model.

    Attributes:
        interval: the estimate with its interval.
        values: of each example; for a metric by groups what the model answered, a place in ``answers``.
        answers: what the model can answer, by name: the labels that the examples have, in the order of their source, then
            what else. Empty for a metric of values.
        confidences: the probability of each answer, for a metric of calibration.
        attribute: the protected attribute whose groups it is about; empty where it is about none.
    """

    probe: str
    metric: str
    interval: Interval
    values: npt.NDArray[np.float64]
    answers: tuple[str, ...] = ()
    confidences: npt.NDArray[np.float64] | None = None
    attribute: str = ""


def require_metric(thing: str, metric: str, by_attribute: bool) -> None:
    """Raise InputError unless there is such a metric, and an attribute where it needs one."""
    known = FAIRNESS if by_attribute else METRICS
    if metric in known:
        return
    if metric in FAIRNESS:
        raise InputError(
            thing, expected=f"an attribute, which {metric} needs", found="none", action="Name the column: attribute."
        )
    near = get_close_matches(metric, FAIRNESS, n=3)
    action = f"Did you mean {' or '.join(near)}?" if near else ""
    raise InputError(thing, expected=f"a metric among {', '.join(known)}", found=metric, action=action)


def grouped_of(probe: Probe, others: Sequence[str] = ()) -> Grouped:
    """The truth and the protected attribute of a probe; labels are numbered from 0 in the order of their source.

    Args:
        others: what a model can answer besides the labels that the probe's texts have.

    Raises:
        InputError: see :class:`fuseforget.knowledge.fairness.Grouped`.
    """
    order = probe.order or tuple(sorted(set(probe.labels)))
    place = {label: i for i, label in enumerate(order)}
    units = np.array(probe.units, dtype=np.int64) if probe.units else None
    try:
        return Grouped(
            labels=np.array([place[label] for label in probe.labels]), groups=np.array(probe.groups, dtype=np.int64),
            label_names=_names(probe, order), group_names=probe.group_names, units=units, other_answers=tuple(others),
        )  # fmt: skip
    except InputError as error:
        where = f"probe {probe.name}, {probe.attribute}: {error.thing}"
        raise InputError(where, expected=error.expected, found=error.found, action=error.action) from None


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
    if probe.attribute:
        return _measure_by_group(probe, array, seed)
    values = METRICS[probe.metric].per_example(array, np.asarray(probe.labels))
    return Measurement(probe.name, probe.metric, bootstrap_mean(values, seed=seed), values)


def _measure_by_group(probe: Probe, logits: Array, seed: int) -> Measurement:
    order = probe.order or tuple(sorted(set(probe.labels)))
    others = tuple(label for label in range(logits.shape[1]) if label not in order)
    data = grouped_of(probe, _names(probe, others))
    predictions = np.argsort([*order, *others])[logits.argmax(axis=1)]
    confidences = confidences_of(logits) if FAIRNESS[probe.metric].table == "calibration" else None
    interval = fairness(probe.metric, data, predictions, seed=seed, confidences=confidences)
    values = predictions.astype(np.float64)
    return Measurement(probe.name, probe.metric, interval, values, data.answers, confidences, probe.attribute)


def confidences_of(logits: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The probability of the likeliest label of each example (logits: examples x labels), as exactly as records keep it."""
    scores = np.asarray(logits, dtype=np.float64)
    odds = np.exp(scores - scores.max(axis=1, keepdims=True)).sum(axis=1)
    found: npt.NDArray[np.float64] = (1 / odds).astype(np.float32).astype(np.float64)
    return found


def _names(probe: Probe, labels: Sequence[int]) -> tuple[str, ...]:
    """What labels are called: by the probe's names, or as transformers calls labels without."""
    return tuple(probe.label_names[label] if probe.label_names else f"LABEL_{label}" for label in labels)


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
    order = tuple(number[name.casefold()] for name in asked)
    return replace(probe, labels=labels, label_names=tuple(names), named=False, order=order)


def unique_names(probes: Sequence[Probe]) -> None:
    """Raise InputError where two probes, or two entries, share a name: their records could not be told apart."""
    names = [probe.name for probe in probes]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names:
        raise InputError("probes", expected="one or more, each with a name of its own", found=f"{twice or 'none'}")
    asked: dict[str, Probe] = {}
    for probe in probes:
        first = asked.setdefault(probe.entry, probe) if probe.attribute else probe
        if (first.texts, first.labels, first.attribute, first.groups) != (
            probe.texts,
            probe.labels,
            probe.attribute,
            probe.groups,
        ):
            raise InputError(f"probes {first.name} and {probe.name}", expected="the same data and attribute", found="others")
