"""The paper's claims about shared shortcuts, the triangle and the number of fused models, beside what a run measured."""

from __future__ import annotations

from fuseforget.report.claims import FORGOTTEN, KEPT, Share, nearest, share_of, task_kept, verdict_on, words
from fuseforget.report.facts import TASK, Facts, Record, cell

__all__ = ["part_claims"]

NEAR_CHANCE = FORGOTTEN  # of the knowledge is left at the triangle's center


def part_claims(facts: Facts) -> list[list[str]]:
    """Rows of (claim, what was measured, verdict); none for parts that are absent or unfinished."""
    return [*_shared_claim(facts), *_triangle_claim(facts), *_growth_claim(facts)]


def _shared_claim(facts: Facts) -> list[list[str]]:
    """Fig. 3: what both models know stays, what one of them knows goes."""
    learned = {(r["model"], r["rule"]): r["learned"] for r in facts.learned}
    if facts.shared is None or not facts.complete(facts.shared):
        return []
    path, models = facts.shared, facts.paths[facts.shared]
    knows = {model: model.split("+") for model in models}
    if not all((model, rule) in learned for model in models for rule in knows[model]):
        return []
    (shared,) = set(knows[models[0]]) & set(knows[models[1]])

    def left(model: str, rule: str) -> Share | None:
        return share_of(facts, nearest(facts, path, rule, 0.5), model, rule) if learned[model, rule] else None

    # Of the shared rule, what the lesser of the two models knows is what can be kept.
    keeps = [left(model, shared) for model in models]
    least = min((s for s in keeps if s), key=lambda s: s.low) if all(keeps) else None
    lost = {rule: left(model, rule) for model in models for rule in knows[model] if rule != shared}
    kept, task = task_kept(facts, path)
    parts = [least and least.low >= KEPT, *(share and share.high <= FORGOTTEN for share in lost.values()), kept]
    claim = f"Fig. 3, {facts.path_title(path)}: {facts.title(shared)} is kept with a small drop, " + (
        f"{' and '.join(map(facts.title, lost))} are forgotten, the task is kept"
    )
    found = ", ".join(f"{facts.title(rule)} {words(share)}" for rule, share in {shared: least, **lost}.items())
    return [[claim, f"left midway: {found}; {task}", verdict_on(parts)]]


def _triangle_claim(facts: Facts) -> list[list[str]]:
    """Fig. 7 and 8: around the center all shortcuts are least known, and the task is kept."""
    if not facts.over_complete() or not all(
        (rule, rule) in facts.at for rule in ("control", *facts.triangle) if rule != "control"
    ):
        return []
    concluded = facts.unlearned.keys() | {rule for model, rule in facts.retained if model == "fused"}
    if not set(facts.triangle) <= concluded:
        return []
    center = min(facts.grid(), key=lambda w: max(w) - min(w))
    corners = [w for w in facts.grid() if max(w) == 1.0]
    left = {
        rule: None if rule in facts.unlearned else share_of(facts, facts.over[rule, center], rule, rule)
        for rule in facts.triangle
    }
    task = facts.over[TASK, center]
    ends = [facts.over[TASK, corner]["value"] for corner in corners]
    kept = task["value"] >= min(ends) - (task["value"] - task["low"])
    found = ", ".join(f"{facts.title(rule)} {words(share)}" for rule, share in left.items())
    where = ", ".join(f"{w:g}" for w in center)
    parts = [*(share and share.high <= NEAR_CHANCE for share in left.values()), kept]
    claim = f"Fig. 7, 8, {facts.names(facts.triangle)}: at the center each shortcut is near chance, the task is kept"
    return [[claim, f"left at {where}: {found}; task {cell(task)} (least corner {min(ends):.3f})", verdict_on(parts)]]


def _growth_claim(facts: Facts) -> list[list[str]]:
    """Section 4.2: increasing the number of fused models enhances the ability to forget shortcuts."""
    found = facts.growth_difference
    if found is None or facts.missing_growth():
        return []
    first, last = (_of(facts, found[end]) for end in ("first", "last"))
    verdict = "seen" if found["low"] > 0 else ("in part" if found["value"] > 0 else "not seen")
    measured = (
        f"mean retention {cell(first['retention'])} of {found['first']}, {cell(last['retention'])} of {found['last']}; "
        f"difference {cell(found)}"
    )
    return [["Section 4.2: the more models are fused, the more is forgotten", measured, verdict]]


def _of(facts: Facts, models: int) -> Record:
    return next(r for r in facts.growth if r["models"] == models)
