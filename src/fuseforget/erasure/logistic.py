"""Logistic regression whose weights stay orthogonal to directions that were taken away.

Features without those directions give such weights the same predictions as the features themselves (X P w = X w for w in the
range of P), so the features need not be projected: they are rotated once to their principal axes, where their second moments
are diagonal, and each fit is a few passes over them. The solver is L-BFGS with an exact line search, preconditioned by a
bound of the Hessian that no weights exceed: 1/4 X'X for two values, 1/2 X'X for more (Boehning 1992).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fuseforget.erasure.basis import Basis
from fuseforget.erasure.checks import Codes, Features

__all__ = ["Fitted", "Remaining"]

Matrix = npt.NDArray[np.float64]
MEMORY = 10  # pairs of steps and changes of the gradient that L-BFGS keeps
ITERATIONS = 300
TOLERANCE = 1e-6  # of the gradient's size in the metric of the bound, to that of weights of zero
SEARCHES, FLAT = 30, 1e-3  # of a line: how often it is tried, and the slope's share that is none
ROUNDING = 10  # times what the features' own rounding makes of a gradient: less says nothing
COMPUTED = 1e-13  # relative: what sums of thousands of float64 are good for


@dataclass(frozen=True)
class Fitted:
    """A classifier of one attribute.

    Attributes:
        weight: a row for two values, a row a value for more; x dimensions; zeros where there is nothing to read.
        accuracy: on the features that it was fitted to.
        iterations: passes over the features, there and back.
        converged: the gradient became as small as asked.
    """

    weight: Matrix
    accuracy: float
    iterations: int
    converged: bool


class Remaining:
    """Features of which directions are taken away one after another, and classifiers of what remains.

    Args:
        features: examples x dimensions; all is computed in float64.
        l2: the weight of half the squared norm of the weights beside the summed loss.
    """

    def __init__(self, features: Features, l2: float) -> None:
        centred = features - features.mean(axis=0, dtype=np.float64)
        moments, axes = np.linalg.eigh(centred.T @ centred)
        used = moments > moments[-1] * len(moments) * np.finfo(np.float64).eps
        self._moments, self._axes = moments[used], axes[:, used]
        # The last column is the intercept's, which is free; centred features do not covary with it.
        self._x = np.empty((len(features), used.sum() + 1))
        self._x[:, :-1] = centred @ self._axes
        self._x[:, -1] = 1
        self._l2 = l2
        precision = max(float(np.finfo(features.dtype).eps), COMPUTED)
        self._rounding = float(precision * np.sqrt(np.mean(np.square(features, dtype=np.float64))))
        self._removed = Basis(int(used.sum()))
        self._metrics: dict[float, _Metric] = {}

    @property
    def rank(self) -> int:
        """How many directions were taken away."""
        return self._removed.rank

    @property
    def left(self) -> int:
        """How many directions remain in which the features differ."""
        return len(self._moments) - self.rank

    @property
    def basis(self) -> Matrix:
        """What was taken away, dimensions x rank, orthonormal."""
        return np.asarray(self._axes @ self._removed.vectors)

    def fit(self, codes: Codes) -> Fitted:
        """Fit a classifier of an attribute (codes from 0 without gaps) to what remains; its weights are on the rotated axes."""
        loss = _Loss(codes)
        metric = self._metric(loss.bound)
        # Rounded features covary with anything: in every direction by so much, times the root of the examples.
        nothing = ROUNDING * self._rounding * (loss.bound * len(self._x) * metric.trace()) ** 0.5
        return _minimise(self._x, loss, self._l2, metric, nothing)

    def on_features(self, fitted: Fitted) -> Matrix:
        """A classifier's weights on the features' own axes."""
        return np.asarray(fitted.weight @ self._axes.T)

    def remove(self, fitted: Fitted) -> int:
        """Take away what a classifier read; return how many directions that was."""
        new = self._removed.add(fitted.weight)
        for metric in self._metrics.values():
            metric.exclude(new)
        return int(new.shape[1])

    def _metric(self, bound: float) -> _Metric:
        if bound not in self._metrics:
            metric = self._metrics[bound] = _Metric(np.append(bound * self._moments + self._l2, bound * len(self._x)))
            metric.exclude(self._removed.vectors)
        return self._metrics[bound]


class _Metric:
    """The bound of the Hessian, diagonal on the rotated axes, and its inverse among weights without the removed directions.

    With D the diagonal and C a basis of what is removed that is orthonormal in the metric of D^-1, that inverse is
    D^-1 - E E' with E = D^-1 C: whatever it is given, its result is orthogonal to C. E grows by Gram-Schmidt.
    """

    def __init__(self, diagonal: Matrix) -> None:
        self._diagonal = diagonal[:, None]
        self._excluded = np.empty((len(diagonal), 0), order="F")  # E

    def exclude(self, directions: Matrix) -> None:
        for column in directions.T:
            rest = np.append(column, 0.0)[:, None]
            for _ in range(2):
                rest = rest - self._diagonal * (self._excluded @ (self._excluded.T @ rest))
            scaled = rest / self._diagonal
            self._excluded = np.hstack([self._excluded, scaled / np.sqrt(np.vdot(rest, scaled))])

    def solve(self, gradient: Matrix) -> Matrix:
        return np.asarray(gradient / self._diagonal - self._excluded @ (self._excluded.T @ gradient))

    def trace(self) -> float:
        """Of the inverse."""
        return max(float(np.sum(1 / self._diagonal) - np.sum(self._excluded**2)), 0.0)  # rounding may take it below

    def size(self, gradient: Matrix) -> float:
        """The norm of a gradient; half its square is what the loss loses in a step of the bound, at least."""
        return float(np.sqrt(max(float(np.vdot(gradient, self.solve(gradient))), 0.0)))


class _Loss:
    """The summed logistic loss of an attribute's codes as a function of margins (examples x columns)."""

    def __init__(self, codes: Codes) -> None:
        self.values = int(codes.max()) + 1
        self.columns = 1 if self.values == 2 else self.values
        self.bound = 0.25 if self.values == 2 else 0.5
        self.codes = codes
        self._truth = codes[:, None].astype(float) if self.columns == 1 else (codes[:, None] == np.arange(self.values)) * 1.0

    def probabilities(self, margins: Matrix) -> Matrix:
        if self.columns == 1:
            return np.asarray(1 / (1 + np.exp(-np.clip(margins, -500, 500))))
        raised = np.exp(margins - margins.max(axis=1, keepdims=True))
        return np.asarray(raised / raised.sum(axis=1, keepdims=True))

    def slope(self, margins: Matrix) -> Matrix:
        """The derivative by the margins."""
        return np.asarray(self.probabilities(margins) - self._truth)

    def along(self, margins: Matrix, step: Matrix) -> tuple[float, float]:
        """First and second derivative on a line of margins."""
        p = self.probabilities(margins)
        first = float(np.vdot(p - self._truth, step))
        if self.columns == 1:
            return first, float(np.vdot(p * (1 - p), step**2))
        return first, float(np.vdot(p, step**2) - np.sum(np.sum(p * step, axis=1) ** 2))

    def accuracy(self, margins: Matrix) -> float:
        said = (margins[:, 0] > 0) if self.columns == 1 else margins.argmax(axis=1)
        return float(np.mean(said == self.codes))


