"""Fine-tune a language model, a decoder or a masked one, with transformers' Trainer."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fuseforget.checkpoint import refuse_place
from fuseforget.errors import InputError
from fuseforget.models import LanguageModel, load_language_model, padded, padding_id, save_language_model, seeded
from fuseforget.train.loop import Training
from fuseforget.train.place import Place, Say
from fuseforget.train.processes import processes
from fuseforget.train.resumable import run_training
from fuseforget.train.rows import Row, require_rows, rows_sha256
from fuseforget.train.settings import TrainResult, TrainSettings

__all__ = ["IGNORED", "SCHEDULES", "Watch", "fine_tune_language", "pad", "require_schedule"]

Watch = Callable[[int, LanguageModel], None]
# What transformers calls them; both begin with the warm-up that the settings ask for.
SCHEDULES = {"linear": "linear", "constant": "constant_with_warmup"}
MASKED_SHARE = 0.15  # of a row's tokens, as BERT was pretrained
IGNORED = -100  # the label of a position whose token is not predicted


def fine_tune_language(
    start: str | Path,
    rows: Sequence[Row],
    out: str | Path,
    settings: TrainSettings,
    *,
    schedule: str = "linear",
    watch: Watch | None = None,
    tokenizer: str = "",
    overwrite: bool = False,
    origin: Mapping[str, Any] | None = None,
    say: Say = lambda line: None,
) -> TrainResult:
    """Fine-tune a language model on rows of token ids and publish it at ``out``.

    A decoder learns to predict each token from those before it; a masked model the 15 % of the tokens that are masked anew
    in each epoch (of these 80 % by the mask token, 10 % by another token; Devlin et al. 2019). Steps are of rows of
    similar length, padded to the longest. Dropout is what the model's configuration says. All of
    ``settings.max_epochs`` are trained: nothing ends the training early.

    An interrupted training leaves its state beside ``out`` and goes on from its last finished epoch when it is called again
    with the same start, rows and settings, to the same weights as if it had not been interrupted, to the bit; with others,
    it starts anew and says so.

    Args:
        start: the model to start from, a directory or a hub id.
        rows: token ids, each row at most as long as the model reads at once.
        schedule: ``linear``, down to zero at the end, or ``constant``, under which the model after an epoch is the model of
            a shorter training (Table 6 from one training); both after the warm-up.
        watch: called after each epoch with its number (from 1) and the model in evaluation mode; no random number that it
            draws changes the training. It is called before the epoch is saved: an interruption between the two has the
            epoch trained and watched once more, and none is left out.
        tokenizer: the :func:`fuseforget.models.tokenizer_sha256` of the tokenizer that made the rows, where it is known: the
            model must have the same.
        origin: what the manifest says of where start and rows come from; default: the start's path.
        say: receives a line an epoch.

    Returns:
        losses in nats a predicted token; nothing is monitored.

    Raises:
        InputError: no rows, a row that the model cannot read or learn from (see :func:`fuseforget.train.rows.require_rows`),
            no language model, or something stands at ``out``.
        OutputError: ``out`` cannot be written; finished epochs are kept beside it.
    """
    place = Place(start, Path(out), overwrite, origin)
    refuse_place(place.out, overwrite=overwrite, inputs=place.inputs)
    require_schedule(schedule)
    begun, say = time.perf_counter(), processes().say(say)
    lm = load_language_model(start)
    require_rows(lm, rows, tokenizer=tokenizer)
    collate = _Masking(lm, settings.seed) if lm.masked else _Shifting(lm)
    training = Training(
        subject=lm,
        rows=[{"input_ids": row} for row in rows],
        filler=padding_id(lm),
        collate=collate,
        save=save_language_model,
        identity={"data_sha256": rows_sha256(rows), "schedule": schedule},
        schedule=SCHEDULES[schedule],
        counted=collate.counted,
        draws_tokens=lm.masked,
        before_epoch=collate.begin,
        after_epoch=_watching(lm, watch),
    )
    return run_training(training, place, settings, begun=begun, say=say)


def require_schedule(schedule: str) -> None:
    """Raise InputError for a schedule of the learning rate that there is not."""
    if schedule not in SCHEDULES:
        raise InputError("schedule", expected=" or ".join(SCHEDULES), found=repr(schedule))


def pad(rows: Sequence[Row], filler: int) -> dict[str, torch.Tensor]:
    """Rows filled up to the longest, with their attention mask (both rows x tokens)."""
    input_ids, mask = padded(rows, filler)
    return {"input_ids": input_ids, "attention_mask": mask}


class _Shifting:
    """Batches of a decoder: every token but the first is predicted, an end token too; fillers are not."""

    def __init__(self, lm: LanguageModel) -> None:
        self._filler = padding_id(lm)

    def begin(self, epoch: int) -> None:
        """Nothing depends on the epoch."""

    def counted(self, labels: torch.Tensor) -> int:
        """How many tokens are predicted: a row's first is not."""
        return int((labels[:, 1:] != IGNORED).sum())

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        batch = pad([feature["input_ids"] for feature in features], self._filler)
        return {**batch, "labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORED)}


class _Masking:
    """Batches of a masked model, masked by the seed, the epoch and the batch alone: a resumed training masks alike."""

    def __init__(self, lm: LanguageModel, seed: int) -> None:
        from transformers import DataCollatorForLanguageModeling

        self._draw = DataCollatorForLanguageModeling(lm.tokenizer, mlm_probability=MASKED_SHARE)
        self._seed, self._epoch = seed, 0

    def begin(self, epoch: int) -> None:
        """Draw for this epoch from now on."""
        self._epoch = epoch

    def counted(self, labels: torch.Tensor) -> int:
        """How many tokens are predicted."""
        return int((labels != IGNORED).sum())

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        rows = [feature["input_ids"] for feature in features]
        content = [int(rows_sha256(rows)[:16], 16), self._seed, self._epoch]
        # Few short rows may be left without any masked token, and the mean over none is not a number.
        seeds = (int(np.random.SeedSequence([*content, attempt]).generate_state(1)[0]) for attempt in itertools.count())
        return next(batch for batch in (self._mask(rows, seed) for seed in seeds) if (batch["labels"] != IGNORED).any())

    def _mask(self, rows: Sequence[Row], seed: int) -> dict[str, torch.Tensor]:
        with seeded(seed):
            return dict(self._draw([{"input_ids": list(row)} for row in rows]))


def _watching(lm: LanguageModel, watch: Watch | None) -> Callable[[int], Mapping[str, float]]:
    def look(epoch: int) -> Mapping[str, float]:
        if watch is not None:
            watch(epoch, lm)
        return {}

    return look
