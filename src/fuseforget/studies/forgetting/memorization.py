"""Which methods forget what single models memorised, and keep what all did: on the models of a study of memorization.

Every contender's settings are asked for the energies of the models' own, the shared and the validation rows. The first half of
each set of rows chooses a setting, the second half tells what it does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from fuseforget.knowledge import compare_alr
from fuseforget.leakage.scoring import Scorer
from fuseforget.methods import METHODS
from fuseforget.records import Record, Run
from fuseforget.studies.forgetting.contenders import Contender
from fuseforget.studies.forgetting.fusions import AVERAGE, Fusion, fusions_of
from fuseforget.studies.forgetting.information import Information
from fuseforget.studies.forgetting.memorization_choice import Candidate, choose_beyond_shrinking, choose_least_memorised
from fuseforget.studies.forgetting.memorization_results import (
    SHRUNK,
    SPLITS,
    UNSHARED,
    Case,
    Halves,
    conclude_beyond,
    conclude_case,
    curve_of,
    measured_on,
)
from fuseforget.studies.forgetting.memorization_source import COMMAND, FusedReader, Reading, open_corpus
from fuseforget.studies.forgetting.settings import ForgettingStudy
from fuseforget.studies.forgetting.sources import Source
from fuseforget.studies.memorization.data import CONTROL, SHARED, VALIDATION, Corpus
from fuseforget.studies.memorization.models import REFERENCE
from fuseforget.workers import Workers

__all__ = ["do_memorization", "measure_memorization"]

FISHERS = "fishers"  # a directory of the run
NUMBERS = (2, 3)  # of models that are fused
Say = Callable[[str], None]


def do_memorization(run: Run, sources: Sequence[Source], settings: ForgettingStudy, workers: Workers, say: Say) -> None:
    """The part ``memorization``: :func:`measure_memorization` of every such study among the sources."""
    for source in sources:
        if source.command == COMMAND:
            measure_memorization(run, source.name, source.path, settings.contenders, settings.seed, workers, say)


def measure_memorization(
    run: Run, source: str, path: Path, contenders: Sequence[Contender], seed: int, workers: Workers, say: Say
) -> None:  # fmt: skip
    """Ask every contender's settings on the first two and three models, choose one of each, and record what these come to.

    Records: ``tokens`` and ``energies`` of sets of rows (their names begin with the source's), ``knowledge`` (that single
    models know their rows), ``point``, ``chosen`` (the setting that forgets most within the average's limits) and its
    ``forgetting_result``, ``beyond_shrinking`` (the setting that forgets most beyond the average shrunk to the same ALR on shared
    rows, at no worse perplexity than the average's), these of the part ``memorization``; what the run has is not done again.

    Args:
        source: what the records call the study.
        seed: of random methods.
    """
    bench = _Bench(run, source, path, seed, workers, say)
    bench.ask_alone()
    for number in [n for n in NUMBERS if n <= bench.corpus.settings.models]:
        case = Case(bench.halves, bench.corpus.settings.names[:number])
        if not _knows(case, say):
            continue
        bench.ask(case, SHRUNK)
        asked = list(fusions_of(contenders, number))
        chosen = [_choose(bench, case, fusions) for fusions in asked]
        bench.ask(case, chosen, CONTROL)
        conclude_case(case, chosen)
        conclude_beyond(case, _beyond_shrinking(bench, case, asked[1:]))


class _Bench:
    """A study's corpus and models, whose fusions are read where the run lacks their energies."""

    def __init__(self, run: Run, source: str, path: Path, seed: int, workers: Workers, say: Say) -> None:
        self.run, self.path, self.seed, self.workers, self.say = run, path, seed, workers, say
        self.halves, self.corpus = Halves(run, source), open_corpus(path)
        self._scorer = _scorer(self.halves, self.corpus, say)
        self._information = Information(run.path / FISHERS / source, self.corpus, self.corpus.settings.seed, say)

    def ask_alone(self) -> None:
        """The base and the single models on all rows: what there is to be forgotten."""
        names = self.corpus.settings.names[: max(NUMBERS)]
        sets = [self.halves.set_name(name) for name in (*names, SHARED, VALIDATION, CONTROL)]
        paths = {REFERENCE: self.corpus.base, **{name: self.path / "models" / name for name in names}}
        # The base is one of a source: its energies are found by the sets' names, which begin with the source's.
        self._scorer.score_each(paths, sets, self.workers)

    def ask(self, case: Case, fusions: Sequence[Fusion], *more: str) -> None:
        """Record the energies and the points of fusions of some models, where the run lacks them.

        Args:
            more: sets besides the models' own, the shared and the validation rows.
        """
        sets = [self.halves.set_name(name) for name in (*case.parents, SHARED, VALIDATION, *more)]
        asked = {case.model(fusion): fusion for fusion in fusions}
        readings = [self._reading(case, fusion, sets) for name, fusion in asked.items() if self._scorer.lacks(sets, model=name)]
        rows = {name: self._scorer.sets[name] for one in readings for name in one.sets}
        reader = FusedReader(self.corpus.base, rows, {name: self._scorer.masks(name) for name in rows})
        read = self.workers.each(reader, readings, name=lambda one: one.name)
        for reading, found in zip(readings, read, strict=True):
            for name in reading.sets:
                self._scorer.keep(name, found[name], model=reading.name)
            self.say(f"{reading.name}: energies on {', '.join(reading.sets)}")
        for fusion in fusions:
            for split in SPLITS:
                self._measure(case, fusion, split)

    def find(self, case: Case, fusion: Fusion, split: str) -> Record | None:
        return self.run.find("point", **_where(case, fusion), split=split)

    def _reading(self, case: Case, fusion: Fusion, sets: Sequence[str]) -> Reading:
        name, models = case.model(fusion), tuple(str(self.path / "models" / parent) for parent in case.parents)
        statistics = self._information.of(case.parents) if METHODS[fusion.method].statistics else ()
        return Reading(
            name, models, fusion.method, str(self.corpus.base) if fusion.takes_base else None, fusion.weights(len(models)),
            tuple(self._scorer.lacks(sets, model=name)), self.seed, fusion.parameters, statistics,
        )  # fmt: skip

    def _measure(self, case: Case, fusion: Fusion, split: str) -> None:
        if self.find(case, fusion, split) is None:
            found = measured_on(case, case.model(fusion), split)
            self.run.add("point", **_where(case, fusion), split=split, **found)


def _scorer(halves: Halves, corpus: Corpus, say: Say) -> Scorer:
    """Computes and records energies of the source's sets, whose names begin with the source's."""
    rows = {halves.set_name(name): one for name, one in corpus.sets.items()}
    settings = corpus.settings
    return Scorer(halves.run, rows, special=corpus.reader.special, masked=settings.masked, seed=settings.seed, say=say)


def _where(case: Case, fusion: Fusion) -> Record:
    return {"part": "memorization", "source": case.halves.source, "case": case.name, **fusion.where}


def _knows(case: Case, say: Say) -> bool:
    """Whether the single models clearly know their rows better than another of them does; recorded, with the difference."""
    fields: Record = {"part": "memorization", "source": case.halves.source, "case": case.name}
    known = case.halves.run.find("knowledge", **fields)
    if known is None:
        own, other = (case.single(SPLITS[0], shift) for shift in (0, 1))
        found = compare_alr(own, other, case.reference(UNSHARED, SPLITS[0]))
        known = case.halves.run.add("knowledge", **fields, learned=found.high < 0, **asdict(found))
    if not known["learned"]:
        say(f"{case.halves.source}, {case.name}: the models memorised nothing that could be forgotten")
    return bool(known["learned"])


def _choose(bench: _Bench, case: Case, fusions: Sequence[Fusion]) -> Fusion:
    """A contender's setting that the first half of the rows speaks for, recorded with what it is there."""
    bench.ask(case, fusions)
    average = _candidate(bench, case, AVERAGE)
    best, sound = choose_least_memorised([_candidate(bench, case, fusion) for fusion in fusions], average)
    fields = _where(case, best.fusion)
    if bench.run.find("chosen", **fields) is None:
        bench.run.add(
            "chosen", **fields, sound=sound, unshared=best.unshared, shared=best.shared, perplexity=best.perplexity,
            excess=best.excess(average),
        )  # fmt: skip
    return best.fusion


def _beyond_shrinking(bench: _Bench, case: Case, asked: Sequence[Sequence[Fusion]]) -> list[Fusion]:
    """Of each contender the setting that by the first half of the rows forgets most beyond shrinking; of some there is none."""
    curve, average = curve_of(case, SPLITS[0]), _candidate(bench, case, AVERAGE)
    found = [
        choose_beyond_shrinking([_candidate(bench, case, fusion) for fusion in fusions], average, curve) for fusions in asked
    ]
    return [one.fusion for one in found if one is not None]


def _candidate(bench: _Bench, case: Case, fusion: Fusion) -> Candidate:
    found = bench.find(case, fusion, SPLITS[0])
    assert found is not None
    return Candidate(fusion, *(found[on]["value"] for on in (UNSHARED, SHARED, "perplexity")))
