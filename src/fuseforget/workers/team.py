"""Workers that can die: who is given which item, what is done again, and results in order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic

from fuseforget import stopping
from fuseforget.errors import Stopped, WorkerError
from fuseforget.workers.base import Item, Result, Workers
from fuseforget.workers.parcels import Outcome, Work, pack

__all__ = ["DEATHS", "Died", "Seat", "Team"]

AHEAD = 4  # items a worker that are begun or done while the result before them is awaited
GLANCE = 0.5  # seconds between looks at whether to stop, where no worker is there whose end would be one
DEATHS = 3  # of workers that had the same item, before it is blamed


class Died(Exception):
    """A seat's worker died; why, as far as that is known."""


class Seat(ABC):
    """A worker's place: the worker in it may die, and another one follows."""

    coming: Future[Any] | None = None  # done when the worker that was asked for is there; None where it is, or starts at once

    @abstractmethod
    def ask(self) -> None:
        """Have a worker come where none is or comes."""

    @abstractmethod
    def give(self, work: Work, item: bytes) -> Future[bytes]:
        """Have the worker do an item, and return its packed outcome some time; that raises where the worker dies."""

    @abstractmethod
    def arrived(self) -> None:
        """Take in the worker that was coming; Died where it did not come, InputError where it cannot be used."""

    @abstractmethod
    def drop(self) -> None:
        """Let the worker go, whatever it does, and whether it lives or not."""

    @abstractmethod
    def tell(self) -> None:
        """Ask the worker to stop where it can go on later; called inside a signal's handler."""


class Team(Workers):
    """Workers in seats.

    Args:
        seats: as many as items are worked on at once.
        patience: how long the first worker is waited for where none is there, in seconds; forever where None.
    """

    def __init__(self, seats: list[Seat], *, patience: float | None = None) -> None:
        self.seats, self.count, self.patience = seats, len(seats), patience

    def nobody(self) -> str:
        """Say what the workers ran out of, for the error that none came."""
        return "none"

    def each(
        self, function: Callable[[Item], Result], items: Iterable[Item], *, name: Callable[[Item], str] = str
    ) -> Iterator[Result]:
        return _Round(self, Work.of(function), _Line(items, name)).results()


@dataclass
class _Task(Generic[Item]):
    """An item on its way."""

    number: int
    item: Item
    parcel: bytes
    deaths: int = 0


class _Line(Generic[Item]):
    """The items that wait, in order: first those that are done again, then new ones."""

    def __init__(self, items: Iterable[Item], name: Callable[[Item], str]) -> None:
        self.name = name
        self._again: deque[_Task[Item]] = deque()
        self._items: Iterator[Item] | None = iter(items)
        self.taken = 0  # how many new ones were

    def close(self) -> None:
        """Take no new item any more."""
        self._items = None

    @property
    def closed(self) -> bool:
        return self._items is None

    def again(self, task: _Task[Item]) -> None:
        self._again.append(task)

    def take(self, until: int) -> _Task[Item] | None:
        """The next one to do, and a new one only if its number is lower; None where there is none.

        An error of the items themselves, or an item that cannot be pickled, comes up.
        """
        if self._again:
            return self._again.popleft()
        if self._items is None or self.taken >= until:
            return None
        number, self.taken = self.taken, self.taken + 1
        for item in self._items:
            return _Task(number, item, pack(item, partial(self.name, item)))
        self.close()
        self.taken = number
        return None

    def left(self) -> bool:
        """Whether something is left to do; a new item that is looked at for that is not done."""
        return self.take(self.taken + 1) is not None


