"""INLP against the textbook's, which projects the features again at each step: time, the same subspace, what can still be read.

    python benchmarks/inlp.py [--examples 20000] [--dimensions 768] [--classifiers 200] [--steps 20] [--rounds 3]
                              [--features FILE.npy --codes FILE.npy]

Both fit logistic classifiers with the same penalty and run alternately; the medians over the rounds are compared, of wall time
and of processor time (which other work on the machine disturbs less). The textbook (Ravfogel et al. 2020, as its authors
released it) fits scikit-learn's LogisticRegression to the projected features, adds the projection onto the classifier's row
space to a sum, takes I minus the projection onto that sum's range, found by a decomposition, and projects all features by it.
With --steps fewer of its steps are run and their mean is taken for all, which is said where it is printed, beside the
ratio of as many steps of both.

The subspaces are compared given the same classifiers: those of the textbook, one after another.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt
import scipy.linalg
from sklearn.linear_model import LogisticRegression

from fuseforget.erasure import Head, fit_inlp, readable

Matrix = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]


def textbook(features: Matrix, codes: Codes, steps: int) -> tuple[Matrix, list[Matrix]]:
    """The textbook's projection (dimensions x dimensions) and the weights of its classifiers, in their order."""
    projected, weights = features, []
    total = np.zeros((features.shape[1], features.shape[1]))
    projection = np.eye(features.shape[1])
    for _ in range(steps):
        found = LogisticRegression(C=1.0, max_iter=1000).fit(projected, codes)
        # In float64: of float32 weights the sum would have the rank of its rounding.
        weights.append(found.coef_.astype(np.float64))
        total = total + onto_rows(weights[-1])
        projection = np.eye(features.shape[1]) - onto_rows(total)
        projected = (projection @ features.T).T
    return projection, weights


def onto_rows(matrix: Matrix) -> Matrix:
    """The projection onto the row space of a matrix."""
    basis = scipy.linalg.orth(matrix.T)
    return np.asarray(basis @ basis.T)


def largest_angle(basis: Matrix, projection: Matrix) -> float:
    """The largest principal angle in radians between the span of a basis and what a projection takes away.

    By its sine, the norm of what the projection leaves of the basis: a cosine near one cannot tell angles below 1e-8.
    """
    removed = round(float(len(projection) - np.trace(projection)))
    if removed != basis.shape[1]:
        raise SystemExit(f"the textbook took {removed} dimensions away, a basis of {basis.shape[1]} is compared")
    return float(np.arcsin(min(1.0, np.linalg.norm(projection @ basis, ord=2))))


def replay(weights: list[Matrix]) -> Callable[[Matrix, Codes], Head]:
    """A classifier for INLP whose weights are given, in their order."""
    given: Iterator[Matrix] = iter(weights)

    def classifier(features: Matrix, codes: Codes) -> Head:
        weight = next(given)
        return Head(np.vstack([-weight, weight]) / 2, np.zeros(2)) if len(weight) == 1 else Head(weight, np.zeros(len(weight)))

    return classifier


def made_features(examples: int, dimensions: int, seed: int) -> tuple[Matrix, Codes]:
    """Features like a pooler's: correlated, most of their variance in few directions, saturated, an attribute in several."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 2, examples)
    spread = np.arange(1, dimensions + 1) ** -0.6
    features = (rng.normal(size=(examples, dimensions)) * spread) @ (rng.normal(size=(dimensions, dimensions)) * 0.3)
    for strength in (1.0, 0.7, 0.5, 0.4, 0.3, 0.2):
        shown = rng.random(examples) < 0.7  # not every text shows it
        features += np.outer((codes - 0.5) * shown, rng.normal(size=dimensions)) * strength * 0.2
    return np.tanh(features).astype(np.float32), codes


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor seconds."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def compare_times(features: Matrix, codes: Codes, classifiers: int, steps: int, rounds: int) -> None:
    """Both alternately, and the ratio of their medians: of as many classifiers, and of all where the textbook has run fewer."""
    counts = [steps] if steps == classifiers else [steps, classifiers]
    ours: dict[int, list[tuple[float, float]]] = {count: [] for count in counts}
    theirs: list[tuple[float, float]] = []
    for _ in range(rounds):
        for count in counts:
            ours[count].append(timed(functools.partial(fit_inlp, features, {"attribute": codes}, classifiers=count)))
        theirs.append(timed(functools.partial(textbook, features, codes, steps)))
    print(f"{'seconds, median of ' + str(rounds):50}{'wall':>8}{'processor':>12}")
    for count in counts:
        mine, other = median_of(ours[count]), median_of(theirs)
        book = [seconds * count / steps for seconds in other]
        print(f"{f'fuseforget, {count} classifiers':50}{mine[0]:8.2f}{mine[1]:12.2f}")
        said = f"textbook, {count} classifiers" + (f" (extrapolated from {steps})" if count > steps else "")
        print(f"{said:50}{book[0]:8.2f}{book[1]:12.2f}")
        print(f"{'ratio':50}{book[0] / mine[0]:8.1f}{book[1] / mine[1]:12.1f}")


def median_of(times: list[tuple[float, float]]) -> tuple[float, float]:
    return median(wall for wall, _ in times), median(processor for _, processor in times)


def compare_subspaces(features: Matrix, codes: Codes, steps: int) -> None:
    """Given the same classifiers: the angle; and with their own: what a fresh classifier reads."""
    projection, weights = textbook(features, codes, steps)
    given = fit_inlp(features, {"attribute": codes}, classifiers=steps, classifier=replay(weights))
    print(f"largest principal angle given the same {steps} classifiers: {largest_angle(given.basis, projection):.1e}")
    own = fit_inlp(features, {"attribute": codes}, classifiers=steps)
    before = readable(features, codes)
    print(f"a fresh classifier before: {before.accuracy:.4f} (majority {before.majority:.4f})")
    for name, erased in (("fuseforget", own.eraser.apply(features)), ("the textbook", features @ projection)):
        print(f"a fresh classifier after {steps} of {name}: {readable(erased, codes).accuracy:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=20_000)
    parser.add_argument("--dimensions", type=int, default=768)
    parser.add_argument("--classifiers", type=int, default=200)
    parser.add_argument("--steps", type=int, default=200, help="of the textbook")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--features", type=Path, help="examples x dimensions")
    parser.add_argument("--codes", type=Path, help="a code an example")
    options = parser.parse_args()
    if (options.features is None) != (options.codes is None):
        raise SystemExit("--features and --codes go together")
    if options.features:
        features, codes = np.load(options.features), np.load(options.codes)
    else:
        features, codes = made_features(options.examples, options.dimensions, options.seed)
    steps = min(options.steps, options.classifiers)
    print(f"{len(features)} x {features.shape[1]} features in {features.dtype}")
    compare_times(features, codes, options.classifiers, steps, options.rounds)
    compare_subspaces(features, codes, steps)


if __name__ == "__main__":
    main()
