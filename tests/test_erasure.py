"""Erasure as theorems: what could be read cannot be read any more, nothing else changes more than it must."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from sklearn.linear_model import LogisticRegression

from fuseforget.erasure import Eraser, Head, fit_eraser, fit_head, fit_inlp, fit_leace, readable
from fuseforget.erasure.basis import Basis
from fuseforget.erasure.logistic import Remaining
from fuseforget.errors import FuseForgetError, InputError

SEEDS = range(4)


def load_benchmark():
    """The textbook's INLP is written once, where it is timed."""
    file = Path(__file__).parent.parent / "benchmarks" / "inlp.py"
    spec = importlib.util.spec_from_file_location("inlp_benchmark", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


bench = load_benchmark()


def made(seed: int, n: int = 1500, d: int = 24):
    """Correlated features off the origin that show a binary attribute, one of three values, and a task."""
    rng = np.random.default_rng(seed)
    two, three, task = rng.choice(2, n, p=[0.6, 0.4]), rng.choice(3, n, p=[0.5, 0.3, 0.2]), rng.integers(0, 2, n)
    shown = rng.normal(size=(2, d))[two] + 1.5 * rng.normal(size=(3, d))[three] + 1.5 * rng.normal(size=(2, d))[task]
    return (
        rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) * 0.5 + shown + rng.normal(size=d),
        {"two": two, "three": three},
        task,
    )


def by_least_squares(features, codes) -> float:
    """The share of the variance of a value's indicator that least squares explains, the largest over values."""
    centred = features - features.mean(axis=0)
    shares = []
    for value in np.unique(codes):
        wanted = (codes == value) - (codes == value).mean()
        fit = centred @ np.linalg.lstsq(centred, wanted, rcond=1e-10)[0]
        shares.append(float(fit @ fit / (wanted @ wanted)))
    return max(shares)


# LEACE


@pytest.mark.parametrize("seed", SEEDS)
def test_leace_leaves_nothing_to_any_linear_classifier(seed):
    x, concepts, task = made(seed)
    eraser = fit_leace(x, concepts)
    erased = eraser.apply(x)
    assert eraser.rank == 3  # one direction of two values, two of three
    for codes in concepts.values():
        before, after = readable(x, codes), readable(erased, codes)
        assert before.accuracy > before.majority + 0.15
        assert after.accuracy == after.majority
        assert by_least_squares(x, codes) > 0.3
        assert by_least_squares(erased, codes) < 1e-16
    # Other losses than the logistic: the features' means do not depend on any value (theorem 3.1).
    for codes in concepts.values():
        means = np.array([erased[codes == value].mean(axis=0) for value in np.unique(codes)])
        np.testing.assert_allclose(means, np.broadcast_to(x.mean(axis=0), means.shape), atol=1e-10)
    assert readable(erased, task).accuracy > 0.8


@pytest.mark.parametrize("seed", SEEDS)
def test_leace_changes_less_than_any_other_affine_eraser_of_the_same_guarantee(seed):
    """All linear maps on centred features that take the covariance with the concept away are I - S A, with A S = I for some A
    (S a basis of that covariance), then anything on what is left: LEACE is the least change of them (theorem 4.2).
    """
    x, concepts, _ = made(seed)
    centred = x - x.mean(axis=0)
    least = np.mean((fit_leace(x, concepts).apply(x) - x) ** 2)
    indicators = np.hstack([codes[:, None] == np.unique(codes) for codes in concepts.values()])
    covariance = centred.T @ (indicators - indicators.mean(axis=0))
    spanned = np.linalg.svd(covariance, full_matrices=False)[0][:, :3]
    optimum = fit_leace(x, concepts)
    rng = np.random.default_rng(seed)
    others = [spanned @ spanned.T]
    for scale in (1e-3, 1e-2, 0.1, 1.0):
        for _ in range(5):
            free = rng.normal(size=(3, x.shape[1])) * scale
            others.append(optimum.left @ optimum.right + optimum.left @ (free - free @ optimum.left @ optimum.right))
            others.append(spanned @ np.linalg.solve((spanned.T + free) @ spanned, spanned.T + free))
    for taken in others:
        erased = x - centred @ taken.T
        assert max(by_least_squares(erased, codes) for codes in concepts.values()) < 1e-12  # the same guarantee
        assert np.mean((erased - x) ** 2) > least * (1 + 1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_small_correlation_is_erased_too(seed):
    """The library's own settings leave it."""
    from concept_erasure import LeaceFitter
    from torch import from_numpy

    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 2, 40_000)
    x = rng.normal(size=(len(codes), 2)) + 0.02 * codes[:, None]
    default = LeaceFitter.fit(from_numpy(x), from_numpy(codes[:, None].astype(float))).eraser(from_numpy(x)).numpy()
    erased = fit_leace(x, {"c": codes}).apply(x)
    assert by_least_squares(default, codes) > 1e-6
    assert by_least_squares(erased, codes) < 1e-20
    assert erased.var(axis=0).sum() < x.var(axis=0).sum()