class _Round(Generic[Item]):
    """One pass over items."""

    def __init__(self, team: Team, work: Work, line: _Line[Item]) -> None:
        self.team, self.work, self.line = team, work, line
        self.free: deque[Seat] = deque()
        self.working: dict[Future[bytes], tuple[Seat, _Task[Item]]] = {}
        self.done: dict[int, Outcome] = {}
        self.head = 0  # the item whose result is the next to return
        self.told = False
        self.absent = 0  # workers in a row that did not come
        self.alone = 0.0  # seconds in which nobody was there

    def results(self) -> Iterator[Any]:
        try:
            with stopping.telling(self._tell):
                for seat in self.team.seats:
                    self._seat(seat)
                while not self._over():
                    self._await_one()
                    while self._deliverable():
                        yield self._deliver()
                if stopping.requested() and self.line.left():
                    stopping.check(f"{self.head} finished items" if self.head else "nothing")
        finally:
            self._leave()

    def _seat(self, seat: Seat) -> None:
        """Have a worker in the seat, now or as soon as it comes."""
        seat.ask()
        if seat.coming is None:
            self.free.append(seat)

    def _over(self) -> bool:
        """Hand out what can be, and return whether there is nothing left to wait for."""
        self._hand_out()
        if self.working or self._deliverable():
            return False
        return stopping.requested() or (self.line.closed and self.head == self.line.taken)

    def _deliverable(self) -> bool:
        outcome = self.done.get(self.head)
        if outcome is None:
            return False
        # Whoever else was asked to stop does so where it can go on later; only then is everyone let go.
        return not (isinstance(outcome.error, Stopped) and self.working)

    def _deliver(self) -> Any:
        outcome = self.done.pop(self.head)
        self.head += 1
        if outcome.error is not None:
            raise outcome.error
        return outcome.result

    def _hand_out(self) -> None:
        """Give items to those who are free."""
        while self.free and not stopping.requested():
            try:
                task = self.line.take(self.head + AHEAD * self.team.count)
            except Exception as error:  # comes up at its place, as it would without workers
                self._finish(self.line.taken - 1, Outcome(error=error))
                return
            if task is None:
                return
            seat = self.free.popleft()
            self.working[seat.give(self.work, task.parcel)] = seat, task
        if stopping.requested():
            self._tell()  # whoever was given an item while the request came

    def _tell(self) -> None:
        self.told = True
        for seat, _ in tuple(self.working.values()):
            seat.tell()

    def _await_one(self) -> None:
        """Wait until a worker finishes, dies or comes, unless a result is there already."""
        if self._deliverable():
            return
        coming = {seat.coming: seat for seat in self.team.seats if seat.coming is not None}
        glance = None if self.working else GLANCE
        finished, _ = wait([*self.working, *coming], timeout=glance, return_when=FIRST_COMPLETED)
        self.alone = 0.0 if finished else self.alone + GLANCE
        patience = self.team.patience
        if patience is not None and self.alone >= patience:
            raise WorkerError("the workers", expected=f"one within {patience:.0f} s", found=self.team.nobody())
        for future in finished:
            if future in coming:
                self._arrived(coming[future])
            else:
                self._finished(future)

    def _arrived(self, seat: Seat) -> None:
        try:
            seat.arrived()
        except Died as death:
            self.absent += 1
            if self.absent >= DEATHS * self.team.count:
                raise WorkerError("the workers", expected="some that start", found=f"none: {death}") from death
            seat.drop()
            self._seat(seat)
        else:
            self.absent = 0
            self.free.append(seat)

    def _finished(self, future: Future[bytes]) -> None:
        seat, task = self.working.pop(future)
        try:
            outcome = Outcome.unpacked(future.result())
        except Exception as death:  # the seat's own: what the function raised is an outcome
            self._died(seat, task, death)
            return
        if isinstance(outcome.error, Stopped) and not stopping.requested():
            # It was asked to at some earlier time, when a Ctrl-C reached it and there was nothing to stop.
            self._died(seat, task, outcome.error)
            return
        self.free.append(seat)
        self._finish(task.number, outcome)

    def _finish(self, number: int, outcome: Outcome) -> None:
        self.done[number] = outcome
        if outcome.error is not None:
            self.line.close()  # whatever comes after it is not returned

    def _died(self, seat: Seat, task: _Task[Item], death: BaseException) -> None:
        task.deaths += 1
        seat.drop()
        if not stopping.requested():
            self._seat(seat)
        if task.deaths < DEATHS:
            self.line.again(task)
            return
        error = WorkerError(
            self.line.name(task.item),
            expected="a worker that finishes it",
            found=f"{task.deaths} workers that died with it ({death})",
            action="Often memory ran out: fewer workers at once, or a smaller batch, need less.",
        )
        error.__cause__ = death
        self._finish(task.number, Outcome(error=error))

    def _leave(self) -> None:
        """Let go of those whose work nobody waits for, and of those who were told to stop, who would not begin again."""
        for seat in self.team.seats:
            if self.told or any(busy is seat for busy, _ in self.working.values()):
                seat.drop()
