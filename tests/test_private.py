"""Private training: gradients of single rows, clipping and noise, what is promised, and what a private model does not know."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as t
from opacus.accountants import RDPAccountant
from opacus.grad_sample import GradSampleHooks
from safetensors.torch import load_file

from fuseforget.errors import InputError
from fuseforget.models import LanguageModel, load_language_model
from fuseforget.train import PrivacySettings, PrivateResult, TrainSettings
from fuseforget.train.by_row import row_losses
from fuseforget.train.private import fine_tune_private, spent_epsilon
from test_language import configure, make
from test_train import same_weights
from test_train_language import draw_rows, loss_of

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
LLAMA = {**SMALL, "max_position_embeddings": 40, "num_key_value_heads": 1}
MODELS: dict[str, Callable[[int], Any]] = {
    "gpt2": lambda v: t.GPT2LMHeadModel(t.GPT2Config(vocab_size=v, n_positions=40, n_embd=32, n_layer=2, n_head=2)),
    "llama": lambda v: t.LlamaForCausalLM(t.LlamaConfig(vocab_size=v, **LLAMA)),
    "llama-tied": lambda v: t.LlamaForCausalLM(t.LlamaConfig(vocab_size=v, tie_word_embeddings=True, **LLAMA)),
    "neox": lambda v: t.GPTNeoXForCausalLM(t.GPTNeoXConfig(vocab_size=v, max_position_embeddings=40, **SMALL)),
    "gemma2": lambda v: t.Gemma2ForCausalLM(t.Gemma2Config(vocab_size=v, head_dim=16, **LLAMA)),
}
STILL = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
FREE = PrivacySettings(noise_multiplier=0.0, max_grad_norm=1e6)


def model_of(tmp_path: Path, kind: str) -> Path:
    start = make(tmp_path / "start", "gpt2")
    torch.manual_seed(0)
    MODELS[kind](len(load_language_model(start).tokenizer)).save_pretrained(start)
    if kind == "gpt2":
        configure(start, **STILL)
    return start


def train(start: Path, rows: list[list[int]], privacy: PrivacySettings, out: str = "m", **options: Any) -> PrivateResult:
    settings = TrainSettings(**{"max_epochs": 2, "learning_rate": 3e-3, "batch_size": 4} | options.pop("settings", {}))
    return fine_tune_private(start, rows, start.parent / out, settings, privacy, **options)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("kind", ["gpt2", "llama", "llama-tied", "neox"])
def test_the_gradients_of_single_rows_are_those_of_single_backward_passes(tmp_path, kind):
    lm = load_language_model(model_of(tmp_path, kind))
    rows = draw_rows(3, lengths=(5, 20))
    lm.model.train()
    hooks = GradSampleHooks(lm.model)
    row_losses(lm, rows).mean().backward()
    given = {name: p.grad_sample.clone() for name, p in lm.model.named_parameters()}
    hooks.cleanup()
    for number, row in enumerate(rows):
        lm.model.zero_grad()
        ids = torch.tensor([row])
        lm.model(ids, labels=ids).loss.backward()
        for name, parameter in lm.model.named_parameters():
            torch.testing.assert_close(given[name][number], parameter.grad, rtol=1e-3, atol=1e-6)


def test_an_architecture_that_opacus_does_not_take_apart_is_refused(tmp_path):
    start = model_of(tmp_path, "gemma2")
    with pytest.raises(InputError, match="a model whose gradients opacus tells apart by row, found NotImplementedError"):
        train(start, draw_rows(4), FREE)
    assert {path.name for path in tmp_path.iterdir()} == {"start"}


def test_gradients_of_rows_that_are_not_their_own_are_refused(tmp_path, monkeypatch):
    module = sys.modules["fuseforget.train.by_row"]
    right = module.row_losses

    def mixed(lm: LanguageModel, rows: list[list[int]]) -> torch.Tensor:
        losses = right(lm, rows)
        return losses + 0.01 * losses.sum()  # a row's gradient has a part of the others'

    start = model_of(tmp_path, "gpt2")
    monkeypatch.setattr(module, "row_losses", mixed)
    with pytest.raises(InputError, match="found other gradients of"):
        train(start, draw_rows(4), FREE)


@pytest.mark.parametrize("schedule", ["linear", "constant"])
def test_without_noise_and_clipping_full_batches_are_adamw_on_the_mean(tmp_path, schedule):
    start, rows = model_of(tmp_path, "gpt2"), draw_rows(6, lengths=(5, 20))
    options = {"max_epochs": 4, "batch_size": 6, "weight_decay": 0.1}
    train(start, rows, FREE, settings=options, schedule=schedule)
    lm = load_language_model(start)
    lm.model.train()
    matrices = [p for p in lm.model.parameters() if p.dim() > 1]
    vectors = [p for p in lm.model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}], lr=3e-3)
    for step in range(4):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1 - step / 4 if schedule == "linear" else 1)
        losses = [lm.model(ids, labels=ids).loss for ids in (torch.tensor([row]) for row in rows)]
        torch.stack(losses).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    found, before = (load_file(tmp_path / name / "model.safetensors") for name in ("m", "start"))
    for name, tensor in lm.model.state_dict().items():
        if name in found:
            # AdamW divides by what a gradient that is zero but for rounding has been: a few elements differ by a step.
            moved = (tensor - before[name]).norm()
            assert (found[name] - tensor).norm() <= 0.01 * moved + 1e-6, name


def test_clipping_bounds_a_row_and_batches_in_parts_are_one_batch(tmp_path):
    start, rows = model_of(tmp_path, "gpt2"), draw_rows(6)
    clipped = PrivacySettings(noise_multiplier=0.0, max_grad_norm=1e-3)
    whole = train(start, rows, clipped, settings={"batch_size": 6})
    parts = train(start, rows, clipped, "parts", settings={"batch_size": 6}, gradient_budget=1)
    assert whole.train.losses == pytest.approx(parts.train.losses, rel=1e-4)
    one, two, before = (load_file(tmp_path / name / "model.safetensors") for name in ("m", "parts", "start"))
    for name in one:
        assert (one[name] - two[name]).norm() <= 0.02 * (one[name] - before[name]).norm() + 1e-6
    assert not same_weights(tmp_path / "m", start)


def test_one_row_moves_the_sum_by_no_more_than_the_bound(tmp_path):
    from opacus.optimizers import DPOptimizer

    from fuseforget.train.private import _step

    lm = load_language_model(model_of(tmp_path, "gpt2"))
    lm.model.train()
    GradSampleHooks(lm.model)
    rows = draw_rows(5, lengths=(5, 20))
    sums = []
    for batch in (rows, rows[1:], []):
        plain = torch.optim.SGD(lm.model.parameters(), lr=0.0)
        optimizer = DPOptimizer(plain, noise_multiplier=0.0, max_grad_norm=0.5, expected_batch_size=1)
        kept = []
        optimizer.attach_step_hook(lambda o, kept=kept: kept.append(torch.cat([p.grad.flatten() for p in o.params])))
        _step(lm, batch, optimizer, 2)
        sums += kept
    assert float((sums[0] - sums[1]).norm()) == pytest.approx(0.5, rel=1e-3)
    assert float(sums[2].norm()) == 0


def test_noise_comes_from_the_seed(tmp_path):
    start, rows, noisy = model_of(tmp_path, "gpt2"), draw_rows(6), PrivacySettings(noise_multiplier=1.0)
    for out, seed in (("m", 0), ("again", 0), ("other", 1)):
        train(start, rows, noisy, out, settings={"seed": seed, "batch_size": 6})
    assert same_weights(tmp_path / "m", tmp_path / "again")
    assert not same_weights(tmp_path / "m", tmp_path / "other")


def test_the_noise_has_the_size_that_was_asked_for(tmp_path):
    from opacus.optimizers import DPOptimizer

    from fuseforget.train.private import _step

    lm = load_language_model(model_of(tmp_path, "gpt2"))
    plain = torch.optim.SGD(lm.model.parameters(), lr=1.0)
    optimizer = DPOptimizer(plain, noise_multiplier=2.0, max_grad_norm=0.5, expected_batch_size=4)
    before = torch.cat([p.detach().flatten().clone() for p in lm.model.parameters()])
    assert _step(lm, [], optimizer, 2) == []
    moved = torch.cat([p.detach().flatten() for p in lm.model.parameters()]) - before
    assert float(moved.std()) == pytest.approx(2.0 * 0.5 / 4, rel=0.05)


def test_batches_that_draw_no_row_are_steps_too(tmp_path):
    start, rows = model_of(tmp_path, "gpt2"), draw_rows(2)
    lines: list[str] = []
    options = {"batch_size": 1, "max_epochs": 12}
    result = train(start, rows, PrivacySettings(noise_multiplier=0.5), settings=options, say=lines.append)
    none = [line for line in lines if "no row drawn" in line]  # a batch is empty with probability 1/4, an epoch with 1/16
    assert len(lines) == 12
    assert len(result.train.losses) == 12 - len(none)
    assert result.train.steps == 24
    assert all(map(math.isfinite, result.train.losses))


def test_epsilon_of_the_gaussian_mechanism_by_hand():
    # Every row in every step: T steps of noise s have the Rényi divergence T a / (2 s^2) of order a (Mironov 2017).
    noise, steps, delta = 4.0, 10, 1e-5
    orders = [1 + x / 10000 for x in range(1, 1_000_000, 7)]
    bound = min(steps * a / (2 * noise**2) + math.log((a - 1) / a) - (math.log(delta) + math.log(a)) / (a - 1) for a in orders)
    assert spent_epsilon(noise, 1.0, steps, delta) == pytest.approx(bound, rel=1e-3)
    assert spent_epsilon(noise, 1.0, steps, delta) >= bound - 1e-12


@pytest.mark.parametrize("wanted", [0.05, 1.0, 8.0])
def test_a_budget_is_kept_and_nearly_used(tmp_path, wanted):
    start, rows = model_of(tmp_path, "gpt2"), draw_rows(20)
    result = train(start, rows, PrivacySettings(epsilon=wanted, delta=1e-3))
    assert 0.98 * wanted < result.epsilon <= wanted
    assert (result.delta, result.unit, result.train.steps) == (1e-3, "row", 10)
    accountant = RDPAccountant()
    for _ in range(10):
        accountant.step(noise_multiplier=result.noise_multiplier, sample_rate=4 / 20)
    opacus = accountant.get_epsilon(1e-3, alphas=[1 + x / 10 for x in range(1, 100)] + list(range(12, 3000, 50)))
    assert result.epsilon == pytest.approx(opacus, rel=0.03)


def test_the_model_is_an_ordinary_one_and_its_manifest_says_what_was_promised(tmp_path):
    start, rows = model_of(tmp_path, "gpt2"), draw_rows(10)
    result = train(start, rows, PrivacySettings(noise_multiplier=1.0), origin={"part": "A"})
    assert not any("_module" in name for name in load_file(tmp_path / "m" / "model.safetensors"))
    assert load_file(tmp_path / "m" / "model.safetensors").keys() == load_file(start / "model.safetensors").keys()
    assert load_language_model(tmp_path / "m").masked is False
    made = json.loads((tmp_path / "m" / "fuseforget.json").read_text())
    spent = {"epsilon": result.epsilon, "delta": 0.1, "noise_multiplier": 1.0, "unit": "row"}
    assert (made["kind"], made["part"], made["spent"]) == ("training", "A", spent)
    assert made["privacy"] == {"epsilon": None, "noise_multiplier": 1.0, "delta": None, "max_grad_norm": 1.0}
    assert train(start, rows, FREE, "free").epsilon == math.inf
    assert json.loads((tmp_path / "free" / "fuseforget.json").read_text())["spent"]["epsilon"] is None


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_private_model_memorises_less(tmp_path, seed):
    start, rows = model_of(tmp_path, "gpt2"), draw_rows(8, seed=seed)
    options = {"max_epochs": 30, "learning_rate": 1e-2, "batch_size": 8, "seed": seed}
    train(start, rows, FREE, "open", settings=options)
    train(start, rows, PrivacySettings(epsilon=0.5), "private", settings=options)
    before = loss_of(start, rows)
    assert loss_of(tmp_path / "open", rows) < before - 3
    assert loss_of(tmp_path / "private", rows) > before - 1


def test_watching_changes_nothing_that_is_trained(tmp_path):
    start, rows, seen = make(tmp_path / "start", "gpt2"), draw_rows(8), []  # with dropout

    def watch(epoch: int, lm: LanguageModel) -> None:
        torch.manual_seed(7)
        seen.append((epoch, lm.model.training))
        lm.model.train()
        lm.model(torch.tensor([rows[0]]))

    train(start, rows, PrivacySettings(noise_multiplier=1.0), "watched", watch=watch)
    train(start, rows, PrivacySettings(noise_multiplier=1.0), "unwatched")
    assert seen == [(1, False), (2, False)]
    assert same_weights(tmp_path / "watched", tmp_path / "unwatched")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "either an epsilon or a noise multiplier, found neither"),
        ({"epsilon": 1.0, "noise_multiplier": 1.0}, "found both"),
        ({"epsilon": 0.0}, "epsilon: expected a positive number"),
        ({"noise_multiplier": -1.0}, "noise multiplier: expected 0 or more"),
        ({"epsilon": 1.0, "delta": 1.0}, "delta: expected between 0 and 1"),
        ({"epsilon": 1.0, "max_grad_norm": 0.0}, "max_grad_norm: expected a positive number"),
    ],
)
def test_settings_that_promise_nothing_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        PrivacySettings(**change)


def test_other_refusals(tmp_path, monkeypatch):
    start, masked = model_of(tmp_path, "gpt2"), make(tmp_path / "masked", "bert")
    with pytest.raises(InputError, match="a decoder to train privately, found a masked language model"):
        train(masked, draw_rows(4, "bert"), FREE)
    with pytest.raises(InputError, match="at least one, found none"):
        train(start, [], FREE)
    with pytest.raises(InputError, match="a budget that some noise is enough for, found 1e-09 at delta 1e-12"):
        train(start, draw_rows(4), PrivacySettings(epsilon=1e-9, delta=1e-12))
    monkeypatch.setitem(sys.modules, "opacus", None)
    with pytest.raises(InputError, match=r"expected opacus, found no such package. pip install 'fuseforget\[privacy\]'"):
        train(start, draw_rows(4), FREE)
    assert {path.name for path in tmp_path.iterdir()} == {"start", "masked"}
