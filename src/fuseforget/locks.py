"""Files that processes lock: whether one is still the file of its name, and what its holder writes into it."""

from __future__ import annotations

import os
import platform
import shlex
import sys
import time
from pathlib import Path

__all__ = ["command_line", "holder", "is_named"]


def command_line() -> str:
    """The command that this process was started with, as a shell takes it."""
    name = Path(sys.argv[0]).name
    return shlex.join(["fuseforget" if name == "__main__.py" else name, *sys.argv[1:]])


def holder() -> str:
    """Who this process is, on which host, since when it holds the file, and by which command."""
    # The time is for people: nothing reads it.
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    return f"process {os.getpid()} on {platform.node() or 'this host'} since {since}: {command_line()}"


def is_named(descriptor: int, file: Path) -> bool:
    """Whether an open file is still the one of this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False
