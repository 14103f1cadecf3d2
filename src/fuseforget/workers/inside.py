"""A worker's own side: its share of the machine, and the lines it says."""

from __future__ import annotations

import os
import sys

__all__ = ["be_loud", "say", "take_share"]

_loud = False


def be_loud(loud: bool) -> bool:
    """Whether :func:`say` prints from now on; return what it was."""
    global _loud
    before, _loud = _loud, loud
    return before


def say(line: str) -> None:
    """Print a line of progress on stderr, from whichever process works; nothing where nobody asked for progress."""
    if _loud:
        # One write: lines of several processes do not mix.
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def take_share(cores: int) -> None:
    """Work with so many of the machine's cores; torch computes with one thread where nothing else is asked."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    import torch

    from fuseforget.models.running import use_cores

    use_cores(cores)
    torch.set_num_threads(1)
