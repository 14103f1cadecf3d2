"""The tests of one table, corrected over all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fuseforget.knowledge import holm
from fuseforget.records import Record, Run

__all__ = ["record_family"]


def record_family(run: Run, where: Mapping[str, object], results: Sequence[Record]) -> None:
    """Record a ``family``: the tests of results against the average with their p-values corrected over all (Holm 1979).

    A run that is later asked for more results, or for others, gets a family of all of these; the last is the table's.

    Args:
        where: what the results have in common.
        results: all of a table, each with its ``row``, ``parameters`` and tests (``against_average``).
    """
    known: Record = {**where, "of": [[one["row"], one.get("parameters")] for one in results]}
    if run.find("family", **known) is not None:
        return
    tests = [(one["row"], test) for one in results for test in one.get("against_average", [])]
    corrected = holm([test["p"] for _, test in tests])
    named = [
        {"row": row, **{key: test[key] for key in ("on", "attribute", "metric") if key in test}, "p_holm": p}
        for (row, test), p in zip(tests, corrected, strict=True)
    ]
    run.add("family", **known, tests=named)
