"""Statistics against independent oracles, and probes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.multitest import multipletests

from fuseforget.errors import InputError
from fuseforget.knowledge import (
    Probe,
    bootstrap_mean,
    check_bound,
    holm,
    knows_more,
    mcnemar,
    mean_retention,
    measure,
    read_probes_file,
    retention,
)  # fmt: skip

bits = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=60)


@settings(deadline=None)
@given(bits)
def test_mcnemar_is_that_of_statsmodels(pairs):
    a, b = np.array(pairs).T
    table = [[np.sum((a == i) & (b == j)) for j in (0, 1)] for i in (0, 1)]
    expected = 1.0 if table[0][1] + table[1][0] == 0 else reference_mcnemar(table, exact=True).pvalue
    assert mcnemar(a, b) == pytest.approx(min(1.0, expected))


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_holm_is_that_of_statsmodels(values):
    assert holm(values) == pytest.approx(multipletests(values, method="holm")[1])


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(300):
        found = bootstrap_mean(rng.random(150) < 0.8, seed=trial)
        hits += found.low <= 0.8 <= found.high
    assert 0.90 <= hits / 300 <= 0.985  # 95 % less the percentile method's known shortfall; 4 standard errors wide


def test_the_interval_is_wide_as_theory_says():
    values = np.r_[np.ones(700), np.zeros(300)]
    found = bootstrap_mean(values)
    half = 1.96 * np.sqrt(0.7 * 0.3 / 1000)
    assert (found.value, found.n) == (0.7, 1000)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.08)


def test_all_right_is_no_certainty():
    found = bootstrap_mean(np.ones(50))
    assert found.high == 1.0
    assert found.low == pytest.approx(0.025 ** (1 / 50))


def test_retention_by_hand():
    """Specialist 1.0, control .5, fused .6 of ten examples: a fifth of the knowledge is left."""
    specialist, control, fused = np.ones(10), np.r_[np.ones(5), np.zeros(5)], np.r_[np.ones(6), np.zeros(4)]
    found = retention(fused, specialist, control)
    assert found.value == pytest.approx(0.2)
    assert found.low < 0.2 < found.high
    assert retention(specialist, specialist, control).value == 1
    assert retention(control, specialist, control).value == 0
    both = mean_retention([(fused, specialist, control), (specialist, specialist, control)])
    assert both.value == pytest.approx(0.6)
    # Two models of the same examples are as sure as one, not as one of twice the examples.
    twice = [(fused, specialist, control)] * 2
    assert mean_retention(twice, drawn=["the same", "the same"]) == found
    apart = mean_retention(twice, drawn=["these", "those"])
    assert apart == mean_retention(twice)
    assert apart.high - apart.low < found.high - found.low


def test_what_was_never_known_cannot_be_forgotten():
    with pytest.raises(InputError, match="a specialist above the control"):
        retention([1, 0], [0, 1], [1, 0])


def test_knowing_more_is_more_than_a_gap_by_chance():
    control = np.r_[np.ones(50), np.zeros(50)]
    clearly, hardly = np.r_[np.ones(80), np.zeros(20)], np.r_[np.zeros(40), np.ones(52), np.zeros(8)]
    assert knows_more(clearly, control)
    assert hardly.mean() > control.mean()
    assert not knows_more(hardly, control)
    assert not knows_more(control, control)
    assert not knows_more(control, clearly)
    for known in (clearly, hardly):  # what it says is what retention() takes
        if knows_more(known, control):
            assert retention(known, known, control).value == 1
        else:
            with pytest.raises(InputError, match="99% of resamples"):
                retention(known, known, control)


def test_the_bound_of_equation_2():
    low, high = np.r_[np.ones(50), np.zeros(50)], np.ones(100)
    inside = np.r_[np.ones(75), np.zeros(25)]
    below = np.r_[np.ones(20), np.zeros(80)]
    nearly = np.r_[np.zeros(1), np.ones(49), np.zeros(50)]
    assert check_bound(inside, [low, high]).verdict == "holds"
    assert check_bound(inside, [low, high]).slack.value == pytest.approx(0.25)
    assert check_bound(below, [low, high]).verdict == "broken"
    assert check_bound(nearly, [low, high]).verdict == "within error"
    assert check_bound(high, [low, low]).verdict == "broken"


@pytest.mark.parametrize("rows", [([1, 0], [1]), ([], []), ([1, float("nan")], [1, 0])])
def test_unequal_empty_or_broken_values_are_refused(rows):
    with pytest.raises(InputError):
        retention(rows[0], rows[1], rows[0])


def test_measuring_a_probe():
    probe = Probe("task", ("a", "b", "c"), (0, 1, 1))
    found = measure(probe, [[2.0, 1.0], [0.0, 3.0], [1.0, 0.0]])
    assert found.interval.value == pytest.approx(2 / 3)
    assert found.values.tolist() == [1, 1, 0]
    with pytest.raises(InputError, match="finite logits"):
        measure(probe, [[np.nan, 1.0]] * 3)
    with pytest.raises(InputError, match="logits for 3 examples"):
        measure(probe, [[0.0, 1.0]])
    with pytest.raises(InputError, match="labels below 1"):
        measure(probe, [[0.0]] * 3)


@pytest.mark.parametrize(("content", "message"), [
    ("probes: []", "probes"),
    ("probes: [{name: a}]", "data"),
    ("probes: [{name: a, data: b, dat: c}]", "dat"),
    ("probes: [{name: a, data: b}, {name: a, data: c}]", "different names"),
    ("[", "YAML"),
])  # fmt: skip
def test_bad_probes_files_are_refused(tmp_path, content, message):
    (tmp_path / "p.yaml").write_text(content)
    with pytest.raises(InputError, match=message):
        read_probes_file(tmp_path / "p.yaml")


def test_data_is_found_beside_the_probes_file(tmp_path):
    (tmp_path / "d.tsv").write_text("text\tlabel\na\t1\n")
    (tmp_path / "p.yaml").write_text("probes: [{name: a, data: d.tsv}]")
    assert read_probes_file(tmp_path / "p.yaml")[0].data == str(tmp_path / "d.tsv")
