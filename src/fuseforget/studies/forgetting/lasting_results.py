"""What the measurements of the part ``lasting`` say, over all sources together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from fuseforget.knowledge import Interval, bootstrap_mean, knows_more, mean_retention
from fuseforget.records import Record, Run, decode_values
from fuseforget.studies.forgetting.examined import CONTROL, START
from fuseforget.studies.forgetting.relearning import CLEAN, tenth_of

__all__ = ["REACHED", "area_between", "conclude_lasting", "steps_to"]

LASTING = "lasting"
TASK = "task"
REACHED = 0.75  # accuracy, half way between chance and knowing
PRECISIONS = ("as it is", "int8", "int4")
Values = npt.NDArray[np.float64]


def conclude_lasting(
    run: Run, sources: Mapping[str, str], pair: Sequence[str], fusions: Sequence[str], steps: Sequence[int]
) -> None:
    """Record what the measurements say, as ``forgetting_result``; means are over the sources, intervals over their examples.

    A run that is later asked for other sources gets results of its own for these.

    By ``about``: ``probe`` (retention of a rule in a form and a precision, None where the specialist does not know it there),
    ``precision`` (the change of the accuracy when weights are rounded), ``decoded`` (how much better than of the control's
    states a linear probe reads the label) and ``relearning`` (the area between a model's curve and the control's, and the
    steps that both take to .75).

    Args:
        sources: by name, what each one's texts are: examples of equal texts are one, about which several sources are asked.
    """
    found = _Found(run, sources)
    for model in (*pair, CONTROL, *fusions):
        for rule in pair:
            _conclude_probes(run, found, model, rule)
        for data in (CLEAN, *map(tenth_of, pair)):
            for probe in (*pair, TASK):
                _conclude_relearning(run, found, model, probe, data, steps)
    for model in (*pair, CONTROL, START, *fusions):
        for rule in pair:
            _conclude_decoded(run, found, model, rule)


def area_between(model: Sequence[Values], control: Sequence[Values], steps: Sequence[int]) -> Interval:
    """The mean height between a model's curve and the control's over the steps, straight between those where it was asked.

    Args:
        model, control: after each of the steps the values of the same examples.
        steps: ascending.

    Returns:
        The mean with its bootstrap interval over the examples; 0: the curves are as high.
    """
    at = np.asarray(steps, dtype=np.float64)
    gaps = np.diff(at)
    weights = (np.append(gaps, 0) + np.append(0, gaps)) / (2 * (at[-1] - at[0]))
    return _mean(weights @ (np.stack(model) - np.stack(control)))


def steps_to(curve: Sequence[float], steps: Sequence[int], reached: float = REACHED) -> float | None:
    """The number of steps at which a curve first reaches a value, straight between those where it is known; None: never."""
    for i, (value, step) in enumerate(zip(curve, steps, strict=True)):
        if value >= reached:
            if i == 0:
                return float(step)
            share = (reached - curve[i - 1]) / (value - curve[i - 1])
            return float(steps[i - 1] + share * (step - steps[i - 1]))
    return None


class _Found:
    """The run's per-example values by what they are of."""

    def __init__(self, run: Run, sources: Mapping[str, str]) -> None:
        self._run, self.sources, self._texts = run, list(sources), dict(sources)

    def each(self, kind: str = "measurement", **where: Any) -> list[Values]:
        """Of every source."""
        records = [self._run.find(kind, part=LASTING, source=source, **where) for source in self.sources]
        if any(record is None for record in records):
            raise RuntimeError(f"not measured for every source: {where}")
        return [decode_values(record["values"]) for record in records if record is not None]

    def all(self, kind: str = "measurement", **where: Any) -> Values:
        return self.joined(self.each(kind, **where))

    def joined(self, each: Sequence[Values]) -> Values:
        """Of every source to one a text: the mean over sources of the same texts, different texts one after another."""
        by_texts: dict[str, list[Values]] = {}
        for source, values in zip(self.sources, each, strict=True):
            by_texts.setdefault(self._texts[source], []).append(values)
        return np.concatenate([np.mean(alike, axis=0) for alike in by_texts.values()])

    @property
    def texts(self) -> list[str]:
        """What the texts of every source are."""
        return [self._texts[source] for source in self.sources]

    @property
    def probes(self) -> list[str]:
        """All that were asked."""
        return list(dict.fromkeys(r["probe"] for r in self._run.records if _is_asked(r)))

    @property
    def layers(self) -> list[str]:
        return list(dict.fromkeys(r["layer"] for r in self._run.records if r["kind"] == "decoded"))


def _is_asked(record: Record) -> bool:
    return record["kind"] == "measurement" and record.get("part") == LASTING and "precision" in record


def _conclude_probes(run: Run, found: _Found, model: str, rule: str) -> None:
    for probe in [name for name in found.probes if name == rule or name.startswith(f"{rule}: ")]:
        whole = found.all(model=model, probe=probe, precision=PRECISIONS[0])
        for precision in PRECISIONS:
            where = {"model": model, "rule": rule, "probe": probe, "precision": precision}
            # The last one that is recorded of these.
            if _known(run, found, {"about": "probe" if precision == PRECISIONS[0] else "precision", **where}):
                continue
            own = found.each(model=model, probe=probe, precision=precision)
            known = found.each(model=rule, probe=probe, precision=PRECISIONS[0])
            never = found.each(model=CONTROL, probe=probe, precision=PRECISIONS[0])
            triples = zip(zip(own, known, never, strict=True), found.texts, strict=True)
            learned = [(triple, texts) for triple, texts in triples if knows_more(*triple[1:])]
            kept = asdict(mean_retention([t for t, _ in learned], drawn=[texts for _, texts in learned])) if learned else None
            accuracy = asdict(bootstrap_mean(found.joined(own)))
            _add(run, found, {"about": "probe", **where}, accuracy=accuracy, retention=kept, learned=len(learned))
            if precision != PRECISIONS[0]:
                change = _mean(found.joined(own) - whole)
                _add(run, found, {"about": "precision", **where}, change=asdict(change))


def _conclude_decoded(run: Run, found: _Found, model: str, rule: str) -> None:
    for layer in found.layers:
        where = {"about": "decoded", "model": model, "rule": rule, "layer": layer}
        if _known(run, found, where):
            continue
        own, never = (found.all("decoded", model=name, rule=rule, layer=layer) for name in (model, CONTROL))
        _add(run, found, where, accuracy=asdict(bootstrap_mean(own)), difference=asdict(_mean(own - never)))


def _conclude_relearning(run: Run, found: _Found, model: str, probe: str, data: str, steps: Sequence[int]) -> None:
    at = [0, *steps]
    where = {"about": "relearning", "model": model, "probe": probe, "data": data, "steps": at}
    if _known(run, found, where):
        return
    curves = {}
    for name in (model, CONTROL):
        first = found.all(model=name, probe=probe, precision=PRECISIONS[0])
        curves[name] = [first, *(found.all(model=name, probe=probe, data=data, step=step) for step in steps)]
    own, never = ([float(values.mean()) for values in curves[name]] for name in (model, CONTROL))
    _add(
        run, found, where, curve=own, control=never,
        intervals=[asdict(bootstrap_mean(values)) for values in curves[model]],
        area=asdict(area_between(curves[model], curves[CONTROL], at)),
        reached=steps_to(own, at), control_reached=steps_to(never, at),
    )  # fmt: skip


def _known(run: Run, found: _Found, where: Record) -> bool:
    return run.find("forgetting_result", part=LASTING, sources=found.sources, **where) is not None


def _add(run: Run, found: _Found, where: Record, **fields: Any) -> None:
    if not _known(run, found, where):
        run.add("forgetting_result", part=LASTING, sources=found.sources, **where, **fields)


def _mean(differences: Values) -> Interval:
    """The mean of per-example differences; none at all is zero, not the exact interval of no success."""
    return bootstrap_mean(differences) if differences.any() else Interval(0.0, 0.0, 0.0, len(differences))
