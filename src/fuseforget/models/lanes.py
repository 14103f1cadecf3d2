"""Work that a CPU does side by side: each piece by one thread, so that a core never waits for another."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

import torch

from fuseforget.models.running import autocast, cores, intra_op

__all__ = ["in_lanes"]

Item = TypeVar("Item")


def in_lanes(work: Callable[[Iterator[Item]], None], items: Iterable[Item], *, exact: bool, lanes: int | None = None) -> None:
    """Have lanes work on items: each takes the next one as soon as it is done with its last.

    Every operation computes with one thread, so that results do not depend on how many lanes or cores there are.

    Args:
        work: is called once in each lane, in inference mode, with the items that come to it.
        items: in the order in which they are begun.
        exact: compute in float32 even where the hardware multiplies faster in bfloat16.
        lanes: default: one a core.
    """
    waiting = deque(items)

    def take() -> Iterator[Item]:
        while True:
            try:
                yield waiting.popleft()
            except IndexError:
                return

    def lane() -> None:
        # These are of a thread, and so is the number of threads that its operations compute with.
        with intra_op(1), torch.inference_mode(), autocast(exact=exact):
            try:
                work(take())
            except BaseException:
                waiting.clear()  # the other lanes would go on to the end
                raise

    count = min(lanes or cores(), len(waiting))
    if count < 2:
        lane()
        return
    with intra_op(1), ThreadPoolExecutor(count, "lane") as pool:
        try:
            for done in wait([pool.submit(lane) for _ in range(count)], return_when=FIRST_EXCEPTION).done:
                done.result()
        except BaseException:
            waiting.clear()
            raise
