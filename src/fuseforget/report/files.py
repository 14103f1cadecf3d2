"""How a report's files come into being: whole or not at all."""

from __future__ import annotations

from pathlib import Path

from fuseforget.errors import OutputError

__all__ = ["write_whole"]


def write_whole(file: Path, content: bytes, *, action: str = "") -> None:
    """Write a file, and its directory where that is absent.

    Raises:
        OutputError: the system refuses; ``action`` is what to do then. What stood there stays, nothing half-written is left.
    """
    partial = file.with_name(f".{file.name}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(content)
            partial.rename(file)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OutputError.caused_by(error, str(file), action=action) from error
