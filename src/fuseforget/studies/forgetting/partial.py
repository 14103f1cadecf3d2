"""The part ``partial``, whether what is partly shared is kept in proportion.

A second model is trained on data whose synthetic part has the first model's shortcut in a share of 0 to 100 %, and its own in
the rest; then the two are fused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from fuseforget.data import ShortcutData, make_shortcut_data
from fuseforget.knowledge import bootstrap_mean, knows_more, mean_retention
from fuseforget.records import Record, Run, decode_values
from fuseforget.studies.forgetting.examined import CONTROL, PAIR, ShortcutModels
from fuseforget.studies.forgetting.examined_fusions import chosen_fusions, fused_point
from fuseforget.studies.forgetting.fusions import Fusion
from fuseforget.studies.forgetting.lasting import shortcut_sources
from fuseforget.studies.forgetting.settings import ForgettingStudy
from fuseforget.studies.forgetting.sources import Source
from fuseforget.studies.training import Job, Trainers
from fuseforget.sweep import Point, Sweep
from fuseforget.workers import Workers

__all__ = ["PARTIAL", "SHARES", "do_partial", "mixed_data", "second_name"]

PARTIAL = "partial"
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
FIRST = "first"
Say = Callable[[str], None]


def do_partial(
    run: Run, sources: Sequence[Source], settings: ForgettingStudy, workers: Workers, say: Say,
    *, pair: tuple[str, str] = PAIR, fusions: Sequence[Fusion] | None = None, shares: Sequence[float] = SHARES,
) -> None:  # fmt: skip
    """Train, for the first shortcut study among the sources, second models that share a rule partly, fuse, and measure.

    The second models are all trained in one way, also that of share 0: from the source's start, on the source's texts, with
    another seed than the first model, and for all epochs that a specialist of the source may take, whenever they know their
    rules. So nothing but the share differs among them.

    Args:
        pair: the rule that is shared, whose specialist is the first model, and the second models' own.
        fusions: what is made of the two; default: :func:`fuseforget.studies.forgetting.examined_fusions.chosen_fusions`.
        shares: of the second models' synthetic part that have the shared rule, 0 to 1.

    Raises:
        InputError: a shortcut study without a specialist, or a method that there is not.
    """
    if fusions is None:
        fusions = chosen_fusions(run, PARTIAL, sources, settings, workers, say)
    for source in shortcut_sources(sources, pair)[:1]:
        data = {share: mixed_data(source, pair, share) for share in shares}
        jobs = [Job(second_name(source, share), made.train, source.train_second, source.start) for share, made in data.items()]
        Trainers(workers, settings.threads, say).train(run, jobs)
        _measure(run, source, pair, fusions, shares, settings.seed, workers, say)
        for share in shares:
            _conclude(run, source, pair, share, [fusion.row for fusion in fusions])


def mixed_data(source: ShortcutModels, pair: tuple[str, str], share: float) -> ShortcutData:
    """The data of a second model: each synthetic example has the first rule with probability ``share``, else the second."""
    shared, own = pair
    rules = (own,) if share == 0 else (shared,) if share == 1 else pair
    mix = () if len(rules) == 1 else (share, 1 - share)
    mixture = replace(source.shortcut, rules=rules, mix=mix, seed=source.seed + 1)
    return make_shortcut_data(source.texts, source.validation, mixture)


def second_name(source: ShortcutModels, share: float) -> str:
    """What the run calls a second model."""
    return f"{PARTIAL}-{source.name}-{share:g}"


def _measure(
    run: Run, source: ShortcutModels, pair: tuple[str, str], fusions: Sequence[Fusion], shares: Sequence[float], seed: int,
    workers: Workers, say: Say,
) -> None:  # fmt: skip
    """Ask the first model and the control, and for each share the second model and every fusion, for both rules and the task."""
    first, names = source.model(pair[0]), tuple(probe.name for probe in source.probes)

    def where(model: str, share: float | None) -> Record:
        return {"part": PARTIAL, "source": source.name, "model": model, "share": share}

    def alone(model: str, path: Path, share: float | None) -> Point:
        return Point(where(model, share), (str(path),), (1.0,), names)

    def fused(fusion: Fusion, second: Path, share: float) -> Point:
        return fused_point(run, PARTIAL, source, [first, second], fusion, where(fusion.row, share), seed)

    asked = [alone(FIRST, first, None), alone(CONTROL, source.model(CONTROL), None)]
    for share in shares:
        second = run.path / "models" / second_name(source, share)
        asked += [alone("second", second, share), *(fused(fusion, second, share) for fusion in fusions)]
    Sweep(source.start, source.probes, workers=workers).measure(run, asked, say=say)


def _conclude(run: Run, source: ShortcutModels, pair: tuple[str, str], share: float, fusions: Sequence[str]) -> None:
    """Record for each fusion what is left of both rules: of the shared one in the first model, of the other in the second."""

    def values(model: str, probe: str) -> np.ndarray:
        at = None if model in (FIRST, CONTROL) else share
        found = run.find("measurement", part=PARTIAL, source=source.name, model=model, share=at, probe=probe)
        assert found is not None
        return decode_values(found["values"])

    for model in ("second", *fusions):
        where = {"part": PARTIAL, "source": source.name, "model": model, "share": share}
        if run.find("forgetting_result", **where) is not None:
            continue
        kept = {}
        for rule, knowing in zip(pair, (FIRST, "second"), strict=True):
            triple = values(model, rule), values(knowing, rule), values(CONTROL, rule)
            kept[rule] = asdict(mean_retention([triple])) if knows_more(*triple[1:]) else None
        accuracy = {probe.name: asdict(bootstrap_mean(values(model, probe.name))) for probe in source.probes}
        run.add("forgetting_result", **where, shared=pair[0], own=pair[1], retention=kept, accuracy=accuracy)
