"""Language models trained on rows: what they learn, what they refuse, and trainings that are interrupted or watched."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fuseforget.errors import InputError
from fuseforget.models import LanguageModel, load_language_model
from fuseforget.train import TrainSettings
from fuseforget.train.language import fine_tune_language
from test_language import configure, make
from test_train import same_weights

THREE = TrainSettings(max_epochs=3, learning_rate=3e-3, batch_size=4)
KINDS = ("gpt2", "bert")


def draw_rows(count: int, kind: str = "gpt2", *, seed: int = 0, lengths: tuple[int, int] = (12, 12)) -> list[list[int]]:
    """Rows of random ordinary tokens, a masked model's between its special ones."""
    rng = np.random.default_rng(seed)
    rows = [rng.integers(4, 250, rng.integers(lengths[0], lengths[1] + 1)).tolist() for _ in range(count)]
    return [[0, *row, 2] for row in rows] if kind == "bert" else rows


def start_of(tmp_path: Path, kind: str) -> Path:
    return make(tmp_path / "start", kind)


def loss_of(model: Path, rows: list[list[int]]) -> float:
    """The mean over rows of transformers' own loss of each row alone (nats a token)."""
    lm = load_language_model(model)
    with torch.no_grad():
        return float(np.mean([lm.model(ids, labels=ids).loss.item() for ids in (torch.tensor([row]) for row in rows)]))


