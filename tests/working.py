"""Functions for workers: they are pickled by name, so they live in a module of their own."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from fuseforget import stopping
from fuseforget.errors import InputError
from fuseforget.models.running import cores
from fuseforget.workers import say
from patience import LONG


def square(number: int) -> int:
    return number * number


def process(number: int) -> int:
    return os.getpid()


def share(number: int) -> tuple[int, int]:
    """The cores of a worker, and torch's threads."""
    import torch

    return cores(), torch.get_num_threads()


def say_it(number: int) -> int:
    say(f"item {number}")
    return number


def unpicklable(number: int) -> object:
    return lambda: number


@dataclass
class DyingAmidItsResult:
    """Returns more than a pipe holds; the first time the process dies when the pipe is full."""

    mark: Path

    def __call__(self, number: int) -> bytes:
        if number == 1 and not self.mark.exists():
            self.mark.touch()
            threading.Thread(target=_die_while_writing, args=[threading.get_native_id()], daemon=True).start()
        return bytes([number]) * 50_000_000


def _die_while_writing(thread: int) -> None:
    where = Path(f"/proc/self/task/{thread}/wchan")
    while "pipe_write" not in where.read_text():
        pass
    die()


class OddError(Exception):
    """An error that pickle cannot make again: its constructor takes what its arguments do not hold."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first + second)


def refuse_three(number: int) -> int:
    if number == 3:
        raise InputError("item three", expected="another one", found="it")
    return number


def raise_odd(number: int) -> int:
    raise OddError("odd", "one")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)  # the signal needs a moment


@dataclass
class DyingOnce:
    """Squares; who comes to one of these items first dies with it.

    Each item leaves a file, one more for each time it is begun.
    """

    directory: Path
    items: tuple[int, ...]
    always: bool = False

    def __call__(self, number: int) -> int:
        tries = len(list(self.directory.glob(f"{number}.*")))
        (self.directory / f"{number}.{tries}").touch()
        if number in self.items and (self.always or tries == 0):
            die()
        return number * number


@dataclass
class Loading:
    """Keeps what it loads at its first item, and leaves a file each time that it loads."""

    directory: Path
    ballast: bytes = b""
    loaded: list[int] = field(default_factory=list)

    def __call__(self, number: int) -> int:
        if not self.loaded:
            (self.directory / f"{os.getpid()}.{time.monotonic_ns()}").touch()
            self.loaded = [10]
        return number * self.loaded[0]


@dataclass
class Meeting:
    """Items that wait until so many others were begun: only as many workers get through."""

    directory: Path
    size: int

    def __call__(self, number: int) -> int:
        (self.directory / f"{number}").touch()
        deadline = time.monotonic() + LONG
        while len(list(self.directory.iterdir())) < self.size:
            assert time.monotonic() < deadline, "nobody else came"
            time.sleep(0.01)
        return os.getpid()


@dataclass
class Training:
    """Says that it begins, and goes on until it is asked to stop, or for good: its process must end in another way."""

    directory: Path
    heeds: bool = True
    ends: bool = False  # rather than raising Stopped, as what is nearly done would

    def __call__(self, number: int) -> int:
        (self.directory / f"{number}.{os.getpid()}").touch()
        deadline = time.monotonic() + LONG
        while time.monotonic() < deadline:
            if self.heeds and stopping.requested():
                (self.directory / f"{number}.stopped").touch()
                if self.ends:
                    return number * number
                stopping.check("an epoch")
            time.sleep(0.01)
        raise AssertionError("nobody asked it to stop")


@dataclass
class Held:
    """Says that an item is begun, and goes on when the file ``go`` is there."""

    directory: Path

    def __call__(self, number: int) -> int:
        (self.directory / f"{number}.{os.getpid()}").touch()
        deadline = time.monotonic() + LONG
        while not (self.directory / "go").exists():
            assert time.monotonic() < deadline, "nobody said to go on"
            time.sleep(0.01)
        return number * number


def devices(number: int) -> str | None:
    """The GPUs that a worker may use."""
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def code_of_a_process() -> str:
    """A digest that no two processes agree on."""
    return f"process {os.getpid()}"
