"""The paper's claims about shortcuts beside what a run measured, and how far it bears them out.

A verdict is ``seen`` where every part of a claim holds, ``in part`` where some do, else ``not seen``. A part about a shortcut
that its specialist did not learn cannot be judged and does not hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from fuseforget.report.facts import RANDOM, TASK, Facts, cell

__all__ = [
    "FIGURES",
    "FORGOTTEN",
    "KEPT",
    "NOTE",
    "SUBSUMES",
    "Share",
    "claims",
    "nearest",
    "share_of",
    "task_kept",
    "verdict_on",
    "words",
]

Record = dict[str, Any]
FORGOTTEN = 0.25  # of the knowledge; at most this much is left where it is called forgotten
KEPT = 0.75  # of the knowledge; at least this much is left where it "hardly drops"
CHANCE = 0.5  # the task's accuracy without knowledge: the study's data have two labels
SIGNIFICANT = 0.05
# Section 4 and appendix C.1: all examples of the second are examples of the first.
SUBSUMES = {("mt", "st"), ("st", "tic"), ("mt", "tic")}
FIGURES = {
    frozenset(pair): figure
    for pair, figure in {
        ("st", RANDOM): "Fig. 2a", ("op", "tic"): "Fig. 2b", ("op", "st"): "Fig. 2c", ("tic", "st"): "Fig. 2d",
        ("op", RANDOM): "Fig. 6a", ("tic", RANDOM): "Fig. 6b", ("or", RANDOM): "Fig. 6c",
        ("tic", "or"): "Fig. 6d", ("st", "or"): "Fig. 6e", ("op", "or"): "Fig. 6f",
    }.items()
}  # fmt: skip
NOTE = (
    "Seen: every part of the claim holds; in part: some do. Left is (accuracy - control) / (specialist - control). Forgotten: at "
    f"most {FORGOTTEN:g} is left, at the interval's upper end; hardly dropped: at least {KEPT:g}, at its lower end; fallen to "
    "chance, for the task: the same of what is above one half. The task is kept midway where it is not below the lower "
    "end by more than the midpoint's own interval. Intervals on paths are those of the point's accuracy."
)


class Share(NamedTuple):
    """How much of a piece of knowledge is left, with the interval of the point's accuracy."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def claims(facts: Facts) -> list[list[str]]:
    """Rows of (the paper's claim, what the run measured, verdict); none for what the run cannot say yet."""
    rows = []
    if ("fused", "mean") in facts.retained and ("full", "mean") in facts.retained:
        fused, full = facts.retained["fused", "mean"], facts.retained["full", "mean"]
        seen = "seen" if fused["high"] <= FORGOTTEN else ("in part" if fused["high"] < 1 else "not seen")
        known = len(facts.rules) - len(facts.unlearned)
        mean = f"mean of {known} of {len(facts.rules)} retentions" if facts.unlearned else "mean retention"
        rows.append(["Fig. 4: the fused model forgets the shortcuts", f"{mean} {cell(fused)}", seen])
        verdict = "seen" if fused["high"] < full["low"] else ("in part" if fused["value"] < full["value"] else "not seen")
        rows.append(["Fig. 4: training on the combined data forgets less", f"full {cell(full)}", verdict])
    specialists = [r for r in facts.compared if r["second"] in facts.rules]
    if len(specialists) == len(facts.rules):
        better = [r for r in specialists if r["difference"] > 0 and r["p_holm"] < SIGNIFICANT]
        worse = [r for r in specialists if r["difference"] < 0 and r["p_holm"] < SIGNIFICANT]
        found = f"better than {len(better)} of {len(specialists)} specialists (p < .05, corrected), worse than {len(worse)}"
        verdict = "seen" if len(better) == len(specialists) else ("not seen" if worse or not better else "in part")
        rows.append(["Fig. 4: the fused model is significantly better at the task than each specialist", found, verdict])
    return [*rows, *(_path_claim(facts, path) for path in facts.paths if path != facts.shared and _judged(facts, path))]


def _judged(facts: Facts, path: str) -> bool:
    """Whether a path is complete and it is known what its specialists learned."""
    concluded = facts.unlearned.keys() | {rule for model, rule in facts.retained if model == "fused"}
    return facts.complete(path) and all(name in concluded for name in facts.paths[path] if name != RANDOM)


