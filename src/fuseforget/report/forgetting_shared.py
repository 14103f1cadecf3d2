"""Two models that share a shortcut, fused by every method at its best, from records alone."""

from __future__ import annotations

from collections.abc import Sequence

from fuseforget.report.blocks import Block, Heading, Table
from fuseforget.report.facts import cell
from fuseforget.report.forgetting_facts import ForgettingFacts, Record, left, signed

__all__ = ["KEPT", "shared_blocks", "stays"]

KEPT = 0.9  # of a shared shortcut, that is to stay


def shared_blocks(records: Sequence[Record]) -> list[Block]:
    """The blocks of the part ``shared``; none before it has a result."""
    results = ForgettingFacts(records).results("shared")
    if not results:
        return []
    first = results[0]
    rows = [
        [r["row"], left(r["kept"]), left(r["unshared"]), *(_of_rule(r, rule) for rule in first["unshared_rules"]),
         cell(r["task"]), signed(r["task_difference"]), stays(r)]
        for r in results
    ]  # fmt: skip
    header = ["method", f"shared {first['shared']} left", "unshared left", *(f"{rule} left" for rule in first["unshared_rules"]),
              "task", "task, less average's", "shared stays"]  # fmt: skip
    note = (
        f"Both models know {first['shared']}: what is left of it, against the mean of both. Of the others one knows each; what "
        "its specialist knows more than the other model and the control is unshared. Settings as chosen on pairs. Stays: at "
        f"least {KEPT:g} is left; clearly, where the interval says so too."
    )
    title = f"Two models that share {first['shared']}, on test data of {', '.join(first['sources'])}"
    return [Heading("What both models know stays, what one knows goes"), Table(title, header, rows, note)]


def stays(result: Record) -> str:
    """Whether what both models know is still there."""
    kept = result["kept"]
    if kept is None:
        return "nothing known"
    return "no" if kept["value"] < KEPT else "clearly" if kept["low"] >= KEPT else "yes"


def _of_rule(result: Record, rule: str) -> str:
    of = result["by_rule"].get(rule)
    return "not learned" if of is None else "shared" if of["unshared"] is None else f"{of['unshared']:.3f}"
