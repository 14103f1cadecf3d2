"""A worker's own side: its share of the machine, and the lines it says."""

from __future__ import annotations

import os
import sys

__all__ = ["be_loud", "say", "take_gpu", "take_share"]

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


def take_gpu(number: int) -> None:
    """See one of the GPUs alone, worker after worker, before anything asks for one; nothing where there are none."""
    import torch

    count = torch.cuda.device_count()
    if count > 1:
        named = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
        os.environ["CUDA_VISIBLE_DEVICES"] = named.split(",")[number % count]


def take_share(cores: int) -> None:
    """Work with so many of the machine's cores; torch computes with one thread where nothing else is asked."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    import torch

    from fuseforget.models.running import use_cores

    use_cores(cores)
    torch.set_num_threads(1)
