"""The Fisher study: Zaman et al. 2023, appendix D, Table 4, on the models of a finished shortcut study.

If fusing keeps shared knowledge because the same weights manage it, then the Fishers of two specialists overlap more on the
task, which both know, than on a shortcut, which one knows. A shortcut's texts have their labels reversed and the tokens that
say the reversed label, so that only the shortcut solves them; the task's texts are unchanged.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from fuseforget import stopping
from fuseforget.checkpoint import Checkpoint, open_checkpoint
from fuseforget.data import Examples, ShortcutSettings, inject_for_labels, load_shortcut_data, read_splits
from fuseforget.errors import InputError, require_seed
from fuseforget.fisher import describe_overlap, fold_overlap, folds_of, jackknife_interval, save_folds, split_half
from fuseforget.knowledge import Probe
from fuseforget.models import load_classifier
from fuseforget.records import Record, Run, read_records, read_run
from fuseforget.studies.tiny import make_tiny_text
from fuseforget.sweep import Point, Sweep, describe_inputs
from fuseforget.sweep.points import lacking
from fuseforget.workers import Workers

__all__ = ["KNOWN", "FisherStudy", "reversed_examples", "run_fisher_study"]

TASK = "task"  # the name of the unchanged texts
OWN = "own"  # each specialist on its own shortcut's texts
KNOWN = 0.9  # the accuracy below which a specialist has not learned its shortcut
EXAMPLES, FOLDS = 200, 8
Say = Callable[[str], None]


@dataclass(frozen=True)
class FisherStudy:
    """The settings of a Fisher study.

    Attributes:
        source: the finished shortcut study whose specialists are compared.
        examples: texts drawn from its validation texts; all where there are fewer (the paper: 200).
        folds: parts of these for the jackknife's interval; even.
        labels_from: see :func:`fuseforget.fisher.diagonal_fisher`; the paper: ``given``.
        seed: of the draw of texts, tokens and folds.
    """

    source: str
    examples: int = EXAMPLES
    folds: int = FOLDS
    labels_from: str = "given"
    seed: int = 0


def run_fisher_study(
    settings: FisherStudy, out: Path, *, workers: Workers | None = None, say: Say = lambda line: None
) -> list[Record]:
    """Run or resume the study and return all its records.

    Each specialist's Fishers are under ``out`` while they are needed: as many copies of a model in float32 as there are folds,
    for every rule twice. They are removed in the end; a killed run goes on with those that are whole.
    """
    require_seed(settings.seed)
    source = Path(settings.source)
    begun = read_run(source)
    rules = _require_finished(source, begun)
    sets = _sets(settings, source, begun, rules)
    parts = folds_of(len(sets[TASK]), settings.folds, settings.seed)
    checkpoints = [open_checkpoint(source / "models" / rule) for rule in rules]
    described = {
        **asdict(settings),
        "rules": rules,
        "model_sha256": describe_inputs(checkpoints, [])["model_sha256"],
        "data_sha256": {name: examples.sha256 for name, examples in sets.items()},
    }
    titles = begun.get("about", {}).get("titles", {})
    with Run(out, command="study fisher", settings=described, about={"titles": titles}, say=say) as run:
        _measure_knowledge(run, source, rules, sets, workers, say)
        _Fishers(run, settings, source, sets, parts, say).measure(rules)
        _conclude(run, rules)
        shutil.rmtree(run.path / "fishers", ignore_errors=True)
        return list(run.records)


def reversed_examples(examples: Examples, shortcut: ShortcutSettings, name: str) -> Examples:
    """The texts with reversed labels and the tokens by which the shortcut says the reversed label (appendix D.1)."""
    return inject_for_labels(examples, shortcut, name, [1 - label for label in examples.labels])


def _require_finished(source: Path, begun: Record) -> list[str]:
    if begun["command"] != "study shortcuts":
        raise InputError(str(source), expected="a run of study shortcuts", found=f"a run of {begun['command']}")
    rules = list(begun["settings"]["rules"])
    trained = {record["name"] for record in read_records(source) if record["kind"] == "training"}
    missing = [rule for rule in rules if rule not in trained or not (source / "models" / rule).is_dir()]
    if missing:
        raise InputError(
            str(source), expected="a shortcut study with all its specialists", found=f"none for {', '.join(missing)}",
            action="Run it again to finish it.",
        )  # fmt: skip
    return rules


def _sets(settings: FisherStudy, source: Path, begun: Record, rules: Sequence[str]) -> dict[str, Examples]:
    """The task's texts, and each rule's with reversed labels."""
    before = begun["settings"]
    texts = make_tiny_text(before["seed"])["validation"] if before["data"] is None else read_splits(before["data"])[1]
    if texts.sha256 != before["data_sha256"]["validation"]:
        raise InputError(
            before["data"] or "the tiny scale's texts",
            expected=f"the validation texts of {source}",
            found="others, by their hash",
        )
    taken = texts.sample(min(settings.examples, len(texts)), settings.seed)
    sets = {TASK: taken}
    for rule in rules:
        made = load_shortcut_data(source / "data" / rule).settings
        shortcut = ShortcutSettings(rules=(rule,), tokens=made.tokens, seed=settings.seed)
        sets[rule] = reversed_examples(taken, shortcut, "reversed")
    return sets


def _measure_knowledge(
    run: Run, source: Path, rules: Sequence[str], sets: dict[str, Examples], workers: Workers | None, say: Say
) -> None:
    """First that the knowledge is there: each specialist's accuracy on the task's texts and on each rule's."""
    probes = [Probe(name, part.texts, part.labels) for name, part in sets.items()]
    names = tuple(probe.name for probe in probes)
    asked = [Point({"model": rule}, (str(source / "models" / rule),), (1.0,), names) for rule in rules]
    if lacking(run, asked):
        Sweep(source / "models" / rules[0], probes, workers=workers).measure(run, asked, say=say)
    for rule in rules:
        known = run.find("measurement", model=rule, probe=rule)
        assert known is not None
        if known["value"] < KNOWN and run.find("unlearned", rule=rule) is None:
            run.add("unlearned", rule=rule, specialist=known["value"])


