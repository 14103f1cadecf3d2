"""Where two biases cross on a path, and the weights next to it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuseforget.errors import InputError
from fuseforget.studies.bias.choice import choose_weight, crossing

GRID = [i / 10 for i in range(11)]
FALLING = [1.0 - x for x in GRID]


def line(start: float, end: float) -> list[float]:
    return [start + (end - start) * x for x in GRID]


def test_lines_cross_where_they_are_equal():
    assert crossing(GRID, line(0.4, 0.0), line(0.0, 0.2)) == pytest.approx(2 / 3)
    assert crossing(GRID, line(0.4, 0.1), line(0.0, 0.05)) is None
    assert crossing(GRID, line(0.3, 0.0), line(0.0, 0.3)) == pytest.approx(0.5)  # on a point of the grid


def test_of_two_crossings_the_lower_one_is_taken():
    first = [0.9, 0.8, 0.1, 0.1, 0.1]
    second = [0.8, 0.9, 0.2, 0.05, 0.2]
    at = crossing([0, 0.25, 0.5, 0.75, 1], first, second)
    assert at is not None
    assert 0.5 < at < 1


def test_the_weight_is_chosen_on_the_side_that_lowers_the_bias_in_question():
    """The paper's .3 against age and .4 against gender bias: the crossing lies between them."""
    gender, age = line(0.35, 0.0), line(0.05, 0.6)  # cross at .3 / .9 = 1/3
    choice = choose_weight(GRID, {"dp": {"gender": gender, "age": age}, "tpr": {"gender": gender, "age": age}})
    assert choice.at == pytest.approx(1 / 3)
    assert choice.against == {"gender": pytest.approx(0.4), "age": pytest.approx(0.3)}
    assert choice.nearest == pytest.approx(0.3)


def test_two_metrics_share_one_weight_between_their_crossings():
    curves = {
        "dp": {"gender": line(0.2, 0.0), "age": line(0.0, 0.3)},  # .4
        "tpr": {"gender": line(0.3, 0.0), "age": line(0.0, 0.2)},  # .6
    }
    choice = choose_weight(GRID, curves)
    assert choice.at == pytest.approx(0.5)
    assert choice.crossings == {"dp": pytest.approx(0.4), "tpr": pytest.approx(0.6)}
    assert set(choice.against.values()) == {0.5}


def test_curves_that_do_not_cross_have_the_point_whose_worse_bias_is_least():
    high, low = [0.5, 0.3, 0.2, 0.4, 0.6] + [0.6] * 6, [0.1] * 11
    choice = choose_weight(GRID, {"dp": {"gender": high, "age": low}})
    assert choice.crossings == {"dp": None}
    assert choice.nearest == choice.at == pytest.approx(0.2)


@given(st.floats(0.01, 1), st.floats(0.01, 1), st.floats(0.05, 0.95))
def test_the_weights_are_grid_points_around_the_crossing(top, other, place):
    """Falling and rising lines that are equal at a place of our choice."""
    first = [top * (1 - x / place) for x in GRID]
    second = [other * (x / place - 1) for x in GRID]
    choice = choose_weight(GRID, {"m": {"a": first, "b": second}})
    assert choice.at == pytest.approx(place, abs=1e-6)
    assert choice.against["b"] <= place + 1e-6
    assert choice.against["a"] >= place - 1e-6
    assert choice.against["a"] - choice.against["b"] == pytest.approx(0 if choice.against["a"] == choice.against["b"] else 0.1)
    assert abs(choice.nearest - place) <= 0.05 + 1e-6
    assert all(np.isclose(GRID, weight).any() for weight in (*choice.against.values(), choice.nearest))


def test_curves_of_another_length_than_the_grid_are_refused():
    with pytest.raises(InputError, match="two attributes' values at 11 points"):
        choose_weight(GRID, {"dp": {"gender": [0.1], "age": [0.1]}})
