"""What parts of a study of forgetting are asked with in their tests: contenders, a source, settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fuseforget.methods import METHODS, Value


@dataclass(frozen=True)
class Method:
    """A contender as the part sees it."""

    row: str
    method: str
    grid: tuple[Mapping[str, Value], ...] = ({},)
    weight: float | None = None

    @property
    def takes_base(self) -> bool:
        return METHODS[self.method].base == "required"

    def takes(self, count: int) -> bool:
        most = METHODS[self.method].models[1]
        return most is None or count <= most


@dataclass(frozen=True)
class Source:
    path: Path
    command: str
    name: str


@dataclass(frozen=True)
class Asked:
    contenders: tuple[Method, ...]
    allowance: float = 0.005
    seed: int = 0
