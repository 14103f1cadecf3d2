"""Near-duplicates: which texts say so much the same that having read one of them is having read the other."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence

import numpy as np

from fuseforget.errors import InputError, require_seed

__all__ = ["near_duplicates"]

MISSED = 1e-3  # of the pairs at the threshold, at most; above it fewer
LOWEST = 0.1  # of thresholds: texts that share less are compared with half of the corpus


def near_duplicates(
    texts: Sequence[str], *, threshold: float = 0.8, seed: int = 0, words: int = 5, permutations: int = 128
) -> np.ndarray:
    """Group texts that are near-duplicates, or linked by a chain of them.

    Two texts are when the sets of their runs of ``words`` words (lower case, without punctuation) have a Jaccard similarity of
    ``threshold`` or more. Pairs to compare are found by MinHash and locality-sensitive hashing (Broder 1997; datasketch), so
    that of the pairs at the threshold at most one in 1,000 is missed (one in 20,000 as it stands), and fewer above it; what is
    found is compared exactly.

    Args:
        texts: n texts. One with fewer words is compared as a whole.
        threshold: from 0.1 to 1.
        seed: of the hash functions.
        words: how long the runs are.
        permutations: how many hash functions.

    Returns:
        n integers, equal for texts of one group: the place of its first text.

    Raises:
        InputError: a threshold, a length or a number that cannot be, or datasketch is not installed.
    """
    require_seed(seed)
    if not LOWEST <= threshold <= 1:
        raise InputError("threshold of near-duplicates", expected=f"{LOWEST} to 1", found=str(threshold))
    if words < 1:
        raise InputError("words of near-duplicates", expected="one or more", found=str(words))
    rows = _rows_a_band(threshold, permutations)
    shingles = [_shingles(text, words) for text in texts]
    groups = np.arange(len(texts))
    firsts: dict[Hashable, int] = {}
    for i, shingle in enumerate(shingles):
        groups[i] = firsts.setdefault(shingle, i)
    for i, j in _candidates(shingles, list(firsts.values()), rows, permutations, seed):
        a, b = _root(groups, i), _root(groups, j)
        if a != b and _jaccard(shingles[i], shingles[j]) >= threshold:
            groups[max(a, b)] = min(a, b)
    return np.array([_root(groups, i) for i in range(len(texts))], dtype=np.int64)


def _rows_a_band(threshold: float, permutations: int) -> int:
    """The longest bands (the fewest pairs to compare) that miss so few of the pairs at the threshold."""
    for rows in range(permutations // 2, 0, -1):
        if (1 - threshold**rows) ** (permutations // rows) <= MISSED:
            return rows
    expected = f"enough of them to find pairs as alike as {threshold}"
    raise InputError("permutations of near-duplicates", expected=expected, found=str(permutations))


def _shingles(text: str, words: int) -> frozenset[str]:
    found = re.findall(r"\w+", text.lower())
    if len(found) < words:
        return frozenset([" ".join(found or text.split())])
    return frozenset(" ".join(found[i : i + words]) for i in range(len(found) - words + 1))


def _candidates(
    shingles: Sequence[frozenset[str]], places: Sequence[int], rows: int, permutations: int, seed: int
) -> list[tuple[int, int]]:
    """Pairs that share a band of their MinHash signatures."""
    try:
        from datasketch import MinHash, MinHashLSH
    except ModuleNotFoundError as error:
        raise InputError(
            "near-duplicates", expected="the package datasketch", found="none", action="Install it: pip install datasketch."
        ) from error

    lsh = MinHashLSH(num_perm=permutations, params=(permutations // rows, rows))
    # Sorted: a set's order changes from one process to the next.
    encoded = ([shingle.encode("utf-8", "surrogatepass") for shingle in sorted(shingles[place])] for place in places)
    pairs: list[tuple[int, int]] = []
    for place, minhash in zip(places, MinHash.generator(encoded, num_perm=permutations, seed=seed), strict=True):
        pairs += [(other, place) for other in sorted(lsh.query(minhash))]
        lsh.insert(place, minhash, check_duplication=False)
    return pairs


def _jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared)


def _root(groups: np.ndarray, i: int) -> int:
    """The first text of the group that a text is in so far; ways there are made shorter."""
    root = i
    while groups[root] != root:
        root = int(groups[root])
    while groups[i] != root:
        groups[i], i = root, int(groups[i])
    return root
