"""Steps: drawn alike, divided over processes, and computed in parts to the same result."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from fuseforget.errors import InputError
from fuseforget.train import TrainSettings
from fuseforget.train.language import fine_tune_language
from fuseforget.train.steps import Steps, part_of, shares
from fuseforget.train.trainer import fine_tune
from test_language import configure
from test_models import labelled
from test_train_language import draw_rows, start_of

LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=40)
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@given(lengths=LENGTHS, size=st.integers(1, 9), seed=st.integers(0, 99), epoch=st.integers(0, 3))
def test_an_epoch_has_every_row_once_in_full_steps_but_one(lengths, size, seed, epoch):
    steps = Steps(lengths, size, seed)
    steps.begin(epoch)
    drawn = list(steps)
    assert sorted(row for step in drawn for row in step) == list(range(len(lengths)))
    assert len(drawn) == len(steps)
    assert sum(len(step) < size for step in drawn) == (len(lengths) % size > 0)
    again = Steps(lengths, size, seed)
    again.begin(epoch)
    assert list(again) == drawn


def test_epochs_and_seeds_draw_other_steps_of_similar_rows():
    lengths = np.random.default_rng(0).integers(3, 40, 500).tolist()
    steps = Steps(lengths, 10, seed=1)
    first = list(steps)
    steps.begin(1)
    assert len({str(first), str(list(steps)), str(list(Steps(lengths, 10, seed=2)))}) == 3
    assert np.mean([np.ptp([lengths[row] for row in step]) for step in first]) < 2
    assert [lengths[step[0]] for step in first] != sorted(lengths[step[0]] for step in first)


@given(lengths=LENGTHS, count=st.integers(1, 4), budget=st.integers(1, 100))
def test_shares_have_every_row_once_and_no_part_exceeds_the_budget(lengths, count, budget):
    dealt = shares(lengths, count, budget)
    assert len(dealt) == count
    assert sorted(row for parts in dealt for part in parts for row in part) == list(range(len(lengths)))
    own = [sum(map(len, parts)) for parts in dealt]
    assert max(own) - min(own) <= 1
    parts = [part for parts in dealt for part in parts]
    assert all(len(part) == 1 or len(part) * max(lengths[row] for row in part) <= budget for part in parts)


def test_a_part_is_padded_no_further_than_it_needs():
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]])
    batch = {"input_ids": torch.arange(16).reshape(4, 4), "attention_mask": mask, "labels": torch.tensor([5, 6, 7, 8])}
    even = part_of(batch, [0, 1])
    assert {name: tensor.tolist() for name, tensor in even.items()} == {"input_ids": [[0, 1], [4, 5]], "labels": [5, 6]}
    mixed = part_of(batch, [2, 0])
    assert mixed["input_ids"].tolist() == [[8, 9, 10], [0, 1, 2]]
    assert mixed["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert mixed["labels"].tolist() == [7, 5]


def assert_near(one, two, start):
    """Weights that differ by far less than they were trained."""
    a, b, before = (load_file(path / "model.safetensors") for path in (one, two, start))
    assert a.keys() == b.keys()
    moved = max(float((a[name] - before[name]).abs().max()) for name in a)
    assert moved > 1e-3
    assert max(float((a[name] - b[name]).abs().max()) for name in a) < 0.02 * moved


@pytest.mark.parametrize("seed", [0, 1])
def test_a_step_of_a_classifier_in_parts_is_the_whole_step(bert, tmp_path, seed):
    start = bert("start")
    configure(start, **NO_DROPOUT)
    made = {}
    for budget in (10**6, 20):
        settings = TrainSettings(
            max_epochs=2, min_epochs=2, learning_rate=1e-3, batch_size=16, precision="float32", seed=seed, token_budget=budget
        )
        made[budget] = fine_tune(start, labelled(60, seed=seed), tmp_path / f"m{budget}", settings)
    whole, parts = made.values()
    assert parts.losses == pytest.approx(whole.losses, rel=1e-5)
    assert (parts.steps, parts.tokens) == (whole.steps, whole.tokens)
    assert parts.padding < whole.padding
    assert_near(tmp_path / "m1000000", tmp_path / "m20", start)


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_a_step_of_a_language_model_in_parts_weighs_every_predicted_token_alike(tmp_path, kind):
    start, rows = start_of(tmp_path, kind), draw_rows(14, kind, lengths=(2, 30))
    configure(start, **(NO_DROPOUT if kind == "bert" else {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}))
    made = {}
    # Parts of one row: of a masked model's short ones some have no masked token.
    for budget in (10**6, 1):
        settings = TrainSettings(max_epochs=2, learning_rate=1e-3, batch_size=7, precision="float32", token_budget=budget)
        made[budget] = fine_tune_language(start, rows, tmp_path / f"m{budget}", settings)
    whole, parts = made.values()
    assert parts.losses == pytest.approx(whole.losses, rel=1e-5)
    assert (parts.padding, parts.tokens) == (0.0, 2 * sum(map(len, rows)))
    assert_near(tmp_path / "m1000000", tmp_path / "m1", start)


def test_no_token_at_once_is_refused():
    with pytest.raises(InputError, match="token budget: expected 1 or more, found 0"):
        TrainSettings(token_budget=0)
