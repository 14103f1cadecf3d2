"""Per-example values as text, for records."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["decode_values", "encode_values"]


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
