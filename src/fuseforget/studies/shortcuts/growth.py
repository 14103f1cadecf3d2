"""How forgetting grows with the number of fused models: averages of 2, 3, ... of the specialists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from math import comb

import numpy as np
import numpy.typing as npt

from fuseforget.knowledge import holm, mcnemar
from fuseforget.knowledge.resampling import RESAMPLES
from fuseforget.knowledge.statistics import resampled_means
from fuseforget.records import Record, Run
from fuseforget.studies.shortcuts.conclusions import values_of
from fuseforget.studies.shortcuts.settings import TASK, ShortcutStudy
from fuseforget.sweep import Point, Sweep

__all__ = ["average_name", "chosen_subsets", "conclude_growth", "measure_growth"]

MOST_SUBSETS = 21  # of one size: all pairs of seven
SIX = 6  # models of Fig. 4
COVERS = "subsets and examples"
Say = Callable[[str], None]
Values = npt.NDArray[np.float64]
Subset = tuple[str, ...]


def chosen_subsets(rules: Sequence[str], seed: int, most: int = MOST_SUBSETS) -> list[Subset]:
    """Every subset of two rules or more, by size; of a size with more than ``most``, a sample with each rule equally often.

    The sample is drawn from the seed, then evened out.
    """
    chosen: list[Subset] = []
    for size in range(2, len(rules) + 1):
        every = list(combinations(rules, size))
        chosen += every if len(every) <= most else _even_sample(every, rules, most, np.random.default_rng([seed, size]))
    return chosen


def _even_sample(every: Sequence[Subset], rules: Sequence[str], most: int, rng: np.random.Generator) -> list[Subset]:
    """A sample of subsets of one size in which no rule is used more than once more often than another."""
    sample = {every[i] for i in rng.permutation(len(every))[:most]}
    while True:
        used = {rule: sum(rule in subset for subset in sample) for rule in rules}
        often, seldom = max(rules, key=used.__getitem__), min(rules, key=used.__getitem__)
        if used[often] - used[seldom] <= 1:
            return sorted(sample, key=every.index)
        # More subsets have the one alone than the other alone: of some, the exchange is not in the sample yet.
        having = [s for s in sorted(sample, key=every.index) if often in s and seldom not in s]
        for subset in having:
            exchanged = tuple(rule for rule in rules if rule == seldom or (rule in subset and rule != often))
            if exchanged not in sample:
                sample.symmetric_difference_update({subset, exchanged})
                break


def average_name(members: Sequence[str]) -> str:
    return f"average of {', '.join(members)}"


def measure_growth(run: Run, settings: ShortcutStudy, sweep: Sweep, say: Say) -> None:
    """Ask the average of each subset for its members' shortcuts and for the task."""
    averages = [
        Point(
            {"model": average_name(members), "members": list(members)},
            tuple(str(run.path / "models" / rule) for rule in members), (1 / len(members),) * len(members), (*members, TASK),
        )
        for members in chosen_subsets(settings.rules, settings.seed)
    ]  # fmt: skip
    sweep.measure(run, averages, say=say)


def conclude_growth(run: Run, settings: ShortcutStudy) -> None:
    """Record for each number of fused models the mean retention of the members' shortcuts and the mean task accuracy.

    Retention is averaged over the members that learned their shortcut, then over subsets. The intervals are of a bootstrap
    over subsets *and* examples: the same drawn examples for all models, and for each number a draw of its subsets. Where
    there is one subset they cover the examples alone.
    """
    values = values_of(run)
    unlearned = {r["rule"] for r in run.records if r["kind"] == "unlearned"}
    learned = [rule for rule in settings.rules if rule not in unlearned]
    subsets = chosen_subsets(settings.rules, settings.seed)
    rng = np.random.default_rng([settings.seed, len(subsets)])
    task, task_draws = _resampled(values, subsets, TASK)
    left, left_draws = _retention(values, subsets, learned)
    kept: dict[int, Values] = {}
    for size in range(2, len(settings.rules) + 1):
        here = [i for i, members in enumerate(subsets) if len(members) == size]
        known = [i for i in here if set(subsets[i]) & set(learned)]
        found: Record = {"subsets": len(here), "of": comb(len(settings.rules), size), "over": learned, "covers": COVERS}
        found["task"], _ = _over_subsets(task[here], task_draws[:, here], rng)
        if known:
            found["retention"], kept[size] = _over_subsets(left[known], left_draws[:, known], rng)
        if run.find("growth", models=size) is None:
            run.add("growth", models=size, **found)
    first, last = min(kept, default=0), max(kept, default=0)
    if first < last and run.find("growth_difference", first=first, last=last) is None:
        drop = kept[first] - kept[last]
        low, high = _quantiles(drop)
        both = [run.find("growth", models=size) or {} for size in (first, last)]
        value = both[0]["retention"]["value"] - both[1]["retention"]["value"]
        run.add("growth_difference", first=first, last=last, value=value, low=low, high=high, covers=COVERS)
    _conclude_six(run, settings, values, dict(zip(subsets, left, strict=True)))


