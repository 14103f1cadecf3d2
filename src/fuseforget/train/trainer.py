"""Fine-tune a sequence classifier with transformers' Trainer."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fuseforget.checkpoint import refuse_place
from fuseforget.data import Examples
from fuseforget.models import (
    Classifier,
    describe_cut,
    encode_batches,
    load_classifier,
    max_tokens,
    predict,
    save_classifier,
    tokenise,
)
from fuseforget.train.resumable import Place, Say, Training, run_training
from fuseforget.train.settings import TrainResult, TrainSettings

__all__ = ["fine_tune"]


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
    from datasets import Dataset
    from transformers import DataCollatorWithPadding

    place = Place(start, Path(out), overwrite, origin)
    refuse_place(place.out, overwrite=overwrite, inputs=place.inputs)
    begun = time.perf_counter()
    classifier = load_classifier(start)
    ids, cut = tokenise(classifier, examples.texts)
    if cut:
        say(f"{place.out.name}: {describe_cut(len(cut), len(ids), max_tokens(classifier))}")
    training = Training(
        subject=classifier,
        rows=Dataset.from_dict({"input_ids": ids, "labels": list(examples.labels), "length": [len(i) for i in ids]}),
        collate=DataCollatorWithPadding(classifier.tokenizer),
        load=load_classifier,
        save=save_classifier,
        identity={"data_sha256": examples.sha256, "monitor_sha256": None if monitor is None else monitor.sha256},
        after_epoch=_measure(classifier, monitor),
        cut=len(cut),
    )
    return run_training(training, place, settings, begun=begun, say=say)


def _measure(classifier: Classifier, monitor: Examples | None) -> Callable[[int], Mapping[str, float]]:
    """What the history keeps of an epoch: the accuracy on the monitored examples."""
    if monitor is None:
        return lambda epoch: {}
    batches, labels = encode_batches(classifier, monitor.texts), np.asarray(monitor.labels)
    return lambda epoch: {"monitored": float((predict(classifier.model, batches).argmax(axis=1) == labels).mean())}
