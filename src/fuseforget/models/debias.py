"""An eraser behind a model: between its pooled features and a head that was fitted again.

Both are affine, so that a head can hold them: W (x - L R (x - m)) + b = (W - W L R) x + (b + W L R m).
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from fuseforget.checkpoint import MANIFEST_NAME, atomic_directory, file_sha256, open_checkpoint
from fuseforget.errors import InputError
from fuseforget.models.classifier import Classifier, load_classifier, save_classifier
from fuseforget.models.features import has_bias, head_of

__all__ = ["ERASER_NAME", "debias", "with_eraser"]

ERASER_NAME = "eraser.safetensors"
Matrix = npt.NDArray[np.float64]


class Erasing(Protocol):
    """The map x -> x - left right (x - mean), as :class:`fuseforget.erasure.Eraser` has it."""

    @property
    def left(self) -> Matrix: ...
    @property
    def right(self) -> Matrix: ...
    @property
    def mean(self) -> Matrix: ...
    @property
    def method(self) -> str: ...
    @property
    def attributes(self) -> tuple[str, ...]: ...
    @property
    def about(self) -> Mapping[str, Any]: ...
    def save(self, file: str | Path) -> Path: ...


class Deciding(Protocol):
    """Logits weight x + bias, as :class:`fuseforget.erasure.Head` has them."""

    @property
    def weight(self) -> Matrix: ...
    @property
    def bias(self) -> Matrix: ...


def with_eraser(classifier: Classifier, eraser: Erasing, head: Deciding) -> RemovableHandle:
    """Have a resident model predict from erased features by another head, until the handle that is returned is removed.

    The model's own weights stay as they are. The handle is a context manager, too.

    Raises:
        InputError: eraser or head are of other dimensions or labels than the model.
    """
    layer = head_of(classifier)
    weight, bias = (torch.from_numpy(array).to(layer.weight) for array in _folded(classifier, layer, eraser, head))

    def instead(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(inputs[0], weight, bias)

    return layer.register_forward_hook(instead)


def debias(
    source: str | Path,
    out: str | Path,
    eraser: Erasing,
    head: Deciding,
    *,
    overwrite: bool = False,
    about: Mapping[str, Any] | None = None,
) -> Path:
    """Write a classifier that erases and then decides: an ordinary transformers directory, the eraser and a manifest in it.

    Args:
        source: the classifier whose features the eraser and the head were fitted to.
        about: what else the manifest is to say (data, accuracies): plain values.

    Raises:
        InputError: eraser or head are of other dimensions or labels than the model; its head has no bias and would need one;
            ``out`` exists and may not be replaced.
        OutputError: it cannot be written.
    """
    checkpoint = open_checkpoint(source)
    classifier = load_classifier(source)
    layer = head_of(classifier)
    weight, bias = _folded(classifier, layer, eraser, head)
    _require_room(classifier, layer, bias)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        if has_bias(layer):
            layer.bias.copy_(torch.from_numpy(bias))
    with atomic_directory(Path(out), overwrite=overwrite, inputs=[checkpoint.path]) as partial:
        save_classifier(classifier, partial)
        eraser.save(partial / ERASER_NAME)
        manifest = {
            "kind": "debiased",
            "method": eraser.method,
            "attributes": list(eraser.attributes),
            **dict(eraser.about),
            "model": str(source),
            "sha256": {file.name: file_sha256(file) for file in [*checkpoint.described_by, *checkpoint.files]},
            **(about or {}),
            "versions": {"fuseforget": version("fuseforget"), "torch": version("torch"), "python": platform.python_version()},
        }
        (partial / MANIFEST_NAME).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return Path(out)


def _folded(classifier: Classifier, layer: nn.Linear, eraser: Erasing, head: Deciding) -> tuple[Matrix, Matrix]:
    """Weight and bias of the one linear layer that erases and decides."""
    expected = (layer.out_features, layer.in_features)
    found = (len(head.bias), len(eraser.mean))
    if head.weight.shape != expected or found != expected:
        raise InputError(
            f"eraser and head for {classifier.source}",
            expected=f"{expected[0]} labels and {expected[1]} dimensions, as the model has",
            found=f"a head of {head.weight.shape[0]} labels x {head.weight.shape[1]}, an eraser of {len(eraser.mean)} dimensions",
        )
    erased = (head.weight @ eraser.left) @ eraser.right
    return head.weight - erased, head.bias + erased @ eraser.mean


def _require_room(classifier: Classifier, layer: nn.Linear, bias: Matrix) -> None:
    if not has_bias(layer) and np.abs(bias).max() > 0:
        raise InputError(
            classifier.source,
            expected="a head with a bias, which this eraser and this head need",
            found="a head without one",
            action="Erase by INLP and fit the head without a bias; or put the eraser behind the model in memory (with_eraser).",
        )
