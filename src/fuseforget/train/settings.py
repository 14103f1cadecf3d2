"""How a model is trained, and what a training did."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fuseforget.errors import InputError, require_seed

__all__ = ["TrainResult", "TrainSettings"]


@dataclass(frozen=True)
class TrainSettings:
    """How a model is trained.

    Attributes:
        max_epochs, min_epochs: passes over the data; training ends after the first epoch (from ``min_epochs`` on) whose
            accuracy on the monitored examples exceeds ``stop_above``. The paper: 1 to 3, .95.
        learning_rate, warmup, weight_decay: of AdamW with a linear schedule; warmup is a share of all steps.
        batch_size: examples a step.
        seed: of the order of the data and of dropout.
        precision: ``auto`` (bfloat16 autocast where the hardware has it) or ``float32``.
    """

    max_epochs: int = 3
    min_epochs: int = 1
    stop_above: float = 0.95
    learning_rate: float = 2e-5
    batch_size: int = 32
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
        if self.precision not in ("auto", "float32"):
            raise InputError("precision", expected="auto or float32", found=repr(self.precision))
        require_seed(self.seed)


@dataclass(frozen=True)
class TrainResult:
    """What a training did.

    Attributes:
        epochs, steps: how long it went on.
        seconds: the time of its epochs, summed over the processes that ran them where it was interrupted.
        losses: the mean training loss of each epoch (nats an example).
        monitored: the accuracy on the monitored examples after each epoch; empty without any.
        precision: what it computed in.
        cut: how many texts were longer than the model can read, and cut.
    """

    epochs: int
    steps: int
    seconds: float
    losses: list[float]
    monitored: list[float]
    precision: str
    cut: int = 0
