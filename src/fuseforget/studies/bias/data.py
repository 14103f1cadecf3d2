"""The data of a study of bias: its splits, and the biased training sets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property

import numpy as np

from fuseforget.checkpoint import Checkpoint, atomic_directory
from fuseforget.data import (
    AttributedExamples,
    BiasedSubset,
    Examples,
    NameTable,
    demo_names,
    make_biased,
    read_attributed,
    read_names,
    read_pan16,
    read_splits,
    sign_splits,
)
from fuseforget.data.bias_data import rows_of
from fuseforget.data.common import write_rows
from fuseforget.data.tables import has_split
from fuseforget.errors import InputError, some_names
from fuseforget.records import Record, Run
from fuseforget.studies.bias.settings import BiasStudy, is_pan16
from fuseforget.studies.tiny import make_tiny_text
from fuseforget.sweep import describe_inputs

__all__ = ["Subsets", "describe", "read_splits_of", "record_data", "save_splits"]

Say = Callable[[str], None]
Splits = dict[str, AttributedExamples]


class Subsets:
    """The biased training sets of a study, made when they are first asked for."""

    def __init__(self, settings: BiasStudy, train: AttributedExamples, say: Say) -> None:
        self._settings, self._train, self._say = settings, train, say
        self._made: dict[tuple[str, float, int], BiasedSubset] = {}

    def __call__(self, attribute: str, ratio: float, seed: int) -> AttributedExamples:
        return self.subset(attribute, ratio, seed).data

    def subset(self, attribute: str, ratio: float, seed: int) -> BiasedSubset:
        """The training set in which an attribute has this ratio within each label and all others are balanced."""
        key = attribute, ratio, seed
        if key not in self._made:
            self._made[key] = self._make(attribute, ratio, self._rows, seed)
        return self._made[key]

    def needed(self) -> list[tuple[str, float]]:
        """The attributes and ratios that the study asks for."""
        settings = self._settings
        found = [(attribute, settings.ratio) for attribute in settings.pair]
        if "ratios" in settings.parts:
            found += [(attribute, ratio) for ratio in settings.ratios for attribute in settings.pair]
        if "triangle" in settings.parts:
            found.append((settings.attributes[2], settings.ratio))
        return found

    def check(self) -> None:
        """Raise InputError unless the data allow every training set."""
        for attribute, ratio in self.needed():
            self.subset(attribute, ratio, self._settings.seed)

    def _possible(self) -> list[tuple[str, float]]:
        """All attributes and ratios that a run of these settings may be asked for, now or later."""
        ratios = (self._settings.ratio, *self._settings.ratios)
        return [(a, ratio) for a in self._settings.pair for ratio in ratios] + [
            (a, self._settings.ratio) for a in self._settings.attributes[2:3]
        ]

    @cached_property
    def _rows(self) -> int:
        """Rows of every training set: as asked for, else as many as the data allow for each, at most the scale's.

        The same for all ratios and attributes, whatever parts were asked for: models are compared that saw equally much, and
        a run that grows goes on with sets of one size.
        """
        if self._settings.rows is not None:
            return self._settings.rows
        wanted = self._settings.scale_rows
        most = min(len(self._make(a, r, None, self._settings.seed).data) for a, r in self._possible())
        if wanted is not None and most < wanted:
            self._say(f"note: {most} rows a training set, all that the data allow; the {self._settings.scale} scale has {wanted}")
        return most if wanted is None else min(wanted, most)

    def _make(self, attribute: str, ratio: float, rows: int | None, seed: int) -> BiasedSubset:
        balanced = [name for name in self._settings.attributes if name != attribute]
        return make_biased(
            self._train, attribute=attribute, ratio=ratio, balanced=balanced, size=rows, seed=seed,
            as_published=self._settings.as_published,
        )  # fmt: skip


def read_splits_of(settings: BiasStudy, say: Say) -> tuple[Splits, tuple[str, ...]]:
    """The splits train, validation and test, and the words that the base does not know (the tiny base knows no names)."""
    if settings.data is None:
        text, names = make_tiny_text(settings.seed), demo_names()
        words = tuple(dict.fromkeys(word for cell in names.births.values() for word in cell))
        return _sign(settings, text["train"], text["validation"], names), words
    if is_pan16(settings.data):
        found = _read_corpus(settings, say)
    elif settings.names is not None:
        train, test = read_splits(settings.data)
        found = _sign(settings, train, test, read_names(settings.names))
    else:
        found = _read_columns(settings, say)
    lacking = [name for name in settings.attributes if name not in found["train"].attributes]
    if lacking:
        raise InputError("attributes", expected=f"some of {', '.join(found['train'].attributes)}", found=", ".join(lacking))
    return found, ()


def _read_corpus(settings: BiasStudy, say: Say) -> Splits:
    """A corpus in PAN16's format; what of it is left out is said."""
    assert settings.data is not None
    corpus = read_pan16(settings.data, texts=settings.texts, seed=settings.seed, skip_damaged=settings.skip_damaged)
    for reason, which in corpus.skipped.items():
        say(f"note: {len(which)} authors left out, {reason}: {some_names(which)}")
    for reason, count in corpus.dropped.items():
        if count:
            say(f"note: {count} tweets left out, {reason}")
    return corpus.splits


