"""What an interrupted training leaves beside its output, and what of it the next call can go on from."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuseforget.checkpoint import open_checkpoint
from fuseforget.errors import OutputError
from fuseforget.train.settings import TrainSettings

__all__ = ["History", "last_whole", "open_state", "read_history"]

FINGERPRINT = "fingerprint.json"
TRAINER_STATE = "trainer_state.json"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


@dataclass
class History:
    """The epochs so far.

    Attributes:
        losses, monitored: of each epoch.
        steps: how many there were.
        seconds: that all took.
        step_seconds: of the steps alone, without loading, monitoring and saving.
        tokens, computed: that were trained on, and with those that filled up.
    """

    losses: list[float] = field(default_factory=list)
    monitored: list[float] = field(default_factory=list)
    steps: int = 0
    seconds: float = 0.0
    step_seconds: float = 0.0
    tokens: int = 0
    computed: int = 0

    def remember(self, entry: dict[str, Any]) -> None:
        """Add what an entry of the Trainer's log says."""
        if "loss" in entry:
            self.losses.append(float(entry["loss"]))
        if "monitored" in entry:
            self.monitored.append(float(entry["monitored"]))
        for name in ("seconds", "step_seconds", "tokens", "computed"):
            setattr(self, name, entry.get(name, getattr(self, name)))

    def learned(self, settings: TrainSettings) -> bool:
        """Whether the monitored accuracy ends the training."""
        epochs = len(self.monitored)
        return epochs >= settings.min_epochs and self.monitored[-1] > settings.stop_above

    def finished(self, settings: TrainSettings) -> bool:
        """Whether no epoch is left to train."""
        return len(self.losses) >= settings.max_epochs or self.learned(settings)


def open_state(directory: Path, fingerprint: dict[str, Any], say: Callable[[str], None]) -> Path | None:
    """Make a training's state directory its own and return the checkpoint to go on from, if there is one.

    The directory is named after the output alone. A state of another start, other data or other settings would go on as if
    nothing had changed: it is discarded, and said.

    Raises:
        OutputError: the directory cannot be written.
    """
    file = directory / FINGERPRINT
    wanted = json.loads(json.dumps(fingerprint))
    try:
        found = _read_object(file)
        if found != wanted:
            if any(_checkpoints(directory)):
                other = sorted(k for k in wanted if found is not None and found.get(k) != wanted[k])
                say(f"{directory}: starting anew; the interrupted training there had another {' and '.join(other) or 'form'}")
            if directory.exists():
                shutil.rmtree(directory)
            directory.mkdir(parents=True)
            partial = file.with_suffix(".partial")
            partial.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")
            partial.rename(file)
        return last_whole(directory)
    except OSError as error:
        raise OutputError.caused_by(error, str(directory)) from error


def last_whole(directory: Path) -> Path | None:
    """Return the newest checkpoint that was saved to its end, and remove all others.

    A process killed while saving, or a full disk, leaves a checkpoint that the Trainer would go on from and fail.
    """
    last = next((checkpoint for checkpoint in _checkpoints(directory) if _is_whole(checkpoint)), None)
    for checkpoint in _checkpoints(directory):
        if checkpoint != last:
            shutil.rmtree(checkpoint)
    return last


def read_history(checkpoint: Path | None) -> History:
    """The epochs before an interruption; none without a checkpoint."""
    history = History()
    state = None if checkpoint is None else _read_object(checkpoint / TRAINER_STATE)
    if state is not None:
        for entry in state["log_history"]:
            history.remember(entry)
        history.steps = int(state["global_step"])
    return history


def _checkpoints(directory: Path) -> list[Path]:
    """The Trainer's checkpoints, newest first."""
    if not directory.is_dir():
        return []
    numbered = [(int(match[1]), path) for path in directory.iterdir() if (match := _CHECKPOINT.fullmatch(path.name))]
    return [path for _, path in sorted(numbered, reverse=True)]


def _is_whole(checkpoint: Path) -> bool:
    state = _read_object(checkpoint / TRAINER_STATE)
    if state is None or not {"global_step", "log_history"} <= state.keys():
        return False
    try:
        open_checkpoint(checkpoint)  # refuses a weight file whose length is not what its header says
    except (OSError, ValueError):
        return False
    # torch.save writes ZIP archives, whose directory comes last.
    return all(zipfile.is_zipfile(checkpoint / name) for name in ("optimizer.pt", "scheduler.pt"))


def _read_object(file: Path) -> dict[str, Any] | None:
    """A JSON object, or None where there is none or it was not written to its end."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return value if isinstance(value, dict) else None
