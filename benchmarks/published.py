"""The authors' published protocol of a sweep and of a training, in plain transformers.

A point is a copy of a model whose weights are interpolated; at each point every probe's texts are tokenised again, padded to
512 tokens, and read in batches of 8 by a new Trainer, in float32. A training reads texts padded to 512 tokens in float32.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.utils import logging

LENGTH, BATCH = 512, 8

datasets.disable_progress_bars()
logging.set_verbosity_error()
logging.disable_progress_bar()


def load(model: str | Path) -> tuple[Any, Any]:
    """A classifier and its tokenizer."""
    return AutoModelForSequenceClassification.from_pretrained(model), AutoTokenizer.from_pretrained(model)


def length_of(model: Any) -> int:
    """The tokens that every text is padded to: 512, or as many as a smaller model reads."""
    return min(LENGTH, int(model.config.max_position_embeddings))


def interpolate(first: Any, second: Any, share: float) -> Any:
    """A model that is this share of the first and for the rest the second."""
    model, other = copy.deepcopy(first), second.state_dict()
    mixed = {
        name: share * value + (1 - share) * other[name] if value.is_floating_point() else value
        for name, value in first.state_dict().items()
    }
    model.load_state_dict(mixed)
    return model


def predict(model: Any, tokenizer: Any, texts: Sequence[str], labels: Sequence[int], scratch: Path) -> np.ndarray:
    """Logits, examples x labels."""
    arguments = TrainingArguments(str(scratch), per_device_eval_batch_size=BATCH, **_shared())
    return np.asarray(
        Trainer(model=model, args=arguments).predict(_padded(tokenizer, texts, labels, length_of(model))).predictions
    )


def train(
    model: Any, tokenizer: Any, texts: Sequence[str], labels: Sequence[int], scratch: Path, *, batch: int, learning_rate: float,
    seed: int,
) -> list[float]:  # fmt: skip
    """Train on the texts once and return the seconds of each step."""
    arguments = TrainingArguments(
        str(scratch), per_device_train_batch_size=batch, learning_rate=learning_rate, weight_decay=0.0, num_train_epochs=1,
        seed=seed, save_strategy="no", **_shared(),
    )  # fmt: skip
    clock = _Steps()
    data = _padded(tokenizer, texts, labels, length_of(model))
    trainer = Trainer(model=model, args=arguments, train_dataset=data, callbacks=[clock])
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return clock.seconds


class _Steps(TrainerCallback):
    """The seconds of each step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *given: Any, **named: Any) -> None:
        self._begun = time.perf_counter()

    def on_step_end(self, *given: Any, **named: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self._begun)


def _padded(tokenizer: Any, texts: Sequence[str], labels: Sequence[int], length: int) -> datasets.Dataset:
    data = datasets.Dataset.from_dict({"text": list(texts), "label": list(labels)})
    return data.map(lambda rows: tokenizer(rows["text"], padding="max_length", truncation=True, max_length=length), batched=True)


def _shared() -> dict[str, Any]:
    gpu = torch.cuda.is_available()
    return {
        "use_cpu": not gpu, "dataloader_pin_memory": gpu, "report_to": [], "disable_tqdm": True, "logging_strategy": "no",
    }  # fmt: skip
