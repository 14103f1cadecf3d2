"""What runs on a cluster's node: an actor that keeps its functions, and says whether its node can be used."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fuseforget import stopping
from fuseforget.workers.inside import be_loud, take_share
from fuseforget.workers.parcels import Functions

__all__ = ["Resident", "Setup", "facts"]

ARITHMETIC = "what it computes on and in"  # must be the same on all nodes, and may be another where the command was given
ENVIRONMENT = ("HF_", "TOKENIZERS_", "TRANSFORMERS_")  # variables' beginnings that tell libraries where and how to load


@dataclass(frozen=True)
class Setup:
    """What an actor is told at its start.

    Attributes:
        cores: its share of its node's.
        directory: where the driver works, for relative paths.
        mark: a file that the driver wrote into a directory that all must see; what is in it is what a node must read.
        code: says which code runs; not asked where None.
    """

    cores: int
    loud: bool
    directory: str
    mark: Path | None
    environment: dict[str, str]
    code: Callable[[], str] | None

    @classmethod
    def here(cls, *, cores: int, loud: bool, mark: Path | None, code: Callable[[], str] | None) -> Setup:
        """Everything as it is in this process, the driver."""
        environment = {name: value for name, value in os.environ.items() if name.startswith(ENVIRONMENT)}
        return cls(cores, loud, str(Path.cwd()), mark, environment, code)


def facts(setup: Setup) -> dict[str, str]:
    """What must be the same in the driver and on each node: versions, code, and what is read in the directories."""
    import torch

    from fuseforget.models.running import compute_dtype, device

    directory = Path(setup.directory)
    seen = {
        "fuseforget": version("fuseforget"),
        "torch": str(torch.__version__),
        "transformers": version("transformers"),
        ARITHMETIC: f"{device().type} in {str(compute_dtype()).removeprefix('torch.')}",
        str(directory): "a directory" if directory.is_dir() else "no directory",
    }
    if setup.code is not None:
        seen["the code"] = setup.code()
    if setup.mark is not None:
        there = setup.mark.is_file()
        seen[str(setup.mark.parent)] = setup.mark.read_text(encoding="utf-8") if there else "no mark of the driver"
    return seen


class Resident:
    """A worker on a node; Ray makes an actor of it. Stopping is asked for while it works, in a thread of its own."""

    def __init__(self) -> None:
        self._functions = Functions()

    def arrive(self, setup: Setup) -> tuple[str, dict[str, str]]:
        """Take the share and settle in; return the node's name, and what is to be compared."""
        os.environ.update(setup.environment)
        be_loud(setup.loud)
        take_share(setup.cores)
        seen = facts(setup)
        if Path(setup.directory).is_dir():
            os.chdir(setup.directory)
        return socket.gethostname(), seen

    def work(self, digest: str, parcel: list[Any], item: bytes) -> bytes:
        """Do an item.

        Args:
            parcel: a reference to the function's bytes, in a list so that they are fetched only where they are needed.
        """
        import ray

        return self._functions.apply(digest, lambda: ray.get(parcel[0]), item)

    def stop(self) -> None:
        """Stop where it can go on later."""
        stopping.request()
