"""A run is written by one process at a time, which says who it is."""

from __future__ import annotations

import fcntl
from io import FileIO
from pathlib import Path

from fuseforget.errors import InputError, OutputError
from fuseforget.locks import holder, is_named
from fuseforget.records.disk import write_all, writing

__all__ = ["LOCK", "hold"]

LOCK = ".lock"


def hold(directory: Path) -> FileIO:
    """Take a run's lock and write into it who holds it; whoever closes the returned file, or dies, lets go.

    Raises:
        InputError: another process holds it; the message says which, on which host, since when, and its command.
        OutputError: the file system does not lock files, or cannot be written.
    """
    file = directory / LOCK
    while True:
        with writing(directory):
            # Unbuffered, like the records: closing must not write again what a full disk has refused.
            stream = file.open("ab+", buffering=0)
        try:
            _lock(stream, directory)
            if is_named(stream.fileno(), file):
                with writing(directory):
                    stream.truncate(0)
                    write_all(stream, holder().encode())
                return stream
        except BaseException:
            stream.close()
            raise
        stream.close()  # the one who held it took the run back meanwhile: what was locked is a file that is gone


def _lock(stream: FileIO, directory: Path) -> None:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        stream.seek(0)
        found = stream.read().decode(errors="replace").strip() or "another process"
        raise InputError(
            str(directory), expected="a run that nobody writes to", found=f"it is held by {found}",
            action="Wait for it, or give another directory.",
        ) from error  # fmt: skip
    except OSError as error:
        raise OutputError(
            str(directory), expected="a file system that locks files", found=error.strerror or str(error),
            action="Give a directory on another file system, or mount this one with locks.",
        ) from error  # fmt: skip
