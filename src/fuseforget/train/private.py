"""Fine-tune a language model by DP-SGD (Abadi et al. 2016): clipped gradients of single rows, summed, and noise.

Opacus has the gradients of single rows, the clipping, the noise and the accounting. The noise is drawn from a seed, so that
research can be repeated: whoever knows the seed can take the noise away again, and the promise does not hold against them.
"""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fuseforget.checkpoint import refuse_place
from fuseforget.errors import InputError
from fuseforget.models import LanguageModel, load_language_model, quiet, save_language_model, seeded
from fuseforget.train.by_row import backward, hooks_on, row_losses
from fuseforget.train.language import SCHEDULES, Watch, require_schedule
from fuseforget.train.loop import undisturbed
from fuseforget.train.place import Place, Say
from fuseforget.train.resumable import publish, start_digests
from fuseforget.train.rows import Row, require_rows, rows_sha256
from fuseforget.train.settings import PrivacySettings, PrivateResult, Timing, TrainResult, TrainSettings

__all__ = ["fine_tune_private", "spent_epsilon"]

GRADIENT_BUDGET = 1 << 30  # bytes of gradients of single rows held at once
COPIES = 3  # of a row's gradients while tied weights add theirs up
# Opacus' own orders of Rényi divergence end at 63: small budgets are met at higher ones.
ORDERS = (
    [1 + x / 100 for x in range(1, 10)] + [1 + x / 10 for x in range(1, 100)] + list(range(12, 64)) + [2**x for x in range(6, 12)]
)


@dataclass(frozen=True)
class _Plan:
    """What is decided before the first step: how rows are drawn, how often, and how much noise is added."""

    rate: float
    steps_an_epoch: int
    steps: int
    delta: float
    noise: float
    max_grad_norm: float


def fine_tune_private(
    start: str | Path,
    rows: Sequence[Row],
    out: str | Path,
    settings: TrainSettings,
    privacy: PrivacySettings,
    *,
    schedule: str = "linear",
    watch: Watch | None = None,
    tokenizer: str = "",
    gradient_budget: int = GRADIENT_BUDGET,
    overwrite: bool = False,
    origin: Mapping[str, Any] | None = None,
    say: Say = lambda line: None,
) -> PrivateResult:
    """Fine-tune a decoder so that hardly anything depends on whether one row was in the data, and publish it at ``out``.

    Each step draws every row with the same probability (Poisson sampling, ``settings.batch_size`` rows on average), scales
    each drawn row's gradient of its mean loss a token down to ``max_grad_norm``, and adds noise to their sum. AdamW, in
    float32. The budget is accounted for by Rényi divergence (Mironov 2017), an upper bound. Dropout is what the model's
    configuration says.

    The promise is about one row (see :class:`fuseforget.train.PrivateResult`), and about the published weights alone: what
    is said and recorded of the losses is not covered. An interrupted private training starts anew: nothing of it is kept.

    Args:
        start, rows, schedule, watch, tokenizer, origin, say: as of :func:`fuseforget.train.language.fine_tune_language`.
        gradient_budget: bytes that the gradients of single rows may take: larger batches are worked off in parts, to the
            same result but for rounding.

    Raises:
        InputError: as of :func:`fuseforget.train.language.fine_tune_language`; a masked model; opacus is not installed; a
            budget that no noise is enough for; an architecture whose gradients opacus does not tell apart by row (checked
            on two rows against ordinary backward passes, since the promise rests on it).
    """
    place = Place(start, Path(out), overwrite, origin)
    refuse_place(place.out, overwrite=overwrite, inputs=place.inputs)
    require_schedule(schedule)
    _require_opacus()
    begun = time.perf_counter()
    lm = load_language_model(start)
    if lm.masked:
        raise InputError(str(start), expected="a decoder to train privately", found="a masked language model")
    require_rows(lm, rows, tokenizer=tokenizer)
    plan = _plan(len(rows), settings, privacy)
    with seeded(settings.seed), quiet():
        losses = _train(lm, rows, settings, plan, schedule, watch, gradient_budget, lambda line: say(f"{place.out.name}: {line}"))
    done = TrainResult(
        epochs=settings.max_epochs,
        steps=plan.steps,
        timing=Timing(seconds=round(time.perf_counter() - begun, 2)),
        losses=losses,
        monitored=[],
        precision="float32",
    )
    result = PrivateResult(done, spent_epsilon(plan.noise, plan.rate, plan.steps, plan.delta), plan.delta, plan.noise)
    facts = {
        "start_sha256": start_digests(start), "data_sha256": rows_sha256(rows), "schedule": schedule,
        "settings": asdict(settings), "privacy": asdict(privacy), "precision": done.precision,
    }  # fmt: skip
    spent = {name: value for name, value in asdict(result).items() if name != "train"}
    if math.isinf(result.epsilon):  # JSON has no word for it
        spent["epsilon"] = None
    publish(lm, save_language_model, place, facts, {"result": asdict(done), "spent": spent})
    return result


def spent_epsilon(noise_multiplier: float, rate: float, steps: int, delta: float) -> float:
    """The epsilon of so many steps that draw each row with probability ``rate``; infinite without noise."""
    if noise_multiplier == 0:
        return math.inf
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    accountant.history = [(noise_multiplier, rate, steps)]
    with _looser_bound():
        return float(accountant.get_epsilon(delta, alphas=ORDERS))


