"""Ctrl-C once: what is being done is finished and kept, and the command stops where it can go on later."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from fuseforget.errors import Stopped

__all__ = ["check", "finishing", "request", "requested", "telling"]

Say = Callable[[str], None]
_asked = threading.Event()
_told: list[Callable[[], None]] = []


def requested() -> bool:
    """Whether the work is to stop at the next place where it can go on later."""
    return _asked.is_set()


def request() -> None:
    """Ask the work to stop there."""
    _asked.set()
    for tell in tuple(_told):
        tell()


@contextmanager
def telling(tell: Callable[[], None]) -> Iterator[None]:
    """In the block a request is passed on at once; ``tell`` may be called inside a signal's handler, and more than once."""
    _told.append(tell)
    try:
        yield
    finally:
        _told.remove(tell)


def check(done: str = "a finished step") -> None:
    """Raise Stopped where the work was asked to stop; called where what is done is on the disk."""
    if requested():
        raise Stopped(f"stopped after {done}", expected="to go on", found="Ctrl-C")


@contextmanager
def finishing(say: Say, *, again: bool = True) -> Iterator[None]:
    """In the block the first Ctrl-C asks the work to stop where it can go on; a second one interrupts it at once.

    Args:
        again: whether a second one interrupts; a worker leaves that to the process that it works for.
    """

    def ask(number: int, frame: FrameType | None) -> None:
        if requested():
            if again:
                raise KeyboardInterrupt
            return
        request()
        say("stopping: what is being measured or trained is finished first; Ctrl-C once more stops at once")

    _asked.clear()
    before = signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        _asked.clear()
