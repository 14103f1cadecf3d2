"""Where a trained model goes, and what a full disk there is called."""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuseforget.errors import OutputError

__all__ = ["Place", "Say", "full_disk_said"]

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

    @property
    def lock(self) -> Path:
        """The file that whoever trains this model holds."""
        return self.state.with_name(f"{self.state.name}.lock")


@contextlib.contextmanager
def full_disk_said(directory: Path, place: str) -> Iterator[None]:
    """Saving fails on a full disk with an error of the system's, of safetensors' or of torch's making: make it one."""
    try:
        yield
    except Exception as error:
        if not directory.is_dir() or shutil.disk_usage(directory).free > NEARLY_FULL:
            raise
        full = OSError(errno.ENOSPC, "no space left")
        raise OutputError.caused_by(full, place, action="Finished epochs are kept beside the output.") from error
