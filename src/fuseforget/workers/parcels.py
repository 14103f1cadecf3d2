"""What travels between a driver and its workers: functions, items, and what came of them, as bytes."""

from __future__ import annotations

import hashlib
import pickle
import traceback
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from fuseforget.errors import InputError

__all__ = ["Functions", "Outcome", "Recent", "Work", "WorkerTraceback", "pack"]

KEPT = 2  # functions of a worker: each may hold models, and a study goes on to the next one for good
Value = TypeVar("Value")


class WorkerTraceback(Exception):
    """Where in a worker an error came up; its cause."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


def pack(thing: object, what: str) -> bytes:
    """Pickle something that is called so; InputError where that cannot be."""
    try:
        return pickle.dumps(thing, protocol=pickle.HIGHEST_PROTOCOL)
    except Exception as error:  # whatever the object's own __reduce__ raises
        raise InputError(
            what,
            expected="something that can be pickled, since it goes to another process or comes from one",
            found=f"{type(thing).__qualname__} ({error})",
        ) from error


@dataclass(frozen=True)
class Work:
    """A function that is ready to travel."""

    digest: str
    parcel: bytes

    @classmethod
    def of(cls, function: Callable[[Any], Any]) -> Work:
        parcel = pack(function, "the workers' function")
        return cls(hashlib.sha256(parcel).hexdigest(), parcel)


@dataclass(frozen=True)
class Outcome:
    """What came of an item: a result, or the error that its function raised."""

    result: Any = None
    error: BaseException | None = None

    def packed(self) -> bytes:
        """Bytes that certainly give an outcome again: what would not becomes an error that says so."""
        if self.error is None:
            try:
                return pack((self.result, None, ""), "a worker's result")
            except InputError as error:
                return Outcome(error=error).packed()
        text = "".join(traceback.format_exception(self.error))
        try:
            parcel = pack((None, self.error, text), "a worker's error")
            pickle.loads(parcel)
        except Exception:  # an exception whose arguments are not its constructor's, say
            name = f"{type(self.error).__qualname__}: {self.error}"
            return pack((None, RuntimeError(f"a worker raised what cannot be pickled: {name}"), text), "a worker's error")
        return parcel

    @classmethod
    def unpacked(cls, parcel: bytes) -> Outcome:
        """The outcome of those bytes; the worker's traceback is its error's cause."""
        try:
            result, error, text = pickle.loads(parcel)
        except Exception as problem:  # a result whose class raises while it is made again
            return cls(error=problem)
        if error is not None:
            error.__cause__ = WorkerTraceback(text)
        return cls(result, error)


class Recent(Generic[Value]):
    """The last few values by digest. Driver and worker forget in the same order, so that one knows what the other keeps."""

    def __init__(self) -> None:
        self._values: OrderedDict[str, Value] = OrderedDict()

    def __contains__(self, digest: str) -> bool:
        return digest in self._values

    def use(self, digest: str, make: Callable[[], Value]) -> Value:
        """The value of that digest, made where it is not kept; the one that was used longest ago goes first."""
        if digest not in self._values:
            while len(self._values) >= KEPT:
                self._values.popitem(last=False)
            self._values[digest] = make()
        self._values.move_to_end(digest)
        return self._values[digest]


@dataclass
class _Kept:
    """A function in a worker, made at its first use; its bytes stay where that fails, and fail for the next item too."""

    parcel: bytes
    function: Callable[[Any], Any] | None = None

    def __call__(self, item: Any) -> Any:
        if self.function is None:
            self.function, self.parcel = pickle.loads(self.parcel), b""
        return self.function(item)


class Functions:
    """The functions that a worker keeps."""

    def __init__(self) -> None:
        self._recent: Recent[_Kept] = Recent()

    def apply(self, digest: str, parcel: Callable[[], bytes], item: bytes) -> bytes:
        """Do an item, and return its packed outcome.

        Args:
            digest: the function's.
            parcel: gives the function's bytes; asked where the function is not kept.
        """
        kept = self._recent.use(digest, lambda: _Kept(parcel()))
        try:
            outcome = Outcome(kept(pickle.loads(item)))
        except BaseException as error:  # a SystemExit of the function, too, is the driver's to handle
            outcome = Outcome(error=error)
        return outcome.packed()
