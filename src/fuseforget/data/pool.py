"""Documents to fill parts of a corpus with: each once, in an order that a seed gives, near-duplicates together."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

from fuseforget.data.canaries import Encode
from fuseforget.data.packing import long_enough
from fuseforget.errors import InputError

__all__ = ["Pool", "make_pool", "normalised", "refuse_overlap"]

BATCH = 1024  # units for the tokenizer at once


@dataclass
class Pool:
    """What is left to take. Texts are read by the tokenizer as they are needed: a corpus may be far larger than its parts.

    Attributes:
        corpus: all texts.
        units: groups of documents (their numbers) that stay together, in the order in which they are taken.
        encode: gives each text's tokens.
        special: tokens that do not count when a document is called short.
        duplicates: texts that were left out because they are another one but for white space.
        tokens: of the documents that were looked at and are not short, by number.
        short: how many of those that were looked at are.
        taken: how many units are gone.
    """

    corpus: Sequence[str]
    units: Sequence[Sequence[int]]
    encode: Encode
    special: Collection[int]
    duplicates: int
    tokens: dict[int, list[int]] = field(default_factory=dict)
    short: int = 0
    taken: int = 0

    @property
    def documents(self) -> int:
        """How many documents there are, without those that were found to be short."""
        return sum(map(len, self.units)) - self.short

    def take(self, need: int, cost: Callable[[int], int]) -> list[int]:
        """The next documents whose costs add up to ``need`` or more; fewer where there are no more.

        What is not needed of the last unit is gone too: it could be in no other part.
        """
        found: list[int] = []
        while need > 0 and self.taken < len(self.units):
            if self.taken % BATCH == 0:
                self._look_at(self.units[self.taken : self.taken + BATCH])
            for number in self.units[self.taken]:
                if number not in self.tokens:
                    self.short += 1
                elif need > 0:
                    found.append(number)
                    need -= cost(number)
            self.taken += 1
        return found

    def _look_at(self, units: Sequence[Sequence[int]]) -> None:
        numbers = [number for unit in units for number in unit]
        encoded = self.encode([self.corpus[number] for number in numbers])
        for number, ids in zip(numbers, encoded, strict=True):
            if long_enough(ids, self.special):
                self.tokens[number] = ids


def make_pool(
    corpus: Sequence[str],
    numbers: Iterable[int],
    groups: Sequence[int],
    encode: Encode,
    *,
    special: Collection[int] = (),
    seed: int,
) -> Pool:
    """The documents with these numbers, without repetitions (but for white space).

    Where a document stands in the order depends on the seed and its own text (of a group, on all its texts) alone: neither on
    its place in the source nor on what else is there.

    Args:
        corpus: all texts.
        numbers: which of them are in the pool.
        groups: a number for each text, equal for those that stay together.
        encode: gives each text's tokens.
        special: tokens that do not count when a document is called short.
        seed: of the order.
    """
    asked = list(numbers)
    first = {normalised(corpus[number]): number for number in reversed(asked)}
    rank = {number: _rank(text, seed) for text, number in first.items()}
    units: dict[int, list[int]] = {}
    for number in sorted(rank, key=rank.__getitem__):
        units.setdefault(groups[number], []).append(number)
    return Pool(corpus, list(units.values()), encode, special, len(asked) - len(rank))


def normalised(text: str) -> str:
    """A text with every run of white space as one space: what makes two texts the same document."""
    return " ".join(text.split())


def refuse_overlap(
    texts: Sequence[str], held_out: Sequence[str], groups: Sequence[int], *, thing: str = "held-out texts"
) -> None:
    """Raise InputError when a held-out text is one of the texts, or near one.

    Args:
        texts: what models may be trained on.
        held_out: what they must not be.
        groups: numbers of all texts and then of all held-out texts, equal for near-duplicates.
        thing: what the message calls the held-out texts.
    """
    same = {normalised(text) for text in texts}
    near = set(groups[: len(texts)])
    overlap = [
        (row, text)
        for row, (text, group) in enumerate(zip(held_out, groups[len(texts) :], strict=True), 1)
        if normalised(text) in same or group in near
    ]
    if overlap:
        shown = "; ".join(f"row {row} {normalised(text)[:60]!r}" for row, text in overlap[:3])
        raise InputError(
            thing,
            expected="none that is in the corpus, or nearly",
            found=f"{len(overlap)} of {len(held_out)} ({shown}{'; ...' if len(overlap) > 3 else ''})",
            action="Remove them from one of the two.",
        )


def _rank(text: str, seed: int) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), key=seed.to_bytes(8, "little")).digest()
