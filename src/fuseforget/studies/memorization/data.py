"""The articles of a study of memorization, and its base: who reads what, as rows of tokens."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fuseforget.checkpoint import atomic_directory, file_sha256, open_checkpoint
from fuseforget.data import (
    CanaryPlan,
    MemorizationData,
    Rows,
    join_rows,
    make_memorization,
    model_names,
    near_duplicates,
    read_documents,
    save_memorization,
    spread_canaries,
)
from fuseforget.data.common import generator
from fuseforget.data.demo_text import review_pairs
from fuseforget.data.packing import long_enough
from fuseforget.data.pool import normalised
from fuseforget.data.rows import MIN_TOKENS
from fuseforget.errors import InputError
from fuseforget.models import TextReader, load_language_model, read_text_reader
from fuseforget.records import Record, Run
from fuseforget.studies.memorization.base import BaseSettings, cached_base
from fuseforget.studies.memorization.settings import MemorizationStudy

__all__ = ["Corpus", "describe", "read_corpus", "record_data"]

SHARED, CONTROL, VALIDATION, REST = "shared", "control", "validation", "rest"
TINY_ARTICLES = 6400
# Bases of the study's own, by scale.
BASES = {
    "tiny": BaseSettings(vocabulary=600, layers=2, width=96, heads=4, epochs=4, learning_rate=3e-3),
    "small": BaseSettings(),
}
Say = Callable[[str], None]


@dataclass(frozen=True)
class Corpus:
    """The study's rows, and the base that reads them.

    Attributes:
        settings: the study's, with the number of rows that a recipe takes.
        base: the pretrained model's directory.
        made: the articles in small parts (:attr:`MemorizationStudy.atom`), of which all training sets are put together.
        reader: how the base reads texts.
        longest: how many tokens a row has at most.
    """

    settings: MemorizationStudy
    base: Path
    made: MemorizationData
    reader: TextReader
    longest: int

    @cached_property
    def sets(self) -> dict[str, Rows]:
        """What models are asked about: each model's own rows, the shared, the control's and the validation's.

        Without the rows that carry canaries: no control has any, and what tells members from it must not be canaries.
        ``rest`` are rows that models have only where the total is fixed.
        """
        settings, parts = self.settings, self.made.parts
        own = {name: join_rows([parts[atom] for atom in self.own(name)]) for name in settings.names}
        left = self.atoms[settings.models * self._each :]
        rest = {REST: join_rows([parts[atom] for atom in left])} if left else {}
        common = {name: parts[name] for name in (SHARED, CONTROL, VALIDATION) if len(parts[name])}
        return {name: _without_canaries(rows) for name, rows in {**own, **rest, **common}.items()}

    @property
    def atoms(self) -> tuple[str, ...]:
        """The names of the small parts."""
        return self.made.models

    def own(self, name: str) -> tuple[str, ...]:
        """The small parts that one model alone has."""
        place = self.settings.names.index(name) * self._each
        return self.atoms[place : place + self._each]

    def of_fixed(self, number: int) -> list[tuple[str, ...]]:
        """The small parts of each of so many models where the total is fixed."""
        each = (self.settings.total - self.settings.shared) // number // self.settings.atom
        return [self.atoms[i * each : (i + 1) * each] for i in range(number)]

    def trained_on(self, names: Sequence[str]) -> Rows:
        """What a model reads that has the rows of these: their own and the shared ones."""
        return self.made.trained_on(*(atom for name in names for atom in self.own(name)))

    @property
    def _each(self) -> int:
        return self.settings.own // self.settings.atom


def read_corpus(settings: MemorizationStudy, say: Say) -> Corpus:
    """Read the articles, pretrain or open the base, and divide the articles.

    Articles that are near-duplicates of each other go the same way: to pretraining or to the study, and there to one part.

    Raises:
        InputError: no such data or base, or articles too few for the study.
    """
    texts = _articles_of(settings)
    # The same groups for any seed of the study, and so the same halves.
    groups = near_duplicates(texts) if settings.near_duplicates else np.arange(len(texts))
    base, private = _base_of(settings, texts, groups, say)
    load_language_model(base)  # one that lacks tensors, or whose tokenizer does not fit, is refused before there is a run
    reader = read_text_reader(base, str(settings.base or base))
    _require_kind(settings, reader)
    articles, window = [texts[i] for i in private], min(settings.block, reader.window or settings.block)
    if settings.recipe and not settings.rows:
        settings = replace(settings, rows=_rows_there_are(settings, reader, articles, window))
    made = _divided(
        settings, articles, reader, block=None if reader.masked else window, window=window if reader.masked else None,
        groups=groups[private],
    )  # fmt: skip
    return Corpus(settings, base, made, reader, window)


def _divided(settings: MemorizationStudy, texts: Sequence[str], reader: TextReader, **layout: Any) -> MemorizationData:
    """The articles in parts; where they are too few, the message speaks of models, and says which options ask for how many."""
    sizes: dict[str, Any] = {"shared": settings.shared, "control": settings.control, "validation": settings.validation}
    try:
        return make_memorization(
            texts, reader.encode, models=settings.atoms, rows=settings.shared + settings.atom, separator=reader.separator,
            special=reader.special, tokenizer=reader.sha256, seed=settings.seed, canaries=_canaries(settings), **sizes, **layout,
        )  # fmt: skip
    except InputError as error:
        if "too few" not in error.found:
            raise
        own = settings.atoms * settings.atom
        counts = ", ".join(
            f"{count} {name}" for name, count in {**sizes, f"of {settings.models} models' own": own}.items() if count
        )
        action = f"{error.action} The options are --rows, --shared, --models, --control and --validation."
        expected = f"{own + sum(sizes.values())} rows ({counts})"
        raise InputError(error.thing, expected=expected, found=error.found, action=action) from error


def describe(corpus: Corpus) -> Record:
    """What makes the study the same when it is resumed; the parts asked for do not."""
    settings = {key: value for key, value in asdict(corpus.settings).items() if key != "parts"}
    files = open_checkpoint(corpus.base).files
    return {**settings, "base_sha256": [file_sha256(file) for file in files], "rows_sha256": corpus.made.sha256}


def record_data(run: Run, corpus: Corpus) -> None:
    """Keep the rows, and a base of the study's own, in the run; record how many rows each set has and what was left out."""
    own_base = run.path / "base"
    if corpus.settings.base is None and not own_base.is_dir():
        with atomic_directory(own_base) as partial:
            shutil.copytree(corpus.base, partial, dirs_exist_ok=True)
    directory = run.path / "data"
    if not directory.is_dir():
        with atomic_directory(directory) as partial:
            save_memorization(corpus.made, partial)
    if run.find("data") is None:
        sets = {name: {"rows": len(rows), "tokens": rows.tokens} for name, rows in corpus.sets.items()}
        carriers = sum(min(own) < 0 for part in corpus.made.parts.values() for own in part.documents)
        own = {atom: name for name in corpus.settings.names for atom in corpus.own(name)}
        canaries = [{"text": c.text, "repeats": c.repeats, "part": own.get(c.part, c.part)} for c in corpus.made.canaries]
        run.add("data", sets=sets, counts=dict(corpus.made.counts), canaries=canaries, carriers=carriers, longest=corpus.longest)


