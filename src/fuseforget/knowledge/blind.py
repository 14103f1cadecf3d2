"""The blind baseline: whether members can be told from non-members without any model.

If a bag of words tells them apart, the two differ in what they are about, not only in having been trained on, and an attack's
numbers on them mean little (Das et al. 2024, Duan et al. 2024; the bag of words as in Meeus et al. 2025).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fuseforget.errors import InputError
from fuseforget.knowledge.roc import roc_auc
from fuseforget.knowledge.statistics import Interval

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["Blind", "blind_baseline"]

Row = str | Sequence[int]
Labels = npt.NDArray[np.int64]
Rows = npt.NDArray[np.bool_]
Scores = npt.NDArray[np.float64]
ENOUGH = 10  # permutations as good as the truth after which no more are needed


@dataclass(frozen=True)
class Blind:
    """What a bag of words tells of membership.

    Attributes:
        auc: of scores out of fold; .5 is chance. Its interval resamples the rows and leaves the classifiers as they are, for
            which it is somewhat narrow: what tells is the p-value.
        p: the one-sided p-value that members do not differ from non-members, by permutation with the classifiers fitted anew.
        folds: how many.
        words: how many different words or tokens there are.
    """

    auc: Interval
    p: float
    folds: int
    words: int

    @property
    def leaks(self) -> bool:
        """Whether the split itself tells members from non-members beyond chance (p < .05)."""
        return self.p < 0.05


@dataclass(frozen=True)
class _Fold:
    """Rows to score, and those to fit on, of all; and the features of both."""

    held: Rows
    kept: Rows
    scored: csr_matrix
    fitted: csr_matrix


def blind_baseline(
    members: Sequence[Row],
    non_members: Sequence[Row],
    *,
    documents: tuple[Sequence[Collection[int]], Sequence[Collection[int]]] | None = None,
    folds: int = 5,
    permutations: int = 199,
    seed: int = 0,
) -> Blind:
    """Tell members from non-members by a logistic regression on their words, cross-fitted.

    The features are ``log(1 + count)`` of each word (token), each row scaled to length 1; the regression has scikit-learn's L2
    penalty. Every row is scored by a classifier that was fitted without it; scores are ranked in each fold, for those of
    different classifiers have no common scale.

    Scores of folds whose classifiers share their training rows are not independent, and a test of the AUC alone finds a leak too
    often. So labels are permuted in each fold and all is fitted anew, until ten permutations are as good as the truth
    (Besag and Clifford 1991) or all are done.

    Rows are taken as independent: of a packed corpus give the articles rather than the blocks.

    Args:
        members, non_members: rows, either texts (split into words) or token ids.
        documents: the numbers of the documents that each row has tokens of, of both. Rows that share one are then never on both
            sides of a fit: half an article would give away where the other half is, which is no leak.

    Raises:
        InputError: fewer than two rows a fold on a side, texts and token ids together, no words, documents for other rows, or
            so connected by documents that a fold leaves nothing to fit.
    """
    sides = [list(members), list(non_members)]
    if folds < 2 or min(len(side) for side in sides) < 2 * folds:
        found = f"{len(sides[0])} and {len(sides[1])} in {folds} folds"
        raise InputError("blind baseline", expected="members and non-members, two of each a fold, two folds", found=found)
    features = _bags([*sides[0], *sides[1]])
    labels = np.repeat(np.array([1, 0]), [len(side) for side in sides])
    shared = None if documents is None else _document_numbers(documents, sides)
    rng = np.random.default_rng([seed, len(sides[0]), len(sides[1])])
    parts = np.concatenate([rng.permutation(len(side)) % folds for side in sides])
    split = [_fold(features, labels, parts == number, shared) for number in range(folds)]
    ranks = _out_of_fold(split, labels)
    auc = roc_auc(ranks[labels == 1], ranks[labels == 0], seed=seed)
    p = _permuted_p(split, labels, float(ranks[labels == 1].sum()), permutations, rng)
    return Blind(Interval(auc.value, auc.low, auc.high, auc.n), p, folds, features.shape[1])


def _bags(rows: Sequence[Row]) -> csr_matrix:
    """``log(1 + count)`` of the words of each row, scaled to length 1: rows x words."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.preprocessing import normalize

    texts = {isinstance(row, str) for row in rows}
    if len(texts) != 1:
        raise InputError("rows of the blind baseline", expected="all texts or all token ids", found="both")
    # Token ids are words already.
    split = {} if texts.pop() else {"analyzer": list}
    try:
        counts = CountVectorizer(dtype=np.float64, **split).fit_transform(rows)
    except ValueError as error:
        raise InputError("rows of the blind baseline", expected="some words", found=str(error)) from error
    return normalize(counts.log1p())


def _document_numbers(
    documents: tuple[Sequence[Collection[int]], Sequence[Collection[int]]], sides: Sequence[Sequence[Row]]
) -> csr_matrix:
    """Which row has tokens of which document, rows x documents."""
    from scipy.sparse import csr_matrix

    lengths = [len(side) for side in documents], [len(side) for side in sides]
    if lengths[0] != lengths[1]:
        raise InputError("documents of the rows", expected=f"one set for each of {lengths[1]} rows", found=str(lengths[0]))
    numbers = [set(row) for side in documents for row in side]
    places = np.repeat(np.arange(len(numbers)), [len(row) for row in numbers])
    known, columns = np.unique([number for row in numbers for number in row], return_inverse=True)
    return csr_matrix((np.ones(len(columns)), (places, columns)), shape=(len(numbers), len(known)))


def _fold(features: csr_matrix, labels: Labels, held: Rows, shared: csr_matrix | None) -> _Fold:
    kept = ~held
    if shared is not None:
        kept &= shared @ (shared.T @ held.astype(np.float64)) == 0
    if len(set(labels[kept])) < 2:
        raise InputError(
            "blind baseline",
            expected="members and non-members that share no document with those in a fold",
            found=f"{np.sum(labels[kept])} and {np.sum(1 - labels[kept])}",
            action="Use more folds, or rows of fewer documents.",
        )
    return _Fold(held, kept, features[held], features[kept])


def _out_of_fold(split: Sequence[_Fold], labels: Labels) -> Scores:
    """Each row's rank in its fold, as a share of the fold, by a classifier that was fitted without the fold."""
    from scipy.stats import rankdata
    from sklearn.linear_model import LogisticRegression

    ranks = np.empty(len(labels))
    for fold in split:
        model = LogisticRegression(solver="liblinear", random_state=0).fit(fold.fitted, labels[fold.kept])
        ranks[fold.held] = (rankdata(fold.scored @ model.coef_[0]) - 0.5) / fold.scored.shape[0]
    return ranks


def _permuted_p(split: Sequence[_Fold], labels: Labels, found: float, permutations: int, rng: np.random.Generator) -> float:
    """How often the members of permuted labels are ranked as high in sum, of the truth and the permutations together."""
    as_high = 0
    for number in range(1, permutations + 1):
        permuted = labels.copy()
        for fold in split:
            permuted[fold.held] = rng.permutation(labels[fold.held])
        # What cannot be fitted counts against a leak.
        fittable = all(len(set(permuted[fold.kept])) == 2 for fold in split)
        as_high += not fittable or bool(_out_of_fold(split, permuted)[permuted == 1].sum() >= found - 1e-9)
        if as_high == ENOUGH:
            return as_high / number
    return (1 + as_high) / (1 + permutations)
