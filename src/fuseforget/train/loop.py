"""The epochs of a training, on transformers' Trainer."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from fuseforget import stopping
from fuseforget.errors import OutputError
from fuseforget.models import UsedVocabulary, evaluating, quiet
from fuseforget.train.place import Place, Say, full_disk_said
from fuseforget.train.processes import Processes
from fuseforget.train.settings import TrainSettings
from fuseforget.train.state import History, last_whole
from fuseforget.train.steps import Steps, part_of, shares

__all__ = ["Training", "run_epochs", "undisturbed"]

Seen = TypeVar("Seen")


@dataclass(frozen=True)
class Training:
    """What is trained on what.

    Attributes:
        subject: what is trained, with its ``model`` and its ``tokenizer``.
        rows: of each example the tokens (``input_ids``) and whatever else ``collate`` reads.
        filler: the token that rows are filled up with.
        collate: makes rows a batch of tensors: ``input_ids``, ``attention_mask`` and ``labels``.
        save: writes a subject to a directory.
        identity: what besides start, settings and precision makes two trainings the same one.
        schedule: of the learning rate, as transformers calls it.
        counted: how many losses of these labels the model takes the mean of.
        draws_tokens: ``collate`` puts tokens in that no row has.
        before_epoch: called with the number of the epoch (from 0) that begins.
        after_epoch: called after each epoch in an :func:`undisturbed` block; what it returns is kept in the history.
        watched: steps (from 1) after which ``after_step`` is called with their number, in such a block.
        cut: how many texts were cut.
    """

    subject: Any
    rows: Sequence[Mapping[str, Any]]
    filler: int
    collate: Callable[[Sequence[Mapping[str, Any]]], dict[str, torch.Tensor]]
    save: Callable[[Any, Path], None]
    identity: Mapping[str, Any]
    schedule: str = "linear"
    counted: Callable[[torch.Tensor], int] = len
    draws_tokens: bool = False
    before_epoch: Callable[[int], None] = lambda epoch: None
    after_epoch: Callable[[int], Mapping[str, float]] = lambda epoch: {}
    watched: frozenset[int] = frozenset()
    after_step: Callable[[int], None] = lambda step: None
    cut: int = 0


@dataclass
class _Work:
    """A training under way: what its steps and what happens between them have in common."""

    training: Training
    settings: TrainSettings
    team: Processes
    vocabulary: UsedVocabulary | None
    history: History
    steps: Steps
    name: str
    begun: float
    say: Say


def run_epochs(
    training: Training,
    settings: TrainSettings,
    place: Place,
    team: Processes,
    vocabulary: UsedVocabulary | None,
    history: History,
    last: Path | None,
    *,
    bf16: bool,
    begun: float,
    say: Say,
) -> None:
    """Train what is left of the epochs, in place, and add them to the history.

    Ends after a saved epoch when the work was asked to stop.

    Args:
        last: the checkpoint to go on from.

    Raises:
        OutputError: the disk is full.
    """
    steps = Steps([len(row["input_ids"]) for row in training.rows], settings.batch_size, settings.seed)
    work = _Work(training, settings, team, vocabulary, history, steps, place.out.name, begun, say)
    trainer = _trainer(work, place.state, bf16=bf16)
    try:
        with full_disk_said(place.state, str(place.state)), quiet():
            trainer.train(resume_from_checkpoint=None if last is None else str(last))
    except OutputError:
        last_whole(place.state)  # what was half saved would keep the disk full
        raise


@contextlib.contextmanager
def undisturbed(model: Any) -> Iterator[None]:
    """Evaluation mode in the block; after it each module's own mode and all random states are as they were before."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with evaluating(model), torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _trainer(work: _Work, state: Path, *, bf16: bool) -> Any:
    from transformers import PrinterCallback, TrainingArguments

    settings, training = work.settings, work.training
    arguments = TrainingArguments(
        output_dir=str(state),
        num_train_epochs=settings.max_epochs,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup_steps=int(settings.warmup * len(work.steps) * settings.max_epochs),
        lr_scheduler_type=training.schedule,
        per_device_train_batch_size=settings.batch_size // work.team.count,
        bf16=bf16,
        use_cpu=not torch.cuda.is_available(),
        seed=settings.seed,
        save_strategy="epoch",
        logging_strategy="epoch",
        report_to=[],
        disable_tqdm=True,
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # a process has one: the Trainer would take all, and a mean over unequal shares
    trainer = _trainer_class()(
        work,
        model=training.subject.model,
        args=arguments,
        train_dataset=training.rows,
        processing_class=training.subject.tokenizer,
        callbacks=[_callback(work)],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _trainer_class() -> Any:
    from torch.utils.data import DataLoader
    from transformers import Trainer

    class DividedTrainer(Trainer):  # type: ignore[misc]
        """A Trainer whose steps are divided over processes and into parts: the mean over a step is that of all its rows.

        Every process makes the whole batch and computes its own share of it, so that they agree on the batch, on what is
        masked in it and on how much each loss counts without telling each other.
        """

        def __init__(self, work: _Work, **options: Any) -> None:
            super().__init__(**options)
            self.work = work
            self.model_accepts_loss_kwargs = False  # or the Trainer would count what the parts' means are weighted by

        def get_train_dataloader(self) -> Any:
            rows: Any = self.work.training.rows
            return DataLoader(rows, batch_sampler=self.work.steps, collate_fn=self.work.training.collate)

        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
            model.train()
            work = self.work
            dealt = shares(inputs["attention_mask"].sum(1).tolist(), work.team.count, work.settings.token_budget)
            parts = [part_of(inputs, rows) for rows in dealt[work.team.rank]]
            _count(work.history, inputs, dealt)
            # The gradients are averaged over the processes.
            scale = work.team.count / work.training.counted(inputs["labels"])
            losses = []
            # All processes go backward as often as they add their gradients up: once, with the last part.
            for number, part in enumerate(parts or [part_of(inputs, [0])], 1):
                counted = work.training.counted(part["labels"]) if parts else 0
                together = contextlib.nullcontext() if number == max(len(parts), 1) else self.accelerator.no_sync(model)
                with together:
                    with self.compute_loss_context_manager():
                        output = model(**self._prepare_inputs(part))
                    # The mean over no predicted token is not a number.
                    loss = output.loss * (counted * scale) if counted else output.logits.sum() * 0
                    self.accelerator.backward(loss)
                losses.append(loss.detach())
            return torch.stack(losses).sum()

        def _save_rng_state(self, output_dir: str) -> None:
            """Each epoch draws from a seed of its own: there is nothing to go on from."""

        def _load_rng_state(self, checkpoint: str | None) -> None:
            """There is none."""

    return DividedTrainer


def _count(history: History, batch: Mapping[str, torch.Tensor], dealt: Sequence[Sequence[Sequence[int]]]) -> None:
    """Add a step's tokens to the history, and what is computed for them."""
    lengths = batch["attention_mask"].sum(1).tolist()
    history.tokens += sum(lengths)
    history.computed += sum(len(rows) * max(lengths[row] for row in rows) for parts in dealt for rows in parts)


def _callback(work: _Work) -> Any:
    from transformers import TrainerCallback, set_seed

    training, history, before = work.training, work.history, work.history.seconds

    class Epochs(TrainerCallback):  # type: ignore[misc]
        """Keeps the history, has the model looked at after each epoch and stops when it has learned enough."""

        def __init__(self) -> None:
            self.entered = 0.0

        def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            epoch = round(state.epoch or 0)
            work.steps.begin(epoch)
            training.before_epoch(epoch)
            # What is drawn in an epoch depends on nothing that came before it: a resumed training draws alike.
            own = np.random.SeedSequence([work.settings.seed, epoch, work.team.rank])
            set_seed(int(own.generate_state(1)[0]))
            self.entered = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step in training.watched:
                begun = time.perf_counter()
                work.team.first(lambda: _look(work, training.after_step, state.global_step))
                self.entered += time.perf_counter() - begun  # no time of the steps

        def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            history.step_seconds += time.perf_counter() - self.entered
            seen = work.team.first(lambda: _look(work, training.after_epoch, round(state.epoch)))
            now = round(before + time.perf_counter() - work.begun, 2)
            entry = {"epoch": state.epoch, **seen, "seconds": now, "step_seconds": history.step_seconds}
            entry |= {"tokens": history.tokens, "computed": history.computed}
            state.log_history.append(entry)  # saved with the epoch, and read again by read_history
            history.remember(entry)
            history.steps = int(state.global_step)
            if history.learned(work.settings):
                control.should_training_stop = True

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
            if "loss" in logs:
                history.remember(logs)
                seen = f", monitored accuracy {history.monitored[-1]:.3f}" if history.monitored else ""
                speed = f", {history.tokens / history.step_seconds:,.0f} tokens/s"
                work.say(f"{work.name}: epoch {len(history.losses)}, loss {logs['loss']:.3f}{seen}{speed}")

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if work.team.main:
                # Older ones go by their number; the Trainer's own limit goes by files' times, which a clock that jumps confuses.
                last_whole(Path(args.output_dir))
            if not history.finished(work.settings) and work.team.first(stopping.requested):
                control.should_training_stop = True

    return Epochs()


def _look(work: _Work, see: Callable[[int], Seen], number: int) -> Seen:
    """What is seen of the model after an epoch or a step of this number; it has its whole vocabulary meanwhile."""
    whole = contextlib.nullcontext() if work.vocabulary is None else work.vocabulary.restored()
    with undisturbed(work.training.subject.model), whole:
        return see(number)
