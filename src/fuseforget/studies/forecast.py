"""Is a forecast of what fusing keeps worth anything? Forecasts beside measured retention, for all pairs of specialists.

Every pair is fused to its midpoint. Forecasts are computed without a look at any fused model and are records of the run before
the first retention of a midpoint is. The predictors are a fixed list: none is chosen by how well it does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations, permutations
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fuseforget.errors import InputError
from fuseforget.fisher import fisher_overlap
from fuseforget.forecast import PREDICTORS, forecast_from
from fuseforget.geometry import compare_task_vectors
from fuseforget.knowledge import holm, knows_more, retention
from fuseforget.knowledge.ranks import FEWEST, pair_correlation, separation
from fuseforget.paths import path_points
from fuseforget.records import Record, Run, decode_values
from fuseforget.sweep import Point, Sweep

if TYPE_CHECKING:
    import torch

    from fuseforget.checkpoint import Checkpoint

__all__ = ["validate_forecast"]

KEPT = 0.5  # of a specialist's knowledge: more is called kept, less forgotten
MIDPOINT = (0.5, 0.5)
FROM_FISHERS = ("fisher_survival", "fisher_survival_beyond", "fisher_likelihood", "fisher_overlap")
Say = Callable[[str], None]
Values = npt.NDArray[np.float64]
FisherOf = Callable[[str, str], "Mapping[str, torch.Tensor]"]


def validate_forecast(
    run: Run, *, start: Checkpoint, specialists: Mapping[str, Checkpoint], control: Checkpoint, sweep: Sweep,
    task: str | None = "task", fisher_of: FisherOf | None = None, seed: int = 0, say: Say = lambda line: None,
) -> list[Record]:  # fmt: skip
    """Forecast, then measure, what the midpoint of every pair of specialists keeps, and say how well the forecasts did.

    What the run has already is neither computed nor measured again: measurements of ``model`` by specialist (``control``),
    of a ``path`` named by two specialists at its middle, ``unlearned`` rules.

    Args:
        run: where the facts go.
        start: what all models were trained from.
        specialists: by the name of what they know, which is also the name of its probe.
        control: trained like them, without any of that knowledge.
        sweep: asks models of their architecture, and has a probe for each specialist's name.
        task: the name of the task's probe; None: it is not measured.
        fisher_of: ``(model, probe)`` to the diagonal Fisher of that specialist on that probe; None leaves out the predictors
            that need it.
        seed: of resamples and relabellings.

    Returns:
        The run's records, with these added: ``forecast`` (pair, rule, predictor, value), ``midpoint_retention`` (pair, rule,
        value, low, high, n), ``rank_correlation`` (predictor, rho with its interval and p-values, how well it tells kept
        from forgotten), ``undefined`` (a predictor that has no number for some case, or the same for all, and is left out),
        ``unjudged`` (too few specialists learned what they are asked for, or all cases kept the same).

    Raises:
        InputError: fewer than four specialists; Fishers or models that do not fit one another.
    """
    rules = list(specialists)
    if len(rules) < FEWEST:
        raise InputError("specialists", expected=f"{FEWEST} or more, for pairs to compare", found=str(len(rules)))
    probes = [*rules, *([] if task is None else [task])]
    named = {**specialists, "control": control}
    sweep.measure(run, [Point({"model": n}, (str(m.path),), (1.0,), tuple(probes)) for n, m in named.items()], say=say)
    learned = _learned(run, rules)
    _forecast_all(run, start, specialists, control, fisher_of, say)
    pairs = list(combinations(rules, 2))
    midpoints = [_midpoint(run, specialists, pair, task) for pair in pairs]
    sweep.measure(run, [point for found in midpoints for point in found], say=say)
    for pair in pairs:
        _record_retention(run, pair, learned)
    _conclude(run, rules, seed)
    return list(run.records)


def _midpoint(run: Run, specialists: Mapping[str, Checkpoint], pair: tuple[str, str], task: str | None) -> list[Point]:
    asked = [*pair, *([] if task is None else [task])]
    return path_points([specialists[rule] for rule in pair], [MIDPOINT], asked, name=_path(run, pair))


def _learned(run: Run, rules: Sequence[str]) -> list[str]:
    """The rules whose specialist knows more than the control; the others are recorded: they have nothing to forget."""
    learned = []
    for rule in rules:
        specialist, control = _values(run, model=rule, probe=rule), _values(run, model="control", probe=rule)
        if knows_more(specialist, control):
            learned.append(rule)
        elif run.find("unlearned", rule=rule) is None:
            run.add("unlearned", rule=rule, specialist=float(specialist.mean()), control=float(control.mean()))
    return learned


def _predictors(fisher_of: FisherOf | None) -> list[str]:
    return [name for name in PREDICTORS if fisher_of is not None or name not in FROM_FISHERS]


def _forecast_all(
    run: Run, start: Checkpoint, specialists: Mapping[str, Checkpoint], control: Checkpoint, fisher_of: FisherOf | None, say: Say,
) -> None:  # fmt: skip
    """Record every predictor's forecast of every case that the run does not have yet."""
    rules = list(specialists)
    names = [name for name in _predictors(fisher_of) if run.find("undefined", predictor=name) is None]
    wanted = [(pair, rule, name) for pair in combinations(rules, 2) for rule in pair for name in names]
    missing = [case for case in wanted if run.find("forecast", pair=list(case[0]), rule=case[1], predictor=case[2]) is None]
    if not missing:
        return
    if run.find("midpoint_retention") is not None:
        late = sorted({name for _, _, name in missing})
        raise InputError(
            "forecasts", expected="those that were made before the fusions were measured", found=f"new ones: {', '.join(late)}",
            action="Ask for the same predictors, or begin another run.",
        )  # fmt: skip
    say(f"forecasts of {len(rules) * (len(rules) - 1)} cases by {len(names)} predictors")
    known = _forecasts(run, start, specialists, control, fisher_of)
    cases = ~np.eye(len(rules), dtype=bool)
    undefined = [name for name in names if not np.isfinite(known[name][cases]).all()]
    for pair, rule, name in missing:
        if name not in undefined:
            value = float(known[name][rules.index(rule), _other(rules, pair, rule)])
            run.add("forecast", pair=list(pair), rule=rule, predictor=name, value=value)
    for name in undefined:
        run.add("undefined", predictor=name)