def test_leace_does_not_erase_by_the_rounding_of_float32():
    """A unit that is constant but for rounding (a saturated pooler's, the sum after a layer norm) must not be blown up."""
    x, concepts, _ = made(0)
    x[:, 3] = 1.0
    x = (x / 10).astype(np.float32)
    x[:, 3] = np.nextafter(np.float32(1), np.float32(2), dtype=np.float32) * (concepts["two"] > 0) + (concepts["two"] == 0)
    eraser = fit_leace(x, concepts)
    assert np.abs(eraser.right).max() < 1e4
    assert by_least_squares(np.delete(eraser.apply(x.astype(float)), 3, axis=1), concepts["three"]) < 1e-10


@pytest.mark.parametrize("n", [12, 30])
def test_leace_with_fewer_examples_than_dimensions(n):
    x, concepts, _ = made(1, n=n, d=40)
    concepts = {"two": concepts["two"]}
    erased = fit_leace(x, concepts).apply(x)
    assert np.isfinite(erased).all()
    assert by_least_squares(x, concepts["two"]) > 0.3
    centred, wanted = erased - erased.mean(axis=0), concepts["two"] - concepts["two"].mean()
    assert np.abs(centred.T @ wanted).max() < 1e-9 * np.abs(x).max() * n


# INLP


@pytest.mark.parametrize("seed", SEEDS)
def test_inlp_takes_the_textbooks_subspace_given_the_same_classifiers(seed):
    x, concepts, _ = made(seed, n=600, d=40)
    projection, weights = bench.textbook(x, concepts["two"], 15)
    found = fit_inlp(x, {"two": concepts["two"]}, classifiers=15, classifier=bench.replay(weights))
    assert found.basis.shape == (40, 15)
    assert bench.largest_angle(found.basis, projection) < 1e-9
    np.testing.assert_allclose(found.eraser.apply(x), x @ projection, atol=1e-10 * np.abs(x).max())


def test_a_wrong_subspace_has_an_angle():
    x, concepts, _ = made(0, n=600, d=40)
    projection, weights = bench.textbook(x, concepts["two"], 5)
    found = fit_inlp(
        x,
        {"two": concepts["two"]},
        classifiers=5,
        classifier=bench.replay([*weights[:4], weights[0] + weights[2] + np.eye(40)[:1]]),
    )
    assert bench.largest_angle(found.basis, projection) > 0.01


@pytest.mark.parametrize("name", ["two", "three"])
@pytest.mark.parametrize("seed", SEEDS)
def test_classifiers_in_what_remains_are_scikit_learns_on_projected_features(seed, name):
    x, concepts, _ = made(seed)
    codes = concepts[name]
    remaining = Remaining(x, l2=1.0)
    for _ in range(4):
        left = np.eye(x.shape[1]) - remaining.basis @ remaining.basis.T
        expected = LogisticRegression(C=1.0, tol=1e-9, max_iter=10_000).fit(x @ left, codes)
        fitted = remaining.fit(codes)
        weight = remaining.on_features(fitted)
        assert fitted.converged
        assert np.abs(weight - expected.coef_).max() < 5e-4 * np.abs(expected.coef_).max()
        assert fitted.accuracy == pytest.approx(expected.score(x @ left, codes), abs=2 / len(x))
        assert np.abs(weight @ remaining.basis).max(initial=0) < 1e-8 * np.abs(weight).max()
        remaining.remove(fitted)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_first_subspaces_are_those_of_scikit_learns_classifiers(seed):
    x, concepts, _ = made(seed)
    own = fit_inlp(x, concepts, classifiers=4)
    given = fit_inlp(x, concepts, classifiers=4, classifier=fit_head)
    assert own.basis.shape == given.basis.shape == (24, 6)
    sines = np.linalg.norm(own.basis - given.basis @ (given.basis.T @ own.basis), ord=2)
    assert sines < 0.02
    for mine, theirs in zip(own.steps, given.steps, strict=True):
        assert (mine.attribute, mine.rank, mine.majority) == (theirs.attribute, theirs.rank, theirs.majority)
        assert mine.accuracy == pytest.approx(theirs.accuracy, abs=0.01)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("seed", SEEDS)
