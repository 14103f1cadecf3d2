"""A training on transformers' Trainer that goes on where it was interrupted and is published whole."""

from __future__ import annotations

import contextlib
import errno
import json
import random
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fuseforget.checkpoint import MANIFEST_NAME, atomic_directory, file_sha256, open_checkpoint
from fuseforget.errors import OutputError
from fuseforget.models import compute_dtype, quiet
from fuseforget.train.settings import TrainResult, TrainSettings
from fuseforget.train.state import History, last_whole, open_state, read_history

__all__ = ["Place", "Say", "Training", "publish", "run_training", "start_digests", "undisturbed"]

Say = Callable[[str], None]
NEARLY_FULL = 1 << 20  # bytes: less is free once a save has failed for want of them


@dataclass(frozen=True)
class Place:
    """Where a trained model goes and what is said of where it comes from.

    Attributes:
        start: the model that training starts from.
        out: where the trained one is published; the state of an interrupted training lies beside it.
        origin: what the manifest says of where start and data come from; default: the start's path.
    """

    start: str | Path
    out: Path
    overwrite: bool = False
    origin: Mapping[str, Any] | None = None

    @property
    def inputs(self) -> list[Path]:
        """What must not be replaced."""
        return [Path(self.start)]

    @property
    def state(self) -> Path:
        """The directory of an interrupted training's state."""
        return self.out.parent / f".{self.out.name}.training"


