"""How a model runs here: device, precision, seeds, transformers' chatter, prediction."""

from __future__ import annotations

import contextlib
import os
import platform
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch

__all__ = ["autocast", "compute_dtype", "cores", "device", "evaluating", "intra_op", "quiet", "seeded", "use_cores"]

_share: int | None = None  # of the machine's cores: a worker's


def cores() -> int:
    """How many of the machine's cores this process works with: those that it may use, or its share of them as a worker."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, _share or allowed))


def use_cores(count: int) -> None:
    """Work with so many cores from now on: several workers share a machine."""
    global _share
    _share = count


@contextlib.contextmanager
def intra_op(threads: int) -> Iterator[None]:
    """Inside the block every operation computes with so many threads; its last bits can depend on them."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def compute_dtype() -> torch.dtype:
    """bfloat16 where the hardware multiplies matrices faster in it (a recent GPU; a CPU with a unit for it), else float32."""
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if _faster_in_bfloat16(_cpu_flags()) else torch.float32


def _faster_in_bfloat16(flags: Collection[str]) -> bool:
    """Whether a CPU with these features multiplies matrices faster in bfloat16 than in float32."""
    if "amx_bf16" in flags or "bf16" in flags:  # bf16 is ARM's
        return True
    # Of the processors with AVX512-BF16 those that have AVX512-FP16, too, have AMX for this. Where a virtual machine hides it,
    # what is left takes twice the time of float32 (products of 128 to 2048 squared, a forward pass of MiniLM, its training);
    # an EPYC, which has no other unit, a quarter.
    return "avx512_bf16" in flags and "avx512_fp16" not in flags


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(*, exact: bool = False) -> contextlib.AbstractContextManager[Any]:
    dtype = compute_dtype()
    return torch.autocast(device().type, dtype=dtype, enabled=not exact and dtype != torch.float32)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from ``seed`` inside the block, and leave the caller's random state as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Evaluation mode inside the block; after it each module's own mode is as it was before."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' reports of missing heads and its bars off the terminal: both are expected here."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _cpu_flags() -> set[str]:
    """The processor's features as Linux names them; none where that is not known."""
    cpuinfo = Path("/proc/cpuinfo")
    if platform.system() != "Linux" or not cpuinfo.is_file():
        return set()
    for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith(("flags", "Features")):
            return set(line.partition(":")[2].split())
    return set()
