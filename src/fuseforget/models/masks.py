"""Which tokens of a row a masked language model is asked for: the same for every model that is compared."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from fuseforget.errors import InputError, require_seed, some_names

__all__ = ["Masks", "draw_masks"]

Chunk = tuple[int, ...]


@dataclass(frozen=True)
class Masks:
    """For each row, chunks of positions, each sorted: a chunk is masked at once.

    All chunks of a row are of one size, and all rows have as many.
    """

    chunks: tuple[tuple[Chunk, ...], ...]

    def __len__(self) -> int:
        return len(self.chunks)


def draw_masks(
    rows: Sequence[Sequence[int]], *, special: Collection[int], seed: int, count: int = 10, share: float = 0.15
) -> Masks:
    """Draw chunks of positions to mask, uniformly from those of a row's ordinary tokens (paper, Eq. 16: l = ceil(0.15 T)).

    A row's masks come from the seed and the row's own tokens alone: they are the same in any set of rows and for any model of
    the same vocabulary.

    Args:
        special: tokens that are never masked (``tokenizer.all_special_ids``).
        count: chunks a row (K of Eq. 16), drawn independently.
        share: of a row's T ordinary tokens in a chunk, rounded up.

    Raises:
        InputError: a row without an ordinary token; no chunks, or a share outside ]0, 1].
    """
    require_seed(seed)
    if count < 1 or not 0 < share <= 1:
        raise InputError("masks", expected="at least 1 a row, of a share in ]0, 1]", found=f"{count} of a share of {share}")
    never = frozenset(special)
    ordinary = [[place for place, token in enumerate(row) if token not in never] for row in rows]
    empty = [str(number) for number, places in enumerate(ordinary) if not places]
    if empty:
        raise InputError(
            "rows",
            expected="at least one token that is not special in each",
            found=f"none in {len(empty)} of {len(rows)} (row {some_names(empty)})",
            action="Leave these out, and count them.",
        )
    return Masks(tuple(_chunks(row, places, seed, count, share) for row, places in zip(rows, ordinary, strict=True)))


def _chunks(row: Sequence[int], places: Sequence[int], seed: int, count: int, share: float) -> tuple[Chunk, ...]:
    digest = hashlib.sha256(f"{seed}\0".encode() + np.asarray(row, dtype="<i8").tobytes()).digest()
    rng = np.random.default_rng(int.from_bytes(digest))
    size = math.ceil(round(share * len(places), 9))  # 0.15 is no binary fraction: a whole number must stay one
    size = max(size, 1)
    drawn = (rng.choice(places, size, replace=False, shuffle=False) for _ in range(count))
    return tuple(tuple(sorted(map(int, chunk))) for chunk in drawn)
