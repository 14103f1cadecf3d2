"""A run that is open for writing, and one in memory."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from fuseforget.errors import InputError
from fuseforget.records.code import changed_code, code_sha256, versions
from fuseforget.records.description import DESCRIPTION, read_run, refuse_foreign
from fuseforget.records.disk import sync_directory, write_all, write_synced, writing
from fuseforget.records.found import Found
from fuseforget.records.holding import LOCK, hold
from fuseforget.records.lines import encode, load

__all__ = ["MemoryRun", "Record", "Run", "read_records", "run_or_memory"]

Record = dict[str, Any]
Say = Callable[[str], None]
RECORDS = "records.jsonl"


class Run(Found):
    """A run that is open for writing; one process at a time.

    Args:
        directory: where it is; made when absent.
        command, settings: what the run is. Opening an existing run with others is refused, since its finished parts would
            not fit.
        about: what else the description says (where inputs were found, titles); not compared.
        assumed: the values of settings that runs of earlier versions did not write down.
        dropped: settings that runs of earlier versions wrote down and that no longer make a run another.
        say: told once where an existing run was begun by other code or other versions. That is no reason to refuse, but the
            first fact added then is preceded by a ``resumed`` record, so that a mixed run shows.

    Raises:
        InputError: the directory holds something else, another run, or is open in another process.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        command: str,
        settings: Record,
        about: Record | None = None,
        assumed: Record | None = None,
        dropped: Sequence[str] = (),
        say: Say = lambda line: None,
    ) -> None:
        super().__init__()
        self.path = Path(directory)
        self._command, self._settings = command, json.loads(json.dumps(settings))
        self._about, self._assumed, self._say = about or {}, json.loads(json.dumps(assumed or {})), say
        self._dropped = tuple(dropped)
        self._resumed: Record = {}

    def __enter__(self) -> Run:
        refuse_foreign(self.path)
        with writing(self.path):
            self._made = not self.path.exists()
            self.path.mkdir(parents=True, exist_ok=True)
        self._lock = hold(self.path)
        try:
            with writing(self.path):
                if self._made:
                    sync_directory(self.path.parent)
                self._describe()
                self._open_records()
                self._compare_code()
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stream.close()
        if isinstance(error, InputError) and not self.records:
            # The input's error is the one to tell; a run that could not be taken back only says so when it is opened again.
            with suppress(OSError):
                self._withdraw()
        self._lock.close()

    def add(self, kind: str, /, **fields: Any) -> Record:
        """Append one fact and return it once it is on the disk; a measurement that is there is not written again."""
        if self._resumed:
            resumed, self._resumed = self._resumed, {}
            self.add("resumed", **resumed)
        record = {"kind": kind, **fields}
        known = self.measured(record)
        if known is not None:
            return known
        self._append(encode(record))
        self.records.append(record)
        return record

    def _append(self, line: bytes) -> None:
        with writing(self.path):
            try:
                write_all(self._stream, line)
                os.fsync(self._stream.fileno())
            except OSError:
                self._stream.truncate(self._size)  # half a line would damage the next one
                raise
        self._size += len(line)

    def _open_records(self) -> None:
        """Read the records and open their file behind the last whole one."""
        file = self.path / RECORDS
        found = load(file)
        self._stream = file.open("ab", buffering=0)
        try:
            sync_directory(self.path)
            self._stream.truncate(found.size)
            self._size, self.records = found.size, found.records
            if found.torn:
                self._say(f"note: {file}: what a crash tore off the last line is dropped, and done again")
            if not found.ended:
                self._append(b"\n")
        except BaseException:
            self._stream.close()
            raise

    def _describe(self) -> None:
        file = self.path / DESCRIPTION
        if not file.exists():
            description = {
                "command": self._command,
                "settings": self._settings,
                "versions": versions(),
                "code_sha256": code_sha256(),
                **({"about": self._about} if self._about else {}),
            }
            write_synced(file, (json.dumps(description, indent=2) + "\n").encode("utf-8"))
            return
        found = read_run(self.path)
        if found["command"] != self._command:
            raise InputError(str(self.path), expected=f"a run of {self._command}", found=f"a run of {found['command']}")
        before = {k: v for k, v in {**self._assumed, **found["settings"]}.items() if k not in self._dropped}
        changed = sorted(k for k in before.keys() | self._settings.keys() if before.get(k) != self._settings.get(k))
        if changed:
            raise InputError(
                str(self.path),
                expected="the settings that the run was begun with",
                found="; ".join(f"{k} {self._settings.get(k)!r}, before {before.get(k)!r}" for k in changed),
                action="Give another directory, or the same settings to resume.",
            )

    def _compare_code(self) -> None:
        """Say where code or versions differ from those of the last records, and note it for the next one."""
        begun = read_run(self.path)
        before = next((r for r in reversed(self.records) if r["kind"] == "resumed"), begun)
        if "code_sha256" not in before or "versions" not in before:
            return  # nothing to compare with
        now = {"code_sha256": code_sha256(), "versions": versions()}
        changes = changed_code(before, now)
        if changes:
            self._resumed = now
            self._say(f"warning: {self.path} was begun with other code or versions: {', '.join(changes)}; what is added is noted")

    def _withdraw(self) -> None:
        """Take back a run that its input stopped before its first fact: it would refuse the corrected command."""
        own = {DESCRIPTION, RECORDS, LOCK}
        if any(item.name not in own and (item.is_file() or any(item.iterdir())) for item in self.path.iterdir()):
            return  # something was made of that input
        for item in self.path.iterdir():
            if item.is_dir():
                item.rmdir()
            else:
                item.unlink()
        if self._made:
            self.path.rmdir()


class MemoryRun(Found):
    """The records of a run that nobody asked to keep."""

    def __enter__(self) -> MemoryRun:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def add(self, kind: str, /, **fields: Any) -> Record:
        record = {"kind": kind, **fields}
        known = self.measured(record)
        if known is not None:
            return known
        self.records.append(record)
        return record


def run_or_memory(
    out: str | Path | None, *, command: str, settings: Record, about: Record | None = None, say: Say = lambda line: None
) -> Any:
    """A run in a directory, or one in memory where there is none."""
    return MemoryRun() if out is None else Run(out, command=command, settings=settings, about=about, say=say)


def read_records(directory: str | Path) -> list[Record]:
    """Return a run's records, also of one that is unfinished or being written."""
    read_run(directory)
    return load(Path(directory) / RECORDS).records
