"""Write the weight files of a checkpoint, sharded, in any order of their values."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fuseforget.checkpoint.header import DTYPES, encode_header
from fuseforget.checkpoint.reader import INDEX, SINGLE
from fuseforget.errors import InputError

__all__ = ["OutputFiles", "TensorSpec", "parse_size"]

FLUSH_EVERY = 0.5  # seconds
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@dataclass(frozen=True)
class TensorSpec:
    """A tensor to be written: its name, its dtype in the format's spelling, and its shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * DTYPES[self.dtype].nbytes


def parse_size(text: str | int) -> int:
    """Bytes from a size such as ``5GB`` (10^9) or ``5GiB`` (2^30)."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?I?B?)\s*", str(text).upper())
    if not match or match[2] not in _UNITS or not float(match[1]) > 0:
        raise InputError("shard size", expected="a size such as 5GB, 500MB or 2GiB", found=repr(text))
    return int(float(match[1]) * _UNITS[match[2]])


class OutputFiles:
    """The weight files of a checkpoint to be written, laid out beforehand, so that values can come in any order.

    Space is reserved when the files are opened, so that a full disk is known before the work. Shards are filled in the order
    of the format's reference writer: wider types first, then by name.
    """

    def __init__(self, directory: Path, specs: Sequence[TensorSpec], shard_size: int) -> None:
        ordered = sorted(specs, key=lambda spec: (-DTYPES[spec.dtype].nbytes, spec.name))
        shards = _shards(ordered, shard_size)
        self._directory = directory
        self._places: dict[str, tuple[int, int]] = {}  # descriptor and offset of each tensor
        self._descriptors: list[int] = []
        self._done = threading.Event()
        self._error: OSError | None = None
        weight_map: dict[str, str] = {}
        try:
            for number, shard in enumerate(shards, start=1):
                name = SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
                weight_map.update({spec.name: name for spec in shard})
                self._lay_out(directory / name, shard)
            if len(shards) > 1:
                index = {"metadata": {"total_size": sum(spec.nbytes for spec in specs)}, "weight_map": weight_map}
                (directory / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> OutputFiles:
        self._flusher = threading.Thread(target=self._flush, name="flush", daemon=True)
        self._flusher.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._done.set()
        self._flusher.join()
        self.close()
        if self._error is not None and kind is None:
            raise self._error

    def write(self, spec: TensorSpec, start: int, values: memoryview) -> None:
        """Write the bytes of consecutive values of a tensor, from its flat position ``start`` on. Threads may write at once."""
        nbytes = DTYPES[spec.dtype].nbytes
        if start * nbytes + len(values) > spec.nbytes or len(values) % nbytes:
            raise RuntimeError(f"{spec.name}: {len(values)} bytes from value {start} on do not fit what the header says")
        descriptor, offset = self._places[spec.name]
        rest = values
        offset += start * nbytes
        while len(rest):
            written = os.pwrite(descriptor, rest, offset)
            offset += written
            rest = rest[written:]

    def _flush(self) -> None:
        """Have the system write out what has come so far, again and again, so that the sync at the end has little left to do."""
        while not self._done.wait(FLUSH_EVERY):
            try:
                for descriptor in self._descriptors:
                    os.fsync(descriptor)
            except OSError as error:
                self._error = error  # the system may not report it again
                return

    def close(self) -> None:
        """Close the files."""
        while self._descriptors:
            os.close(self._descriptors.pop())

    def _lay_out(self, file: Path, shard: Sequence[TensorSpec]) -> None:
        header = encode_header([(spec.name, spec.dtype, spec.shape) for spec in shard])
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        self._descriptors.append(descriptor)
        end = len(header)
        for spec in shard:
            self._places[spec.name] = (descriptor, end)
            end += spec.nbytes
        _reserve(descriptor, end)
        os.pwrite(descriptor, header, 0)


def _reserve(descriptor: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
            return
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise
    os.ftruncate(descriptor, size)


def _shards(specs: Sequence[TensorSpec], limit: int) -> list[list[TensorSpec]]:
    """Fill shards in order; a tensor larger than the limit gets one of its own."""
    shards: list[list[TensorSpec]] = [[]]
    size = 0
    for spec in specs:
        if shards[-1] and size + spec.nbytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(spec)
        size += spec.nbytes
    return shards
