"""What the benchmarks of sweeps and trainings measure alike: clocks, peak memory, tables, and the machine in words."""

from __future__ import annotations

import os
import platform
import re
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from fuseforget.models import cores, device
from fuseforget.models.peak import matrix_peak

T = TypeVar("T")


def timed(task: Callable[[], T]) -> tuple[float, T]:
    """Seconds of wall time, and what the task returned."""
    begun = time.perf_counter()
    found = task()
    return time.perf_counter() - begun, found


def peak(dtype: torch.dtype) -> float:
    """FLOP/s of the device's matrix product, on a CPU with all cores of this process."""
    return matrix_peak(dtype, cores(), device().type)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def high_water() -> float:
    """The most memory that this process has had at once, in MB: pages of files that it maps count while they are there."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    assert found
    return int(found[1]) / 1024


class Watch:
    """The peak of a process's anonymous memory, its children's added."""

    def __init__(self, pid: int) -> None:
        self.peak, self._pid, self._stop = 0, pid, threading.Event()

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.02):
            self.peak = max(self.peak, sum(_anonymous(pid) for pid in _family(self._pid)))


def _family(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        children = []
    return [pid, *(one for child in children for one in _family(int(child)))]


def _anonymous(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0)


def describe_machine() -> str:
    """Processor or GPU, cores, and versions."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    name = models[0].partition(":")[2].strip() if models else platform.processor()
    gpu = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    return f"{gpu}{len(os.sched_getaffinity(0))} cores of {name}, torch {torch.__version__}, Python {platform.python_version()}"
