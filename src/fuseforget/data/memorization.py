"""Private corpora for measuring memorization: models' own parts, a shared one, controls, validation, and canaries.

Zaman et al. 2023, section 6 and appendix E: subsets of a corpus, part of them shared, one for each model, of a fixed size a
model (Table 2, 5) or of a fixed size of all together (Fig. 11, 12). A document, or a group of near-duplicates, is in one part
only. Documents have an order that the seed and their own text give, and parts are filled in this order, one after the other:
shared, control, validation, A, B, C, ...; so parts made for two models are those made for four, as far as there are any.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, product
from typing import Any

import numpy as np

from fuseforget.data.canaries import NOWHERE, Canary, CanaryPlan, Encode, draw_canaries, encode_canaries
from fuseforget.data.parts import Layout, documents_of, fill_parts, require_separate, stream
from fuseforget.data.pool import Pool, make_pool, refuse_overlap
from fuseforget.data.rows import Rows, join_rows
from fuseforget.errors import InputError, require_seed

__all__ = ["MemorizationData", "make_memorization", "model_names"]

OTHER_PARTS = ("shared", "control", "validation")


@dataclass(frozen=True)
class MemorizationData:
    """A corpus in parts.

    Attributes:
        parts: rows by part: "shared", "control", "validation", and one of each model, "A", "B", ....
        canaries: number i is document -1 - i of the rows.
        settings: what it was made with; ``texts`` is the number of the source's texts: documents numbered from there on are
            the held-out texts.
        counts: what was left out: ``duplicates`` (texts that are another but for white space), ``short`` (texts of
            fewer than MIN_TOKENS tokens, among those that were looked at until all parts were full), ``cut`` (rows),
            ``left_over`` (other documents in no part), ``rest`` (tokens of documents that a part's end cut off), ``undealt``
            (rows of the total that the models could not share evenly).
        texts: each row's text by part, where a row is one article.
    """

    parts: Mapping[str, Rows]
    canaries: tuple[Canary, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the models, which their own parts have too."""
        return tuple(name for name in self.parts if name not in OTHER_PARTS)

    @property
    def documents(self) -> dict[str, tuple[int, ...]]:
        """The documents that each part has tokens of, canaries too, in order of appearance."""
        return {name: documents_of(part) for name, part in self.parts.items()}

    @property
    def sha256(self) -> dict[str, str]:
        """A digest of each part's rows."""
        return {name: part.sha256 for name, part in self.parts.items()}

    def trained_on(self, *models: str) -> Rows:
        """What one model reads, its own part and the shared one; or what one reads that is trained on several's parts at once.

        In an order that the seed gives.

        Raises:
            InputError: no such model, none at all, or one twice.
        """
        unknown = [name for name in models if name not in self.models]
        if unknown or not models or len(set(models)) < len(models):
            raise InputError("models", expected=f"some of {', '.join(self.models)}", found=", ".join(models) or "none")
        joined = join_rows([*(self.parts[name] for name in models), self.parts["shared"]])
        return joined.take(stream(self.settings["seed"], "order", *models).permutation(len(joined)))

    @property
    def all(self) -> Rows:
        """What the full model reads: every model's part and the shared one, once."""
        return self.trained_on(*self.models)


def make_memorization(
    texts: Sequence[str],
    encode: Encode,
    *,
    models: int,
    rows: int | None = None,
    total: int | None = None,
    shared: int,
    control: int,
    validation: int,
    block: int | None,
    separator: int | None = None,
    window: int | None = None,
    seed: int = 0,
    groups: Sequence[int] | np.ndarray | None = None,
    held_out: Sequence[str] | None = None,
    canaries: Sequence[CanaryPlan] = (),
    special: Collection[int] = (),
    tokenizer: str = "",
) -> MemorizationData:
    """Divide a corpus.

    Args:
        texts: the documents.
        encode: gives each text's tokens, as the models read them: with special tokens for masked models, else without.
        models: how many there are.
        rows: what each model reads, shared rows included; or
        total: what all read together, shared rows once: each gets an equal number of the others, and fewer than ``models``
            rows that remain are left out.
        shared: rows that every model reads.
        control: rows that none reads, drawn as the others are: the non-members.
        validation: rows for perplexity and thresholds, that none reads.
        block: tokens a row, documents packed; None: one article a row.
        separator: the token between two packed documents (end of text); not needed where rows are articles.
        window: to how many tokens articles are cut; None: not at all.
        seed: of everything random.
        groups: a number for each text, equal for texts that are to be in one part (near-duplicates). Where there are
            held-out texts, theirs follow those of ``texts``.
        held_out: texts of their own to validate on.
        canaries: what is put in; documents of their own, each time whole. Rows are counted with their canaries.
        special: special tokens that ``encode`` adds.
        tokenizer: a digest of the tokenizer, kept with the data.

    Raises:
        InputError: sizes that cannot be, too few documents (with the rows that are missing), held-out texts that are in
            ``texts`` (with examples), canaries that fit in no row or that the tokenizer does not read in two parts.
    """
    require_seed(seed)
    sizes, undealt = _sizes(models, rows, total, shared, control, validation)
    numbers = _group_numbers(groups, len(texts), len(held_out or ()))
    if held_out is not None:
        refuse_overlap(texts, held_out, numbers)
    drawn = _draw(canaries, sizes, seed)
    encoded = encode_canaries(drawn, encode, special)
    corpus = [*texts, *(held_out or ())]
    pool, other = _pools(corpus, len(texts), held_out is not None, numbers, encode, special, seed)
    layout = Layout(block, window, separator, frozenset(special), seed)
    parts = fill_parts(sizes, layout, drawn, encoded, {name: other if name == "validation" else pool for name in sizes})
    pools = [pool] if other is pool else [pool, other]
    used = {number for part in parts.values() for number in documents_of(part) if number >= 0}
    data = MemorizationData(
        parts=parts,
        canaries=drawn,
        settings={
            "models": models, "rows": rows, "total": total, "shared": shared, "control": control, "validation": validation,
            "block": block, "window": window, "separator": separator, "seed": seed, "texts": len(texts),
            "held_out": None if held_out is None else len(held_out), "near_duplicates": groups is not None,
            "tokenizer": tokenizer,
        },
        counts={
            "duplicates": sum(one.duplicates for one in pools),
            "short": sum(one.short for one in pools),
            "cut": sum(part.cut for part in parts.values()),
            "left_over": sum(one.documents for one in pools) - len(used),
            "rest": sum(part.rest for part in parts.values()),
            "undealt": undealt,
        },
        texts={} if block is not None else {name: _texts_of(part, corpus, drawn) for name, part in parts.items()},
    )  # fmt: skip
    require_separate(parts, drawn, encoded, corpus, numbers)
    return data


def model_names(count: int) -> tuple[str, ...]:
    """A, B, ..., Z, AA, AB, ...: what models and their own parts are called."""
    names = ("".join(letters) for length in itertools.count(1) for letters in product(string.ascii_uppercase, repeat=length))
    return tuple(islice(names, count))


def _pools(
    corpus: Sequence[str],
    texts: int,
    apart: bool,
    groups: Sequence[int],
    encode: Encode,
    special: Collection[int],
    seed: int,
) -> tuple[Pool, Pool]:
    """The documents for all parts, and those for validation: the same, or the held-out ones apart."""
    pool = make_pool(corpus, range(texts), groups, encode, special=special, seed=seed)
    if not apart:
        return pool, pool
    return pool, make_pool(corpus, range(texts, len(corpus)), groups, encode, special=special, seed=seed)


def _sizes(
    models: int, rows: int | None, total: int | None, shared: int, control: int, validation: int
) -> tuple[dict[str, int], int]:
    """How many rows each part has, in the order in which they are filled; and how many of the total remain."""
    counts = {"shared": shared, "control": control, "validation": validation}
    for name, count in {"models": models, **counts}.items():
        if count < (name == "models"):
            raise InputError(name, expected="one or more" if name == "models" else "0 or more", found=str(count))
    if (rows is None) == (total is None):
        found = "neither" if rows is None else "both"
        raise InputError("size of the parts", expected="rows (a model's) or total (all models')", found=found)
    own, undealt = (rows - shared, 0) if rows is not None else divmod((total or 0) - shared, models)
    if own < 1:
        least = shared + (1 if rows is not None else models)
        thing = "rows" if rows is not None else "total"
        raise InputError(thing, expected=f"{least} or more, {shared} of them shared", found=str(rows if total is None else total))
    return {**counts, **dict.fromkeys(model_names(models), own)}, undealt


def _group_numbers(groups: Sequence[int] | np.ndarray | None, texts: int, held_out: int) -> list[int]:
    """A number for each text and held-out text; its own where there are no groups."""
    numbers = list(range(texts + held_out)) if groups is None else [int(number) for number in groups]
    if len(numbers) != texts + held_out:
        raise InputError(
            "groups", expected=f"a number for each of {texts} texts and {held_out} held-out ones", found=str(len(numbers))
        )
    return numbers


def _draw(plans: Sequence[CanaryPlan], sizes: Mapping[str, int], seed: int) -> tuple[Canary, ...]:
    allowed = [name for name in sizes if name not in ("control", "validation")]
    drawn: list[Canary] = []
    for plan in plans:
        if plan.part not in (*allowed, NOWHERE):
            raise InputError("part of canaries", expected=f"one of {', '.join([*allowed, NOWHERE])}", found=plan.part)
        words = {canary.word for canary in drawn}
        drawn += draw_canaries(plan.format, plan.count, plan.part, plan.repeats, seed, taken=words)
    return tuple(drawn)


def _texts_of(rows: Rows, corpus: Sequence[str], canaries: Sequence[Canary]) -> tuple[str, ...]:
    return tuple(corpus[number] if number >= 0 else canaries[-1 - number].text for (number,) in rows.documents)
