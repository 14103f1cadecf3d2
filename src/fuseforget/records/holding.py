"""A run is written by one process at a time, which says who it is."""

from __future__ import annotations

import fcntl
import os
import platform
import shlex
import sys
import time
from io import FileIO
from pathlib import Path

from fuseforget.errors import InputError, OutputError
from fuseforget.records.disk import write_all, writing

__all__ = ["LOCK", "command_line", "hold"]

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
            if _is_at(stream, file):
                with writing(directory):
                    stream.truncate(0)
                    write_all(stream, _holder().encode())
                return stream
        except BaseException:
            stream.close()
            raise
        stream.close()  # the one who held it took the run back meanwhile: what was locked is a file that is gone


def command_line() -> str:
    """The command that this process was started with, as a shell takes it."""
    name = Path(sys.argv[0]).name
    return shlex.join(["fuseforget" if name == "__main__.py" else name, *sys.argv[1:]])


def _lock(stream: FileIO, directory: Path) -> None:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        stream.seek(0)
        holder = stream.read().decode(errors="replace").strip() or "another process"
        raise InputError(
            str(directory), expected="a run that nobody writes to", found=f"it is held by {holder}",
            action="Wait for it, or give another directory.",
        ) from error  # fmt: skip
    except OSError as error:
        raise OutputError(
            str(directory), expected="a file system that locks files", found=error.strerror or str(error),
            action="Give a directory on another file system, or mount this one with locks.",
        ) from error  # fmt: skip


def _is_at(stream: FileIO, file: Path) -> bool:
    """Whether an open file is the one that has this name."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), file.stat())
    except FileNotFoundError:
        return False


def _holder() -> str:
    # The time is for people: nothing reads it.
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    return f"process {os.getpid()} on {platform.node() or 'this host'} since {since}: {command_line()}"
