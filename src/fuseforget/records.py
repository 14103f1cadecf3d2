"""A run: a directory whose facts are written once, to disk, and survive a crash.

``run.json`` says what the run is (command, settings, hashes of inputs and code, versions), so that it can be repeated;
``records.jsonl`` holds one fact a line, appended and synced. Each line carries a checksum: a line that a crash tore is
dropped when the run is opened again, and a line that was damaged later is refused.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import platform
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from fuseforget.errors import InputError, OutputError

__all__ = [
    "MemoryRun",
    "Run",
    "changed_code",
    "code_sha256",
    "decode_values",
    "encode_values",
    "read_records",
    "read_run",
    "run_or_memory",
    "versions",
]

Record = dict[str, Any]
Say = Callable[[str], None]
RECORDS, DESCRIPTION, LOCK = "records.jsonl", "run.json", ".lock"


class Run:
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
        self.path = Path(directory)
        self._command, self._settings = command, json.loads(json.dumps(settings))
        self._about, self._assumed, self._say = about or {}, json.loads(json.dumps(assumed or {})), say
        self._dropped = tuple(dropped)
        self._resumed: Record = {}
        self.records: list[Record] = []

    def __enter__(self) -> Run:
        _refuse_foreign(self.path)
        with _writing(self.path):
            self._made = not self.path.exists()
            self.path.mkdir(parents=True, exist_ok=True)
            # Unbuffered, like the records: closing must not write again what a full disk has refused.
            self._lock = (self.path / LOCK).open("ab+", buffering=0)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.seek(0)
            holder = self._lock.read().decode().strip() or "another process"
            self._lock.close()
            raise InputError(str(self.path), expected="a run that nobody writes to", found=f"it is held by {holder}") from error
        try:
            with _writing(self.path):
                self._lock.truncate(0)
                _write_all(self._lock, f"process {os.getpid()}".encode())
                self._describe()
                self._size, self.records = _load(self.path / RECORDS)
                self._compare_code()
                self._stream = (self.path / RECORDS).open("ab", buffering=0)
                self._stream.truncate(self._size)  # a torn last line goes
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
        """Append one fact and return it once it is on the disk."""
        if self._resumed:
            resumed, self._resumed = self._resumed, {}
            self.add("resumed", **resumed)
        record = {"kind": kind, **fields}
        line = _encode(record)
        with _writing(self.path):
            try:
                _write_all(self._stream, line)
                os.fsync(self._stream.fileno())
            except OSError:
                self._stream.truncate(self._size)  # half a line would damage the next one
                raise
        self._size += len(line)
        self.records.append(record)
        return record

    def find(self, kind: str, /, **fields: Any) -> Record | None:
        """Return the first record of a kind whose fields have these values, or None."""
        for record in self.records:
            if record["kind"] == kind and all(record.get(name) == value for name, value in fields.items()):
                return record
        return None

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
            partial = file.with_suffix(".partial")
            partial.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
            with partial.open() as stream:
                os.fsync(stream.fileno())
            partial.rename(file)
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


class MemoryRun:
    """The records of a run that nobody asked to keep."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def __enter__(self) -> MemoryRun:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def add(self, kind: str, /, **fields: Any) -> Record:
        self.records.append({"kind": kind, **fields})
        return self.records[-1]

    find = Run.find


def run_or_memory(
    out: str | Path | None, *, command: str, settings: Record, about: Record | None = None, say: Say = lambda line: None
) -> Any:
    """A run in a directory, or one in memory where there is none."""
    return MemoryRun() if out is None else Run(out, command=command, settings=settings, about=about, say=say)


def changed_code(before: Record, now: Record) -> list[str]:
    """In words, how code and versions differ between two descriptions or ``resumed`` records."""
    changes = []
    if before["code_sha256"] != now["code_sha256"]:
        changes.append(f"code {before['code_sha256'][:12]} became {now['code_sha256'][:12]}")
    for name in sorted(before["versions"].keys() | now["versions"].keys()):
        old, new = (side["versions"].get(name, "absent") for side in (before, now))
        if old != new:
            changes.append(f"{name} {old} became {new}")
    return changes


