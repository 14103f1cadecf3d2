"""What the recorded answers of language models say: each metric of each model, paired comparisons, harm by fusing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict

import numpy as np
import numpy.typing as npt

from fuseforget.knowledge import (
    alr,
    compare_alr,
    compare_perplexity,
    holm,
    likelihood_ratio,
    mia_recall,
    more_exposed,
    perplexity,
    roc_auc,
    tpr_at,
)
from fuseforget.knowledge.leak_metrics import LeakMetric
from fuseforget.leakage.attacked import auc_fields, extraction_fields, harm_fields, point_fields
from fuseforget.leakage.probe import MEMBERS, NON_MEMBERS, LeakProbe
from fuseforget.leakage.scoring import energies_of
from fuseforget.models import Energies
from fuseforget.records import Record, Run, decode_values

__all__ = ["conclude"]

Say = Callable[[str], None]
Values = npt.NDArray[np.float64]


def conclude(
    run: Run, probes: Sequence[LeakProbe], models: Sequence[str], fused: Mapping[str, Sequence[str]], *, say: Say
) -> None:
    """Record what the run's answers say, where it is not recorded yet.

    Args:
        fused: of each model that was fused of others among them, which these are.

    Records:
        ``leakage``: model, probe, metric, on (the rows: ``members`` or ``non_members``), value, low, high, n, and what else the
            metric has.
        ``leakage_comparison``: model, against (the first model), probe, metric, on, and a
            :class:`fuseforget.knowledge.fairness.Difference`, its p corrected (Holm) over all such comparisons of the run.
        ``harm``: probe, model, parents, and a :class:`fuseforget.knowledge.harm.Harm`.
    """
    for probe in probes:
        answers = _Answers(run, probe)
        for model in models:
            _measure(run, probe, answers, model)
    _compare(run, probes, models, say)
    for probe in probes:
        for model, parents in fused.items():
            _harm(run, probe, model, parents, say)


class _Answers:
    """The recorded energies and scores of models on an entry's rows."""

    def __init__(self, run: Run, probe: LeakProbe) -> None:
        self.run, self.probe = run, probe

    def energies(self, model: str, on: str) -> Energies:
        return energies_of(self.run, self.probe.set_name(on), model=model)

    def reference(self, on: str) -> Energies:
        assert self.probe.reference is not None, "an entry whose metrics need a reference is refused without one"
        return self.energies(self.probe.reference, on)

    def ratios(self, model: str, on: str) -> Values:
        return likelihood_ratio(self.energies(model, on), self.reference(on))

    def attacked(self, model: str, on: str) -> Record:
        found = self.run.find("attacked", set=self.probe.set_name(on), model=model)
        if found is None:
            raise RuntimeError(f"{model} was not attacked on {self.probe.set_name(on)}")
        return found


def _measure(run: Run, probe: LeakProbe, answers: _Answers, model: str) -> None:
    for metric in probe.metrics:
        where = {"model": model, "probe": probe.name, "metric": metric.name}
        lacking = [on for on in _asked_on(probe, answers, metric, model) if run.find("leakage", **where, on=on) is None]
        for on, fields in _measured(probe, answers, metric, model, lacking):
            run.add("leakage", **where, on=on, **fields)


def _asked_on(probe: LeakProbe, answers: _Answers, metric: LeakMetric, model: str) -> list[str]:
    """The rows that a metric is about: of an attack the members, told from the non-members."""
    if metric.attack:
        return [MEMBERS]
    if metric.measure == "extraction":
        return [on for on in probe.rows if "greedy" in answers.attacked(model, on)]
    return list(probe.rows)


def _measured(
    probe: LeakProbe, answers: _Answers, metric: LeakMetric, model: str, asked: Sequence[str]
) -> Iterator[tuple[str, Record]]:
    """A metric on each of the sets that are asked for."""
    for on in asked:
        if metric.attack:
            yield on, _attack(probe, answers, metric, model)
        elif metric.measure == "extraction":
            found = extraction_fields([answers.attacked(model, on)], seed=probe.seed)
            yield on, {**found["extracted"], "leading": found["leading"], "too_short": found["too_short"]}
        elif metric.measure == "mia_recall":
            yield on, _recall(probe, answers, model, on)
        elif metric.measure == "alr":
            yield on, asdict(alr(answers.energies(model, on), answers.reference(on), seed=probe.seed))
        else:
            energies = answers.energies(model, on)
            yield on, asdict(perplexity(energies.sums, energies.tokens, seed=probe.seed))


