"""Round once: from the compute type to the output's, without a stop between that would round twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["narrow"]


def narrow(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return values in another floating type, rounded to nearest, ties to even.

    From float64 to 16 bits or fewer torch goes through float32 and so rounds twice. Here the stop in between is rounded to
    odd (Boldo and Melquiond 2008), after which the second rounding gives what one rounding would.
    """
    import torch

    if values.dtype != torch.float64 or dtype.itemsize > 2:
        return values.to(dtype)
    single = values.float()
    back = single.double()
    bits = single.view(torch.int32)
    # Towards zero, and the last bit set where that lost something. Infinity steps back to the largest number.
    bits -= (back.abs() > values.abs()).to(torch.int32)
    bits |= (back != values).to(torch.int32)
    return single.to(dtype)
