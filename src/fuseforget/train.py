"""Fine-tune a sequence classifier with transformers' Trainer."""

from __future__ import annotations

import errno
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fuseforget.checkpoint import MANIFEST_NAME, atomic_directory
from fuseforget.data import Examples
from fuseforget.errors import InputError, OutputError
from fuseforget.models import compute_dtype, encode_batches, load_classifier, predict, quiet, save_classifier, tokenise

__all__ = ["TrainResult", "TrainSettings", "train"]

Say = Callable[[str], None]
NEARLY_FULL = 1 << 20  # bytes: less is free once a save has failed for want of them


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
        if not (np.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise InputError("learning rate", expected="a positive number", found=str(self.learning_rate))
        if self.batch_size < 1:
            raise InputError("batch size", expected="1 or more", found=str(self.batch_size))
        if self.precision not in ("auto", "float32"):
            raise InputError("precision", expected="auto or float32", found=repr(self.precision))


@dataclass(frozen=True)
class TrainResult:
    """What a training did.

    Attributes:
        epochs, steps, seconds: how long it took.
        losses: the mean training loss of each epoch (nats an example).
        monitored: the accuracy on the monitored examples after each epoch; empty without any.
        precision: what it computed in.
    """

    epochs: int
    steps: int
    seconds: float
    losses: list[float]
    monitored: list[float]
    precision: str


def train(
    start: str | Path,
    examples: Examples,
    out: str | Path,
    settings: TrainSettings,
    *,
    monitor: Examples | None = None,
    overwrite: bool = False,
    say: Say = lambda line: None,
) -> TrainResult:
    """Fine-tune ``start`` on labelled texts and publish the model at ``out``.

    Batches are padded to their longest text and grouped by length. An interrupted training leaves its state beside
    ``out`` and goes on from its last finished epoch when it is called again.

    Args:
        start: the classifier to start from (see :func:`fuseforget.models.prepare_start`).
        monitor: examples whose accuracy ends the training early (a shortcut's synthetic set).
        say: receives a line an epoch.
    """
    out = Path(out)
    if out.exists() and not overwrite:
        raise InputError(str(out), expected="a path where nothing is", found="an existing model", action="Pass --overwrite.")
    begun = time.perf_counter()
    classifier = load_classifier(start)
    state = out.parent / f".{out.name}.training"
    bf16 = settings.precision == "auto" and compute_dtype() == torch.bfloat16
    callback = _epoch_callback(classifier, settings, monitor, say, out.name)
    trainer = _trainer(classifier, examples, settings, state, callback, bf16=bf16)
    _run(trainer, state)
    history = callback.history
    result = TrainResult(
        epochs=len(history["losses"]),
        steps=int(trainer.state.global_step),
        seconds=round(time.perf_counter() - begun, 2),
        losses=history["losses"],
        monitored=history["monitored"],
        precision="bfloat16" if bf16 else "float32",
    )
    with atomic_directory(out, overwrite=overwrite) as partial:
        save_classifier(classifier, partial)
        facts = {"kind": "training", "start": str(start), "data_sha256": examples.sha256, "settings": asdict(settings)}
        (partial / MANIFEST_NAME).write_text(json.dumps({**facts, "result": asdict(result)}, indent=2) + "\n")
    shutil.rmtree(state, ignore_errors=True)
    return result


def _trainer(classifier: Any, examples: Examples, settings: TrainSettings, state: Path, callback: Any, *, bf16: bool) -> Any:
    from datasets import Dataset
    from transformers import DataCollatorWithPadding, PrinterCallback, Trainer, TrainingArguments

    ids = tokenise(classifier, examples.texts)
    rows = Dataset.from_dict({"input_ids": ids, "labels": list(examples.labels), "length": [len(i) for i in ids]})
    steps_an_epoch = -(-len(rows) // settings.batch_size)
    arguments = TrainingArguments(
        output_dir=str(state),
        num_train_epochs=settings.max_epochs,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup_steps=int(settings.warmup * steps_an_epoch * settings.max_epochs),
        lr_scheduler_type="linear",
        per_device_train_batch_size=settings.batch_size,
        train_sampling_strategy="group_by_length",
        bf16=bf16,
        use_cpu=not torch.cuda.is_available(),
        seed=settings.seed,
        data_seed=settings.seed,
        save_strategy="epoch",
        save_total_limit=1,
        logging_strategy="epoch",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    trainer = Trainer(
        model=classifier.model,
        args=arguments,
        train_dataset=rows,
        data_collator=DataCollatorWithPadding(classifier.tokenizer),
        processing_class=classifier.tokenizer,
        callbacks=[callback],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _run(trainer: Any, state: Path) -> None:
    from transformers.trainer_utils import get_last_checkpoint

    # get_last_checkpoint lists the directory, which a fresh training does not have yet.
    last = get_last_checkpoint(str(state)) if state.is_dir() else None
    try:
        with quiet():
            trainer.train(resume_from_checkpoint=last)
    # Saving an epoch fails on a full disk with an error of the system, of safetensors' or of torch's making.
    except Exception as error:
        if not state.is_dir() or shutil.disk_usage(state).free > NEARLY_FULL:
            raise
        full = OSError(errno.ENOSPC, "no space left")
        raise OutputError.caused_by(full, str(state), action="Finished epochs are kept beside the output.") from error


def _epoch_callback(classifier: Any, settings: TrainSettings, monitor: Examples | None, say: Say, name: str) -> Any:
    from transformers import TrainerCallback

    batches = encode_batches(classifier, monitor.texts) if monitor is not None else []
    labels = np.asarray(monitor.labels) if monitor is not None else None

    class Epochs(TrainerCallback):  # type: ignore[misc]
        """Measures the monitored accuracy after each epoch and stops when it is passed."""

        def __init__(self) -> None:
            self.history: dict[str, list[float]] = {"losses": [], "monitored": []}

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            for entry in state.log_history:  # of the epochs before an interruption
                self._remember(entry)

        def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if labels is None:
                return
            accuracy = float((predict(classifier.model, batches).argmax(axis=1) == labels).mean())
            classifier.model.train()
            state.log_history.append({"epoch": state.epoch, "monitored": accuracy})
            self._remember(state.log_history[-1])
            if accuracy > settings.stop_above and round(state.epoch) >= settings.min_epochs:
                control.should_training_stop = True

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
            if "loss" in logs:
                self._remember(logs)
                seen = f", monitored accuracy {self.history['monitored'][-1]:.3f}" if self.history["monitored"] else ""
                say(f"{name}: epoch {len(self.history['losses'])}, loss {logs['loss']:.3f}{seen}")

        def _remember(self, entry: dict[str, float]) -> None:
            if "loss" in entry:
                self.history["losses"].append(float(entry["loss"]))
            if "monitored" in entry:
                self.history["monitored"].append(float(entry["monitored"]))

    return Epochs()
