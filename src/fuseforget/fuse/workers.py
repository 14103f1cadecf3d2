"""The threads of one fusion: a few spans ahead, results in order, torch with one thread in each."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from fuseforget.fuse.memory import threads
from fuseforget.fuse.plan import Plan
from fuseforget.fuse.sources import Scratch
from fuseforget.methods.group import Range

__all__ = ["Progress", "Workers"]

T = TypeVar("T")
Progress = Callable[[int], None]
AHEAD = 4  # spans a thread has waiting
LARGE = 1 << 20  # values of a matrix from which on a second core is of use to its products


class Workers:
    """The threads of one fusion, and what they share."""

    def __init__(self, plan: Plan, pool: ThreadPoolExecutor, device: str, progress: Progress | None) -> None:
        self.plan, self.device = plan, device
        self.scratch = Scratch()
        self._pool, self._progress = pool, progress
        self._limit = AHEAD * threads()
        self._writing: deque[tuple[Future[None], int]] = deque()
        self._alone = threading.local()
        self._before: int | None = None
        self._lock = threading.Lock()

    def one_thread(self) -> None:
        """Have torch use one thread in this thread: these threads are the parallelism."""
        if getattr(self._alone, "set", False):
            return
        import torch

        with self._lock:
            if self._before is None:
                self._before = torch.get_num_threads()
            torch.set_num_threads(1)
        self._alone.set = True

    def threads_for(self, values: int) -> None:
        """Have torch use all cores in this thread, for products of large matrices; for those of small ones they only wait."""
        import torch

        self.one_thread()
        torch.set_num_threads(threads() if values >= LARGE else 1)

    def restore_threads(self) -> None:
        if self._before is not None:
            import torch

            torch.set_num_threads(self._before)

    def in_order(self, work: Callable[[Sequence[Range]], T], spans: Sequence[Sequence[Range]]) -> Iterator[T]:
        """Do the work of each span in the threads, and yield the results in the order of the spans."""
        if len(spans) == 1:
            yield work(spans[0])  # here: a hand-over would cost more than it gains
            return
        waiting: deque[Future[T]] = deque()
        for span in spans:
            if len(waiting) >= self._limit:
                yield waiting.popleft().result()
            waiting.append(self._pool.submit(work, span))
        while waiting:
            yield waiting.popleft().result()

    def submit(self, work: Callable[[], None], nbytes: int) -> None:
        """Do work in the threads, some time; wait where too much is waiting."""
        while len(self._writing) >= self._limit:
            self._finish_one()
        self._writing.append((self._pool.submit(work), nbytes))

    def finish(self) -> None:
        while self._writing:
            self._finish_one()

    def cancel(self) -> None:
        for future, _ in self._writing:
            future.cancel()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _finish_one(self) -> None:
        future, nbytes = self._writing.popleft()
        future.result()
        self.done(nbytes)

    def done(self, nbytes: int) -> None:
        if self._progress is not None:
            self._progress(nbytes)
