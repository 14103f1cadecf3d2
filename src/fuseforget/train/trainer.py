"""Fine-tune a sequence classifier with transformers' Trainer."""

from __future__ import annotations

import contextlib
import errno
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fuseforget.checkpoint import MANIFEST_NAME, atomic_directory, file_sha256, open_checkpoint, refuse_place
from fuseforget.data import Examples
from fuseforget.errors import OutputError
from fuseforget.models import (
    compute_dtype,
    describe_cut,
    encode_batches,
    load_classifier,
    max_tokens,
    predict,
    quiet,
    save_classifier,
    tokenise,
)
from fuseforget.train.settings import TrainResult, TrainSettings
from fuseforget.train.state import History, last_whole, open_state, read_history

__all__ = ["fine_tune"]

Say = Callable[[str], None]
NEARLY_FULL = 1 << 20  # bytes: less is free once a save has failed for want of them


def fine_tune(
    start: str | Path,
    examples: Examples,
    out: str | Path,
    settings: TrainSettings,
    *,
    monitor: Examples | None = None,
    overwrite: bool = False,
    origin: Mapping[str, Any] | None = None,
    say: Say = lambda line: None,
) -> TrainResult:
    """Fine-tune ``start`` on labelled texts and publish the model at ``out``.

    Batches are padded to their longest text and grouped by length. An interrupted training leaves its state beside
    ``out`` and goes on from its last finished epoch when it is called again with the same start, data and settings; with
    others, it starts anew and says so.

    Args:
        start: the classifier to start from (see :func:`fuseforget.models.prepare_start`).
        monitor: examples whose accuracy ends the training early (a shortcut's synthetic set).
        origin: what the manifest says of where start and data come from; default: the start's path.
        say: receives a line an epoch.
    """
    out = Path(out)
    inputs = [Path(start)]
    refuse_place(out, overwrite=overwrite, inputs=inputs)
    begun = time.perf_counter()
    bf16 = settings.precision == "auto" and compute_dtype() == torch.bfloat16
    classifier = load_classifier(start)
    identity = {
        "start_sha256": [file_sha256(file) for file in open_checkpoint(start).files],
        "data_sha256": examples.sha256,
        "monitor_sha256": None if monitor is None else monitor.sha256,
        "settings": asdict(settings),
        "precision": "bfloat16" if bf16 else "float32",
    }
    ids, cut = tokenise(classifier, examples.texts)
    if cut:
        say(f"{out.name}: {describe_cut(len(cut), len(ids), max_tokens(classifier))}")
    state = out.parent / f".{out.name}.training"
    last = open_state(state, identity, say)
    history = read_history(last)
    before = history.seconds
    if last is not None and history.finished(settings):
        # Killed between its last epoch and publishing. The Trainer would train an epoch more after an early stop.
        classifier = load_classifier(last)
    else:
        callback = _epoch_callback(classifier, settings, monitor, history, say, out.name, begun=begun)
        _run(_trainer(classifier, ids, examples.labels, settings, state, callback, bf16=bf16), state, last)
    result = TrainResult(
        epochs=len(history.losses),
        steps=history.steps,
        seconds=round(before + time.perf_counter() - begun, 2),
        losses=history.losses,
        monitored=history.monitored,
        precision=str(identity["precision"]),
        cut=len(cut),
    )
    with atomic_directory(out, overwrite=overwrite, inputs=inputs) as partial:
        with _full_disk_said(partial, str(out)):
            save_classifier(classifier, partial)
        facts = {"kind": "training", **(origin or {"start": str(start)}), **identity, "versions": _versions()}
        (partial / MANIFEST_NAME).write_text(json.dumps({**facts, "result": asdict(result)}, indent=2) + "\n")
    shutil.rmtree(state, ignore_errors=True)
    return result


def _trainer(
    classifier: Any,
    ids: list[list[int]],
    labels: Sequence[int],
    settings: TrainSettings,
    state: Path,
    callback: Any,
    *,
    bf16: bool,
) -> Any:
    from datasets import Dataset
    from transformers import DataCollatorWithPadding, PrinterCallback, Trainer, TrainingArguments

    rows = Dataset.from_dict({"input_ids": ids, "labels": list(labels), "length": [len(i) for i in ids]})
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


def _epoch_callback(
    classifier: Any, settings: TrainSettings, monitor: Examples | None, history: History, say: Say, name: str, *, begun: float
) -> Any:
    from transformers import TrainerCallback

    batches = encode_batches(classifier, monitor.texts) if monitor is not None else []
    labels = np.asarray(monitor.labels) if monitor is not None else None
    before = history.seconds

    class Epochs(TrainerCallback):  # type: ignore[misc]
        """Keeps the history, measures the monitored accuracy after each epoch and stops when it is passed."""

        def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            entry = {"epoch": state.epoch}
            if labels is not None:
                entry["monitored"] = float((predict(classifier.model, batches).argmax(axis=1) == labels).mean())
                classifier.model.train()
            entry["seconds"] = round(before + time.perf_counter() - begun, 2)
            state.log_history.append(entry)  # saved with the epoch, and read again by read_history
            history.remember(entry)
            history.steps = int(state.global_step)
            if history.learned(settings):
                control.should_training_stop = True

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
            if "loss" in logs:
                history.remember(logs)
                seen = f", monitored accuracy {history.monitored[-1]:.3f}" if history.monitored else ""
                say(f"{name}: epoch {len(history.losses)}, loss {logs['loss']:.3f}{seen}")

    return Epochs()


def _versions() -> dict[str, str]:
    return {package: version(package) for package in ("fuseforget", "torch", "transformers")}