def _other(rules: Sequence[str], pair: tuple[str, str], rule: str) -> int:
    return rules.index(pair[1] if rule == pair[0] else pair[0])


def _forecasts(
    run: Run, start: Checkpoint, specialists: Mapping[str, Checkpoint], control: Checkpoint, fisher_of: FisherOf | None
) -> dict[str, Values]:
    """Each predictor's forecasts: rules x rules, of the row's knowledge fused with the column's model."""
    rules, models = list(specialists), list(specialists.values())
    fishers = None if fisher_of is None else [fisher_of(rule, rule) for rule in rules]
    found = {name: np.full((len(rules), len(rules)), np.nan) for name in _predictors(fisher_of)}
    # One geometry of all specialists answers for every pair: a model of weight zero is not in the fusion.
    for suffix, base in (("", start), ("_beyond", control)):
        geometry = compare_task_vectors(models, base, fishers=fishers)
        for a, b in combinations(range(len(rules)), 2):
            weights = [MIDPOINT[0] if i in (a, b) else 0.0 for i in range(len(rules))]
            for name, values in forecast_from(geometry, weights).predictions.items():
                if f"{name}{suffix}" in found:
                    found[f"{name}{suffix}"][[a, b], [b, a]] = values[a], values[b]
    for a, b in permutations(range(len(rules)), 2):
        accuracy = _values(run, model=rules[b], probe=rules[a]).mean()
        found["others_know"][a, b] = accuracy
        if fishers is not None and fisher_of is not None:
            found["fisher_overlap"][a, b] = fisher_overlap(dict(fishers[a]), dict(fisher_of(rules[b], rules[a]))).whole
    return found


def _path(run: Run, pair: tuple[str, str]) -> str:
    """The name of the path between two models: as the run has it already, else in the order of the specialists."""
    turned = "-".join(pair[::-1])
    return turned if run.find("measurement", path=turned, weights=list(MIDPOINT)) is not None else "-".join(pair)


def _record_retention(run: Run, pair: tuple[str, str], learned: Sequence[str]) -> None:
    for rule in pair:
        if rule in learned and run.find("midpoint_retention", pair=list(pair), rule=rule) is None:
            fused = _values(run, path=_path(run, pair), weights=list(MIDPOINT), probe=rule)
            left = retention(fused, _values(run, model=rule, probe=rule), _values(run, model="control", probe=rule))
            run.add("midpoint_retention", pair=list(pair), rule=rule, **asdict(left))


def _conclude(run: Run, rules: Sequence[str], seed: int) -> None:
    """Record how well each predictor did, once all that it needs is there."""
    outcomes = np.full((len(rules), len(rules)), np.nan)
    forecasts: dict[str, Values] = {}
    for record in run.records:
        if record["kind"] in ("forecast", "midpoint_retention"):
            where = rules.index(record["rule"]), _other(rules, tuple(record["pair"]), record["rule"])
            if record["kind"] == "forecast":
                forecasts.setdefault(record["predictor"], np.full(outcomes.shape, np.nan))[where] = record["value"]
            else:
                outcomes[where] = record["value"]
    judged = {record["predictor"] for record in run.records if record["kind"] == "rank_correlation"}
    learned = [rule for rule, row in zip(rules, outcomes, strict=True) if np.isfinite(row).any()]
    if len(learned) < FEWEST or np.ptp(outcomes[np.isfinite(outcomes)]) == 0:
        if run.find("unjudged") is None:
            run.add("unjudged", what="forecast", learned=learned, needed=FEWEST)
        return
    for name, values in list(forecasts.items()):
        if np.ptp(values[np.isfinite(outcomes)]) == 0:  # says the same of every case: there is nothing to rank
            del forecasts[name]
            if run.find("undefined", predictor=name) is None:
                run.add("undefined", predictor=name)
    if forecasts.keys() <= judged:
        return
    found = {name: pair_correlation(values, outcomes, seed=seed) for name, values in forecasts.items()}
    corrected = holm([correlation.p for correlation in found.values()])
    for (name, correlation), p_holm in zip(found.items(), corrected, strict=True):
        if name not in judged:
            apart = separation(forecasts[name], outcomes, threshold=KEPT, seed=seed)
            run.add(
                "rank_correlation", predictor=name, **asdict(correlation), p_holm=p_holm,
                auc=apart.auc, auc_low=apart.low, auc_high=apart.high, right=apart.right, guess=apart.guess,
                kept=apart.kept, forgotten=apart.forgotten,
            )  # fmt: skip


def _values(run: Run, **where: object) -> Values:
    record = run.find("measurement", **where)
    if record is None:
        raise RuntimeError(f"not measured: {where}")
    return decode_values(record["values"])
