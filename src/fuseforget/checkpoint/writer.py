"""Write a checkpoint: sharded, one tensor at a time."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from fuseforget.checkpoint.header import DTYPES, encode_header
from fuseforget.checkpoint.reader import INDEX, SINGLE
from fuseforget.errors import InputError

if TYPE_CHECKING:
    import torch

__all__ = ["TensorSpec", "parse_size", "write_checkpoint"]

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
