"""INLP: iterative nullspace projection (Ravfogel et al. 2020)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from fuseforget.erasure.basis import Basis
from fuseforget.erasure.checks import Codes, Features, require_concepts, require_features, require_l2
from fuseforget.erasure.eraser import Eraser
from fuseforget.erasure.head import Head
from fuseforget.erasure.logistic import Fitted, Remaining
from fuseforget.errors import InputError

__all__ = ["Inlp", "Step", "fit_inlp"]

Classifier = Callable[[Features, Codes], Head]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Step:
    """One classifier of INLP.

    Attributes:
        attribute: what it was fitted to.
        accuracy: how well it predicted that from what the steps before had left, 0 to 1.
        majority: the accuracy of the attribute's most frequent value.
        rank: how many dimensions were gone after this step.
    """

    attribute: str
    accuracy: float
    majority: float
    rank: int


@dataclass(frozen=True, eq=False)
class Inlp:
    """What INLP found.

    Attributes:
        eraser: the projection onto what all classifiers left.
        steps: the classifiers in their order.
        basis: what they took away, dimensions x rank, orthonormal.
        ended: why there are fewer classifiers than asked for; nothing where there are not.
    """

    eraser: Eraser
    steps: tuple[Step, ...]
    basis: npt.NDArray[np.float64]
    ended: str = ""

    def first(self, classifiers: int) -> Eraser:
        """The eraser that the first so many classifiers make: INLP with fewer, without fitting it again.

        Raises:
            InputError: fewer than one, or more than there are.
        """
        if not 1 <= classifiers <= len(self.steps):
            raise InputError("classifiers", expected=f"1 to {len(self.steps)}", found=str(classifiers))
        kept = self.basis[:, : self.steps[classifiers - 1].rank]
        about = {**self.eraser.about, "classifiers": classifiers}
        return replace(self.eraser, left=kept, right=kept.T.copy(), about=about)


def fit_inlp(
    features: npt.ArrayLike,
    concepts: Mapping[str, npt.ArrayLike],
    *,
    classifiers: int = 200,
    l2: float = 1.0,
    classifier: Classifier | None = None,
    say: Say = lambda line: None,
) -> Inlp:
    """Fit linear classifiers of the attributes one after another, each to what is left without what those before it read.

    Several attributes take turns, so that ``classifiers`` counts all. An attribute of k values has a softmax classifier, which
    reads k - 1 directions. Nothing in it is random.

    Args:
        features: examples x dimensions.
        concepts: by attribute, a code an example (whole numbers from 0).
        l2: the weight of half the squared norm of a classifier's weights beside the summed loss (scikit-learn's 1 / C).
        classifier: another way to a classifier, from the features that are left (float64) and the codes.
        say: called with a line of progress.

    Raises:
        InputError: features that are no finite numbers, fewer than two; an attribute of another length or with one value alone.
    """
    x = require_features(features)
    checked = require_concepts(concepts, len(x))
    require_l2(l2)
    if classifiers < 1:
        raise InputError("classifiers", expected="1 or more", found=str(classifiers))
    remaining = Remaining(x, l2) if classifier is None else _Projected(x, classifier)
    steps, ended = _take_turns(remaining, checked, classifiers, say)
    basis = remaining.basis
    about = {"classifiers": len(steps), "n": len(x), "l2": l2}
    eraser = Eraser(basis, basis.T.copy(), np.zeros(x.shape[1]), "inlp", tuple(checked), about)
    return Inlp(eraser, tuple(steps), basis, ended)


def _take_turns(
    remaining: Remaining | _Projected, concepts: Mapping[str, Codes], classifiers: int, say: Say
) -> tuple[list[Step], str]:
    """Fit and take away in turns, until there are enough classifiers, no dimension is left, or none that tells anything."""
    names = list(concepts)
    majority = {name: float(np.bincount(codes).max() / len(codes)) for name, codes in concepts.items()}
    steps: list[Step] = []
    unread = 0  # attributes in a row of which nothing could be read
    while len(steps) < classifiers and remaining.left and unread < len(names):
        name = names[len(steps) % len(names)]
        fitted = remaining.fit(concepts[name])
        unread = 0 if remaining.remove(fitted) else unread + 1
        steps.append(Step(name, fitted.accuracy, majority[name], remaining.rank))
        slow = "" if fitted.converged else f", not converged in {fitted.iterations} iterations"
        say(f"classifier {len(steps)} of {name}: accuracy {fitted.accuracy:.3f} (majority {majority[name]:.3f}){slow}")
    if len(steps) == classifiers:
        return steps, ""
    reason = "nothing of the attributes is left to read" if unread else "no dimension is left"
    ended = f"{len(steps)} of {classifiers} classifiers: {reason} after {remaining.rank} dimensions"
    say(ended)
    return steps, ended


class _Projected:
    """The same as :class:`Remaining` for classifiers from elsewhere, which must see features without what was taken away."""

    def __init__(self, features: Features, classifier: Classifier) -> None:
        self._x = features.astype(np.float64)
        self._classifier = classifier
        self._removed = Basis(features.shape[1])

    @property
    def rank(self) -> int:
        return self._removed.rank

    @property
    def left(self) -> int:
        return int(self._x.shape[1] - self.rank)

    @property
    def basis(self) -> npt.NDArray[np.float64]:
        return np.ascontiguousarray(self._removed.vectors)

    def fit(self, codes: Codes) -> Fitted:
        head = self._classifier(self._x, codes)
        return Fitted(_row_space(head.weight), head.accuracy(self._x, codes), 0, True)

    def remove(self, fitted: Fitted) -> int:
        new = self._removed.add(fitted.weight)
        # Only what is new is taken away: what went before is gone from the features that are kept here.
        self._x -= (self._x @ new) @ new.T
        return int(new.shape[1])


def _row_space(weight: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Weights without what all labels share, which no prediction depends on."""
    return np.asarray(weight - weight.mean(axis=0))
