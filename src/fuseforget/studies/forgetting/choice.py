"""Which setting of a method is the best: the least retention at a task accuracy near the plain average's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fuseforget.errors import InputError
from fuseforget.methods import Value

__all__ = ["ALLOWANCE", "Tried", "allowed", "choose"]

ALLOWANCE = 0.005  # half a point


@dataclass(frozen=True)
class Tried:
    """What a setting does on validation data.

    Attributes:
        parameters: of the method, where they are not its defaults.
        retention: of what should go; less is better.
        task: accuracy.
    """

    parameters: Mapping[str, Value]
    retention: float
    task: float


def choose(tried: Sequence[Tried], average: float, allowance: float = ALLOWANCE) -> Tried:
    """Choose among a method's settings.

    Args:
        tried: in the order of the grid; of equals at the better task the first is taken.
        average: the plain average's task accuracy on the same data.
        allowance: how far below that a setting may be.

    Returns:
        The setting with the least retention among those that are allowed, of equals the best at the task; where none is
        allowed, the one with the highest task accuracy, of equals the least retention: it is the nearest to that.

    Raises:
        InputError: nothing to choose from.
    """
    if not tried:
        raise InputError("settings to choose from", expected="one or more", found="none")
    good = [one for one in tried if allowed(one.task, average, allowance)]
    if good:
        return min(good, key=lambda one: (one.retention, -one.task))
    return max(tried, key=lambda one: (one.task, -one.retention))


def allowed(task: float, average: float, allowance: float = ALLOWANCE) -> bool:
    """Whether a task accuracy is at most the allowance below the average's; what is exactly that far below is."""
    # Differences of shares of right answers differ in rounding.
    return task >= average - allowance - 1e-9
