"""What a contender is at one of its settings: a fusion that can be asked, and that records tell from others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from fuseforget.methods import METHODS, Value
from fuseforget.records import Record

__all__ = ["AVERAGE", "Contends", "Fusion", "fusions_of", "scaled_averages"]


class Contends(Protocol):
    """A contender: a method with the settings among which one is chosen for it."""

    @property
    def row(self) -> str: ...

    @property
    def method(self) -> str: ...

    @property
    def grid(self) -> Sequence[Mapping[str, Value]]: ...

    @property
    def weight(self) -> float | None: ...


@dataclass(frozen=True)
class Fusion:
    """A contender at one of its settings.

    Attributes:
        row: what the contender is called.
        weight: of each model; None: the method's default.
    """

    row: str
    method: str
    parameters: Mapping[str, Value] = field(default_factory=dict)
    weight: float | None = None

    @property
    def label(self) -> str:
        """What is fused and how, whoever asks for it: equal for two contenders that are the same here."""
        settings = [f"{name}={value:g}" for name, value in sorted(self.parameters.items())]
        return " ".join([self.method, *settings, *([] if self.weight is None else [f"weight={self.weight:g}"])])

    @property
    def needs_base(self) -> bool:
        return METHODS[self.method].base == "required"

    @property
    def where(self) -> Record:
        """What records call it."""
        return {"contender": self.row, "method": self.method, "parameters": dict(self.parameters), "weight": self.weight}

    def weights(self, models: int) -> tuple[float, ...] | None:
        return None if self.weight is None else (self.weight,) * models

    def takes(self, models: int) -> bool:
        """Whether the method is for so many models."""
        least, most = METHODS[self.method].models
        return models >= least and (most is None or models <= most)


AVERAGE = Fusion("average", "average")  # what every contender is compared with


def fusions_of(contenders: Sequence[Contends], models: int) -> Iterator[list[Fusion]]:
    """The settings of each contender that is for so many models, the average's first."""
    yield [AVERAGE]
    for one in contenders:
        settings = [Fusion(one.row, one.method, parameters, one.weight) for parameters in one.grid]
        if one.row != AVERAGE.row and settings and settings[0].takes(models):
            yield settings


def scaled_averages(row: str, scales: Sequence[float]) -> list[Fusion]:
    """The average's change from the base, only shorter or longer."""
    return [Fusion(row, "task_arithmetic", {"lambda": scale}) for scale in scales]