def _articles_of(settings: MemorizationStudy) -> Sequence[str]:
    if settings.data is None:
        # One text whatever the seed of the study: its base is pretrained on half of it, once.
        return list(dict.fromkeys(" ".join(pair) for pair in review_pairs(TINY_ARTICLES, seed=[0, 6])))
    return read_documents(settings.data, split=settings.split, text=settings.text)


def _base_of(settings: MemorizationStudy, texts: Sequence[str], groups: np.ndarray, say: Say) -> tuple[Path, np.ndarray]:
    """The base's directory, and the numbers of the articles that it has not read."""
    if settings.base is not None:
        return open_checkpoint(settings.base).path, np.arange(len(texts))
    # The same halves for any seed of the study: the base is made once.
    names = np.unique(groups)
    read = generator(0, "pretraining").permutation(names)[: len(names) // 2]
    known = np.isin(groups, read)
    more = [text for file in settings.pretrain for text in read_documents(file)]
    pretraining = [*(texts[i] for i in np.flatnonzero(known).tolist()), *more]
    made = replace(BASES[settings.scale], masked=settings.masked, block=settings.block)
    return cached_base(pretraining, made, say=say), np.flatnonzero(~known)


def _canaries(settings: MemorizationStudy) -> tuple[CanaryPlan, ...]:
    """Canaries in single models' rows, in the shared ones, and nowhere; none of masked models, which exposure is not for."""
    if settings.masked or not settings.canaries:
        return ()
    each = settings.own // settings.atom
    first = model_names(settings.atoms)[::each][: settings.models]
    return spread_canaries(settings.canaries, settings.repeats, first, shared=settings.shared > 0)


def _rows_there_are(settings: MemorizationStudy, reader: TextReader, articles: Sequence[str], window: int) -> int:
    """How many rows each model of a recipe can have, beside the control's and the validation's.

    Each part may lose what is left of its last article.
    """
    different = {normalised(text): text for text in articles}
    lengths = [len(ids) for ids in reader.encode(list(different.values())) if long_enough(ids, reader.special)]
    if not lengths:
        raise InputError(f"{len(articles)} articles", expected=f"some of {MIN_TOKENS} tokens or more", found="none")
    parts = settings.models + 2
    lost = parts * (1 if reader.masked else 1 + -(-max(lengths) // window))
    have = (len(lengths) if reader.masked else (sum(lengths) + len(lengths)) // window) - lost
    rows = (have - settings.control - settings.validation) // settings.models
    if rows < 1:
        needed = settings.control + settings.validation + settings.models
        raise InputError(f"{len(articles)} articles", expected=f"more than {needed} rows", found=f"{have}")
    return rows


def _require_kind(settings: MemorizationStudy, reader: TextReader) -> None:
    if reader.masked != settings.masked:
        kinds = {True: "a masked language model", False: "a decoder"}
        raise InputError(str(settings.base), expected=kinds[settings.masked], found=kinds[reader.masked])


def _without_canaries(rows: Rows) -> Rows:
    return rows.take([place for place, documents in enumerate(rows.documents) if min(documents) >= 0])