class _Fishers:
    """The specialists' Fishers on the sets, made when they are needed, and their overlaps."""

    def __init__(
        self, run: Run, settings: FisherStudy, source: Path, sets: dict[str, Examples], parts: list[list[int]], say: Say
    ) -> None:
        self._run, self._settings, self._source = run, settings, source
        self._sets, self._parts, self._say = sets, parts, say
        self._counts = [len(part) for part in parts]

    def measure(self, rules: Sequence[str]) -> None:
        pairs = list(combinations(rules, 2))
        self._compare(pairs, TASK, dict.fromkeys(rules, TASK))
        self._drop(TASK, rules)
        for name in rules:
            mine = [pair for pair in pairs if name in pair]
            self._compare(mine, name, dict.fromkeys(rules, name))
            self._drop(name, [rule for rule in rules if rule != name])
        self._compare(pairs, OWN, {rule: rule for rule in rules})

    def _compare(self, pairs: Sequence[tuple[str, str]], name: str, on: dict[str, str]) -> None:
        """Record the overlap of each pair, each model's Fisher on the set that ``on`` says."""
        for first, second in pairs:
            if self._run.find("overlap", first=first, second=second, on=name) is not None:
                continue
            stopping.check("a pair of models")
            found = fold_overlap(self._of(first, on[first]), self._of(second, on[second]), self._counts)
            n = sum(self._counts)
            fields: dict[str, Any] = describe_overlap(found)
            self._run.add("overlap", first=first, second=second, on=name, n=n, **fields)
            self._say(f"{first} and {second} on {name}: overlap {found.whole:.4f}")

    def _of(self, model: str, name: str) -> list[Checkpoint]:
        examples, place = self._sets[name], self._run.path / "fishers" / f"{model}-on-{name}"
        if not (place / f"fold-{len(self._parts) - 1}").is_dir():
            classifier = load_classifier(self._source / "models" / model)
            save_folds(
                classifier, examples.texts, examples.labels, self._parts, place, labels_from=self._settings.labels_from,
                seed=self._settings.seed, say=self._say,
            )  # fmt: skip
        folds = [open_checkpoint(place / f"fold-{number}") for number in range(len(self._parts))]
        if self._run.find("split_half", model=model, on=name) is None:
            self._run.add("split_half", model=model, on=name, value=split_half(folds, self._counts), n=sum(self._counts))
        return folds

    def _drop(self, name: str, models: Sequence[str]) -> None:
        for model in models:
            shutil.rmtree(self._run.path / "fishers" / f"{model}-on-{name}", ignore_errors=True)


def _conclude(run: Run, rules: Sequence[str]) -> None:
    """For each pair: shared (the task), unshared (the mean over both shortcuts' texts), and their difference, by fold."""
    for first, second in combinations(rules, 2):
        if run.find("table4", first=first, second=second) is not None:
            continue
        shared, *both = [_overlap(run, first, second, name) for name in (TASK, first, second)]
        unshared = sum(r["overlap"] for r in both) / 2
        without = [sum(values) / 2 for values in zip(*(r["leave_out"] for r in both), strict=True)]
        low, high = jackknife_interval(unshared, without)
        # Paired: a fold holds the same texts in all sets.
        difference = [a - b for a, b in zip(shared["leave_out"], without, strict=True)]
        least, most = jackknife_interval(shared["overlap"] - unshared, difference, bounded=False)
        run.add(
            "table4", first=first, second=second, n=shared["n"],
            shared={key: shared[key] for key in ("low", "high")} | {"value": shared["overlap"]},
            unshared={"value": unshared, "low": low, "high": high},
            difference={"value": shared["overlap"] - unshared, "low": least, "high": most},
        )  # fmt: skip


def _overlap(run: Run, first: str, second: str, name: str) -> Record:
    found = run.find("overlap", first=first, second=second, on=name)
    assert found is not None
    return found
