"""The part ``disjoint``: whether what two models have in common stays where they learned it from different texts.

The specialist of one rule is fused with two models of another rule. Both are trained in one way, one of them on texts that the
specialist knows too, the other on as many that it never saw. The task is common to all three; each rule is one model's alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace

from fuseforget.data import Examples, ShortcutData, make_shortcut_data
from fuseforget.knowledge import bootstrap_mean, knows_more
from fuseforget.records import Record, Run, decode_values
from fuseforget.studies.forgetting.examined import CONTROL, PAIR, ShortcutModels
from fuseforget.studies.forgetting.examined_fusions import chosen_fusions, fused_point
from fuseforget.studies.forgetting.fusions import AVERAGE, Fusion
from fuseforget.studies.forgetting.lasting import shortcut_sources
from fuseforget.studies.forgetting.probes import untrained_texts
from fuseforget.studies.forgetting.retained import Fused, Piece, Values, mean_of_cases
from fuseforget.studies.forgetting.settings import ForgettingStudy
from fuseforget.studies.forgetting.sources import Source
from fuseforget.studies.shortcuts.settings import TASK
from fuseforget.studies.training import Job, Trainers
from fuseforget.sweep import Point, Sweep
from fuseforget.workers import Workers

__all__ = ["DISJOINT", "OTHER", "SAME", "do_disjoint", "second_data"]

DISJOINT = "disjoint"
SAME, OTHER = "same", "other"  # texts that the first model was trained on, and such that it was not
FIRST, SECOND = "first", "second"
Say = Callable[[str], None]
Answers = Mapping[str, Values]  # what is right, a value a text, by probe


def do_disjoint(
    run: Run, sources: Sequence[Source], settings: ForgettingStudy, workers: Workers, say: Say,
    *, pair: tuple[str, str] = PAIR, fusions: Sequence[Fusion] | None = None,
) -> None:  # fmt: skip
    """Train the second models of every source, fuse each with the first, and record what is left of the rules and of the task.

    Records: ``measurement`` (models alone and fused), ``knowledge`` (whether a model learned its rule), and for each fusion and
    kind of texts a ``forgetting_result``, with ``task_less_same``: the task's accuracy less that of the same fusion with the
    second model of the same texts.

    Args:
        pair: the rule of the first model, a specialist of the source, and that of the second models.
        fusions: what is made of the two, the plain average among them; default:
            :func:`fuseforget.studies.forgetting.examined_fusions.chosen_fusions`.

    Raises:
        InputError: a source without a specialist, or without texts that none of its models was trained on.
    """
    if fusions is None:
        fusions = chosen_fusions(run, DISJOINT, sources, settings, workers, say)
    studies = shortcut_sources(sources, pair)
    for source, study in zip(sources, studies, strict=True):
        data = second_data(source, study, pair[1])
        jobs = [Job(_name(study, kind), made.train, study.train_second, study.start) for kind, made in data.items()]
        Trainers(workers, settings.threads, say).train(run, jobs)
        _measure(run, study, pair, fusions, settings.seed, workers, say)
    for kind in (SAME, OTHER):
        for fusion in fusions:
            _conclude(run, studies, pair, kind, fusion)


def second_data(source: Source, study: ShortcutModels, rule: str) -> dict[str, ShortcutData]:
    """The data of both second models: equally many texts, drawn with the same seed, with the same rule."""
    unseen = untrained_texts(source, len(study.texts))
    count = min(len(study.texts), len(unseen))
    texts: dict[str, Examples] = {SAME: study.texts.sample(count, study.seed), OTHER: unseen.sample(count, study.seed)}
    shortcut = replace(study.shortcut, rules=(rule,), mix=(), seed=study.seed + 1)
    return {kind: make_shortcut_data(some, study.validation, shortcut) for kind, some in texts.items()}


def _name(study: ShortcutModels, kind: str) -> str:
    return f"{DISJOINT}-{study.name}-{kind}"


def _measure(
    run: Run, study: ShortcutModels, pair: tuple[str, str], fusions: Sequence[Fusion], seed: int, workers: Workers, say: Say
) -> None:  # fmt: skip
    """Ask the first model, the control, both second models and their fusions with the first, for both rules and the task."""
    first, names = study.model(pair[0]), tuple(probe.name for probe in study.probes)
    asked = [
        Point(_where(study, FIRST, None), (str(first),), (1.0,), names),
        Point(_where(study, CONTROL, None), (str(study.model(CONTROL)),), (1.0,), names),
    ]
    for kind in (SAME, OTHER):
        second = run.path / "models" / _name(study, kind)
        asked.append(Point(_where(study, SECOND, kind), (str(second),), (1.0,), names))
        asked += [
            fused_point(run, DISJOINT, study, [first, second], fusion, _where(study, fusion.row, kind), seed)
            for fusion in fusions
        ]
    Sweep(study.start, study.probes, workers=workers).measure(run, asked, say=say)


def _where(study: ShortcutModels, model: str, kind: str | None) -> Record:
    return {"part": DISJOINT, "source": study.name, "model": model, "texts": kind}


def _conclude(run: Run, studies: Sequence[ShortcutModels], pair: tuple[str, str], kind: str, fusion: Fusion) -> None:
    """Record what a fusion leaves of both rules, and of the task, over all sources."""
    where = {
        "part": DISJOINT, "row": fusion.row, "method": fusion.method, "parameters": dict(fusion.parameters), "texts": kind,
        "sources": [study.name for study in studies], "rules": list(pair),
    }  # fmt: skip
    if run.find("forgetting_result", **where) is not None:
        return
    pieces, tasks, less = [], [], []
    for study in studies:
        own, average, same = (
            _answers(run, study, row, of) for row, of in ((fusion.row, kind), (AVERAGE.row, kind), (fusion.row, SAME))
        )
        pieces += _pieces(run, study, pair, kind, own, average)
        tasks.append(Fused(study.name, pair, own[TASK], average[TASK], study.validation.sha256))
        less.append(Fused(study.name, pair, own[TASK], same[TASK], study.validation.sha256))
    by_itself = mean_of_cases([], less)["task_difference"]
    run.add("forgetting_result", **where, **mean_of_cases(pieces, tasks), task_less_same=by_itself)


def _pieces(
    run: Run, study: ShortcutModels, pair: tuple[str, str], kind: str, own: Answers, average: Answers
) -> list[Piece]:  # fmt: skip
    """What the first and the second model know alone; a rule that its model did not learn is recorded, and is none."""
    control, first, second = (
        _answers(run, study, model, of) for model, of in ((CONTROL, None), (FIRST, None), (SECOND, kind))
    )  # fmt: skip
    found = []
    for rule, model, knowing, other in ((pair[0], FIRST, first, second), (pair[1], SECOND, second, first)):
        learned = knows_more(knowing[rule], control[rule])
        fields: Record = {"part": DISJOINT, "source": study.name, "model": model, "texts": kind, "rule": rule}
        if run.find("knowledge", **fields) is None:
            run.add("knowledge", **fields, learned=learned, **asdict(bootstrap_mean(knowing[rule])))
        if learned:
            found.append(
                Piece(
                    study.name, pair, rule, own[rule], average[rule], knowing[rule], control[rule], (other[rule],),
                    texts=study.validation.sha256,
                )
            )  # fmt: skip
    return found


def _answers(run: Run, study: ShortcutModels, model: str, kind: str | None) -> Answers:
    found = {}
    for probe in study.probes:
        record = run.find("measurement", **_where(study, model, kind), probe=probe.name)
        assert record is not None, f"{model} was not asked for {probe.name}"
        found[probe.name] = decode_values(record["values"])
    return found