def test_inlp_leaves_nearly_nothing_of_any_attribute(seed, dtype):
    x, concepts, _ = made(seed)
    x = x.astype(dtype)
    found = fit_inlp(x, concepts, classifiers=12)
    erased = found.eraser.apply(x)
    assert erased.dtype == dtype
    assert found.eraser.rank == found.basis.shape[1] == 18  # six classifiers of one direction, six of two
    assert np.abs(found.basis.T @ found.basis - np.eye(18)).max() < 1e-10
    for codes in concepts.values():
        before, after = readable(x, codes), readable(erased, codes)
        assert before.accuracy > before.majority + 0.15
        assert after.accuracy < after.majority + 0.03
    first, last = found.steps[0], found.steps[-2]
    assert first.attribute == last.attribute == "two"
    assert first.accuracy > last.accuracy + 0.1


def test_classifiers_take_turns_and_each_takes_something_away():
    x, concepts, _ = made(0)
    lines: list[str] = []
    found = fit_inlp(x, concepts, classifiers=5, say=lines.append)
    assert [step.attribute for step in found.steps] == ["two", "three", "two", "three", "two"]
    assert [step.rank for step in found.steps] == [1, 3, 4, 6, 7]
    assert len(lines) == 5
    assert found.ended == ""
    assert found.eraser.about["classifiers"] == 5


def test_inlp_stops_when_no_dimension_is_left_and_says_so():
    x, concepts, _ = made(0, d=6)
    lines: list[str] = []
    found = fit_inlp(x, {"two": concepts["two"]}, classifiers=50, say=lines.append)
    assert found.eraser.rank == len(found.steps) == 6
    assert found.ended == lines[-1] == "6 of 50 classifiers: no dimension is left after 6 dimensions"
    assert np.abs(found.eraser.apply(x)).max() < 1e-12


def test_inlp_stops_when_nothing_can_be_read():
    x, concepts, _ = made(0)
    erased = fit_leace(x, concepts).apply(x)
    for features in (erased, erased.astype(np.float32)):
        found = fit_inlp(features, concepts, classifiers=50)
        assert found.eraser.rank == 0
        assert found.ended == "2 of 50 classifiers: nothing of the attributes is left to read after 0 dimensions"
        np.testing.assert_array_equal(found.eraser.apply(features), features)


def test_a_shift_of_the_features_changes_no_subspace():
    x, concepts, _ = made(2)
    bases = [fit_inlp(features, concepts, classifiers=4).basis for features in (x, x + 50)]
    assert np.linalg.norm(bases[0] - bases[1] @ (bases[1].T @ bases[0]), ord=2) < 1e-3


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(-8, 8))
def test_a_basis_is_orthonormal_whatever_is_added(seed, d, exponent):
    """Nearly dependent, tiny and huge rows, and more of them than there are dimensions."""
    rng = np.random.default_rng(seed)
    basis, rows = Basis(d), rng.normal(size=(3, d)) * 10.0**exponent
    for _ in range(4):
        basis.add(rows)
        rows = rows + rng.normal(size=rows.shape) * 1e-5 * np.abs(rows).max()
    assert basis.rank <= d
    assert np.abs(basis.vectors.T @ basis.vectors - np.eye(basis.rank)).max() < 1e-12
    left = rows - (rows @ basis.vectors) @ basis.vectors.T
    assert np.abs(left).max() < 1e-3 * np.abs(rows).max()
    before = basis.rank
    assert basis.add(basis.vectors.T @ np.eye(d)).shape == (d, 0)
    assert basis.add(np.zeros((2, d))).shape == (d, 0)
    assert basis.rank == before


# Both


