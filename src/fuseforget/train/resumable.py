"""A training that goes on where it was interrupted and is published whole."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from fuseforget.checkpoint import MANIFEST_NAME, atomic_directory, file_sha256, open_checkpoint
from fuseforget.errors import Stopped
from fuseforget.models import UsedVocabulary, compute_dtype, device, set_weights, used_vocabulary
from fuseforget.train.lock import held
from fuseforget.train.loop import Training, run_epochs
from fuseforget.train.place import Place, Say, full_disk_said
from fuseforget.train.processes import Processes, processes
from fuseforget.train.settings import Timing, TrainResult, TrainSettings
from fuseforget.train.state import History, open_state, read_history

__all__ = ["publish", "run_training", "start_digests"]


def run_training(training: Training, place: Place, settings: TrainSettings, *, begun: float, say: Say) -> TrainResult:
    """Train from the last whole state beside ``place.out``, or from the start, and publish the model.

    A state of another start, data, settings or precision is discarded, and said. Of several processes that accelerate
    launched, the first has the state and publishes; each computes its share of every step.

    Args:
        begun: the ``time.perf_counter()`` at which the work on it began.

    Raises:
        InputError: another process trains this model, or the processes cannot share the steps.
        OutputError: the disk is full; finished epochs are kept.
        Stopped: the work was asked to stop, and an epoch that was not the last is saved.
    """
    team = processes()
    team.require_share(settings.batch_size)
    with contextlib.ExitStack() as alone:
        team.first(lambda: _nothing(alone.enter_context(held(place.lock))))
        return _run(training, place, settings, team, begun=begun, say=team.say(say))


def _run(training: Training, place: Place, settings: TrainSettings, team: Processes, *, begun: float, say: Say) -> TrainResult:
    forward = team.first(lambda: _forward_flops(training, say))
    vocabulary = _used(training, settings)
    identity = team.first(lambda: _identity(training, place, settings, vocabulary))
    last = team.first(lambda: open_state(place.state, identity, say))
    history = read_history(last)
    before = history.seconds
    if last is not None and history.finished(settings):
        # Killed between its last epoch and publishing. The Trainer would train an epoch more after an early stop.
        set_weights(training.subject.model, open_checkpoint(last))
    else:
        bf16 = identity["precision"] == "bfloat16"
        run_epochs(training, settings, place, team, vocabulary, history, last, bf16=bf16, begun=begun, say=say)
    if vocabulary is not None:
        vocabulary.restore()
    if not history.finished(settings):
        raise _stopped(place, history, settings)

    def finish() -> TrainResult:
        seconds = round(before + time.perf_counter() - begun, 2)
        timing = _timing(forward, history, team, seconds, getattr(torch, identity["precision"]))
        result = _result(training, history, timing, str(identity["precision"]))
        publish(training.subject, training.save, place, identity, {"result": asdict(result)})
        shutil.rmtree(place.state, ignore_errors=True)
        return result

    return team.first(finish)


def _used(training: Training, settings: TrainSettings) -> UsedVocabulary | None:
    """The vocabulary cut down to the tokens of the rows, where no other one is ever trained."""
    if training.draws_tokens or settings.weight_decay:
        return None
    return used_vocabulary(training.subject.model, [row["input_ids"] for row in training.rows], training.filler)


def _identity(training: Training, place: Place, settings: TrainSettings, vocabulary: UsedVocabulary | None) -> dict[str, Any]:
    """What makes two trainings the same one."""
    bf16 = settings.precision == "auto" and compute_dtype() == torch.bfloat16
    return {
        "start_sha256": start_digests(place.start),
        **training.identity,
        "settings": asdict(settings),
        "precision": "bfloat16" if bf16 else "float32",
        "embeddings_trained": None if vocabulary is None else len(vocabulary.used),
    }


def _result(training: Training, history: History, timing: Timing, precision: str) -> TrainResult:
    return TrainResult(
        epochs=len(history.losses),
        steps=history.steps,
        losses=history.losses,
        monitored=history.monitored,
        precision=precision,
        timing=timing,
        cut=training.cut,
        tokens=history.tokens,
        padding=round(1 - history.tokens / history.computed, 5),
    )


def _forward_flops(training: Training, say: Say) -> float | None:
    """The operations of an epoch's forward passes; None, and said, where they cannot be counted."""
    from fuseforget.models.peak import forward_flops

    try:
        return forward_flops(training.subject.model, [len(row["input_ids"]) for row in training.rows])
    # Whatever an architecture that reads texts in its own way meets on the few that are counted: no reason not to train it.
    except Exception as error:
        reason = " ".join(str(error).split())
        say(f"the share of the matrix peak is not known: {type(error).__name__}: {reason:.200}")
        return None


def _timing(forward: float | None, history: History, team: Processes, seconds: float, dtype: torch.dtype) -> Timing:
    from fuseforget.models.peak import matrix_peak

    rate = round(history.tokens / history.step_seconds, 1)
    if forward is None:
        return Timing(seconds, rate)
    peak = matrix_peak(dtype, torch.get_num_threads(), device().type) * team.count
    return Timing(
        seconds=seconds,
        tokens_per_second=rate,
        # The way back takes twice the way forth.
        peak_share=round(3 * forward * len(history.losses) / history.step_seconds / peak, 4),
    )


def _stopped(place: Place, history: History, settings: TrainSettings) -> Stopped:
    done = f"stopped after epoch {len(history.losses)} of {settings.max_epochs}"
    return Stopped(
        f"{place.out.name}: {done}", expected="to go on", found="Ctrl-C", action="The same command goes on from there."
    )


def _nothing(entered: None) -> None:
    """What is entered in one process is not told to the others."""


def publish(
    subject: Any, save: Callable[[Any, Path], None], place: Place, facts: Mapping[str, Any], result: Mapping[str, Any]
) -> None:
    """Write a trained model with its manifest, whole or not at all.

    Args:
        facts, result: what the manifest says of what was asked for and of what came out.
    """
    with atomic_directory(place.out, overwrite=place.overwrite, inputs=place.inputs) as partial:
        with full_disk_said(partial, str(place.out)):
            save(subject, partial)
        made = {"kind": "training", **(place.origin or {"start": str(place.start)}), **facts, "versions": _versions()}
        (partial / MANIFEST_NAME).write_text(json.dumps({**made, **result}, indent=2) + "\n")


def start_digests(start: str | Path) -> list[str]:
    """The digests of the weight files that a training starts from."""
    return [file_sha256(file) for file in open_checkpoint(start).files]


def _versions() -> dict[str, str]:
    return {package: version(package) for package in ("fuseforget", "torch", "transformers")}
