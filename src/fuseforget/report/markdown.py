"""Blocks as a Markdown page (GitHub's tables), its figures in files beside it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from urllib.parse import quote

from fuseforget.report.blocks import Block, Code, Details, Heading, Paragraphs, Picture, Pictures, Table

__all__ = ["render_markdown"]


def render_markdown(blocks: Sequence[Block], show: Callable[[Picture], str]) -> str:
    """Return a run's part of the page; ``show`` returns the name of a picture's file, relative to the page."""
    return "".join(f"{_block(block, show)}\n\n" for block in blocks)


def _block(block: Block, show: Callable[[Picture], str]) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {_escape(text)}"
        case Paragraphs(lines, "lead"):
            return "\n".join(f"- {_escape(line)}" for line in lines)
        case Paragraphs(lines, "warn"):
            return "\n>\n".join(f"> **{_escape(line)}**" for line in lines)
        case Paragraphs(lines):
            return "\n\n".join(_escape(line) for line in lines)
        case Pictures(pictures):
            shown = []
            for picture in pictures:
                caption = _escape(picture.caption)
                shown.append(f"![{caption}]({quote(show(picture))})\n\n{caption}")
            return "\n\n".join(shown)
        case Table():
            return _table(block)
        case Code(text, language):
            # A fence longer than any in the text.
            fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
            return f"{fence}{language}\n{text}\n{fence}"
        case Details(title, blocks):
            return f"### {_escape(title)}\n\n{render_markdown(blocks, show)}".rstrip()


def _table(table: Table) -> str:
    rows = [table.header, ["---"] * len(table.header)]
    lines = ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in [*rows, *table.rows]]
    parts = [f"## {_escape(table.title)}" if table.title else "", _escape(table.note), "\n".join(lines)]
    return "\n\n".join(part for part in parts if part)


def _cell(text: str) -> str:
    return _escape(text).replace("|", r"\|").replace("\n", " ")


def _escape(text: str) -> str:
    """Text whose characters mean themselves; brackets of intervals do so already."""
    return re.sub(r"([\\*`_])", r"\\\1", text).replace("<", "&lt;")