def _attack(probe: LeakProbe, answers: _Answers, metric: LeakMetric, model: str) -> Record:
    members, others = (decode_values(answers.attacked(model, on)["scores"][metric.attack]) for on in (MEMBERS, NON_MEMBERS))
    if metric.measure == "auc":
        return auc_fields(roc_auc(members, others, seed=probe.seed))
    return point_fields(tpr_at(members, others, metric.rate, seed=probe.seed))


def _recall(probe: LeakProbe, answers: _Answers, model: str, on: str) -> Record:
    """MIA recall: the threshold is of the first half of the non-members; what it says of the others is its false positives."""
    others = answers.ratios(model, NON_MEMBERS)
    half = len(others) // 2
    judged = answers.ratios(model, MEMBERS) if on == MEMBERS else others[half:]
    return point_fields(mia_recall(judged, others[:half], seed=probe.seed))


def _compare(run: Run, probes: Sequence[LeakProbe], models: Sequence[str], say: Say) -> None:
    """Record how each further model differs from the first: in ALR on the members, in perplexity on rows that it never saw."""
    asked = [
        {"model": model, "against": models[0], "probe": probe.name, "metric": metric, "on": on}
        for probe in probes
        for metric, on in _comparable(probe)
        for model in models[1:]
    ]
    found = [run.find("leakage_comparison", **one) for one in asked]
    if all(found):
        return
    say(f"comparing {len(models)} models in {len(asked)} tests")
    by_name = {probe.name: probe for probe in probes}
    tested = [old or {**one, **_compared(run, by_name[one["probe"]], one)} for one, old in zip(asked, found, strict=True)]
    for record, corrected in zip(tested, holm([record["p"] for record in tested]), strict=True):
        if "p_holm" not in record:
            run.add("leakage_comparison", **record, p_holm=corrected)


def _comparable(probe: LeakProbe) -> list[tuple[str, str]]:
    """The metrics of an entry that models are compared in, and on which rows."""
    measures = {metric.measure for metric in probe.metrics}
    held_out = NON_MEMBERS if NON_MEMBERS in probe.rows else MEMBERS
    return [(name, on) for name, on in (("alr", MEMBERS), ("perplexity", held_out)) if name in measures]


def _compared(run: Run, probe: LeakProbe, asked: Mapping[str, str]) -> Record:
    answers = _Answers(run, probe)
    first, second = (answers.energies(asked[key], asked["on"]) for key in ("model", "against"))
    if asked["metric"] == "perplexity":
        return asdict(compare_perplexity(first, second, seed=probe.seed))
    return asdict(compare_alr(first, second, answers.reference(asked["on"]), seed=probe.seed))


def _harm(run: Run, probe: LeakProbe, model: str, parents: Sequence[str], say: Say) -> None:
    """Record which members a fused model exposes more than any model that it was fused of."""
    if run.find("harm", probe=probe.name, model=model) is not None:
        return
    if probe.reference is None:
        say(f"{probe.name}: which rows fusing exposes more is not known without a reference")
        return
    answers = _Answers(run, probe)
    fused = {on: answers.ratios(model, on) for on in probe.rows}
    others = {on: np.stack([answers.ratios(parent, on) for parent in parents]) for on in probe.rows}
    found = more_exposed(
        fused[MEMBERS], others[MEMBERS], fused_controls=fused.get(NON_MEMBERS), parents_controls=others.get(NON_MEMBERS),
        seed=probe.seed,
    )  # fmt: skip
    documents = probe.rows[MEMBERS].documents
    fields = harm_fields(found, parents, lambda row: {"documents": list(documents[row])})
    run.add("harm", probe=probe.name, model=model, parents=list(parents), **fields)