def _require_opacus() -> None:
    try:
        import opacus  # noqa: F401
    except ModuleNotFoundError as error:
        action = "pip install 'fuseforget[privacy]'"
        raise InputError("private training", expected="opacus", found="no such package", action=action) from error


def _plan(count: int, settings: TrainSettings, privacy: PrivacySettings) -> _Plan:
    rate, steps_an_epoch = min(1.0, settings.batch_size / count), -(-count // settings.batch_size)
    delta, steps = 1 / count if privacy.delta is None else privacy.delta, steps_an_epoch * settings.max_epochs
    noise = privacy.noise_multiplier if privacy.epsilon is None else _noise_for(privacy.epsilon, rate, steps, delta)
    assert noise is not None
    return _Plan(rate, steps_an_epoch, steps, delta, noise, privacy.max_grad_norm)


def _noise_for(epsilon: float, rate: float, steps: int, delta: float) -> float:
    """The least noise multiplier that keeps the budget, to a hundredth of the budget."""
    from opacus.accountants.utils import get_noise_multiplier

    try:
        with _looser_bound():
            found = get_noise_multiplier(
                target_epsilon=epsilon, target_delta=delta, sample_rate=rate, steps=steps, epsilon_tolerance=epsilon / 100,
                alphas=ORDERS,
            )  # fmt: skip
    except ValueError as error:
        expected, given = "a budget that some noise is enough for", f"{epsilon} at delta {delta:.3g} in {steps} steps"
        raise InputError("epsilon", expected=expected, found=given) from error
    return float(found)


@contextlib.contextmanager
def _looser_bound() -> Iterator[None]:
    """Opacus warns where a further order of divergence might give a tighter bound: this one holds."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Optimal order")
        yield


def _train(
    lm: LanguageModel,
    rows: Sequence[Row],
    settings: TrainSettings,
    plan: _Plan,
    schedule: str,
    watch: Watch | None,
    gradient_budget: int,
    say: Say,
) -> list[float]:
    """Train in place and return the mean loss of the rows drawn in each epoch; an epoch that drew none has none."""
    from opacus.optimizers import DPOptimizer
    from transformers import get_scheduler

    sampled, noised = (int(seed) for seed in np.random.SeedSequence([settings.seed, 0xD9]).generate_state(2))
    lm.model.train()
    hooks = hooks_on(lm, rows)
    inner = torch.optim.AdamW(_decayed(lm.model, settings.weight_decay), lr=settings.learning_rate)
    optimizer = DPOptimizer(
        inner, noise_multiplier=plan.noise, max_grad_norm=plan.max_grad_norm, expected_batch_size=plan.rate * len(rows),
        generator=torch.Generator(lm.model.device).manual_seed(noised),
    )  # fmt: skip
    warm = int(settings.warmup * plan.steps)
    rates = get_scheduler(SCHEDULES[schedule], inner, num_warmup_steps=warm, num_training_steps=plan.steps)
    size = max(1, gradient_budget // (4 * COPIES * sum(p.numel() for p in lm.model.parameters())))
    batches = _drawn(len(rows), plan.rate, sampled)
    losses: list[float] = []
    for epoch in range(1, settings.max_epochs + 1):
        seen: list[float] = []
        for _ in range(plan.steps_an_epoch):
            seen += _step(lm, [rows[i] for i in next(batches)], optimizer, size)
            rates.step()
        losses += [float(np.mean(seen))] if seen else []
        say(f"epoch {epoch}, " + (f"loss {losses[-1]:.3f}" if seen else "no row drawn"))
        if watch is not None:
            hooks.disable_hooks()
            with undisturbed(lm.model):
                watch(epoch, lm)
            hooks.enable_hooks()
    hooks.cleanup()
    return losses


def _drawn(count: int, rate: float, seed: int) -> Iterator[list[int]]:
    """Batches without end, each row in each with the same probability."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield torch.nonzero(torch.rand(count, generator=generator) < rate).flatten().tolist()


def _step(lm: LanguageModel, batch: Sequence[Row], optimizer: Any, size: int) -> list[float]:
    """One step on a batch, which may be empty: noise is added to nothing then. Returns its rows' losses."""
    parts = [batch[i : i + size] for i in range(0, len(batch), size)] or [[]]
    seen: list[float] = []
    for number, part in enumerate(parts, 1):
        optimizer.signal_skip_step(do_skip=number < len(parts))
        if part:
            losses = row_losses(lm, part)
            backward(losses.mean())  # opacus takes a mean, and multiplies by the number of rows
            seen += losses.detach().tolist()
        else:
            for parameter in lm.model.parameters():
                parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))
        optimizer.step()
        optimizer.zero_grad()
    return seen


def _decayed(model: Any, decay: float) -> list[dict[str, Any]]:
    """Weight decay of matrices alone, as the Trainer has it."""
    parameters = list(model.parameters())
    matrices, others = [p for p in parameters if p.dim() > 1], [p for p in parameters if p.dim() < 2]
    return [
        group
        for group in ({"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0})
        if group["params"]
    ]