@dataclass(frozen=True)
class Training:
    """What is trained on what.

    Attributes:
        subject: what is trained, with its ``model`` and its ``tokenizer``.
        rows: a ``datasets`` data set with the tokens of each row and, in the column ``length``, how many there are.
        collate: makes rows a batch.
        load, save: read a subject from a directory, and write one.
        identity: what besides start, settings and precision makes two trainings the same one.
        arguments: of the Trainer, besides those that all trainings share.
        before_epoch: called with the number of the epoch (from 0) that begins.
        after_epoch: called after each epoch in an :func:`undisturbed` block; what it returns is kept in the history.
        own_mean: the loss is the model's own mean over a batch, and not its sum over what the Trainer counts.
        cut: how many texts were cut.
    """

    subject: Any
    rows: Any
    collate: Callable[[list[dict[str, Any]]], Any]
    load: Callable[[str | Path], Any]
    save: Callable[[Any, Path], None]
    identity: Mapping[str, Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    before_epoch: Callable[[int], None] = lambda epoch: None
    after_epoch: Callable[[int], Mapping[str, float]] = lambda epoch: {}
    own_mean: bool = False
    cut: int = 0


def run_training(training: Training, place: Place, settings: TrainSettings, *, begun: float, say: Say) -> TrainResult:
    """Train from the last whole state beside ``place.out``, or from the start, and publish the model.

    A state of another start, data, settings or precision is discarded, and said.

    Args:
        begun: the ``time.perf_counter()`` at which the work on it began.

    Raises:
        OutputError: the disk is full; finished epochs are kept.
    """
    bf16 = settings.precision == "auto" and compute_dtype() == torch.bfloat16
    identity = {
        "start_sha256": start_digests(place.start),
        **training.identity,
        "settings": asdict(settings),
        "precision": "bfloat16" if bf16 else "float32",
    }
    subject, state = training.subject, place.state
    last = open_state(state, identity, say)
    history = read_history(last)
    before = history.seconds
    if last is not None and history.finished(settings):
        # Killed between its last epoch and publishing. The Trainer would train an epoch more after an early stop.
        subject = training.load(last)
    else:
        callback = _epoch_callback(training, settings, history, say, place.out.name, begun=begun)
        _run(_trainer(training, settings, state, callback, bf16=bf16), state, last)
    result = TrainResult(
        epochs=len(history.losses),
        steps=history.steps,
        seconds=round(before + time.perf_counter() - begun, 2),
        losses=history.losses,
        monitored=history.monitored,
        precision=str(identity["precision"]),
        cut=training.cut,
    )
    publish(subject, training.save, place, identity, {"result": asdict(result)})
    shutil.rmtree(state, ignore_errors=True)
    return result


def publish(
    subject: Any, save: Callable[[Any, Path], None], place: Place, facts: Mapping[str, Any], result: Mapping[str, Any]
) -> None:
    """Write a trained model with its manifest, whole or not at all.

    Args:
        facts, result: what the manifest says of what was asked for and of what came out.
    """
    with atomic_directory(place.out, overwrite=place.overwrite, inputs=place.inputs) as partial:
        with _full_disk_said(partial, str(place.out)):
            save(subject, partial)
        made = {"kind": "training", **(place.origin or {"start": str(place.start)}), **facts, "versions": _versions()}
        (partial / MANIFEST_NAME).write_text(json.dumps({**made, **result}, indent=2) + "\n")


def start_digests(start: str | Path) -> list[str]:
    """The digests of the weight files that a training starts from."""
    return [file_sha256(file) for file in open_checkpoint(start).files]


@contextlib.contextmanager
def undisturbed(model: Any) -> Iterator[None]:
    """Evaluation mode in the block; after it each module's own mode and all random states are as they were before."""
    modes = [(module, module.training) for module in model.modules()]
    python, numpy = random.getstate(), np.random.get_state()
    model.eval()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        for module, mode in modes:
            module.training = mode


def _trainer(training: Training, settings: TrainSettings, state: Path, callback: Any, *, bf16: bool) -> Any:
    from transformers import PrinterCallback, Trainer, TrainingArguments

    steps_an_epoch = -(-len(training.rows) // settings.batch_size)
    shared = {
        "output_dir": str(state),
        "num_train_epochs": settings.max_epochs,
        "learning_rate": settings.learning_rate,
        "weight_decay": settings.weight_decay,
        "warmup_steps": int(settings.warmup * steps_an_epoch * settings.max_epochs),
        "lr_scheduler_type": "linear",
        "per_device_train_batch_size": settings.batch_size,
        "train_sampling_strategy": "group_by_length",
        "bf16": bf16,
        "use_cpu": not torch.cuda.is_available(),
        "seed": settings.seed,
        "data_seed": settings.seed,
        "save_strategy": "epoch",
        "logging_strategy": "epoch",
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": torch.cuda.is_available(),
    }
    trainer = Trainer(
        model=training.subject.model,
        args=TrainingArguments(**{**shared, **training.arguments}),
        train_dataset=training.rows,
        data_collator=training.collate,
        processing_class=training.subject.tokenizer,
        callbacks=[callback],
    )
    trainer.remove_callback(PrinterCallback)
    if training.own_mean:
        trainer.model_accepts_loss_kwargs = False
    return trainer


def _run(trainer: Any, state: Path, last: Path | None) -> None:
    try:
        with _full_disk_said(state, str(state)), quiet():
            trainer.train(resume_from_checkpoint=None if last is None else str(last))
    except OutputError:
        last_whole(state)  # what was half saved would keep the disk full
        raise


@contextlib.contextmanager
def _full_disk_said(directory: Path, place: str) -> Iterator[None]:
    """Saving fails on a full disk with an error of the system's, of safetensors' or of torch's making: make it one."""
    try:
        yield
    except Exception as error:
        if not directory.is_dir() or shutil.disk_usage(directory).free > NEARLY_FULL:
            raise
        full = OSError(errno.ENOSPC, "no space left")
        raise OutputError.caused_by(full, place, action="Finished epochs are kept beside the output.") from error


def _epoch_callback(training: Training, settings: TrainSettings, history: History, say: Say, name: str, *, begun: float) -> Any:
    from transformers import TrainerCallback

    before = history.seconds

    class Epochs(TrainerCallback):  # type: ignore[misc]
        """Keeps the history, has the model looked at after each epoch and stops when it has learned enough."""

        def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            training.before_epoch(round(state.epoch or 0))

        def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            with undisturbed(training.subject.model):
                seen = training.after_epoch(round(state.epoch))
            entry = {"epoch": state.epoch, **seen, "seconds": round(before + time.perf_counter() - begun, 2)}
            state.log_history.append(entry)  # saved with the epoch, and read again by read_history
            history.remember(entry)
            history.steps = int(state.global_step)
            if history.learned(settings):
                control.should_training_stop = True

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            # Older ones go by their number; the Trainer's own limit goes by times of files, which a clock that jumps confuses.
            last_whole(Path(args.output_dir))

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
            if "loss" in logs:
                history.remember(logs)
                seen = f", monitored accuracy {history.monitored[-1]:.3f}" if history.monitored else ""
                say(f"{name}: epoch {len(history.losses)}, loss {logs['loss']:.3f}{seen}")

    return Epochs()


def _versions() -> dict[str, str]:
    return {package: version(package) for package in ("fuseforget", "torch", "transformers")}
