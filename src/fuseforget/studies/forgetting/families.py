"""The tests of one table, corrected over all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fuseforget.knowledge import holm
from fuseforget.records import Record, Run

__all__ = ["record_family"]


def record_family(run: Run, where: Mapping[str, object], results: Sequence[Record]) -> None:
    """Record a ``family``: the tests of results against the average with their p-values corrected over all (Holm 1979).

    A run that is later asked for more results, or for others, gets a family of all of these; the last is the table's. One that
    is asked for fewer still has the others in its table.

    Args:
        where: what the results of a table have in common.
        results: those that were asked for, each with its ``row``, ``parameters`` and tests (``against_average``); of other rows
            the last ``forgetting_result`` of the run is taken.
    """
    own = [r for r in run.records if all(r.get(name) == value for name, value in where.items())]
    table = {one["row"]: one for one in (*(r for r in own if r["kind"] == "forgetting_result"), *results)}
    of = [[row, one.get("parameters")] for row, one in table.items()]
    families = [r for r in own if r["kind"] == "family"]
    if families and families[-1]["of"] == of:
        return
    tests = [(row, test) for row, one in table.items() for test in one.get("against_average", [])]
    corrected = holm([test["p"] for _, test in tests])
    named = [
        {"row": row, **{key: test[key] for key in ("on", "attribute", "metric") if key in test}, "p_holm": p}
        for (row, test), p in zip(tests, corrected, strict=True)
    ]
    run.add("family", **where, of=of, tests=named)
