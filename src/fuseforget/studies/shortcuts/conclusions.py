"""What the measurements of a shortcut study say: retention, tests, and the bound of Eq. 2."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import numpy.typing as npt

from fuseforget.knowledge import check_bound, holm, knows_more, mcnemar, mean_retention, retention
from fuseforget.records import Run, decode_values
from fuseforget.studies.shortcuts.settings import SHARED, TASK, ShortcutStudy

__all__ = ["conclude", "conclude_shared", "values_of"]

Values = npt.NDArray[np.float64]


def conclude(run: Run, settings: ShortcutStudy) -> None:
    """Derive retention, tests and the bound of Eq. 2 from the measurements' per-example values."""
    values = values_of(run)
    conclude_retention(run, settings, values)
    others = [*settings.rules, "full", "control"]
    raw = [mcnemar(values["fused", TASK], values[other, TASK]) for other in others]
    for other, p, corrected in zip(others, raw, holm(raw), strict=True):
        if run.find("comparison", first="fused", second=other) is None:
            difference = float(values["fused", TASK].mean() - values[other, TASK].mean())
            run.add("comparison", first="fused", second=other, probe=TASK, difference=difference, p=p, p_holm=corrected)
    for probe in (*settings.rules, TASK):
        if run.find("bound", probe=probe) is None:
            bound = check_bound(values["fused", probe], [values[rule, probe] for rule in settings.rules])
            run.add("bound", probe=probe, model="fused", **asdict(bound))


def values_of(run: Run) -> dict[tuple[str, str], Values]:
    """Per-example values by model and probe."""
    found = [r for r in run.records if r["kind"] == "measurement" and "model" in r]
    return {(r["model"], r["probe"]): decode_values(r["values"]) for r in found}


def conclude_shared(run: Run) -> None:
    """Record for each of the two models of Fig. 3 whether it learned both of its rules, seen on each pure rule's probe."""
    values = values_of(run)
    for model, rules in SHARED.items():
        for rule in rules:
            if run.find("learned", model=model, rule=rule) is None:
                known, control = values[model, rule], values["control", rule]
                learned = knows_more(known, control)
                run.add(
                    "learned", model=model, rule=rule, learned=learned, value=float(known.mean()), control=float(control.mean())
                )


def conclude_retention(run: Run, settings: ShortcutStudy, values: dict[tuple[str, str], Values]) -> None:
    """Record each shortcut's retention and their mean; a specialist that did not learn has nothing to forget.

    Such a rule is recorded as ``unlearned`` and left out of the mean, which says over which rules it is.
    """
    learned = []
    for rule in settings.rules:
        specialist, control = values[rule, rule], values["control", rule]
        if knows_more(specialist, control):
            learned.append(rule)
        elif run.find("unlearned", rule=rule) is None:
            run.add("unlearned", rule=rule, specialist=float(specialist.mean()), control=float(control.mean()))
    for model in ("fused", "full"):
        triples = [(values[model, rule], values[rule, rule], values["control", rule]) for rule in learned]
        for rule, triple in zip(learned, triples, strict=True):
            if run.find("retention", model=model, rule=rule) is None:
                run.add("retention", model=model, rule=rule, **asdict(retention(*triple)))
        if triples and run.find("retention", model=model, rule="mean") is None:
            run.add("retention", model=model, rule="mean", over=learned, **asdict(mean_retention(triples)))
