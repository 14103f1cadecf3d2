"""How a model is trained, and what a training did."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fuseforget.errors import InputError, require_seed

__all__ = ["PrivacySettings", "PrivateResult", "Timing", "TrainResult", "TrainSettings"]


@dataclass(frozen=True)
class TrainSettings:
    """How a model is trained.

    Attributes:
        max_epochs, min_epochs: passes over the data; training ends after the first epoch (from ``min_epochs`` on) whose
            accuracy on the monitored examples exceeds ``stop_above``. The paper: 1 to 3, .95.
        learning_rate, warmup, weight_decay: of AdamW with a linear schedule; warmup is a share of all steps.
        batch_size: examples a step, of all processes together.
        token_budget: tokens, padding included, that a process computes at once: a step of more is computed in parts whose
            gradients are added up, to the same result but for rounding and for what dropout draws.
        seed: of the order of the data and of dropout.
        precision: ``auto`` (bfloat16 autocast where the hardware is faster in it) or ``float32``.
    """

    max_epochs: int = 3
    min_epochs: int = 1
    stop_above: float = 0.95
    learning_rate: float = 2e-5
    batch_size: int = 32
    token_budget: int = 16384
    warmup: float = 0.0
    weight_decay: float = 0.0
    seed: int = 0
    precision: str = "auto"

    def __post_init__(self) -> None:
        if not 1 <= self.min_epochs <= self.max_epochs:
            raise InputError("epochs", expected="1 <= min_epochs <= max_epochs", found=f"{self.min_epochs} and {self.max_epochs}")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise InputError("learning rate", expected="a positive number", found=str(self.learning_rate))
        if self.batch_size < 1:
            raise InputError("batch size", expected="1 or more", found=str(self.batch_size))
        if self.token_budget < 1:
            raise InputError("token budget", expected="1 or more", found=str(self.token_budget))
        if self.precision not in ("auto", "float32"):
            raise InputError("precision", expected="auto or float32", found=repr(self.precision))
        require_seed(self.seed)


@dataclass(frozen=True)
class Timing:
    """What of a training no repetition gives again.

    Attributes:
        seconds: the time of its epochs, summed over the processes that ran them where it was interrupted.
        tokens_per_second: its tokens over the seconds of its steps alone, without loading, monitoring and saving; None
            where they were not counted.
        peak_share: the share of the machine's matrix peak (:func:`fuseforget.models.peak.matrix_peak`, in the training's
            precision, on as many threads and processes) that forward and backward passes over its tokens are, in the
            seconds of its steps; None where they were not counted.
    """

    seconds: float
    tokens_per_second: float | None = None
    peak_share: float | None = None

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> Timing:
        """What a manifest's ``result`` says of it, also an old one's, which knows the seconds alone."""
        return cls(**result["timing"]) if "timing" in result else cls(seconds=result["seconds"])


@dataclass(frozen=True)
class TrainResult:
    """What a training did.

    Attributes:
        epochs, steps: how long it went on.
        losses: the mean training loss of each epoch (nats an example; a predicted token where a language model is trained).
        monitored: the accuracy on the monitored examples after each epoch; empty without any.
        precision: what it computed in.
        timing: how fast it was. All else is the same when the training is repeated.
        cut: how many texts were longer than the model can read, and cut.
        tokens: how many tokens it was trained on, in all epochs; None where they were not counted.
        padding: the share of the computed tokens that only filled shorter texts up; None where they were not counted.
    """

    epochs: int
    steps: int
    losses: list[float]
    monitored: list[float]
    precision: str
    timing: Timing
    cut: int = 0
    tokens: int | None = None
    padding: float | None = None

    @property
    def seconds(self) -> float:
        """See :class:`Timing`."""
        return self.timing.seconds


@dataclass(frozen=True)
class PrivacySettings:
    """How private a training is to be: one of ``epsilon`` and ``noise_multiplier`` is given.

    Attributes:
        epsilon: the budget of the whole training; the noise is found from it.
        noise_multiplier: the noise's standard deviation over ``max_grad_norm``.
        delta: the probability with which the promise may fail; default: one over the number of rows.
        max_grad_norm: a row's gradient is scaled down to this length.
    """

    epsilon: float | None = None
    noise_multiplier: float | None = None
    delta: float | None = None
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        if (self.epsilon is None) == (self.noise_multiplier is None):
            found = "neither" if self.epsilon is None else "both"
            raise InputError("privacy", expected="either an epsilon or a noise multiplier", found=found)
        if self.epsilon is not None and not (math.isfinite(self.epsilon) and self.epsilon > 0):
            raise InputError("epsilon", expected="a positive number", found=str(self.epsilon))
        if self.noise_multiplier is not None and not (math.isfinite(self.noise_multiplier) and self.noise_multiplier >= 0):
            raise InputError("noise multiplier", expected="0 or more", found=str(self.noise_multiplier))
        if self.delta is not None and not 0 < self.delta < 1:
            raise InputError("delta", expected="between 0 and 1", found=str(self.delta))
        if not (math.isfinite(self.max_grad_norm) and self.max_grad_norm > 0):
            raise InputError("max_grad_norm", expected="a positive number", found=str(self.max_grad_norm))


@dataclass(frozen=True)
class PrivateResult:
    """What a private training did and promises.

    Attributes:
        train: what it did. Its losses are means over the rows themselves: the promise does not cover them.
        epsilon, delta: the training is (epsilon, delta)-differentially private; epsilon is infinite without noise.
        noise_multiplier: see :class:`PrivacySettings`.
        unit: what the promise is about: whether one row (a block of packed text, or an article) was in the data. A document
            that two rows have parts of is covered by the promise for two rows, which is weaker.
    """

    train: TrainResult
    epsilon: float
    delta: float
    noise_multiplier: float
    unit: str = "row"
