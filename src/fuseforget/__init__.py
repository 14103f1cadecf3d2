"""Fuse fine-tuned language models so that shared knowledge stays and unshared knowledge goes, and measure both.

The functions mirror the commands: :func:`fuse`, :func:`check`, :func:`forecast`, :func:`train`, :func:`probe`, :func:`path`,
:func:`dial`, :func:`overlap`, :func:`study`.
Importing the package imports neither torch nor transformers; the heavy rooms are loaded at first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fuseforget.checkpoint import check

# Bound here, eagerly, so that `fuseforget.fuse` is the function even after its module of that name was imported.
from fuseforget.dial import dial
from fuseforget.forecast import forecast
from fuseforget.fuse import fuse
from fuseforget.train import train

if TYPE_CHECKING:
    from fuseforget.fisher import overlap
    from fuseforget.paths import path
    from fuseforget.studies import study
    from fuseforget.sweep import probe

__all__ = ["check", "dial", "forecast", "fuse", "overlap", "path", "probe", "study", "train"]
__version__ = "0.1.0"

_LAZY = {"overlap": "fuseforget.fisher", "path": "fuseforget.paths", "probe": "fuseforget.sweep", "study": "fuseforget.studies"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