@pytest.mark.parametrize("method", ["inlp", "leace"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_erasing_twice_is_erasing_once(method, dtype):
    x, concepts, _ = made(3)
    x = x.astype(dtype)
    eraser = fit_eraser(method, x, concepts, classifiers=6)
    once = eraser.apply(x)
    assert once.dtype == dtype
    np.testing.assert_allclose(eraser.apply(once), once, atol=200 * np.finfo(dtype).eps * np.abs(x).max())
    assert np.abs(once - x).max() > 0.1
    np.testing.assert_allclose(eraser.right @ eraser.left, np.eye(eraser.rank), atol=1e-9)
    assert np.linalg.matrix_rank(once.astype(float) - once.mean(axis=0), tol=1e-3) == x.shape[1] - eraser.rank


@pytest.mark.parametrize("method", ["inlp", "leace"])
def test_an_eraser_is_the_same_after_saving(method, tmp_path):
    x, concepts, _ = made(0)
    eraser = fit_eraser(method, x, concepts, classifiers=3)
    file = eraser.save(tmp_path / "new" / "eraser.safetensors")
    again = Eraser.load(file)
    np.testing.assert_array_equal(again.apply(x), eraser.apply(x))
    assert (again.method, again.attributes, again.about) == (method, ("two", "three"), eraser.about)
    assert [path.name for path in file.parent.iterdir()] == ["eraser.safetensors"]


def test_other_files_are_no_erasers(tmp_path):
    with pytest.raises(InputError, match="found no file there"):
        Eraser.load(tmp_path / "none")
    (tmp_path / "text").write_text("no tensors")
    with pytest.raises(InputError, match="damaged"):
        Eraser.load(tmp_path / "text")
    save_file({"left": np.zeros((2, 1))}, tmp_path / "other")
    with pytest.raises(InputError, match="safetensors of something else"):
        Eraser.load(tmp_path / "other")


@pytest.mark.parametrize("method", ["inlp", "leace"])
def test_features_that_do_not_differ_stay(method):
    x = np.full((10, 3), 0.7)
    eraser = fit_eraser(method, x, {"c": np.arange(10) % 2})
    assert eraser.rank == 0
    np.testing.assert_array_equal(eraser.apply(x), x)


def test_features_of_other_dimensions_are_refused():
    x, concepts, _ = made(0)
    with pytest.raises(InputError, match="examples x 24"):
        fit_leace(x, concepts).apply(x[:, :5])


@pytest.mark.parametrize("method", ["inlp", "leace"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, c: (x, {"c": np.zeros(len(x), int)}), "c: expected two values or more, found 0 in all 20 examples"),
        (lambda x, c: (x, {"c": c[:-1]}), r"c: expected 20 values, one an example, found shape \(19,\)"),
        (lambda x, c: (x, {"c": c * 0.5}), "codes, whole numbers from 0, found values of type float64"),
        (lambda x, c: (x, {"c": c - 1}), "whole numbers from 0, found -1"),
        (lambda x, c: (x, {}), "an attribute or more to erase, found none"),
        (lambda x, c: (np.where(np.arange(20)[:, None] == 7, np.nan, x), {"c": c}), "1 examples with NaN .* the first at 7"),
        (lambda x, c: (x[:1], {"c": c[:1]}), "two examples or more"),
        (lambda x, c: (x[0], {"c": c}), "two examples or more"),
        (lambda x, c: (np.array([["a"]] * 20), {"c": c}), "real numbers"),
    ],
)
def test_what_cannot_be_erased_is_refused(method, change, message):
    x, c = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 2
    with pytest.raises(InputError, match=message):
        fit_eraser(method, *change(x, c))


def test_other_arguments_are_refused():
    x, c = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 2
    with pytest.raises(InputError, match="inlp or leace, found 'rlace'"):
        fit_eraser("rlace", x, {"c": c})
    with pytest.raises(InputError, match="classifiers: expected 1 or more"):
        fit_inlp(x, {"c": c}, classifiers=0)
    for l2 in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="l2: expected a positive number"):
            fit_inlp(x, {"c": c}, l2=l2)


# Heads


@pytest.mark.parametrize("labels", [2, 3])
def test_a_head_is_the_minimum_of_its_loss(labels):
    """The gradient of the penalised loss vanishes, weights of two labels counted as one vector."""
    x, concepts, _ = made(0)
    y = concepts["two" if labels == 2 else "three"]
    head = fit_head(x, y, l2=3.0)
    assert head.weight.shape == (labels, 24)
    raised = np.exp(head.logits(x) - head.logits(x).max(axis=1, keepdims=True))
    slope = raised / raised.sum(axis=1, keepdims=True) - np.eye(labels)[y]
    # Of two labels the difference of the weights is what the penalty is on.
    gradient = slope.T @ x + 3.0 * head.weight * (2 if labels == 2 else 1)
    assert np.abs(gradient).max() < 1e-4 * np.abs(x.T).sum()
    assert np.abs(slope.sum(axis=0)).max() < 0.1
    assert head.accuracy(x, y) == np.mean(head.predict(x) == y) > 0.75


def test_a_head_without_bias_has_none():
    x, _, task = made(0)
    head = fit_head(x - x.mean(axis=0), task, bias=False)
    assert not head.bias.any()
    assert head.accuracy(x - x.mean(axis=0), task) > 0.9


def test_a_label_without_examples_has_no_head():
    x, _, task = made(0)
    with pytest.raises(InputError, match="found none of label 2"):
        fit_head(x, task, count=3)
    with pytest.raises(InputError, match="found label 1"):
        fit_head(x, task, count=1)


def test_a_head_that_was_not_found_is_an_error(monkeypatch):
    x, _, task = made(0)
    monkeypatch.setattr("fuseforget.erasure.head.MAX_ITERATIONS", 2)
    with pytest.raises(FuseForgetError, match="none in 2 iterations"):
        fit_head(x, task)


def test_reading_held_out_examples():
    x, concepts, _ = made(0)
    codes = concepts["three"]
    found = readable(x[:1000], codes[:1000], held_out=(x[1000:], codes[1000:]))
    head = fit_head(x[:1000], codes[:1000])
    assert found.held_out == head.accuracy(x[1000:], codes[1000:]) > 0.6
    assert found.held_out_majority == np.mean(codes[1000:] == 0)
    assert isinstance(head, Head)
