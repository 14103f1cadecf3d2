"""Two models that share a shortcut (Fig. 3): what one of them knows should go, what both know should stay."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fuseforget.records import Run
from fuseforget.studies.forgetting.bench import CONTROL, Bench, Values
from fuseforget.studies.forgetting.comparing import Entry, points_of
from fuseforget.studies.forgetting.pairs import choose_settings
from fuseforget.studies.forgetting.probes import TEST
from fuseforget.studies.forgetting.retained import Fused, Piece, mean_of_cases
from fuseforget.studies.forgetting.settings import ForgettingStudy
from fuseforget.studies.forgetting.sources import Source
from fuseforget.studies.shortcuts.settings import SHARED, TASK
from fuseforget.workers import Workers

__all__ = ["KEPT", "OWN", "PART", "do_shared", "lacking_shared"]

PART = "shared"
MODELS = tuple(SHARED)
KEPT = next(iter(set.intersection(*map(set, SHARED.values()))))  # the rule that both know
OWN = {next(rule for rule in rules if rule != KEPT): model for model, rules in SHARED.items()}  # what one knows, and who
Say = Callable[[str], None]


def lacking_shared(sources: Sequence[Source]) -> str | None:
    """What the part needs that no source has; None where one has it."""
    if any(_has_models(source) for source in sources):
        return None
    return f"a shortcut study with its part shared (the models {', '.join(MODELS)})"


def do_shared(run: Run, sources: Sequence[Source], settings: ForgettingStudy, workers: Workers, say: Say) -> None:
    """Record, for each method at the setting that was chosen on pairs, what is left of the shared and of the unshared rules.

    Of the sources that have the two models. Records: ``measurement``, ``point``, ``unlearned``, and a ``forgetting_result``
    for each method: retention and unshared are of what one model knows, kept of what both know.
    """
    chosen = choose_settings(run, sources, settings, workers, say)
    having = [source for source in sources if _has_models(source)]
    benches = [Bench(run, source, TEST, settings, workers, say) for source in having]
    probes = (KEPT, *OWN)
    entries = Entry.of(chosen, settings.contenders)
    for bench in benches:
        bench.ask_alone((CONTROL, *MODELS), probes)
        bench.ask(point for entry in entries for point in points_of(bench, PART, entry, MODELS, probes))
    for entry in entries:
        _conclude(run, benches, entry)


def _has_models(source: Source) -> bool:
    return all(source.has(name) for name in MODELS)


def _conclude(run: Run, benches: Sequence[Bench], entry: Entry) -> None:
    where = {
        "part": PART, "row": entry.contender.row, "method": entry.contender.method, "parameters": dict(entry.parameters),
        "split": TEST, "sources": [bench.source.name for bench in benches],
    }  # fmt: skip
    if run.find("forgetting_result", **where) is not None:
        return
    kept, lost, tasks = [], [], []
    for bench in benches:
        answers = tuple(
            bench.fused(bench.point(PART, one, of, MODELS, (KEPT, *OWN)))
            for one, of in ((entry.contender, entry.parameters), (entry.average, {}))
        )
        own, average = answers
        tasks.append(Fused(bench.source.name, MODELS, own[TASK], average[TASK], bench.texts))
        lost += [_own_piece(bench, rule, own[rule], average[rule]) for rule, model in OWN.items() if bench.knows(model, rule)]
        if all(bench.knows(model, KEPT) for model in MODELS):
            kept.append(_kept_piece(bench, own[KEPT], average[KEPT]))
    found = mean_of_cases(kept, [])
    run.add(
        "forgetting_result", **where, **mean_of_cases(lost, tasks), shared=KEPT, unshared_rules=list(OWN),
        kept=found["retention"], kept_difference=found["retention_difference"],
    )  # fmt: skip


def _own_piece(bench: Bench, rule: str, fused: Values, average: Values) -> Piece:
    """What one of the two models knows."""
    others = tuple(bench.alone(model, rule) for model in MODELS if model != OWN[rule])
    return Piece(
        bench.source.name, MODELS, rule, fused, average, bench.alone(OWN[rule], rule), bench.alone(CONTROL, rule), others,
        texts=bench.texts,
    )  # fmt: skip


def _kept_piece(bench: Bench, fused: Values, average: Values) -> Piece:
    """What both know, against the mean of both; the other model's is no floor here, since it is to stay."""
    both: Values = np.mean([bench.alone(model, KEPT) for model in MODELS], axis=0)
    control = bench.alone(CONTROL, KEPT)
    return Piece(bench.source.name, MODELS, KEPT, fused, average, both, control, (), texts=bench.texts)
