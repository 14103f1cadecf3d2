"""Publish a directory whole: it is made under another name and takes its own in one step, or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from fuseforget.errors import InputError, OutputError

__all__ = ["atomic_directory", "refuse_place"]

# A directory is only ever replaced when one of these says that a model or a data set is what would be lost.
REPLACEABLE = ("fuseforget.json", "config.json", "dataset.json", "bias.json", "memorization.json", "adapter_config.json")
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of renameat2(2)
_NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)


@contextlib.contextmanager
def atomic_directory(out: Path, *, overwrite: bool = False, inputs: Sequence[Path] = ()) -> Iterator[Path]:
    """Yield an empty directory beside ``out`` that takes its name when the block ends, and vanishes when it fails.

    With ``overwrite`` what stood at ``out`` is there until the new one is whole. A symbolic link is followed: what it points
    to is replaced. What a killed process left half made beside ``out`` is removed first.

    Args:
        inputs: what the work reads; ``out`` must be none of it, nor hold any of it.

    Raises:
        InputError: ``out`` may not be written or replaced (see :func:`refuse_place`).
        OutputError: the file system refused (a full disk, no permission).
    """
    refuse_place(out, overwrite=overwrite, inputs=inputs)
    target = Path(os.path.realpath(out))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target)
        partial, lock = _make_partial(target)
    except OSError as error:
        raise OutputError.caused_by(error, str(out), action="Nothing was left behind.") from error
    try:
        yield partial
        _sync_tree(partial)
        refuse_place(out, overwrite=overwrite, inputs=inputs)  # again: the work may have taken hours
        _publish(partial, target)
    except OSError as error:
        if isinstance(error, OutputError | InputError):
            raise
        raise OutputError.caused_by(error, str(out), action="Nothing was left behind.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        os.close(lock)


def refuse_place(out: Path, *, overwrite: bool, inputs: Sequence[Path] = ()) -> None:
    """Raise InputError unless a directory can be made (or, with ``overwrite``, replaced) at ``out``."""
    target = Path(os.path.realpath(out))
    if target.exists() and not target.is_dir():
        raise InputError(str(out), expected="a path for a new directory", found="a file")
    held = {"an input": inputs, "the working directory": [Path.cwd()], "the home directory": [Path.home()]}
    for what, places in held.items():
        for place in places:
            inside = Path(os.path.realpath(place))
            if inside == target or target in inside.parents:
                relation = "is" if inside == target else "holds"
                raise InputError(str(out), expected="a place of its own", found=f"a directory that {relation} {what}, {place}")
    if not target.exists() or not any(target.iterdir()):
        return
    if not overwrite:
        raise InputError(
            str(out),
            expected="a path where nothing is",
            found="an existing directory",
            action="Pass --overwrite to replace it.",
        )
    if not any((target / name).is_file() for name in REPLACEABLE):
        raise InputError(
            str(out),
            expected=f"a model or data set to overwrite (with {', '.join(REPLACEABLE[:-1])} or {REPLACEABLE[-1]})",
            found="a directory of something else",
            action="Remove it yourself if it may go.",
        )


def _make_partial(target: Path) -> tuple[Path, int]:
    """Make the hidden directory to work in and hold its lock, by which others see that somebody works there."""
    while True:
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
        lock = os.open(partial, os.O_RDONLY)
        # A process that sweeps may have come between the two lines above.
        if _try_lock(lock) and partial.is_dir():
            partial.chmod(0o777 & ~_umask())
            return partial, lock
        os.close(lock)


def _sweep(target: Path) -> None:
    """Remove what processes that were killed left half made."""
    prefix = f".{target.name}.partial-"
    for left in [path for path in target.parent.iterdir() if path.name.startswith(prefix)]:
        try:
            lock = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:  # gone meanwhile, or no directory: not one of those
            continue
        try:
            if _try_lock(lock):
                shutil.rmtree(left, ignore_errors=True)
        finally:
            os.close(lock)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _publish(partial: Path, target: Path) -> None:
    if target.is_dir() and any(target.iterdir()):
        if not _exchange(partial, target):
            _swap(partial, target)
        # What stood there is now under the hidden name, and removed with it.
    else:
        partial.rename(target)  # replaces an empty directory as well
    _sync(target.parent)


def _exchange(a: Path, b: Path) -> bool:
    """Exchange two names in one step, or return False where the system cannot."""
    rename = getattr(_libc(), "renameat2", None)
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NO_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(b))


def _swap(a: Path, b: Path) -> None:
    """Exchange two names in three steps; the second one's directory comes back if a step fails."""
    aside = a.with_name(f"{a.name}-replaced")
    b.rename(aside)
    try:
        a.rename(b)
    except OSError:
        aside.rename(b)
        raise
    aside.rename(a)


@cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _sync_tree(directory: Path) -> None:
    for path in directory.rglob("*"):
        _sync(path)
    _sync(directory)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
