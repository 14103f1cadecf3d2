"""What a run is: the file beside its records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fuseforget.errors import InputError
from fuseforget.records.holding import LOCK

__all__ = ["DESCRIPTION", "read_run", "refuse_foreign"]

Record = dict[str, Any]
DESCRIPTION = "run.json"


def read_run(directory: str | Path) -> Record:
    """Return a run's description.

    Raises:
        InputError: there is none, or one that is damaged.
    """
    file = Path(directory) / DESCRIPTION
    if not file.is_file():
        begun = (Path(directory) / LOCK).is_file()
        raise InputError(
            str(directory), expected=f"a run ({DESCRIPTION})", found="one that stopped before it began" if begun else "none",
            action="Run its command again." if begun else "",
        )  # fmt: skip
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(str(file), expected="a run's description in JSON", found=str(error)) from error
    if not isinstance(description, dict) or not {"command", "settings"} <= description.keys():
        raise InputError(str(file), expected="command and settings", found=f"{description!r:.80}")
    return description


def refuse_foreign(path: Path) -> None:
    """Raise InputError for a path that holds something else than a run."""
    if path.exists() and not path.is_dir():
        raise InputError(str(path), expected="a directory for the run", found="a file")
    if not path.is_dir() or (path / DESCRIPTION).is_file():
        return
    # A run that was killed before it could say what it is has a lock, in which stands who held it.
    lock = path / LOCK
    ours = lock.is_file() and lock.read_bytes()[:8] in (b"", b"process ")
    if any(path.iterdir()) and not ours:
        raise InputError(str(path), expected="a new directory, or a run to resume", found="a directory with other files")