def read_run(directory: str | Path) -> Record:
    """Return a run's description."""
    file = Path(directory) / DESCRIPTION
    if not file.is_file():
        raise InputError(str(directory), expected=f"a run ({DESCRIPTION})", found="none")
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(str(file), expected="a run's description in JSON", found=str(error)) from error
    if not isinstance(description, dict) or not {"command", "settings"} <= description.keys():
        raise InputError(str(file), expected="command and settings", found=f"{description!r:.80}")
    return description


def read_records(directory: str | Path) -> list[Record]:
    """Return a run's records, also of one that is unfinished or being written."""
    read_run(directory)
    return _load(Path(directory) / RECORDS)[1]


def encode_values(values: Sequence[float] | npt.NDArray[np.float64]) -> str:
    """Per-example values as text: a bit each where all are 0 or 1, else float32; compressed, base64."""
    array = np.asarray(values, dtype=np.float64)
    if np.isin(array, (0.0, 1.0)).all():
        raw = b"b" + len(array).to_bytes(8, "little") + np.packbits(array.astype(bool)).tobytes()
    else:
        raw = b"f" + len(array).to_bytes(8, "little") + array.astype("<f4").tobytes()
    return base64.b64encode(zlib.compress(raw, 9)).decode()


def decode_values(text: str) -> npt.NDArray[np.float64]:
    """The inverse of :func:`encode_values`."""
    raw = zlib.decompress(base64.b64decode(text))
    n = int.from_bytes(raw[1:9], "little")
    if raw[:1] == b"b":
        return np.unpackbits(np.frombuffer(raw[9:], dtype=np.uint8), count=n).astype(np.float64)
    return np.frombuffer(raw[9:], dtype="<f4").astype(np.float64)


def versions() -> dict[str, str]:
    """The versions that a result can depend on."""
    found = {"python": platform.python_version()}
    for package in ("fuseforget", "torch", "transformers", "tokenizers", "accelerate", "safetensors", "numpy", "scipy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # pragma: no cover - all are dependencies
            found[package] = "absent"
    return found


@cache
def code_sha256() -> str:
    """A digest of the package's own source files."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _encode(record: Record) -> bytes:
    body = json.dumps(record, separators=(",", ":"), allow_nan=False)
    return f'{{"crc":"{zlib.crc32(body.encode()):08x}",{body[1:]}\n'.encode()


def _write_all(stream: FileIO, content: bytes) -> None:
    """Write to an unbuffered stream, which may take a part at a time: the part that a full disk still held, at last none."""
    while content:
        content = content[stream.write(content) :]


def _decode(line: bytes) -> Record | None:
    """The record of a line, or None where the line is not whole."""
    try:
        record = json.loads(line)
        crc = record.pop("crc")
    except (ValueError, AttributeError, KeyError):
        return None
    body = json.dumps(record, separators=(",", ":"), allow_nan=False)
    return record if crc == f"{zlib.crc32(body.encode()):08x}" else None


def _load(file: Path) -> tuple[int, list[Record]]:
    """Return how many bytes hold whole lines, and their records."""
    if not file.is_file():
        return 0, []
    good, records = 0, []
    lines = file.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        record = _decode(line) if line.endswith(b"\n") else None
        if record is None:
            if number < len(lines):
                raise InputError(f"{file}, line {number}", expected="a record with its checksum", found="a damaged line")
            break
        records.append(record)
        good += len(line)
    return good, records


def _refuse_foreign(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise InputError(str(path), expected="a directory for the run", found="a file")
    if path.is_dir() and any(path.iterdir()) and not ((path / DESCRIPTION).is_file() or (path / LOCK).is_file()):
        raise InputError(str(path), expected="a new directory, or a run to resume", found="a directory with other files")


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if isinstance(error, InputError | OutputError):
            raise
        action = "Finished parts are safe: run the same command again to resume."
        raise OutputError.caused_by(error, str(path), action=action) from error
