"""The processes that train one model: those that accelerate launched, or this one alone."""

from __future__ import annotations

import atexit
import gc
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from fuseforget.errors import InputError

__all__ = ["Processes", "is_main", "processes"]

Result = TypeVar("Result")
# How accelerate launch tells its processes that they are to share the model itself.
SHARDED = {"FSDP": "FSDP", "DEEPSPEED": "DeepSpeed", "MEGATRON_LM": "Megatron-LM", "PARALLELISM_CONFIG": "tensor parallelism"}


@dataclass(frozen=True)
class Processes:
    """Processes that each hold the whole model and compute their share of every step.

    Attributes:
        rank: which of them this is. The first reads and writes what all have in common: state, model, terminal.
        count: how many there are.
    """

    rank: int = 0
    count: int = 1

    @property
    def main(self) -> bool:
        """Whether this is the first."""
        return self.rank == 0

    def first(self, function: Callable[[], Result]) -> Result:
        """Call a function in the first process alone and return in all what it returned, or raise what it raised.

        The others wait for it. What it returns or raises must be one that can be pickled.
        """
        if self.count == 1:
            return function()
        from torch import distributed

        told: list[Any] = [None, None]
        if self.main:
            try:
                told[0] = function()
            except Exception as error:
                told[1] = error
        distributed.broadcast_object_list(told, src=0)
        if told[1] is not None:
            raise told[1]
        result: Result = told[0]
        return result

    def say(self, say: Callable[[str], None]) -> Callable[[str], None]:
        """The same in the first process, and silence in the others."""
        return say if self.main else lambda line: None

    def require_share(self, batch_size: int) -> None:
        """Raise InputError unless every process has as many examples of a step."""
        if batch_size % self.count:
            raise InputError(
                "batch size",
                expected=f"a multiple of the {self.count} processes: it is the number of examples a step, of all of them",
                found=str(batch_size),
            )


def is_main() -> bool:
    """Whether this process is the one that prints: the first of those that accelerate launched, or the only one."""
    return not _launched() or os.environ["RANK"] == "0"


@cache
def _leave_at_exit() -> None:
    """Have the process take leave of the others before it ends: threads that still listen would end it with an abort."""
    from torch import distributed

    def leave() -> None:
        gc.collect()  # a model that was divided keeps the group, and its threads, in a cycle
        if distributed.is_initialized():
            distributed.destroy_process_group()
        gc.collect()

    atexit.register(leave)


def processes() -> Processes:
    """The processes that accelerate launched with this one, connected; this one alone where it launched none.

    Raises:
        InputError: accelerate was told to divide the model itself over them.
    """
    for name, what in SHARDED.items():
        if os.environ.get(f"ACCELERATE_USE_{name}", "").lower() in ("true", "1"):
            raise InputError(
                "accelerate's configuration",
                expected="processes that each hold the whole model",
                found=f"{what}, which divides it over them",
                action="Launch with --multi_gpu and --num_processes.",
            )
    if not _launched():
        return Processes()
    import torch
    from accelerate import PartialState  # type: ignore[import-untyped]

    state = PartialState(cpu=not torch.cuda.is_available())
    _leave_at_exit()
    return Processes(state.process_index, state.num_processes)


def _launched() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ
