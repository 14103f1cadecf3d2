"""What a contender is at one of its settings: a fusion that can be asked, and that records tell from others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from fuseforget.methods import Value
from fuseforget.records import Record
from fuseforget.studies.forgetting.contenders import Contender

__all__ = ["AVERAGE", "Fusion", "fusions_of"]


@dataclass(frozen=True)
class Fusion:
    """A contender at one of its settings.

    Attributes:
        row: what tables call the contender.
        weight: of each model; None: the method's default.
        takes_base: whether the start is given as the base.
    """

    row: str
    method: str
    parameters: Mapping[str, Value] = field(default_factory=dict)
    weight: float | None = None
    takes_base: bool = False

    @classmethod
    def of(cls, contender: Contender, parameters: Mapping[str, Value]) -> Fusion:
        return cls(contender.row, contender.method, parameters, contender.weight, contender.takes_base)

    @property
    def label(self) -> str:
        """What is fused and how, whoever asks for it: equal for two contenders that are the same here."""
        settings = [f"{name}={value:g}" for name, value in sorted(self.parameters.items())]
        more = [*([] if self.weight is None else [f"weight={self.weight:g}"]), *(["with base"] if self.takes_base else [])]
        return " ".join([self.method, *settings, *more])

    @property
    def where(self) -> Record:
        """What records call it."""
        return {"row": self.row, "method": self.method, "parameters": dict(self.parameters)}

    def weights(self, models: int) -> tuple[float, ...] | None:
        return None if self.weight is None else (self.weight,) * models


AVERAGE = Fusion("average", "average")  # what every contender is compared with


def fusions_of(contenders: Sequence[Contender], models: int) -> Iterator[list[Fusion]]:
    """The settings of each contender that is for so many models, the average's first."""
    yield [AVERAGE]
    for one in contenders:
        if one.row != AVERAGE.row and one.takes(models):
            yield [Fusion.of(one, parameters) for parameters in one.grid]
