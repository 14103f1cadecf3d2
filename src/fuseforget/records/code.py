"""Which code and which versions a run's facts come from."""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["changed_code", "code_sha256", "versions"]

Record = dict[str, Any]


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
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()
