"""Processes of this machine, each with its share of the cores.

Every seat is a pool of one process: a process that dies breaks its own pool alone, so that the others keep their models
and what they are doing, it is plain which item it died with, and it holds no lock that another process waits for.
"""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from types import FrameType, TracebackType

from fuseforget import stopping
from fuseforget.errors import InputError
from fuseforget.workers.inside import be_loud, take_gpu, take_share
from fuseforget.workers.parcels import Functions, Recent, Work
from fuseforget.workers.team import Seat, Team

__all__ = ["Processes"]

_functions = Functions()  # of this process, as a worker


class Processes(Team):
    """Processes that are started as they are needed and end with this one, however it ends.

    A first Ctrl-C asks them to stop where they can go on later, whether it reached them or this process alone.

    Args:
        count: how many, sharing the cores that this process works with.
        loud: print what functions say (:func:`fuseforget.workers.say`).

    Raises:
        InputError: there would be none.
    """

    def __init__(self, count: int, *, loud: bool = False) -> None:
        if count < 1:
            raise InputError("workers", expected="at least 1", found=str(count))
        from fuseforget.models.running import cores

        share = max(1, cores() // count)
        super().__init__([_Place(share, loud, number) for number in range(count)])

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for seat in self.seats:
            seat.drop()


class _Place(Seat):
    """A pool of one process, which starts with its first item."""

    def __init__(self, cores: int, loud: bool, number: int) -> None:
        self._begin = (cores, loud, number)
        self._pool: ProcessPoolExecutor | None = None
        self._known: Recent[None] = Recent()

    def ask(self) -> None:
        """A process starts when it is given an item."""

    def arrived(self) -> None:
        """It is there at once."""

    def give(self, work: Work, item: bytes) -> Future[bytes]:
        if self._pool is not None:
            # A process that died while it had nothing to do.
            with suppress(BrokenProcessPool):
                return self._submit(self._pool, work, item)
        self.drop()
        self._pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_begin, initargs=self._begin)
        # A Ctrl-C while the process starts waits until it knows what to do about it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            future = self._submit(self._pool, work, item)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        # As long as this process, too, could write there, half a result of a process that was killed would be waited on.
        self._pool._result_queue._writer.close()  # type: ignore[attr-defined]
        return future

    def _submit(self, pool: ProcessPoolExecutor, work: Work, item: bytes) -> Future[bytes]:
        parcel = b"" if work.digest in self._known else work.parcel
        future = pool.submit(_work, work.digest, parcel, item)
        self._known.use(work.digest, lambda: None)
        return future

    def tell(self) -> None:
        for process in tuple(self._pool._processes.values()) if self._pool is not None else ():
            if process.is_alive() and process.pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGINT)

    def drop(self) -> None:
        pool, self._pool, self._known = self._pool, None, Recent()
        if pool is None:
            return
        # Pools learned to kill what they run in Python 3.14.
        for process in tuple((pool._processes or {}).values()):
            process.kill()
        pool.shutdown()


def _begin(cores: int, loud: bool, number: int) -> None:
    """What a worker does first; ``number``: its own, by which it takes its share of the GPUs."""
    signal.signal(signal.SIGINT, _asked)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_the_driver, daemon=True).start()
    be_loud(loud)
    take_gpu(number)
    take_share(cores)


def _work(digest: str, parcel: bytes, item: bytes) -> bytes:
    return _functions.apply(digest, lambda: parcel, item)


def _asked(number: int, frame: FrameType | None) -> None:
    """A terminal's Ctrl-C comes to all of its processes, and again from the driver, whose the second one is to judge."""
    stopping.request()


def _end_with_the_driver() -> None:
    driver = parent_process()
    if driver is not None:
        wait([driver.sentinel])
        os._exit(1)