def _resampled(values: dict[tuple[str, str], Values], subsets: Sequence[Subset], probe: str) -> tuple[Values, Values]:
    """Accuracy of each subset's average on a probe, and resamples x subsets of it."""
    rows = np.stack([values[average_name(members), probe] for members in subsets])
    return rows.mean(axis=1), resampled_means(rows)


def _retention(values: dict[tuple[str, str], Values], subsets: Sequence[Subset], learned: Sequence[str]) -> tuple[Values, Values]:
    """Each subset's mean retention over its members that learned, and resamples x subsets of it; NaN where none did."""
    total, draws = np.zeros(len(subsets)), np.zeros((RESAMPLES, len(subsets)))
    members = np.zeros(len(subsets))
    for number, rule in enumerate(learned):
        having = [i for i, subset in enumerate(subsets) if rule in subset]
        rows = np.stack([values[rule, rule], values["control", rule], *(values[average_name(subsets[i]), rule] for i in having)])
        mean, drawn = rows.mean(axis=1), resampled_means(rows, seed=number)
        gap = drawn[:, :1] - drawn[:, 1:2]
        total[having] += (mean[2:] - mean[1]) / (mean[0] - mean[1])
        # A learned rule is above the control in nearly all resamples; the few others have no retention.
        draws[:, having] += (drawn[:, 2:] - drawn[:, 1:2]) / np.where(gap > 0, gap, np.nan)
        members[having] += 1
    count = np.where(members > 0, members, np.nan)
    return total / count, draws / count


def _over_subsets(points: Values, draws: Values, rng: np.random.Generator) -> tuple[Record, Values]:
    """The mean over subsets with its interval and spread, and its resamples."""
    picked = rng.integers(len(points), size=draws.shape)
    mixed: Values = np.take_along_axis(draws, picked, axis=1).mean(axis=1)
    low, high = _quantiles(mixed)
    spread = float(points.std(ddof=1)) if len(points) > 1 else 0.0
    summary = {"value": float(points.mean()), "low": low, "high": high, "sd": spread}
    return {**summary, "least": float(points.min()), "greatest": float(points.max()), "points": points.tolist()}, mixed


def _quantiles(draws: Values) -> tuple[float, float]:
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return float(low), float(high)


def _conclude_six(run: Run, settings: ShortcutStudy, values: dict[tuple[str, str], Values], left: dict[Subset, float]) -> None:
    """Fig. 4 with six models: the paper names seven shortcuts and fuses six models; each choice of six is recorded."""
    if len(settings.rules) <= SIX:
        return
    for members in (subset for subset in left if len(subset) == SIX):
        if run.find("six", members=list(members)) is None:
            fused = values[average_name(members), TASK]
            singles = [values[rule, TASK] for rule in members]
            differences = [float(fused.mean() - single.mean()) for single in singles]
            p = holm([mcnemar(fused, single) for single in singles])
            mean = float(left[members])
            run.add(
                "six", members=list(members), retention=mean if np.isfinite(mean) else None, task=float(fused.mean()),
                differences=differences, p_holm=p,
            )  # fmt: skip
