"""Linear classifiers of features: the head of a task fitted again, and what can still be read of an attribute."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fuseforget.erasure.checks import Codes, Features, require_codes, require_features, require_l2
from fuseforget.errors import FuseForgetError, InputError

__all__ = ["Head", "Readable", "fit_head", "readable"]

MAX_ITERATIONS = 10_000


@dataclass(frozen=True, eq=False)
class Head:
    """A linear classifier: the logits of x are weight x + bias.

    Attributes:
        weight: labels x dimensions.
        bias: labels; zeros where it was fitted without.
    """

    weight: npt.NDArray[np.float64]
    bias: npt.NDArray[np.float64]

    def logits(self, features: Features) -> npt.NDArray[np.float64]:
        """Logits, examples x labels."""
        found: npt.NDArray[np.float64] = np.asarray(features, dtype=np.float64) @ self.weight.T + self.bias
        return found

    def predict(self, features: Features) -> Codes:
        """The label of the largest logit, an example."""
        return np.asarray(self.logits(features).argmax(axis=1), dtype=np.int64)

    def accuracy(self, features: Features, labels: npt.ArrayLike) -> float:
        """The share of the examples whose label it predicts, 0 to 1."""
        return float(np.mean(self.predict(features) == np.asarray(labels)))


@dataclass(frozen=True)
class Readable:
    """How well a fresh linear classifier reads an attribute from features.

    Attributes:
        accuracy: on the features that it was fitted to, 0 to 1.
        majority: the accuracy of saying the most frequent value always; what erasure should come down to.
        held_out: the accuracy on other features, or None.
        held_out_majority: that of saying there the value that was most frequent in fitting.
    """

    accuracy: float
    majority: float
    held_out: float | None = None
    held_out_majority: float | None = None


def fit_head(
    features: npt.ArrayLike, labels: npt.ArrayLike, *, l2: float = 1.0, bias: bool = True, count: int | None = None
) -> Head:
    """Fit a logistic regression (softmax where there are more than two labels) by scikit-learn; nothing in it is random.

    Args:
        features: examples x dimensions.
        labels: a whole number from 0 an example.
        l2: the weight of half the squared norm of the weights beside the summed loss (scikit-learn's 1 / C); the bias is free.
        bias: whether there is one.
        count: how many labels the head is to have (default: up to the largest).

    Raises:
        InputError: features that are no finite numbers, another number of labels, a label that no example has.
        FuseForgetError: no minimum was found.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    x = require_features(features)
    y = require_codes("labels", labels, len(x))
    wanted = int(y.max()) + 1 if count is None else count
    absent = sorted(set(range(wanted)) - set(y.tolist()))
    if absent or wanted <= y.max():
        found = f"none of label {absent[0]}" if absent else f"label {y.max()}"
        raise InputError("labels", expected=f"examples of each of {wanted} labels and of no other", found=found)
    require_l2(l2)
    model = LogisticRegression(C=1 / l2, fit_intercept=bias, tol=1e-6, max_iter=MAX_ITERATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            model.fit(x.astype(np.float64), y)
        except ConvergenceWarning as error:
            raise FuseForgetError(
                "head", expected="a minimum of its loss", found=f"none in {MAX_ITERATIONS} iterations",
                action="Raise l2, or scale the features.",
            ) from error  # fmt: skip
    weight, intercept = np.asarray(model.coef_), np.broadcast_to(model.intercept_, len(model.coef_))
    if len(weight) == 1:  # of two labels one has a weight of its own: shared out, their logits' difference is the same
        weight, intercept = np.vstack([-weight, weight]) / 2, np.array([-intercept[0], intercept[0]]) / 2
    return Head(weight, np.array(intercept))


def readable(
    features: npt.ArrayLike,
    codes: npt.ArrayLike,
    *,
    held_out: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    l2: float = 1.0,
) -> Readable:
    """Fit a fresh linear classifier of an attribute and say how well it does.

    Args:
        held_out: features and codes of other examples.
        l2: see :func:`fit_head`.
    """
    x = require_features(features)
    y = require_codes("attribute", codes, len(x))
    values, numbered, counts = np.unique(y, return_inverse=True, return_counts=True)
    head = fit_head(x, numbered, l2=l2)
    accuracy, majority = head.accuracy(x, numbered), float(counts.max() / len(y))
    if held_out is None:
        return Readable(accuracy, majority)
    others, truth = np.asarray(held_out[0]), np.asarray(held_out[1])
    found = float(np.mean(values[head.predict(others)] == truth))
    return Readable(accuracy, majority, found, float(np.mean(truth == values[counts.argmax()])))
