"""Endpoints that stay in a GPU's memory, and their averages computed there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fuseforget.checkpoint import Checkpoint
from fuseforget.errors import InputError
from fuseforget.fuse.tensors import check_weights

if TYPE_CHECKING:
    import torch

__all__ = ["OnDevice"]

Held = dict[str, "torch.Tensor"]
FREE = 0.5  # of the memory that is free at first: the rest is for what is computed


class OnDevice:
    """Models in a device's memory, each once for all points that it is an endpoint of; the least recently used go first.

    Args:
        device: where.
        room: bytes of models that are kept; default: half of what is free there.
    """

    def __init__(self, device: torch.device, room: int | None = None) -> None:
        import torch

        self._device = device
        self._room = int(FREE * torch.cuda.mem_get_info(device)[0]) if room is None else room
        self._held: dict[str, Held] = {}

    def average_into(
        self, targets: Mapping[str, torch.Tensor], endpoints: Mapping[str, Checkpoint], weights: Sequence[float] | None
    ) -> bool:
        """Write the average with these weights: the bits that ``fuse`` writes as float32.

        Each product is rounded before it is added, in the type that ``fuse`` computes in, model after model.

        Args:
            endpoints: models of the targets' tensors, which :class:`fuseforget.fuse.InPlace` has found that can be fused, by
                what they are (a file that was replaced is another).
            weights: convex; None: all the same.

        Returns:
            False where there is no room for the endpoints, and nothing was written.

        Raises:
            InputError: weights that are not convex, a value that is not finite.
        """
        import torch

        if sum(_nbytes(one, targets) for one in endpoints.values()) > self._room:
            return False
        shares = check_weights(weights or (1 / len(endpoints),) * len(endpoints), len(endpoints))
        held = [self._hold(key, one, targets, endpoints) for key, one in endpoints.items()]
        for name, target in targets.items():
            parts = [(one[name], share) for one, share in zip(held, shares, strict=True) if share != 0]
            if not target.is_floating_point():
                target.copy_(parts[0][0])
                continue
            wide = torch.float32 if all(one[name].dtype.itemsize <= 2 for one in held) else torch.float64
            total = parts[0][0].to(wide) * parts[0][1]
            for part, share in parts[1:]:
                total += part.to(wide) * share
            target.copy_(total)
        return True

    def _hold(self, key: str, endpoint: Checkpoint, names: Mapping[str, object], needed: Mapping[str, object]) -> Held:
        """A model's tensors on the device; for a new one others go that are not needed now."""
        held = self._held.pop(key, None)
        if held is None or not names.keys() <= held.keys():
            for old in [other for other in self._held if other not in needed]:
                if self._bytes() + _nbytes(endpoint, names) > self._room:
                    del self._held[old]
            held = {name: _sent(endpoint, name, self._device) for name in names}
        self._held[key] = held
        return held

    def _bytes(self) -> int:
        return sum(value.nbytes for held in self._held.values() for value in held.values())


def _nbytes(endpoint: Checkpoint, names: Mapping[str, object]) -> int:
    return sum(endpoint.infos[name].nbytes for name in names)


def _sent(endpoint: Checkpoint, name: str, device: torch.device) -> torch.Tensor:
    value = endpoint[name].to(device)
    # A sum is finite where all values are, unless it overflows.
    if value.is_floating_point() and not (math.isfinite(float(value.double().sum())) or bool(value.isfinite().all())):
        raise InputError(f"tensor {name}", expected=f"finite values in {endpoint.source}", found="NaN or infinity")
    return value