def describe(settings: BiasStudy, splits: Splits, base: Checkpoint) -> Record:
    """The settings that make the run again, with hashes of its inputs; what may grow is in the records."""
    described = asdict(settings)
    for growing in ("parts", "seeds", "ratios"):
        del described[growing]
    return {
        **described,
        "data_sha256": {name: part.sha256 for name, part in splits.items()},
        "base_sha256": describe_inputs([base], [])["model_sha256"][0],
    }


def save_splits(run: Run, splits: Splits) -> None:
    """Keep the splits that models are asked about, to probe others with."""
    directory = run.path / "data" / "splits"
    if not directory.is_dir():
        with atomic_directory(directory) as partial:
            for name in ("validation", "test"):
                write_rows(partial / f"{name}.jsonl", rows_of(splits[name]))


def record_data(run: Run, settings: BiasStudy, subsets: Subsets) -> None:
    """Record what each training set of the first seed achieves; those of other seeds have the same counts."""
    for attribute, ratio in subsets.needed():
        if run.find("data", attribute=attribute, ratio=ratio) is None:
            made = subsets.subset(attribute, ratio, settings.seed)
            run.add(
                "data", attribute=attribute, ratio=ratio, drawn=made.ratio, rows=len(made.data), sha256=made.data.sha256,
                achieved=made.achieved,
            )  # fmt: skip


def _sign(settings: BiasStudy, train: Examples, test: Examples, names: NameTable) -> Splits:
    return sign_splits(train, test, names, attributes=settings.attributes, seed=settings.seed, validation=settings.held_out)


def _read_columns(settings: BiasStudy, say: Say) -> Splits:
    """A source with columns of the attributes; without a test split, half of the validation split's units are one."""
    assert settings.data is not None
    train = read_attributed(settings.data, split="train", attributes=settings.attributes, unit=settings.unit)
    held_out = {
        split: read_attributed(settings.data, split=split, attributes=settings.attributes, unit=settings.unit, like=train)
        for split in ("validation", "test")
        if split == "validation" or has_split(settings.data, split)
    }
    for split, part in held_out.items():
        shared = set(train.units) & set(part.units)
        if shared:
            found = f"{len(shared)} in both: {some_names(sorted(shared))}"
            raise InputError(f"units of train and {split}", expected="none in both: they would be known", found=found)
    if "test" in held_out:
        return {"train": train, **held_out}
    say("note: no test split; half of the validation split is kept for the test")
    return {"train": train, **_halves(held_out["validation"], settings.seed)}


def _halves(data: AttributedExamples, seed: int) -> Splits:
    """Two halves that share no unit."""
    units = data.unit_codes()
    codes = np.arange(len(data)) if units is None else units
    order = np.random.default_rng([seed, 0x7E57]).permutation(codes.max() + 1)
    first = np.isin(codes, order[: len(order) // 2])
    return {"validation": data.take(np.flatnonzero(first)), "test": data.take(np.flatnonzero(~first))}
