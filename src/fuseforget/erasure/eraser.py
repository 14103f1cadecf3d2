"""An eraser: the affine map of low rank that takes a concept out of features."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fuseforget.erasure.checks import Features
from fuseforget.errors import InputError, OutputError

__all__ = ["Eraser"]

FORMAT = "fuseforget eraser 1"
Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Eraser:
    """The map x -> x - left right (x - mean), with right left = I: applied twice it is what it is applied once.

    Attributes:
        left: dimensions x rank.
        right: rank x dimensions.
        mean: dimensions; zeros for a linear map (INLP).
        method: inlp or leace.
        attributes: the names of what is erased.
        about: what else is worth keeping of the fit (classifiers, n): plain values.
    """

    left: Matrix
    right: Matrix
    mean: Matrix
    method: str
    attributes: tuple[str, ...]
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        d, k = self.left.shape
        if self.right.shape != (k, d) or self.mean.shape != (d,):
            found = f"left {self.left.shape}, right {self.right.shape}, mean {self.mean.shape}"
            raise InputError("eraser", expected="left d x k, right k x d, mean d", found=found)

    @property
    def rank(self) -> int:
        """How many dimensions are taken away."""
        return int(self.left.shape[1])

    @property
    def dimensions(self) -> int:
        return int(self.left.shape[0])

    def apply(self, features: Features) -> Features:
        """Return features (examples x dimensions) without the concept, in their own type, computed in float64.

        Raises:
            InputError: features of other dimensions than the eraser was fitted to.
        """
        array = np.asarray(features)
        if array.ndim != 2 or array.shape[1] != self.dimensions:
            expected = f"examples x {self.dimensions}, the dimensions of the eraser"
            raise InputError("features", expected=expected, found=f"shape {array.shape}")
        wide = array.astype(np.float64)
        found: Features = (wide - ((wide - self.mean) @ self.right.T) @ self.left.T).astype(array.dtype)
        return found

    def save(self, file: str | Path) -> Path:
        """Write the eraser as safetensors with its description in the header, whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        from safetensors.numpy import save

        tensors = {name: np.ascontiguousarray(getattr(self, name)) for name in ("left", "right", "mean")}
        described = {"method": self.method, "attributes": list(self.attributes), "about": dict(self.about)}
        metadata = {"format": FORMAT, "eraser": json.dumps(described), "fuseforget": version("fuseforget")}
        path = Path(file)
        try:
            _publish(path, save(tensors, metadata=metadata))
        except OSError as error:
            raise OutputError.caused_by(error, str(path)) from error
        return path

    @classmethod
    def load(cls, file: str | Path) -> Eraser:
        """Read what :meth:`save` wrote.

        Raises:
            InputError: no such file, or one of something else.
        """
        from safetensors import SafetensorError, safe_open

        if not Path(file).is_file():
            raise InputError(str(file), expected="an eraser's file", found="no file there")
        try:
            with safe_open(str(file), framework="numpy") as opened:
                metadata = opened.metadata() or {}
                names = set(opened.keys())
                tensors = {name: opened.get_tensor(name) for name in ("left", "right", "mean") if name in names}
        except (SafetensorError, OSError) as error:
            raise InputError(str(file), expected="an eraser in safetensors", found=f"a damaged file ({error})") from error
        if metadata.get("format") != FORMAT or len(tensors) < 3:
            raise InputError(str(file), expected=FORMAT, found=metadata.get("format", "safetensors of something else"))
        described = json.loads(metadata["eraser"])
        return cls(**tensors, method=described["method"], attributes=tuple(described["attributes"]), about=described["about"])


def _publish(path: Path, content: bytes) -> None:
    """Write under another name, then take the file's own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.partial-", dir=path.parent)
    partial = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        # Made for its owner alone; whoever may read the directory may read the file.
        partial.chmod(path.parent.stat().st_mode & 0o666)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
