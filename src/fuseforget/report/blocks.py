"""What a page is made of, whatever its format."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Block", "Code", "Details", "Heading", "Paragraphs", "Picture", "Pictures", "Table", "opening"]


@dataclass(frozen=True)
class Heading:
    """A heading of level 1 (a run) or 2 (a part of it)."""

    text: str
    level: Literal[1, 2] = 2


@dataclass(frozen=True)
class Paragraphs:
    """Lines of one kind: ``lead`` is what to read first, ``warn`` what to know before trusting the rest, ``note`` the rest."""

    lines: list[str]
    kind: Literal["lead", "warn", "note"] = "note"


@dataclass(frozen=True)
class Picture:
    """A drawn figure, its file name without ending, and what it shows."""

    name: str
    figure: Figure
    caption: str
    wide: bool = False


@dataclass(frozen=True)
class Pictures:
    """Figures side by side."""

    pictures: list[Picture]


@dataclass(frozen=True)
class Table:
    """A titled table of text cells; ``note`` says how to read it."""

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""


@dataclass(frozen=True)
class Code:
    """Text as it is: a command, or JSON."""

    text: str
    language: str = ""


@dataclass(frozen=True)
class Details:
    """What few readers need, under a title of its own."""

    title: str
    blocks: list[Block] = field(default_factory=list)


Block = Heading | Paragraphs | Pictures | Table | Code | Details


def opening(title: str, about: str, headline: list[str], warnings: list[Block], pictures: list[Picture]) -> list[Block]:
    """How a study's section begins: what it is, what it found, what to know before trusting it, and its figures."""
    blocks: list[Block] = [Heading(title, 1), Paragraphs([about])]
    if headline:
        blocks.append(Paragraphs(headline, "lead"))
    blocks += warnings
    if pictures:
        blocks += [Heading("Figures"), Pictures(pictures)]
    return blocks
