"""The parts of a divided corpus: filled from a pool of documents one after the other, and checked when they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np

from fuseforget.data.canaries import Canary
from fuseforget.data.common import generator
from fuseforget.data.packing import Insert, deal_inserts, one_each, pack_with, rooms
from fuseforget.data.pool import Pool, normalised
from fuseforget.data.rows import MIN_TOKENS, Rows, join_rows
from fuseforget.errors import FuseForgetError, InputError

__all__ = ["Layout", "documents_of", "fill_parts", "require_separate", "stream"]


@dataclass(frozen=True)
class Layout:
    """How documents become rows."""

    block: int | None
    window: int | None
    separator: int | None
    special: frozenset[int]
    seed: int

    def fill(self, part: str, count: int, pool: Pool, inserts: Sequence[Insert]) -> Rows:
        """So many rows from the pool's next documents, or as many as there are."""
        rng = stream(self.seed, "part", part)
        if self.block is None:
            return self._articles(part, count, pool, inserts, rng)
        if self.block < MIN_TOKENS:
            raise InputError("block", expected=f"{MIN_TOKENS} tokens or more", found=str(self.block))
        if self.separator is None:
            raise InputError("separator", expected="a token to stand between packed documents", found="none")
        dealt = deal_inserts(inserts, count, self.block, rng)
        room = rooms(dealt, self.block)
        need = sum(room) + 1 if any(room) else 0  # with a separator after the last document, which there is not
        numbers = pool.take(need, lambda number: len(pool.tokens[number]) + 1)
        documents = [pool.tokens[number] for number in numbers]
        have = max(sum(map(len, documents)) + len(documents) - 1, 0)
        dealt = dealt[: sum(filled <= have for filled in accumulate(room))]
        return pack_with(dealt, documents, numbers, self.block, self.separator, rng)

    def _articles(self, part: str, count: int, pool: Pool, inserts: Sequence[Insert], rng: np.random.Generator) -> Rows:
        longest = max((len(insert.ids) for insert in inserts), default=0)
        if len(inserts) > count or (self.window is not None and longest > self.window):
            expected = f"at most {count} canaries" + ("" if self.window is None else f" of at most {self.window} tokens")
            raise InputError(f"part {part}", expected=expected, found=f"{len(inserts)}, the longest of {longest} tokens")
        numbers = pool.take(count - len(inserts), lambda number: 1)
        rows = one_each([pool.tokens[n] for n in numbers], self.window, special=self.special, numbers=numbers)
        secret = Rows(tuple(insert.ids for insert in inserts), tuple((insert.number,) for insert in inserts))
        joined = join_rows([rows, secret])
        return replace(joined.take(rng.permutation(len(joined))), cut=joined.cut)


def fill_parts(
    sizes: Mapping[str, int],
    layout: Layout,
    canaries: Sequence[Canary],
    encoded: Sequence[tuple[int, ...]],
    sources: Mapping[str, Pool],
) -> dict[str, Rows]:
    """Each part's rows, or InputError where there are too few documents."""
    parts: dict[str, Rows] = {}
    for part, size in sizes.items():
        pool = sources[part]
        inserts = [Insert(-1 - i, encoded[i]) for i, c in enumerate(canaries) if c.part == part for _ in range(c.repeats)]
        parts[part] = layout.fill(part, size, pool, inserts)
        if len(parts[part]) < size:
            asked = {name: sizes[name] for name in sizes if sources[name] is pool}
            raise _too_few(asked, sum(len(parts[name]) for name in asked if name in parts), pool)
    return parts


def require_separate(
    parts: Mapping[str, Rows],
    canaries: Sequence[Canary],
    encoded: Sequence[Sequence[int]],
    corpus: Sequence[str],
    groups: Sequence[int],
) -> None:
    """Raise unless parts are what they are said to be: no text or group in two of them, each canary where it belongs.

    Args:
        parts: what was made.
        canaries: which there are.
        encoded: the canaries' tokens.
        corpus: the texts, by number.
        groups: a number for each text, equal for near-duplicates.
    """
    owner: dict[str | int, str] = {}
    for part, rows in parts.items():
        for number in documents_of(rows):
            for what in (normalised(corpus[number]), groups[number]) if number >= 0 else ():
                if owner.setdefault(what, part) != part:
                    raise _wrong(f"document {number}", f"only in {owner[what]}", f"in {part} too")
    for i, canary in enumerate(canaries):
        for part, rows in parts.items():
            found = sum(_occurrences(ids, encoded[i]) for ids, own in zip(rows.ids, rows.documents, strict=True) if -1 - i in own)
            wanted = canary.repeats if part == canary.part else 0
            if found != wanted:
                raise _wrong(f"canary {canary.text!r}", f"{wanted} times in {part}", f"{found}")


def documents_of(rows: Rows) -> tuple[int, ...]:
    """The documents that rows have tokens of, canaries too, in order of appearance."""
    return tuple(dict.fromkeys(number for row in rows.documents for number in row))


def stream(seed: int, *names: str) -> np.random.Generator:
    """A stream of a corpus's own for each use."""
    return generator(seed, "memorization", *names)


def _too_few(asked: Mapping[str, int], found: int, pool: Pool) -> InputError:
    total = sum(asked.values())
    return InputError(
        f"{pool.documents} texts",
        expected=f"{total} rows ({', '.join(f'{count} {name}' for name, count in asked.items() if count)})",
        found=f"{found} rows, {total - found} too few",
        action=f"Ask for fewer, or give more texts ({pool.duplicates} are repetitions and {pool.short} too short).",
    )


def _occurrences(ids: Sequence[int], wanted: Sequence[int]) -> int:
    return sum(ids[i : i + len(wanted)] == tuple(wanted) for i in range(len(ids) - len(wanted) + 1))


def _wrong(thing: str, expected: str, found: str) -> FuseForgetError:
    return FuseForgetError(thing, expected=expected, found=found, action="This is an error in fuseforget: please report it.")
