"""Where a fusion's values come from: flat ranges of a tensor, read into buffers that are used again.

Files are read by position (pread), not mapped: a mapped file that is cut short while it is read ends the process
(SIGBUS), a short read is an error with a name. The copy that this costs stays in the processor's cache.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fuseforget.checkpoint import DTYPES, TensorInfo
from fuseforget.errors import InputError

if TYPE_CHECKING:
    import torch

__all__ = ["Files", "Gathered", "Rows", "Scratch", "Source", "Stored", "as_bytes"]

Rows = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
KEPT_WHOLE = 32  # small tensors: the factors of a few models' matrix


class Files:
    """The files that a fusion reads, each opened once; :meth:`verify` says whether one changed meanwhile."""

    def __init__(self) -> None:
        self._open: dict[Path, tuple[int, os.stat_result]] = {}
        self._small: dict[TensorInfo, torch.Tensor] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Files:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor, _status in self._open.values():
            os.close(descriptor)
        self._open.clear()

    def open(self, files: Iterable[Path]) -> None:
        """Open files and remember their size and time of change."""
        for file in files:
            if file not in self._open:
                try:
                    descriptor = os.open(file, os.O_RDONLY)
                except OSError as error:
                    raise InputError(str(file), expected="a file that can be read", found=error.strerror or str(error)) from error
                self._open[file] = (descriptor, os.fstat(descriptor))

    def read(self, file: Path, offset: int, into: memoryview) -> None:
        """Fill a buffer from a file, from ``offset`` on."""
        descriptor, _ = self._open[file]
        done = 0
        while done < len(into):
            count = os.preadv(descriptor, [into[done:]], offset + done)
            if count == 0:
                raise _changed(file)
            done += count

    def whole(self, info: TensorInfo) -> torch.Tensor:
        """A small tensor (an adapter's factor), kept for a while since every block of a matrix needs it."""
        import torch

        with self._lock:
            kept = self._small.pop(info, None)
            if kept is None:
                form = DTYPES[info.dtype]
                kept = torch.empty(info.shape, dtype=getattr(torch, form.torch_name))
                if kept.numel():
                    self.read(info.file, info.offset, as_bytes(kept))
            self._small[info] = kept
            while len(self._small) > KEPT_WHOLE:
                self._small.pop(next(iter(self._small)))
        return kept

    def verify(self) -> None:
        """Raise InputError if a file is another one, or has another content, than when it was opened."""
        for file, (descriptor, before) in self._open.items():
            now = os.fstat(descriptor)
            try:
                there = file.stat()
            except OSError:
                raise _changed(file) from None
            same = (now.st_size, now.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
            if not same or (there.st_dev, there.st_ino) != (before.st_dev, before.st_ino):
                raise _changed(file)


class Scratch(threading.local):
    """Buffers of one thread, by name, that grow as needed and are used again."""

    def __init__(self) -> None:
        self._buffers: dict[object, Bytes] = {}

    def get(self, name: object, count: int, dtype: torch.dtype) -> torch.Tensor:
        """Return ``count`` values; what is in them is whatever was there."""
        import torch

        return torch.from_numpy(self._bytes(name, count * dtype.itemsize)).view(dtype)

    def array(self, name: object, count: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """The same for numpy."""
        return self._bytes(name, count * np.dtype(dtype).itemsize).view(dtype)

    def _bytes(self, name: object, nbytes: int) -> Bytes:
        found = self._buffers.get(name)
        if found is None or len(found) < nbytes:
            found = self._buffers[name] = np.empty(nbytes, np.uint8)
        return found[:nbytes]


class Source(ABC):
    """A tensor of one model as the fusion sees it, aligned with the others.

    Attributes:
        dtype: the safetensors type of the values that :meth:`read` returns.
        nominal: the type that the model has, from which the output's follows.
        shape: after alignment.
        nbytes: what is read from files for the whole tensor.
    """

    dtype: str
    nominal: str
    shape: tuple[int, ...]
    nbytes: int

    @abstractmethod
    def read(self, start: int, stop: int, scratch: Scratch, slot: int) -> torch.Tensor:
        """Return the flat values from ``start`` to ``stop``; they are valid until the next read into the slot."""

    def read_bytes(self, start: int, stop: int, scratch: Scratch, slot: int) -> memoryview:
        """The bytes of what :meth:`read` returns."""
        return as_bytes(self.read(start, stop, scratch, slot))

    @property
    @abstractmethod
    def files(self) -> set[Path]:
        """The weight files that it reads."""


class Stored(Source):
    """A tensor as a checkpoint has it."""

    def __init__(self, files: Files, info: TensorInfo) -> None:
        self.dtype = self.nominal = info.dtype
        self.shape, self.nbytes = info.shape, info.nbytes
        self.info = info
        self._files = files

    @property
    def files(self) -> set[Path]:
        return {self.info.file}

    def read(self, start: int, stop: int, scratch: Scratch, slot: int) -> torch.Tensor:
        import torch

        self.read_bytes(start, stop, scratch, slot)
        return scratch.get(("raw", slot), stop - start, getattr(torch, DTYPES[self.dtype].torch_name))

    def read_bytes(self, start: int, stop: int, scratch: Scratch, slot: int) -> memoryview:
        values = scratch.array(("raw", slot), (stop - start) * DTYPES[self.dtype].nbytes, np.uint8)
        self.read_into(start, stop, values)
        return memoryview(values.data)

    def read_into(self, start: int, stop: int, into: npt.NDArray[Any]) -> None:
        """Read the flat values from ``start`` to ``stop``, as they are stored, into an array of as many bytes."""
        nbytes = DTYPES[self.dtype].nbytes
        if into.nbytes != (stop - start) * nbytes:
            raise RuntimeError(f"{self.info.name}: {into.nbytes} bytes for {stop - start} values")
        self._files.read(self.info.file, self.info.offset + start * nbytes, memoryview(into.view(np.uint8).data))


def as_bytes(values: torch.Tensor) -> memoryview:
    """The bytes of a tensor in the main memory, without a copy."""
    import torch

    return memoryview(values.view(-1).view(torch.uint8).numpy().data)


def _changed(file: Path) -> InputError:
    return InputError(
        str(file),
        expected="a file that stays as it is while it is read",
        found="it changed",
        action="Run again when it is whole.",
    )


class Gathered(Source):
    """A tensor whose rows are put in another order; rows that it lacks come from others.

    Args:
        source: the tensor as it is stored.
        rows: for each row of the result, the source's row, or -1.
        donors: where a row comes from that the source lacks: tensors, and their row for each row of the result or -1. The mean
            of those that have it is taken.
    """

    def __init__(self, source: Source, rows: Rows, donors: Sequence[tuple[Source, Rows]]) -> None:
        self._source, self._rows = source, rows
        self._donors = donors if (rows < 0).any() else ()
        # Means of rows, and rows of another type, are not rounded before they are fused.
        wide = any(one.dtype == "F64" for one in (source, *(donor for donor, _ in self._donors)))
        self.dtype = source.dtype if not self._donors else "F64" if wide else "F32"
        self.nominal = source.nominal
        self.shape = (len(rows), *source.shape[1:])
        self._length = math.prod(source.shape[1:])
        self.nbytes = source.nbytes

    @property
    def files(self) -> set[Path]:
        return self._source.files.union(*(donor.files for donor, _ in self._donors))

    def read(self, start: int, stop: int, scratch: Scratch, slot: int) -> torch.Tensor:
        import torch

        length = self._length
        values = scratch.get(("gathered", slot), stop - start, getattr(torch, DTYPES[self.dtype].torch_name))
        if stop == start:
            return values
        for first, last, row in _runs(self._rows, start // length, -(-stop // length)):
            # A block may begin or end within a row.
            low, high = max(start, first * length), min(stop, last * length)
            into = values[low - start : high - start]
            if row >= 0:
                there = low + (row - first) * length
                into.copy_(self._source.read(there, there + high - low, scratch, slot))
            else:
                into.copy_(self._from_donors(first, low, high, scratch, slot))
        return values

    def _from_donors(self, row: int, low: int, high: int, scratch: Scratch, slot: int) -> torch.Tensor:
        import torch

        given = [(donor, int(rows[row])) for donor, rows in self._donors if rows[row] >= 0]
        total = torch.zeros(high - low, dtype=torch.float64)
        for donor, there in given:
            start = low + (there - row) * self._length
            total += donor.read(start, start + high - low, scratch, slot)
        return total / len(given)


def _runs(rows: Rows, first: int, last: int) -> Iterator[tuple[int, int, int]]:
    """Ranges of rows that follow one another in the source (start, end, its first row), and single rows that it lacks (-1)."""
    part = rows[first:last]
    follows = (part[1:] == part[:-1] + 1) & (part[:-1] >= 0)
    edges = [0, *(np.flatnonzero(~follows) + 1).tolist(), len(part)]
    for a, b in itertools.pairwise(edges):
        yield first + a, first + b, int(part[a])
