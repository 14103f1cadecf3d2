"""One process at a time trains a model: the lock beside its output."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from fuseforget.errors import InputError, OutputError
from fuseforget.locks import holder, is_named

__all__ = ["held"]

PATIENCE = 10.0  # seconds: whoever replaces a process that was killed may come before it is gone
PAUSE = 0.1  # seconds


@contextlib.contextmanager
def held(file: Path) -> Iterator[None]:
    """Inside the block no other process holds the same file, which says who does; it is gone afterwards.

    The system lets go of it when the process ends, however it ends. Another one is waited for, some seconds.

    Raises:
        InputError: another process still holds it.
        OutputError: the file cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = _take(file, time.monotonic() + PATIENCE)
    except OSError as error:
        if isinstance(error, OutputError | InputError):
            raise
        raise OutputError.caused_by(error, str(file)) from error
    try:
        yield
    finally:
        file.unlink(missing_ok=True)  # while it is held: whoever waits for it sees that it is another file's name then
        os.close(lock)


def _take(file: Path, deadline: float) -> int:
    """Open and lock the file, and write into it who has it."""
    while True:
        lock = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        if _try_lock(lock) and is_named(lock, file):
            os.truncate(lock, 0)
            os.write(lock, holder().encode())
            return lock
        found = os.read(lock, 1000).decode(errors="replace")
        os.close(lock)
        if time.monotonic() > deadline:
            raise InputError(
                str(file),
                expected="no other process that trains this model",
                found=found or "one that has not said who it is",
                action="Wait for it, or end it: what it has finished is gone on from.",
            )
        time.sleep(PAUSE)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
