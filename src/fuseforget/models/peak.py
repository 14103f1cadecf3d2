"""What the machine could compute at most, and what a forward pass asks of it: the two ends of a share of the peak."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from fuseforget.models.running import evaluating, intra_op, seeded

__all__ = ["forward_flops", "matrix_peak"]

SIDES = {"cpu": (1024, 2048), "cuda": (4096, 8192)}  # of square matrices: large enough to fill the machine, and no larger
SECONDS = 0.25
COUNTED = (4, 8, 12)  # tokens of the texts that are counted


def matrix_peak(dtype: torch.dtype, threads: int = 1, device: str = "cpu") -> float:
    """Return the FLOP/s (multiplications and additions) that this machine's product of two square matrices reaches.

    The best of the products of a quarter of a second: whatever else the machine does can only make one slower. Measured once
    a process for each dtype, number of threads and device.

    Args:
        threads: of torch, on a CPU.
        device: ``cpu``, ``cuda`` or one by number (``cuda:1``).
    """
    return _matrix_peak(dtype, threads, str(device))


def forward_flops(model: Any, lengths: Sequence[int]) -> float:
    """Return the floating-point operations, 2 for a multiply-add, of a forward pass over texts of these lengths, unpadded.

    Counted are products of matrices: linear layers, convolutions and attention's two products, which are of all pairs of
    tokens (2 x 2 x tokens^2 x hidden a layer), also where a causal model needs half of them. Looking up embeddings, norms and
    activations are not. A backward pass takes twice as many.

    A text costs a + b x tokens + c x tokens^2 in any transformer (a: a head that reads one token of it); the three come from
    counting texts of 4, 8 and 12 tokens, so that the architecture need not be known. The model is left as it was, as are the
    random numbers.

    Args:
        model: of transformers; only its ``input_ids`` are given.
        lengths: tokens of each text.
    """
    if not lengths:
        return 0.0
    first, second, third = (_count(model, tokens) for tokens in COUNTED)
    step = COUNTED[1] - COUNTED[0]
    square = (third - 2 * second + first) / (2 * step * step)
    slope = (second - first) / step - square * (COUNTED[0] + COUNTED[1])
    constant = first - slope * COUNTED[0] - square * COUNTED[0] ** 2
    return sum(times * (constant + slope * n + square * n * n) for n, times in Counter(lengths).items())


@lru_cache
def _matrix_peak(dtype: torch.dtype, threads: int, device: str) -> float:
    kind = torch.device(device).type
    # What an autocast around the caller would make of the dtype is not asked for.
    with intra_op(threads), torch.inference_mode(), torch.autocast(kind, enabled=False):
        return max(_rate(side, dtype, device) for side in SIDES[kind])


def _rate(side: int, dtype: torch.dtype, device: str) -> float:
    """The best rate of products of matrices of this side, in FLOP/s."""
    numbers = torch.Generator(device).manual_seed(0)
    first, second = (torch.randn(side, side, generator=numbers, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(first)
    best, until = math.inf, time.perf_counter() + SECONDS / 2
    while math.isinf(best) or time.perf_counter() < until:
        best = min(best, _seconds(lambda: torch.mm(first, second, out=out), device))
    return 2 * side**3 / best


def _seconds(task: Callable[[], object], device: str) -> float:
    begun = time.perf_counter()
    task()
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun


def _count(model: Any, tokens: int) -> int:
    """The operations of one text."""
    counting = FlopCounterMode(display=False, custom_mapping=_formulas())
    with evaluating(model), seeded(0), torch.no_grad(), counting as counter:
        model(input_ids=_text(model, tokens))
    return int(counter.get_total_flops())


def _text(model: Any, tokens: int) -> torch.Tensor:
    """One text that is neither padded nor, for models that look for it, without an end."""
    named = {getattr(model.config, f"{kind}_token_id", None) for kind in ("bos", "eos", "pad")}
    ids = torch.full((1, tokens), next(i for i in range(4) if i not in named))
    end = getattr(model.config, "eos_token_id", None)
    if isinstance(end, int) and end < model.get_input_embeddings().num_embeddings:
        ids[0, -1] = end
    return ids.to(model.device)


def _attention(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def _experts(rows: Any, matrices: Any, *args: Any, **kwargs: Any) -> int:
    return 2 * int(math.prod(rows)) * int(matrices[-1])


def _formulas() -> dict[Any, Callable[..., int]]:
    """What the counter lacks: it knows attention's kernels on a GPU and not the one on a CPU, and no product by experts."""
    known: dict[Any, Callable[..., int]] = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}
    grouped = getattr(torch.ops.aten, "_grouped_mm", None)  # torch 2.8 and later
    return known if grouped is None else {**known, grouped: _experts}
