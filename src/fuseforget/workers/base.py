"""What all workers have in common, and the one that is this process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from fuseforget import stopping
from fuseforget.workers.inside import be_loud

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Here", "Item", "Result", "Workers"]

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers(ABC):
    """Who works on items that do not depend on each other.

    Attributes:
        count: how many items are worked on at once.
    """

    count: int

    @property
    def device(self) -> str:
        """The kind of device that they compute on: ``cpu`` or ``cuda``."""
        from fuseforget.models.running import device

        return device().type

    @abstractmethod
    def each(
        self, function: Callable[[Item], Result], items: Iterable[Item], *, name: Callable[[Item], str] = str
    ) -> Iterator[Result]:
        """Return the result of every item, in the order of the items, each as soon as it and all before it are there.

        An item whose worker dies is done again by another one. Leaving the iteration early leaves what is being worked on.
        Where the work is asked to stop (:mod:`fuseforget.stopping`), no item is begun any more; the results of those begun
        come, and then Stopped.

        Args:
            function: is pickled once. A worker makes one object of that and keeps it while it is used, so that what the
                function holds on to (a loaded model) serves all items that the worker is given.
            items: are pickled, as results are; taken a few ahead of what is worked on.
            name: what an error calls an item.

        Raises:
            InputError: the function, an item or a result cannot be pickled.
            WorkerError: an item's worker died again and again, or no worker is left.
            Stopped: the work was asked to stop, and items are left.
            Exception: whatever the function raised, in the order of the items.
        """

    def __enter__(self) -> Self:
        return self

    @abstractmethod
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Let go of the workers; what they are working on is dropped."""


class Here(Workers):
    """The process itself, an item at a time.

    Args:
        loud: print what functions say (:func:`fuseforget.workers.say`) inside a ``with`` of these workers.
    """

    count = 1

    def __init__(self, *, loud: bool = False) -> None:
        self._loud, self._before = loud, False

    def __enter__(self) -> Self:
        self._before = be_loud(self._loud)
        return self

    def each(
        self, function: Callable[[Item], Result], items: Iterable[Item], *, name: Callable[[Item], str] = str
    ) -> Iterator[Result]:
        for item in items:
            stopping.check("what was begun")
            yield function(item)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        be_loud(self._before)
