"""Fine-tune a sequence classifier with transformers' Trainer."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fuseforget.checkpoint import refuse_place
from fuseforget.data import Examples
from fuseforget.models import (
    Classifier,
    describe_cut,
    encode_batches,
    load_classifier,
    max_tokens,
    padded,
    predict,
    save_classifier,
    tokenise,
)
from fuseforget.train.language import SCHEDULES, require_schedule
from fuseforget.train.loop import Training
from fuseforget.train.place import Place, Say
from fuseforget.train.processes import processes
from fuseforget.train.resumable import run_training
from fuseforget.train.settings import TrainResult, TrainSettings

__all__ = ["fine_tune"]

Watch = Callable[[int, Classifier], None]


def fine_tune(
    start: str | Path,
    examples: Examples,
    out: str | Path,
    settings: TrainSettings,
    *,
    monitor: Examples | None = None,
    schedule: str = "linear",
    watched: Collection[int] = (),
    watch: Watch = lambda step, classifier: None,
    overwrite: bool = False,
    origin: Mapping[str, Any] | None = None,
    say: Say = lambda line: None,
) -> TrainResult:
    """Fine-tune ``start`` on labelled texts and publish the model at ``out``.

    Steps are of texts of similar length, padded to their longest. An interrupted training leaves its state beside ``out``
    and goes on from its last finished epoch when it is called again with the same start, data and settings, to the same
    weights as if it had not been interrupted, to the bit; with others, it starts anew and says so. Processes that
    ``accelerate launch`` made share every step, and get the same model but for rounding and for what dropout draws.

    Args:
        start: the classifier to start from (see :func:`fuseforget.models.prepare_start`).
        monitor: examples whose accuracy ends the training early (a shortcut's synthetic set).
        schedule: of the learning rate, as :func:`fuseforget.train.language.fine_tune_language` takes it; where it is constant,
            the model after a step is the model of a shorter training on the same steps.
        watched: steps (from 1) after which ``watch`` is called with their number and the classifier in evaluation mode. What it
            does changes nothing of the training. Steps of an epoch that is trained again are watched again.
        origin: what the manifest says of where start and data come from; default: the start's path.
        say: receives a line an epoch.

    Raises:
        InputError: something stands at ``out``, the start is no classifier, or another process trains this model.
        OutputError: ``out`` cannot be written; finished epochs are kept beside it.
        Stopped: Ctrl-C, and an epoch that was not the last is saved (see :mod:`fuseforget.stopping`).
    """
    place = Place(start, Path(out), overwrite, origin)
    require_schedule(schedule)
    refuse_place(place.out, overwrite=overwrite, inputs=place.inputs)
    begun, say = time.perf_counter(), processes().say(say)
    classifier = load_classifier(start)
    ids, cut = tokenise(classifier, examples.texts)
    if cut:
        say(f"{place.out.name}: {describe_cut(len(cut), len(ids), max_tokens(classifier))}")
    filler = int(classifier.tokenizer.pad_token_id)
    training = Training(
        subject=classifier,
        rows=[{"input_ids": row, "label": label} for row, label in zip(ids, examples.labels, strict=True)],
        filler=filler,
        collate=lambda rows: _batch(rows, filler),
        save=save_classifier,
        identity={
            "data_sha256": examples.sha256,
            "monitor_sha256": None if monitor is None else monitor.sha256,
            **({} if schedule == "linear" else {"schedule": schedule}),
        },
        schedule=SCHEDULES[schedule],
        after_epoch=_measure(classifier, monitor),
        watched=frozenset(watched),
        after_step=lambda step: watch(step, classifier),
        cut=len(cut),
    )
    return run_training(training, place, settings, begun=begun, say=say)


def _batch(rows: Sequence[Mapping[str, Any]], filler: int) -> dict[str, torch.Tensor]:
    ids, mask = padded([row["input_ids"] for row in rows], filler)
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([row["label"] for row in rows])}


def _measure(classifier: Classifier, monitor: Examples | None) -> Callable[[int], Mapping[str, float]]:
    """What the history keeps of an epoch: the accuracy on the monitored examples."""
    if monitor is None:
        return lambda epoch: {}
    batches, labels = encode_batches(classifier, monitor.texts), np.asarray(monitor.labels)
    return lambda epoch: {"monitored": float((predict(classifier.model, batches).argmax(axis=1) == labels).mean())}
