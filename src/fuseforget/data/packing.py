"""From token lists to rows: documents packed into blocks, or one article a row; canaries put in, whole."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from fuseforget.data.rows import MIN_TOKENS, Rows
from fuseforget.errors import InputError

__all__ = ["Insert", "deal_inserts", "long_enough", "one_each", "pack", "pack_with", "rooms"]

NO_DOCUMENT = np.iinfo(np.int64).min  # whose token a separator is


@dataclass(frozen=True)
class Insert:
    """A short document that a block must hold whole: a canary's number and tokens."""

    number: int
    ids: tuple[int, ...]

    @property
    def room(self) -> int:
        """What it takes of a block: itself and a separator."""
        return len(self.ids) + 1


def pack(documents: Sequence[Sequence[int]], block: int, separator: int, *, numbers: Sequence[int] | None = None) -> Rows:
    """Pack documents one after the other, with a separator between two, into blocks of exactly ``block`` tokens.

    A document that a block's end cuts goes on in the next block. Documents shorter than MIN_TOKENS are left out (``short``),
    and so are the tokens at the end that fill no block (``rest``).

    Args:
        documents: each one's tokens, without special ones.
        block: how many tokens a row has.
        separator: the token that stands between two documents (end of text).
        numbers: what the documents are called in ``Rows.documents``; default: their places, from 0.

    Raises:
        InputError: a block below MIN_TOKENS.
    """
    _require_block(block)
    kept = [place for place, ids in enumerate(documents) if len(ids) >= MIN_TOKENS]
    named = kept if numbers is None else [numbers[place] for place in kept]
    chosen = [documents[place] for place in kept]
    whole = max(sum(map(len, chosen)) + len(chosen) - 1, 0) // block
    rows = pack_with([()] * whole, chosen, named, block, separator, np.random.default_rng(0))
    return Rows(rows.ids, rows.documents, short=len(documents) - len(kept), rest=rows.rest)


def one_each(
    documents: Sequence[Sequence[int]],
    limit: int | None,
    *,
    special: Collection[int] = (),
    numbers: Sequence[int] | None = None,
) -> Rows:
    """One document a row, cut to ``limit`` tokens (counted as ``cut``); documents that are short are left out (``short``).

    Args:
        documents: each one's tokens, with the special tokens that the model reads.
        limit: the model's window; None: nothing is cut.
        special: special tokens. They do not count when a document is called short, and one that ends a document ends it
            when it is cut too.
        numbers: what the documents are called in ``Rows.documents``; default: their places, from 0.

    Raises:
        InputError: a limit below MIN_TOKENS.
    """
    if limit is not None:
        _require_block(limit, "window")
    kept = [place for place, ids in enumerate(documents) if long_enough(ids, special)]
    return Rows(
        tuple(_cut(documents[place], limit, special) for place in kept),
        tuple((place if numbers is None else numbers[place],) for place in kept),
        short=len(documents) - len(kept),
        cut=sum(limit is not None and len(documents[place]) > limit for place in kept),
    )


def long_enough(ids: Sequence[int], special: Collection[int] = ()) -> bool:
    """Whether a document has MIN_TOKENS tokens besides special ones."""
    return sum(i not in special for i in ids) >= MIN_TOKENS


