"""Compile loops (numba), for rooms whose time goes into what array code takes many passes for. Imports nothing of the package."""

# mypy: disallow-untyped-calls=False
# (what numba keeps files with has no types)

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba.core.caching import IndexDataCacheFile

__all__ = ["compiled", "compiled_contracting"]

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile on the first call; keep the result on disk where there is a place for it.

    The function holds no lock of the interpreter while it runs, and gives the same bits on every machine: no sum is reordered,
    no multiplication fused.
    """
    return _compiled(function, fastmath=False)


def compiled_contracting(function: F) -> F:
    """The same, but a multiplication and an addition may become one operation, which rounds once."""
    return _compiled(function, fastmath={"contract"})


def _compiled(function: F, *, fastmath: Any) -> F:
    options = {"nogil": True, "error_model": "numpy", "fastmath": fastmath}
    try:
        dispatcher = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # neither beside the source nor in the user's cache may be written
        return numba.njit(**options)(function)  # type: ignore[no-any-return]
    kept = dispatcher._cache._cache_file
    # By the source's content: times of files say little where clocks jump.
    stamp = hashlib.sha256(Path(function.__code__.co_filename).read_bytes()).hexdigest()
    dispatcher._cache._cache_file = _Checked(kept._cache_path, kept._index_name.removesuffix(".nbi"), stamp)
    return dispatcher  # type: ignore[no-any-return]


class _Checked(IndexDataCacheFile):
    """Numba's files of compiled code, each behind a digest: damaged ones are compiled again, where numba would run them."""

    def save(self, key: Any, data: Any) -> None:
        with suppress(OSError):  # a full disk: the next process compiles again
            super().save(key, data)

    def _dump(self, value: Any) -> bytes:
        content: bytes = super()._dump(value)
        return self._digest(content) + content

    def _digest(self, content: bytes) -> bytes:
        return hashlib.sha256(self._version.encode() + content).digest()

    def _load_data(self, name: str) -> Any:
        content = Path(self._data_path(name)).read_bytes()
        size = hashlib.sha256().digest_size
        if content[:size] != self._digest(content[size:]):
            raise OSError(f"{name} is damaged")  # to numba like a file that is gone
        return pickle.loads(content[size:])

    def _load_index(self) -> dict[Any, str]:
        try:
            stamp, found = self._load_data(self._index_name)
        except OSError:
            return {}
        return found if stamp == self._source_stamp else {}

    def _save_index(self, overloads: dict[Any, str]) -> None:
        with self._open_for_write(self._index_path) as stream:
            stream.write(self._dump((self._source_stamp, overloads)))
