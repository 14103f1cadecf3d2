"""The header of a safetensors file: what tensors it holds, where, of which type and shape.

Only the header is read (8 bytes of length, then JSON), so that terabytes can be compared in milliseconds. Every rule of
the format that concerns reading is checked here, because everything after this trusts the offsets.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuseforget.errors import InputError

__all__ = ["DTYPES", "DType", "TensorInfo", "encode_header", "read_header"]

MAX_HEADER_BYTES = 100_000_000  # the format's own limit


@dataclass(frozen=True)
class DType:
    """A data type of the format: its size in bytes, its name in torch, and whether it is a floating type."""

    nbytes: int
    torch_name: str
    floating: bool


DTYPES = {
    "F64": DType(8, "float64", True),
    "F32": DType(4, "float32", True),
    "F16": DType(2, "float16", True),
    "BF16": DType(2, "bfloat16", True),
    "F8_E4M3": DType(1, "float8_e4m3fn", True),
    "F8_E5M2": DType(1, "float8_e5m2", True),
    "I64": DType(8, "int64", False),
    "I32": DType(4, "int32", False),
    "I16": DType(2, "int16", False),
    "I8": DType(1, "int8", False),
    "U8": DType(1, "uint8", False),
    "BOOL": DType(1, "bool", False),
}


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies: file, type, shape, and the byte offset from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int

    @property
    def floating(self) -> bool:
        return DTYPES[self.dtype].floating

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * DTYPES[self.dtype].nbytes


def read_header(file: Path) -> dict[str, TensorInfo]:
    """Return the tensors of a safetensors file by name, from its header alone.

    Raises:
        InputError: the file is truncated, is not safetensors, or its header breaks the format.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        prefix = stream.read(8)
        if len(prefix) < 8:
            raise _corrupt(file, "at least 8 bytes", f"{size}")
        (length,) = struct.unpack("<Q", prefix)
        if length > MAX_HEADER_BYTES or 8 + length > size:
            raise _corrupt(file, f"a header that fits its {size} bytes", f"a header of {length} bytes")
        raw = stream.read(length)
    try:
        header = json.loads(raw, object_pairs_hook=_refuse_duplicates)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise _corrupt(file, "a header in JSON", f"{type(error).__name__}: {error}") from error
    if not isinstance(header, dict):
        raise _corrupt(file, "a JSON object as header", type(header).__name__)
    header.pop("__metadata__", None)
    data_start = 8 + length
    infos = {name: _tensor_info(file, name, entry, data_start) for name, entry in header.items()}
    _check_layout(file, list(infos.values()), data_start, size)
    return infos


def encode_header(tensors: list[tuple[str, str, tuple[int, ...]]]) -> bytes:
    """Return the first bytes of a safetensors file that holds these (name, dtype, shape) one after another."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, dtype, shape in tensors:
        start, end = end, end + math.prod(shape) * DTYPES[dtype].nbytes
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)  # so that the data starts aligned
    return struct.pack("<Q", len(raw)) + raw


def _tensor_info(file: Path, name: str, entry: Any, data_start: int) -> TensorInfo:
    try:
        dtype, shape, (start, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    except (TypeError, KeyError, ValueError) as error:
        raise _corrupt(file, f"dtype, shape and data_offsets for tensor {name!r}", f"{entry!r}") from error
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise _corrupt(file, f"a known dtype for tensor {name!r} ({', '.join(DTYPES)})", f"{dtype!r}")
    if not all(type(n) is int and n >= 0 for n in (*shape, start, end)):
        raise _corrupt(file, f"sizes and offsets of tensor {name!r} that are whole numbers", f"{entry!r}")
    info = TensorInfo(name, dtype, shape, file, data_start + start)
    if end - start != info.nbytes:
        raise _corrupt(file, f"{info.nbytes} bytes for tensor {name!r} {dtype} {list(shape)}", f"{end - start}")
    return info


def _check_layout(file: Path, infos: list[TensorInfo], data_start: int, size: int) -> None:
    """The data must be covered without a gap, an overlap or a missing end."""
    position = data_start
    for info in sorted(infos, key=lambda i: (i.offset, i.nbytes)):
        if info.offset != position:
            raise _corrupt(file, f"tensor {info.name!r} at data byte {position - data_start}", f"{info.offset - data_start}")
        position += info.nbytes
    if position != size:
        raise _corrupt(file, f"{position} bytes, as its header says", f"{size}: it is truncated or has a tail")


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name stands twice")
    return result


def _corrupt(file: Path, expected: str, found: str) -> InputError:
    return InputError(
        str(file), expected=expected, found=found, action="The file is damaged or no safetensors file: fetch it again."
    )
