"""The part ``lasting``, whether the forgotten stays forgotten.

A method may hide knowledge in place of removing it. So each fusion of a pair of specialists is asked for their shortcuts in
other words than they were trained in, read by a linear probe, rounded to few bits, and trained further; beside it stand the
specialists, which know, and the control, which never knew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fuseforget.knowledge import Probe
from fuseforget.records import Run
from fuseforget.studies.forgetting.examined import PAIR, START, ShortcutModels, read_shortcut_models
from fuseforget.studies.forgetting.examined_fusions import chosen_fusions, fused_here
from fuseforget.studies.forgetting.fusions import Fusion
from fuseforget.studies.forgetting.hidden import decode
from fuseforget.studies.forgetting.lasting_results import conclude_lasting
from fuseforget.studies.forgetting.quantised import ask_quantised
from fuseforget.studies.forgetting.relearning import STEPS, relearn
from fuseforget.studies.forgetting.rephrased import forms_of, rephrase
from fuseforget.studies.forgetting.settings import ForgettingStudy
from fuseforget.studies.forgetting.sources import Source
from fuseforget.sweep import Point, Sweep
from fuseforget.workers import Workers

__all__ = ["LASTING", "do_lasting", "examine", "rephrased_probes", "shortcut_sources"]

LASTING = "lasting"
Say = Callable[[str], None]


def do_lasting(
    run: Run, sources: Sequence[Source], settings: ForgettingStudy, workers: Workers, say: Say,
    *, pair: tuple[str, str] = PAIR, fusions: Sequence[Fusion] | None = None, steps: Sequence[int] = STEPS,
) -> None:  # fmt: skip
    """Examine the fusions of a pair of specialists of every shortcut study among the sources, and record what is found.

    What the run has is not done again. Settings are chosen as for pairs.

    Args:
        pair: the rules of the two specialists.
        fusions: what is made of the two; default: :func:`fuseforget.studies.forgetting.examined_fusions.chosen_fusions`.
        steps: numbers of steps of further training after which the models are asked.

    Raises:
        InputError: a shortcut study without a specialist, or a method that there is not.
    """
    if fusions is None:
        fusions = chosen_fusions(run, LASTING, sources, settings, workers, say)
    found = shortcut_sources(sources, pair)
    for source in found:
        examine(
            run, source, fusions, workers, say, steps=steps, seed=settings.seed, threads=settings.threads
        )  # fmt: skip
    texts = {source.name: source.validation.sha256 for source in found}
    conclude_lasting(run, texts, pair, [fusion.row for fusion in fusions], steps)


def shortcut_sources(sources: Sequence[Source], rules: Sequence[str]) -> list[ShortcutModels]:
    """The shortcut studies among the sources, each under a name that no other has."""
    paths = [source.path for source in sources if source.command == "study shortcuts"]
    names = [path.name if sum(other.name == path.name for other in paths) == 1 else f"{path.name} {i}"
             for i, path in enumerate(paths, 1)]  # fmt: skip
    return [read_shortcut_models(path, rules, name=name) for path, name in zip(paths, names, strict=True)]


def examine(
    run: Run, source: ShortcutModels, fusions: Sequence[Fusion], workers: Workers, say: Say,
    *, steps: Sequence[int] = STEPS, seed: int = 0, threads: int = 1,
) -> None:  # fmt: skip
    """Ask the models of one source, and what is fused of its specialists, in every way; first as they are."""
    made = fused_here(run, LASTING, source, [source.model(rule) for rule in source.rules], fusions, seed)
    known = source.known()
    models = {**known, **made}
    probes = [*source.probes, *rephrased_probes(source)]
    names = tuple(probe.name for probe in probes)
    sweep = Sweep(source.start, probes, workers=workers)
    sweep.measure(run, [_point(source, name, path, names) for name, path in models.items()], say=say)
    trained = {name: path for name, path in models.items() if name != START}
    ask_quantised(run, LASTING, source, trained, sweep.resident, names, say)
    decode(run, LASTING, source, models, say)
    relearn(run, LASTING, source, trained, workers, say, steps=steps, threads=threads)


def rephrased_probes(source: ShortcutModels) -> list[Probe]:
    """A probe for each rule in each form, named ``RULE: FORM``, on the source's validation texts."""
    made = {
        f"{rule}: {form.name}": rephrase(source.validation, rule, form, source.shortcut)
        for rule in source.rules
        for form in forms_of(rule)
    }
    return [Probe(name, examples.texts, examples.labels) for name, examples in made.items()]


def _point(source: ShortcutModels, name: str, path: Path, probes: tuple[str, ...]) -> Point:
    where: Mapping[str, str] = {"part": LASTING, "source": source.name, "model": name, "precision": "as it is"}
    return Point(where, (str(path),), (1.0,), probes)