def _minimise(x: Matrix, loss: _Loss, l2: float, metric: _Metric, nothing: float) -> Fitted:
    """Weights (without the intercept's) that minimise loss and penalty among those that the metric allows.

    A gradient of less than ``nothing`` ends it; weights are zero where the first is so small.
    """
    penalty = np.full((x.shape[1], 1), l2)
    penalty[-1] = 0
    weights = np.zeros((x.shape[1], loss.columns))
    margins = np.zeros((len(x), loss.columns))
    weights[-1], margins[:] = _constant(loss), _constant(loss)
    gradient = x.T @ loss.slope(margins)
    steps: deque[tuple[Matrix, Matrix, float]] = deque(maxlen=MEMORY)
    first = size = metric.size(gradient)
    count = 0
    while size > max(TOLERANCE * first, nothing) and count < ITERATIONS:
        direction = -_two_loops(gradient, steps, metric)
        ahead = x @ direction
        length = _line_search(loss, margins, ahead, penalty, weights, direction)
        weights, margins = weights + length * direction, margins + length * ahead
        before, gradient = gradient, x.T @ loss.slope(margins) + penalty * weights
        change = gradient - before
        if (curvature := float(np.vdot(change, direction)) * length) > 0:
            steps.append((length * direction, change, curvature))
        size = metric.size(gradient)
        count += 1
    kept = weights[:-1] if first > nothing else np.zeros_like(weights[:-1])
    if loss.columns > 1:  # what all values share is zero but for rounding, and would be taken for a direction of its own
        kept = kept - kept.mean(axis=1, keepdims=True)
    return Fitted(np.ascontiguousarray(kept.T), loss.accuracy(margins), count, count < ITERATIONS)


def _constant(loss: _Loss) -> Matrix:
    """The intercepts alone, which say each value as often as it is."""
    logs: Matrix = np.log(np.bincount(loss.codes) / len(loss.codes))
    return np.array([logs[1] - logs[0]]) if loss.columns == 1 else logs - logs.mean()


def _two_loops(gradient: Matrix, steps: deque[tuple[Matrix, Matrix, float]], metric: _Metric) -> Matrix:
    """The inverse Hessian of L-BFGS times the gradient, from the metric's inverse scaled to the newest curvature."""
    rest, factors = gradient, []
    for step, change, curvature in reversed(steps):
        factor = float(np.vdot(step, rest)) / curvature
        rest = rest - factor * change
        factors.append(factor)
    scale = 1.0
    if steps:
        _, change, curvature = steps[-1]
        scale = curvature / float(np.vdot(change, metric.solve(change)))
    found = scale * metric.solve(rest)
    for (step, change, curvature), factor in zip(steps, reversed(factors), strict=True):
        found = found + (factor - float(np.vdot(change, found)) / curvature) * step
    return found


def _line_search(loss: _Loss, margins: Matrix, ahead: Matrix, penalty: Matrix, weights: Matrix, direction: Matrix) -> float:
    """The length of the step with the least loss: Newton's method on a convex function of one number, kept in a bracket."""
    linear, square = float(np.vdot(penalty * weights, direction)), float(np.vdot(penalty * direction, direction))
    steepest = abs(linear + float(np.vdot(loss.slope(margins), ahead)))
    low, high, length = 0.0, float("inf"), 1.0
    for _ in range(SEARCHES):
        first, second = loss.along(margins + length * ahead, ahead)
        slope, curvature = first + linear + length * square, second + square
        if abs(slope) <= FLAT * steepest:
            break
        low, high = (length, high) if slope < 0 else (low, length)
        length -= slope / curvature
        if not low < length < high:
            length = 2 * low if high == float("inf") else (low + high) / 2
    return length