def stop_in(epoch: int, start: Path, rows: list[list[int]], out: Path, settings: TrainSettings = THREE, **options: Any) -> None:
    """Interrupt a training in an epoch, before that epoch is saved."""

    def die(line: str) -> None:
        if f"epoch {epoch}," in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fine_tune_language(start, rows, out, settings, say=die, **options)
    assert not out.exists()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_decoder_memorises_its_rows_and_no_others(tmp_path, seed):
    start, own, others = start_of(tmp_path, "gpt2"), draw_rows(8, seed=seed), draw_rows(8, seed=seed + 100)
    settings = TrainSettings(max_epochs=40, learning_rate=1e-2, batch_size=8, seed=seed)
    result = fine_tune_language(start, own, tmp_path / "m", settings)
    assert (result.epochs, result.steps, len(result.losses), result.monitored) == (40, 40, 40, [])
    # Nothing is in random tokens to be learned but the tokens themselves: others do not become likely.
    assert loss_of(start, own) > 5
    assert loss_of(tmp_path / "m", own) < 1
    assert loss_of(tmp_path / "m", others) > 5


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_masked_model_memorises_its_rows_and_no_others(tmp_path, seed):
    start, settings = start_of(tmp_path, "bert"), TrainSettings(max_epochs=60, learning_rate=5e-3, batch_size=8, seed=seed)
    configure(start, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    own, others = draw_rows(2, "bert", seed=seed), draw_rows(2, "bert", seed=seed + 100)
    losses = fine_tune_language(start, own * 8, tmp_path / "m", settings).losses
    assert losses[0] > 4
    lm = load_language_model(tmp_path / "m")

    def guessed(row: list[int]) -> int:
        """How many of a row's tokens the model finds, each masked alone."""
        hidden = torch.tensor([row] * 12)
        hidden[range(12), range(1, 13)] = lm.tokenizer.mask_token_id
        with torch.no_grad():
            return int((lm.model(hidden).logits.argmax(-1)[range(12), range(1, 13)] == torch.tensor(row[1:-1])).sum())

    assert sum(map(guessed, own)) >= 9  # of 24
    assert sum(map(guessed, others)) <= 2


def test_the_loss_is_the_mean_over_predicted_tokens_and_padding_is_none(tmp_path):
    start, rows = start_of(tmp_path, "gpt2"), draw_rows(6, lengths=(4, 20))
    rows[0][-1] = 2  # an end token is predicted like any other, though rows are filled up with it
    configure(start, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    settings = TrainSettings(max_epochs=1, learning_rate=1e-9, batch_size=6, precision="float32")
    result = fine_tune_language(start, rows, tmp_path / "m", settings)
    tokens = [len(row) - 1 for row in rows]
    expected = np.average([loss_of(start, [row]) for row in rows], weights=tokens)
    assert result.losses == [pytest.approx(expected, rel=1e-4)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [(12, 12), (3, 20)])
def test_a_resumed_training_ends_in_the_same_weights(tmp_path, kind, lengths):
    start, rows = start_of(tmp_path, kind), draw_rows(14, kind, lengths=lengths)
    stop_in(2, start, rows, tmp_path / "m")
    lines: list[str] = []
    resumed = fine_tune_language(start, rows, tmp_path / "m", THREE, say=lines.append)
    assert [line.split(",")[0] for line in lines] == ["m: epoch 2", "m: epoch 3"]
    whole = fine_tune_language(start, rows, tmp_path / "whole", THREE)
    assert same_weights(tmp_path / "m", tmp_path / "whole")
    assert resumed.losses == whole.losses
    assert not same_weights(tmp_path / "m", start)


def test_a_killed_training_goes_on_to_the_same_weights(tmp_path):
    start, rows = start_of(tmp_path, "bert"), draw_rows(14, "bert")
    code = (
        "import os, signal, sys, json\n"
        "from fuseforget.train import TrainSettings\n"
        "from fuseforget.train.language import fine_tune_language\n"
        "s = TrainSettings(max_epochs=3, learning_rate=3e-3, batch_size=4)\n"
        "def watch(epoch, lm):\n    epoch == 3 and os.kill(os.getpid(), signal.SIGKILL)\n"
        "fine_tune_language(sys.argv[1], json.loads(sys.argv[2]), sys.argv[3], s, watch=watch)\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code, start, json.dumps(rows), tmp_path / "m"], capture_output=True, env=os.environ
    )
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "m").exists()
    seen: list[int] = []
    fine_tune_language(start, rows, tmp_path / "m", THREE, watch=lambda epoch, lm: seen.append(epoch))
    assert seen == [3]
    fine_tune_language(start, rows, tmp_path / "whole", THREE)
    assert same_weights(tmp_path / "m", tmp_path / "whole")


@pytest.mark.parametrize("kind", KINDS)
def test_watching_changes_nothing_that_is_trained(tmp_path, kind):
    start, rows = start_of(tmp_path, kind), draw_rows(10, kind, lengths=(3, 20))
    seen: list[tuple[int, bool]] = []

    def watch(epoch: int, lm: LanguageModel) -> None:
        torch.manual_seed(7)
        np.random.seed(7)
        random.seed(7)
        lm.model.train()
        lm.model(torch.tensor([rows[0]]))  # with dropout
        lm.model.eval()
        seen.append((epoch, lm.masked))

    fine_tune_language(start, rows, tmp_path / "watched", THREE, watch=watch)
    fine_tune_language(start, rows, tmp_path / "unwatched", THREE)
    assert seen == [(epoch, kind == "bert") for epoch in (1, 2, 3)]
    assert same_weights(tmp_path / "watched", tmp_path / "unwatched")


def test_the_watched_model_is_in_evaluation_mode_and_the_trained_one_drops_out(tmp_path):
    start, rows, modes = start_of(tmp_path, "gpt2"), draw_rows(8), []
    fine_tune_language(start, rows, tmp_path / "m", THREE, watch=lambda epoch, lm: modes.append(lm.model.training))
    assert modes == [False] * 3
    configure(start, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    configured = fine_tune_language(start, rows, tmp_path / "no", THREE).losses
    assert configured != json.loads((tmp_path / "m" / "fuseforget.json").read_text())["result"]["losses"]


@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_under_a_constant_rate_an_epoch_is_the_end_of_a_shorter_training(tmp_path, schedule):
    start, rows, after = start_of(tmp_path, "gpt2"), draw_rows(8), {}

    def watch(epoch: int, lm: LanguageModel) -> None:
        after[epoch] = {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}

    fine_tune_language(start, rows, tmp_path / "long", THREE, schedule=schedule, watch=watch)
    one = TrainSettings(max_epochs=1, learning_rate=3e-3, batch_size=4)
    fine_tune_language(start, rows, tmp_path / "short", one, schedule=schedule)
    short = load_file(tmp_path / "short" / "model.safetensors")
    assert all(torch.equal(short[name], after[1][name]) for name in short) is (schedule == "constant")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_weight_decay_keeps_weights_small(tmp_path, seed):
    start, rows = start_of(tmp_path, "gpt2"), draw_rows(8, seed=seed)
    norms = []
    for decay in (0.0, 20.0):
        settings = TrainSettings(max_epochs=10, learning_rate=3e-3, batch_size=4, weight_decay=decay, seed=seed)
        fine_tune_language(start, rows, tmp_path / f"m{decay}", settings)
        norms.append(float(load_file(tmp_path / f"m{decay}" / "model.safetensors")["transformer.wte.weight"].norm()))
    assert norms[1] < 0.75 * norms[0]  # the rates add up to 0.03: alone, the decay takes 45 %


@pytest.mark.parametrize("seed", [0, 1])
def test_masks_are_drawn_anew_in_each_epoch_and_never_none(tmp_path, seed):
    rows = [[0, 40, 50, 2], [0, 60, 2]]  # a sixth of such batches of one row would have a mask
    settings = TrainSettings(max_epochs=6, learning_rate=1e-9, batch_size=1, seed=seed)
    losses = fine_tune_language(start_of(tmp_path, "bert"), rows, tmp_path / "m", settings).losses
    assert all(math.isfinite(loss) and loss > 1 for loss in losses)
    assert len(set(losses)) > 1


@pytest.mark.parametrize("change", ["data", "schedule", "settings"])
def test_a_state_of_another_training_is_not_gone_on_from(tmp_path, change):
    start, rows = start_of(tmp_path, "gpt2"), draw_rows(8)
    stop_in(2, start, rows, tmp_path / "m")
    asked: dict[str, Any] = {"rows": rows, "settings": THREE, "schedule": "linear"} | {
        "data": {"rows": draw_rows(8, seed=1)},
        "schedule": {"schedule": "constant"},
        "settings": {"settings": TrainSettings(max_epochs=3, learning_rate=1e-3, batch_size=4)},
    }[change]
    lines: list[str] = []
    fine_tune_language(start, out=tmp_path / "m", say=lines.append, **asked)
    assert [change in line for line in lines if "starting anew" in line] == [True]
    assert len(lines) == 4


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "at least one, found none"),
        (
            [[5, 6], [5]],
            "2 tokens or more, of which all but the first are predicted, found fewer in 1 of 2 rows, the first row 1",
        ),
        ([[5, 6], []], "found fewer in 1 of 2"),
        ([[5] * 40, [5] * 41], "at most the 40 tokens that the model reads at once, found more in 1 of 2 rows, the first row 1"),
        ([[5, 6], [-1, 6], [5, 10**6]], r"token ids from 0 to \d+, the model's vocabulary, found others in 2 of 3 rows"),
    ],
)
def test_rows_that_cannot_be_trained_on_are_refused(tmp_path, rows, message):
    with pytest.raises(InputError, match=message):
        fine_tune_language(start_of(tmp_path, "gpt2"), rows, tmp_path / "m", THREE)
    assert {path.name for path in tmp_path.iterdir()} == {"start"}