def _path_claim(facts: Facts, path: str) -> list[str]:
    pair = facts.paths[path]
    where = f"{FIGURES.get(frozenset(pair), 'As in Fig. 2')}, {facts.path_title(path)}"
    if RANDOM in pair:
        return _random_claim(facts, path, where)
    for wide, narrow in (pair, pair[::-1]):
        if (wide, narrow) in SUBSUMES:
            return _dependent_claim(facts, path, where, wide, narrow)
    left = [_left(facts, path, rule, 0.5) for rule in pair]
    kept, task = task_kept(facts, path)
    found = ", ".join(f"{facts.title(rule)} {words(share)}" for rule, share in zip(pair, left, strict=True))
    parts = [*(share and share.high <= FORGOTTEN for share in left), kept]
    return [f"{where}: midway both shortcuts are forgotten, the task is kept", f"left midway: {found}; {task}", verdict_on(parts)]


def _random_claim(facts: Facts, path: str, where: str) -> list[str]:
    rule = next(name for name in facts.paths[path] if name != RANDOM)
    start, end = (0.0, 1.0) if facts.paths[path][1] == RANDOM else (1.0, 0.0)
    left = _left(facts, path, rule, end)
    known, task = facts.on[path, TASK, start], facts.on[path, TASK, end]
    # A specialist at chance has no task to forget.
    task_left = (task["high"] - CHANCE) / (known["value"] - CHANCE) if known["low"] > CHANCE else None
    parts = [left and left.high <= FORGOTTEN, None if task_left is None else task_left <= FORGOTTEN]
    found = f"left at random: {facts.title(rule)} {words(left)}; task {known['value']:.3f} to {cell(task)}"
    return [f"{where}: the shortcut and the task fall to chance or below", found, verdict_on(parts)]


def _dependent_claim(facts: Facts, path: str, where: str, wide: str, narrow: str) -> list[str]:
    """Fig. 2d: what solves the wide rule solves the narrow one, not the other way round."""
    wide_end = float(facts.paths[path].index(wide))
    ends = [_left(facts, path, narrow, x) for x in (1 - wide_end, wide_end)]
    other = _left(facts, path, wide, 1 - wide_end)
    kept, task = task_kept(facts, path)
    parts = [ends[0] and ends[1] and min(share.low for share in ends if share) >= KEPT, other and other.high <= FORGOTTEN, kept]
    first, second = facts.title(narrow), facts.title(wide)
    middle = ", ".join(f"{facts.title(rule)} {words(_left(facts, path, rule, 0.5))}" for rule in (narrow, wide))
    claim = f"{first}, which {second} subsumes, hardly drops at the ends; {second} is forgotten towards {first}; the task is kept"
    at_ends = ", ".join(f"at {name} {words(share)}" for name, share in zip((first, second), ends, strict=True))
    found = f"left of {first} {at_ends}; left of {second} at {first} {words(other)}"
    return [f"{where}: {claim}", f"{found}; left midway: {middle}; {task}", verdict_on(parts)]


def task_kept(facts: Facts, path: str) -> tuple[bool, str]:
    """Whether the task is kept midway: not below the lower end by more than the midpoint's own uncertainty."""
    ends = [facts.on[path, TASK, x]["value"] for x in (0.0, 1.0)]
    middle = nearest(facts, path, TASK, 0.5)
    kept = middle["value"] >= min(ends) - (middle["value"] - middle["low"])
    return kept, f"task {middle['value']:.3f} (ends {ends[0]:.3f}, {ends[1]:.3f})"


def _left(facts: Facts, path: str, rule: str, x: float) -> Share | None:
    """How much of a rule's knowledge is left at a point of a path; None where the specialist did not learn it."""
    if rule in facts.unlearned:
        return None
    return share_of(facts, nearest(facts, path, rule, x), rule, rule)


def share_of(facts: Facts, point: Record, model: str, rule: str) -> Share:
    """How much of what a model knows of a rule is left at a point."""
    control = facts.at["control", rule]["value"]
    gap = facts.at[model, rule]["value"] - control
    return Share(*((point[key] - control) / gap for key in ("value", "low", "high")))


def nearest(facts: Facts, path: str, probe: str, x: float) -> Record:
    """The measurement at the point of a complete path that is nearest to a position."""
    found = [key for key in facts.expected(path) if key[1] == probe]
    return facts.on[min(found, key=lambda key: abs(key[2] - x))]


def words(share: Share | None) -> str:
    return "not learned" if share is None else str(share)


def verdict_on(parts: Sequence[bool | None]) -> str:
    if all(parts):
        return "seen"
    return "in part" if any(parts) else "not seen"
