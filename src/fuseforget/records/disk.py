"""Writing so that it is on the disk, or an error that says why not."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from fuseforget.errors import InputError, OutputError

__all__ = ["sync_directory", "write_all", "write_synced", "writing"]


def write_all(stream: FileIO, content: bytes) -> None:
    """Write to an unbuffered stream, which may take a part at a time: the part that a full disk still held, at last none."""
    while content:
        content = content[stream.write(content) :]


def write_synced(file: Path, content: bytes) -> None:
    """Write a file under another name, sync it and give it its own: whole on the disk, or not there."""
    partial = file.with_suffix(".partial")
    with partial.open("wb", buffering=0) as stream:
        write_all(stream, content)
        os.fsync(stream.fileno())
    partial.rename(file)
    sync_directory(file.parent)


def sync_directory(directory: Path) -> None:
    """Sync a directory's names: a file whose name is not on the disk is lost with all that was synced in it."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems sync names by themselves
            raise
    finally:
        os.close(descriptor)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Make what the system refuses in the block an OutputError about the run at ``path``."""
    try:
        yield
    except OSError as error:
        if isinstance(error, InputError | OutputError):
            raise
        action = "Finished parts are safe: run the same command again to resume."
        raise OutputError.caused_by(error, str(path), action=action) from error