def test_other_refusals(tmp_path, bert):
    masked = start_of(tmp_path, "bert")
    with pytest.raises(InputError, match="an ordinary token beside the special ones, found fewer in 1 of 2 rows"):
        fine_tune_language(masked, [[0, 50, 2], [0, 2]], tmp_path / "m", THREE)
    with pytest.raises(InputError, match="schedule: expected linear or constant, found 'cosine'"):
        fine_tune_language(masked, [[0, 50, 2]], tmp_path / "m", THREE, schedule="cosine")
    with pytest.raises(InputError, match="found BertForSequenceClassification"):
        fine_tune_language(bert("classifier"), [[5, 6]], tmp_path / "m", THREE)
    with pytest.raises(InputError, match="Pass --overwrite"):
        fine_tune_language(masked, [[0, 50, 2]], masked.parent / "classifier", THREE)


def test_the_manifest_says_what_a_model_was_made_from(tmp_path):
    start, rows = start_of(tmp_path, "gpt2"), draw_rows(8)
    fine_tune_language(start, rows, tmp_path / "m", THREE, origin={"study": "memorization", "part": "A"})
    made = json.loads((tmp_path / "m" / "fuseforget.json").read_text())
    assert (made["kind"], made["study"], made["part"], made["schedule"]) == ("training", "memorization", "A", "linear")
    assert made["settings"]["learning_rate"] == 3e-3
    fine_tune_language(start, rows[::-1], tmp_path / "n", THREE)
    other = json.loads((tmp_path / "n" / "fuseforget.json").read_text())
    assert other["start"] == str(start)
    assert other["start_sha256"] == made["start_sha256"]
    assert other["data_sha256"] != made["data_sha256"]
