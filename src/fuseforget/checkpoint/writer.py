"""Write a checkpoint: sharded, one tensor at a time, published by a rename so that no half of it is ever seen."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from fuseforget.checkpoint.header import DTYPES, encode_header
from fuseforget.checkpoint.reader import INDEX, SINGLE
from fuseforget.errors import InputError, OutputError

if TYPE_CHECKING:
    import torch

__all__ = ["TensorSpec", "atomic_directory", "parse_size", "write_checkpoint"]

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


@contextlib.contextmanager
def atomic_directory(out: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty directory beside ``out`` that takes its name when the block ends, and vanishes when it fails.

    Raises:
        InputError: ``out`` exists and ``overwrite`` is false, or it is no directory.
        OutputError: the file system refused (a full disk, no permission).
    """
    refuse_existing(out, overwrite=overwrite)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.partial-", dir=out.parent))
        partial.chmod(0o777 & ~_umask())
    except OSError as error:
        raise OutputError.caused_by(error, str(out), action="Nothing was left behind.") from error
    try:
        yield partial
        _sync_tree(partial)
        _publish(partial, out, overwrite=overwrite)
    except OSError as error:
        if isinstance(error, OutputError | InputError):
            raise
        raise OutputError.caused_by(error, str(out), action="Nothing was left behind.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def refuse_existing(out: Path, *, overwrite: bool) -> None:
    """Raise InputError unless a directory can be made (or, with ``overwrite``, replaced) at ``out``."""
    if out.exists() and not out.is_dir():
        raise InputError(str(out), expected="a path for a new directory", found="a file")
    if out.exists() and not overwrite and any(out.iterdir()):
        raise InputError(
            str(out),
            expected="a path where nothing is",
            found="an existing directory",
            action="Pass --overwrite to replace it.",
        )


def write_checkpoint(
    directory: Path,
    specs: Sequence[TensorSpec],
    produce: Callable[[TensorSpec], Iterator[torch.Tensor]],
    shard_size: int,
) -> None:
    """Write the tensors of ``specs`` to safetensors files in ``directory``, with an index when there are several.

    ``produce(spec)`` yields the tensor's values in consecutive flat parts of the right dtype, so that a tensor need never
    be held whole. Shards are filled in the order of the format's reference writer: wider types first, then by name.
    """
    ordered = sorted(specs, key=lambda spec: (-DTYPES[spec.dtype].nbytes, spec.name))
    shards = _shards(ordered, shard_size)
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        weight_map.update({spec.name: name for spec in shard})
        with (directory / name).open("wb") as stream:
            stream.write(encode_header([(spec.name, spec.dtype, spec.shape) for spec in shard]))
            for spec in shard:
                _write_tensor(stream, spec, produce(spec))
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(spec.nbytes for spec in specs)}, "weight_map": weight_map}
        (directory / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


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


def _write_tensor(stream: BinaryIO, spec: TensorSpec, parts: Iterator[torch.Tensor]) -> None:
    import torch

    written = 0
    for part in parts:
        raw = part.contiguous().view(-1).view(torch.uint8).numpy()
        written += stream.write(raw.data)
    if written != spec.nbytes:
        raise RuntimeError(f"{spec.name}: {written} bytes were produced where the header says {spec.nbytes}")


def _publish(partial: Path, out: Path, *, overwrite: bool) -> None:
    if out.is_dir() and any(out.iterdir()):
        refuse_existing(out, overwrite=overwrite)
        aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.replaced-", dir=out.parent))
        out.rename(aside / out.name)
        partial.rename(out)
        shutil.rmtree(aside, ignore_errors=True)
    else:
        partial.rename(out)  # replaces an empty directory as well
    _sync(out.parent)


def _sync_tree(directory: Path) -> None:
    for path in directory.rglob("*"):
        _sync(path)
    _sync(directory)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
