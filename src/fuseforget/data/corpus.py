"""Documents: texts without labels, from tables, from text files, or from a directory of text files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from fuseforget.data.tables import SPLIT_NAMES, SUFFIXES, Table, place, read_table, require_column
from fuseforget.errors import InputError, some_names

__all__ = ["read_documents"]

COLUMNS = ("text", "sentence", "article", "content")
TITLE = re.compile(r"\s*= [^=\s](.*[^=\s])? =\s*")  # WikiText's; "= =" and more are sections
BREAK = re.compile(r"\n[^\S\n]*\n")  # a blank line


def read_documents(source: str | Path, *, split: str = "train", text: str | None = None) -> tuple[str, ...]:
    """Read texts, in order.

    Args:
        source: a table as of :func:`fuseforget.data.read_examples`; a ``.txt`` file; or a directory of ``.txt`` files, either
            one for each split (``train.txt``, ``validation.txt``, ...) or one for each document, in the order of their names.
            A text file's documents are its paragraphs, which blank lines separate; where it has WikiText's titles
            (`` = Title = ``), a title begins a document that goes on to the next one.
        split: which split of a directory or of a hub data set.
        text: a table's column of texts (default: ``text``, ``sentence``, ``article`` or ``content``).

    Raises:
        InputError: nothing there or unreadable, no such split or column, no documents, or empty ones (with their rows).
    """
    path = Path(source).expanduser()
    if path.suffix == ".txt" and not path.is_dir():
        return _some(str(path), _no_column(str(path), text, _paragraphs(_read(path))))
    if path.is_dir() and (files := _text_files(path)):
        return _from_text_files(path, files, split, text)
    where, table = place(source, split), read_table(source, split)
    return _from_table(where, table, text)


def _from_table(where: str, table: Table, text: str | None) -> tuple[str, ...]:
    if not table or not next(iter(table.values())):
        raise InputError(where, expected="at least one document", found="no rows")
    values = table[require_column(where, table, text, COLUMNS)]
    missing = [row for row, value in enumerate(values, 1) if not isinstance(value, str) or not value.strip()]
    if missing:
        shown = some_names(missing)
        raise InputError(where, expected="a text in every row", found=f"none in {len(missing)} of {len(values)} (row {shown})")
    return tuple(values)


def _text_files(directory: Path) -> list[Path]:
    """The text files of a directory that has no tables."""
    files = sorted(path for path in directory.iterdir() if path.is_file())
    if any(path.suffix in SUFFIXES or path.name in ("dataset_dict.json", "dataset_info.json") for path in files):
        return []
    return [path for path in files if path.suffix == ".txt"]


def _from_text_files(directory: Path, files: Sequence[Path], split: str, text: str | None) -> tuple[str, ...]:
    where = f"{directory} ({split})"
    names = SPLIT_NAMES.get(split, (split,))
    known = {"test", *names, *(name for spelled in SPLIT_NAMES.values() for name in spelled)}
    if not any(path.stem in known for path in files):
        documents = [_read(path).strip() for path in files]
        empty = [path.name for path, document in zip(files, documents, strict=True) if not document]
        if empty:
            found = f"none in {len(empty)} of {len(files)} ({some_names(empty)})"
            raise InputError(str(directory), expected="a text in every file", found=found)
        return tuple(_no_column(str(directory), text, documents))
    chosen = next((path for name in names for path in files if path.stem == name), None)
    if chosen is None:
        found = some_names(path.name for path in files)
        raise InputError(where, expected=" or ".join(f"{name}.txt" for name in names), found=found)
    return _some(where, _no_column(where, text, _paragraphs(_read(chosen))))


def _no_column(where: str, text: str | None, documents: Sequence[str]) -> Sequence[str]:
    if text is not None:
        raise InputError("column of texts", expected="a table", found=f"text files ({where})", action="Leave it out.")
    return documents


def _some(where: str, documents: Sequence[str]) -> tuple[str, ...]:
    if not documents:
        raise InputError(where, expected="at least one document", found="an empty file")
    return tuple(documents)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(str(path), expected="a text file", found="nothing at that path") from error
    except ValueError as error:
        raise InputError(str(path), expected="text in UTF-8", found=str(error)) from error


def _paragraphs(content: str) -> list[str]:
    found = [paragraph.strip() for paragraph in BREAK.split(content) if paragraph.strip()]
    return list(_articles(found)) if any(TITLE.fullmatch(paragraph) for paragraph in found) else found


def _articles(paragraphs: Sequence[str]) -> Iterator[str]:
    """Paragraphs joined to articles, each beginning with a title; what stands before the first is one, too."""
    article: list[str] = []
    for paragraph in paragraphs:
        if TITLE.fullmatch(paragraph) and article:
            yield "\n\n".join(article)
            article = []
        article.append(paragraph)
    yield "\n\n".join(article)
