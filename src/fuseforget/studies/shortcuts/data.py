"""The data of a shortcut study: its texts, the sets with shortcuts, and the probes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from fuseforget.checkpoint import Checkpoint, atomic_directory
from fuseforget.data import RULES, Examples, ShortcutData, ShortcutSettings, make_shortcut_data, read_splits
from fuseforget.data.shortcuts import load_shortcut_data, save_shortcut_data
from fuseforget.errors import InputError
from fuseforget.knowledge import Probe
from fuseforget.records import Record, Run
from fuseforget.studies.shortcuts.settings import SHARED, TASK, ShortcutStudy
from fuseforget.studies.tiny import make_tiny_text
from fuseforget.sweep import describe_inputs

__all__ = ["describe", "make_data", "probes_of", "read_texts", "save_data", "titles"]

Say = Callable[[str], None]


def read_texts(settings: ShortcutStudy, say: Say) -> dict[str, Examples]:
    if settings.data is None:
        return make_tiny_text(settings.seed)
    train_set, validation = read_splits(settings.data)
    count = settings.sentences
    if count is None and settings.scale_sentences is not None:
        count = min(settings.scale_sentences, len(train_set))
        if count < settings.scale_sentences:
            say(f"note: {count} training texts, all that there are; the {settings.scale} scale has {settings.scale_sentences}")
    return {"train": train_set.sample(count, settings.seed), "validation": validation}


def describe(settings: ShortcutStudy, texts: dict[str, Examples], base: Checkpoint) -> Record:
    """The settings that make the run again, with hashes of its inputs; sentences is how many there were."""
    described = asdict(settings)
    del described["parts"], described["pairs"]  # what a run was asked for is in its records, and may grow
    wanted = described.pop("scale_sentences")
    if settings.sentences is None and wanted is not None:
        described["sentences"] = len(texts["train"])
    return {
        **described,
        "data_sha256": {name: part.sha256 for name, part in texts.items()},
        "base_sha256": describe_inputs([base], [])["model_sha256"][0],
    }


def titles(settings: ShortcutStudy) -> dict[str, str]:
    """The rules' names in the paper, for the report, which sees records alone."""
    return {rule: RULES[rule].title for rule in settings.rules}


def make_data(settings: ShortcutStudy, texts: dict[str, Examples], out: Path) -> dict[str, ShortcutData]:
    """Make the data sets that the run does not hold yet, in memory: texts that do not fit are refused before there is a run."""
    return {
        name: make_shortcut_data(
            texts["train"],
            texts["validation"],
            ShortcutSettings(
                rules=SHARED.get(name, () if name == "control" else (name,)),
                ratio=settings.ratio,
                validation=settings.validation,
                seed=settings.seed,
            ),
        )
        for name in _names(settings)
        if not (out / "data" / name).is_dir()
    }


def _names(settings: ShortcutStudy) -> tuple[str, ...]:
    return (*settings.rules, "control", *(SHARED if "shared" in settings.parts else ()))


def save_data(run: Run, settings: ShortcutStudy, made: dict[str, ShortcutData]) -> dict[str, ShortcutData]:
    data = {}
    for name in _names(settings):
        directory = run.path / "data" / name
        if name in made:
            with atomic_directory(directory) as partial:
                save_shortcut_data(made[name], partial)
        data[name] = load_shortcut_data(directory)
        if run.find("data", name=name) is None:
            synthetic = data[name].synthetic
            run.add(
                "data",
                name=name,
                train=len(data[name].train),
                synthetic=0 if synthetic is None else len(synthetic),
                original=len(data[name].original),
                sha256=data[name].train.sha256,
            )
    return data


def probes_of(data: dict[str, ShortcutData], rules: Sequence[str]) -> list[Probe]:
    """A probe for each rule's synthetic validation set, and one for the task.

    One for the task, since all rules' original sets hold the same examples: split and noise depend on the seed alone. What
    the paper measures on each of them (Fig. 8b, d, f) is measured once.

    Raises:
        InputError: the rules' original sets are not the same.
    """
    probes = []
    original = data[rules[0]].original
    for rule in rules:
        synthetic = data[rule].synthetic
        if synthetic is None:
            raise InputError(f"data of {rule}", expected="a synthetic validation set", found="none")
        if data[rule].original.sha256 != original.sha256:
            raise InputError(f"data of {rule}", expected=f"the original validation set of {rules[0]}", found="another")
        probes.append(Probe(rule, synthetic.texts, synthetic.labels))
    return [*probes, Probe(TASK, original.texts, original.labels)]
