"""BLAKE3 digests of files, taken by a process of its own beside the fusion: `python hashing.py FILE...` prints them as JSON.

SHA-256 would take longer than the fusion itself, and a thread would wait for the interpreter whenever the fusion holds it. This
file imports nothing of the package, so that the process starts at once.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import blake3

__all__ = ["Hashes", "digest"]

AT_ONCE = 1 << 18  # bytes: stays in the cache between the read and the hash


def digest(file: str | Path) -> str:
    """Return the BLAKE3 digest of a file in hexadecimal (what ``b3sum`` prints)."""
    state = blake3.blake3()
    buffer = memoryview(bytearray(AT_ONCE))
    with Path(file).open("rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            state.update(buffer[:count])
    return state.hexdigest()


class Hashes:
    """Digests of files that a process of its own takes meanwhile; it ends with the block."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = list(dict.fromkeys(files))

    def __enter__(self) -> Hashes:
        command = [sys.executable, __file__, *map(str, self._files)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def result(self) -> dict[Path, str]:
        """Wait for the digest of each file.

        Raises:
            OSError: a file could not be read.
        """
        out, errors = self._process.communicate()
        if self._process.returncode:
            said = errors.decode(errors="replace").strip().splitlines()
            raise OSError(f"hashing the inputs failed: {said[-1] if said else self._process.returncode}")
        return dict(zip(self._files, json.loads(out), strict=True))


if __name__ == "__main__":
    print(json.dumps([digest(file) for file in sys.argv[1:]]))