def deal_inserts(inserts: Sequence[Insert], rows: int, block: int, rng: np.random.Generator) -> list[tuple[Insert, ...]]:
    """Which inserts each row gets: few rows carry them all, so that the others are text alone.

    Repetitions that follow each other are in different rows, as long as there are rows; a carrier is at most two thirds
    canaries, as long as there are rows.

    Raises:
        InputError: some row cannot hold what it gets.
    """
    repeats = max(Counter(insert.number for insert in inserts).values(), default=0)
    filled = -(-3 * sum(insert.room for insert in inserts) // (2 * block))
    order = rng.permutation(rows).tolist()
    dealt, most = _deal(inserts, order[: max(repeats, filled)], rows)
    for carriers in range(max(repeats, filled) + 1, rows + 1):  # long ones may leave room that no other fits in
        if most <= block:
            break
        dealt, most = _deal(inserts, order[:carriers], rows)
    if most > block or (inserts and not rows):
        raise InputError(
            f"{len(inserts)} canaries in {rows} rows",
            expected=f"at most {block} tokens of canaries a row",
            found=f"{most} tokens in one" if rows else "no rows",
            action="Take fewer canaries or repetitions, more rows or longer blocks.",
        )
    return [tuple(row) for row in dealt]


def _deal(inserts: Sequence[Insert], carriers: Sequence[int], rows: int) -> tuple[list[list[Insert]], int]:
    """The inserts of each row, dealt over some rows in turn, and how many tokens the fullest has of them."""
    dealt: list[list[Insert]] = [[] for _ in range(rows)]
    for carrier, insert in zip(itertools.cycle(carriers), inserts, strict=False):
        dealt[carrier].append(insert)
    return dealt, max((sum(insert.room for insert in row) for row in dealt), default=0)


def rooms(dealt: Sequence[Sequence[Insert]], block: int) -> list[int]:
    """How many tokens of documents (and separators) fill each block beside its inserts."""
    return [block - sum(insert.room for insert in inserts) for inserts in dealt]


def pack_with(
    dealt: Sequence[Sequence[Insert]],
    documents: Sequence[Sequence[int]],
    numbers: Sequence[int],
    block: int,
    separator: int,
    rng: np.random.Generator,
) -> Rows:
    """Pack documents into as many blocks as ``dealt`` has entries, each with its inserts at random ends of documents.

    A block in which no document begins or ends has its inserts at its end. The documents must fill the blocks
    (:func:`rooms`); none of them is left out for being short.
    """
    ids, owners = _stream(documents, numbers, separator)
    ends = np.cumsum([0, *rooms(dealt, block)])
    rows = []
    for start, end, inserts in zip(ends[:-1], ends[1:], dealt, strict=True):
        row = ids[start:end].tolist(), owners[start:end].tolist()
        begins = start == 0 or owners[start - 1] == NO_DOCUMENT
        rows.append(_with_inserts(*row, inserts, separator, bool(begins), rng) if inserts else row)
    return Rows(
        tuple(tuple(row) for row, _ in rows),
        tuple(tuple(dict.fromkeys(number for number in own if number != NO_DOCUMENT)) for _, own in rows),
        rest=len(ids) - int(ends[-1]),
    )


def _stream(documents: Sequence[Sequence[int]], numbers: Sequence[int], separator: int) -> tuple[np.ndarray, np.ndarray]:
    """All tokens with separators between documents, and whose each token is."""
    lengths = np.array([len(ids) for ids in documents], dtype=np.int64)
    ids = np.full(max(int(lengths.sum()) + len(documents) - 1, 0), separator, dtype=np.int64)
    owners = np.full(len(ids), NO_DOCUMENT, dtype=np.int64)
    start = 0
    for tokens, number, length in zip(documents, numbers, lengths.tolist(), strict=True):
        ids[start : start + length], owners[start : start + length] = tokens, number
        start += length + 1
    return ids, owners


def _with_inserts(
    ids: list[int],
    owners: list[int],
    inserts: Sequence[Insert],
    separator: int,
    begins: bool,
    rng: np.random.Generator,
) -> tuple[list[int], list[int]]:
    """A row with its inserts, each where a document begins, or else at the row's end."""
    for insert in inserts:
        places = [0] * begins + [place for place, owner in enumerate(owners, 1) if owner == NO_DOCUMENT]
        own = [insert.number] * len(insert.ids)
        if places:
            place = int(rng.choice(places))
            ids = [*ids[:place], *insert.ids, separator, *ids[place:]]
            owners = [*owners[:place], *own, NO_DOCUMENT, *owners[place:]]
        else:
            ids, owners = [*ids, separator, *insert.ids], [*owners, NO_DOCUMENT, *own]
    return ids, owners


def _cut(ids: Sequence[int], limit: int | None, special: Collection[int]) -> tuple[int, ...]:
    if limit is None or len(ids) <= limit:
        return tuple(ids)
    return (*ids[: limit - 1], ids[-1]) if ids[-1] in special else tuple(ids[:limit])


def _require_block(block: int, what: str = "block") -> None:
    if block < MIN_TOKENS:
        raise InputError(what, expected=f"{MIN_TOKENS} tokens or more", found=str(block))
