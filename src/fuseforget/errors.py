"""The errors that fuseforget raises on purpose.

Every message has the same four parts: the thing, what was expected, what was found, and what to do about it. The
command line prints that message alone and exits with :attr:`FuseForgetError.exit_code`.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import Any, ClassVar

__all__ = [
    "FuseForgetError",
    "InputError",
    "MismatchError",
    "OutputError",
    "Stopped",
    "WorkerError",
    "require_seed",
    "some_names",
]

SHOWN = 5  # of many names, in a message
SEEDS = 2**32  # what numpy's oldest generator takes, which transformers seeds


class FuseForgetError(Exception):
    """Base of all errors raised on purpose.

    Args:
        thing: what is wrong, by name (a path, a tensor, an option).
        expected: what would have been right.
        found: what was there instead.
        action: what the user can do next; optional where ``expected`` says it already.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, thing: str, *, expected: str, found: str, action: str = "") -> None:
        self.thing, self.expected, self.found, self.action = thing, expected, found, action
        message = f"{thing}: expected {expected}, found {found}."
        super().__init__(f"{message} {action}".rstrip())

    def __reduce__(self) -> tuple[Any, ...]:
        # From a worker's process: an exception would be made again from its message alone.
        return _again, (type(self), self.thing, self.expected, self.found, self.action)


class InputError(FuseForgetError, ValueError):
    """What the user gave cannot be used; nothing was written."""

    exit_code = 2


class MismatchError(InputError):
    """Checkpoints cannot be fused; the message lists *all* differences, from their headers alone."""


class OutputError(FuseForgetError, OSError):
    """The result could not be written (a full disk, a lost permission); nothing half-written is left."""

    # Exception.__str__, not OSError's, which would look for an errno in the arguments.
    __str__ = Exception.__str__

    @classmethod
    def caused_by(cls, error: OSError, place: str, *, action: str = "") -> OutputError:
        """The error for a place that the system refused to write; a full disk is called that."""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        found = "a full disk" if full else (error.strerror or str(error))
        hint = f"{action} Free some space and run again." if full else action
        return cls(place, expected="a place that can be written", found=found, action=hint.strip())


class WorkerError(FuseForgetError):
    """Workers died again and again, or none is left; what is finished is kept."""


class Stopped(FuseForgetError):
    """The user asked the work to stop, and it stopped where the same command goes on."""

    exit_code = 130


def _again(kind: type[FuseForgetError], thing: str, expected: str, found: str, action: str) -> FuseForgetError:
    return kind(thing, expected=expected, found=found, action=action)


def require_seed(seed: int) -> None:
    """Raise InputError unless every generator in use can be seeded with this number."""
    if not 0 <= seed < SEEDS:
        raise InputError("seed", expected=f"0 to {SEEDS - 1}", found=str(seed))


def some_names(names: Iterable[object]) -> str:
    """The first five names, and how many more there are."""
    every = [str(name) for name in names]
    rest = f" and {len(every) - SHOWN} more" if len(every) > SHOWN else ""
    return ", ".join(every[:SHOWN]) + rest
