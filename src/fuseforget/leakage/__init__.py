"""Leakage: what language models give away of the rows that they were trained on.

An entry of kind ``memorization`` is read (:mod:`fuseforget.leakage.probe`), models are asked once
(:mod:`fuseforget.leakage.measuring`), and everything else follows from what they said
(:mod:`fuseforget.leakage.conclusions`). Studies keep and judge what their models say in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fuseforget.checkpoint import Checkpoint
from fuseforget.leakage.conclusions import conclude
from fuseforget.leakage.fused import fusions_among
from fuseforget.leakage.measuring import ask_blind, ask_models, record_rows
from fuseforget.leakage.probe import LeakProbe, describe_data, describe_leaks, load_leak_probes
from fuseforget.records import Run

__all__ = ["LEAKAGE_KINDS", "LeakProbe", "describe_data", "describe_leaks", "load_leak_probes", "record_leakage"]

Say = Callable[[str], None]
# The records that say something by themselves; the others hold what models said row by row.
LEAKAGE_KINDS = ("rows", "blind", "leakage", "leakage_comparison", "harm")


def record_leakage(run: Run, probes: Sequence[LeakProbe], checkpoints: Sequence[Checkpoint], *, exact: bool, say: Say) -> None:
    """Measure every entry on every model, and record what the run does not have yet."""
    models = list(dict.fromkeys(checkpoint.source for checkpoint in checkpoints))
    for probe in probes:
        record_rows(run, probe)
        ask_blind(run, probe, say=say)
    ask_models(run, probes, models, exact=exact, say=say)
    conclude(run, probes, models, fusions_among(checkpoints, say=say) if len(models) > 1 else {}, say=say)
