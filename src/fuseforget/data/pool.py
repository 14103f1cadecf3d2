"""Documents to fill parts of a corpus with: each once, in an order that a seed gives, near-duplicates together."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from fuseforget.data.canaries import Encode
from fuseforget.data.packing import long_enough
from fuseforget.errors import InputError

__all__ = ["Pool", "make_pool", "normalised", "refuse_overlap"]


@dataclass
class Pool:
    """What is left to take.

    Attributes:
        tokens: each document's tokens, by number.
        units: groups of documents that stay together, in the order in which they are taken.
        duplicates: texts that were left out because they are another one but for white space.
        short: texts that were left out because they have too few tokens.
        taken: how many units are gone.
    """

    tokens: Mapping[int, Sequence[int]]
    units: list[list[int]]
    duplicates: int
    short: int
    taken: int = 0

    def take(self, need: int, cost: Callable[[int], int]) -> list[int]:
        """The next documents whose costs add up to ``need`` or more; fewer where there are no more.

        What is not needed of the last unit is gone too: it could be in no other part.
        """
        found: list[int] = []
        while need > 0 and self.taken < len(self.units):
            for number in self.units[self.taken]:
                if need > 0:
                    found.append(number)
                    need -= cost(number)
            self.taken += 1
        return found


def make_pool(
    corpus: Sequence[str],
    numbers: Iterable[int],
    groups: Sequence[int],
    encode: Encode,
    *,
    special: Collection[int] = (),
    seed: int,
) -> Pool:
    """The documents with these numbers, without repetitions (but for white space) and without short ones.

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
    kept = sorted(first.values())
    encoded = encode([corpus[number] for number in kept]) if kept else []
    tokens = {number: ids for number, ids in zip(kept, encoded, strict=True) if long_enough(ids, special)}
    rank = {number: _rank(corpus[number], seed) for number in tokens}
    units: dict[int, list[int]] = {}
    for number in sorted(tokens, key=rank.__getitem__):
        units.setdefault(groups[number], []).append(number)
    return Pool(tokens, list(units.values()), len(asked) - len(kept), len(kept) - len(tokens))


def normalised(text: str) -> str:
    """A text with every run of white space as one space: what makes two texts the same document."""
    return " ".join(text.split())


def refuse_overlap(texts: Sequence[str], held_out: Sequence[str], groups: Sequence[int]) -> None:
    """Raise InputError when a held-out text is one of the texts, or near one.

    Args:
        texts: what models may be trained on.
        held_out: what they must not be.
        groups: numbers of all texts and then of all held-out texts, equal for near-duplicates.
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
            "held-out texts",
            expected="none that is in the corpus, or nearly",
            found=f"{len(overlap)} of {len(held_out)} ({shown}{'; ...' if len(overlap) > 3 else ''})",
            action="Remove them from one of the two.",
        )


def _rank(text: str, seed: int) -> bytes:
    return hashlib.blake2b(normalised(text).encode("utf-8", "surrogatepass"), key=seed.to_bytes(8, "little")).digest()
