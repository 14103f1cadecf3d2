"""Endpoints that stay in a GPU's memory, and their averages computed there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fuseforget.checkpoint import DTYPES, Checkpoint
from fuseforget.errors import InputError

if TYPE_CHECKING:
    import torch

__all__ = ["OnDevice"]


class OnDevice:
    """Models in a device's memory, each once for all points between them.

    Args:
        endpoints: of the same tensors; :class:`fuseforget.fuse.InPlace` has found that they can be fused.
        names: the tensors that are averaged.

    Raises:
        InputError: a value that is not finite.
    """

    def __init__(self, endpoints: Sequence[Checkpoint], names: Sequence[str], device: torch.device) -> None:
        self._held = [{name: _sent(one, name, device) for name in names} for one in endpoints]

    def average_into(self, targets: Mapping[str, torch.Tensor], weights: Sequence[float]) -> None:
        """Write the average with these weights: the bits that ``fuse`` writes as float32.

        Each product is rounded before it is added, in the type that ``fuse`` computes in, model after model.
        """
        import torch

        for name, target in targets.items():
            parts = [(held[name], weight) for held, weight in zip(self._held, weights, strict=True) if weight != 0]
            if not target.is_floating_point():
                target.copy_(parts[0][0])
                continue
            wide = torch.float32 if all(held[name].dtype.itemsize <= 2 for held in self._held) else torch.float64
            total = parts[0][0].to(wide) * parts[0][1]
            for part, weight in parts[1:]:
                total += part.to(wide) * weight
            target.copy_(total)


def _sent(endpoint: Checkpoint, name: str, device: torch.device) -> torch.Tensor:
    import torch

    value = endpoint[name].to(device)
    if value.is_floating_point() and not bool(torch.isfinite(value.float()).all()):
        kind = DTYPES[endpoint.infos[name].dtype].torch_name
        raise InputError(f"tensor {name}", expected=f"finite values in {endpoint.source}", found=f"NaN or infinity ({kind})")
    return value
