"""Fishers on disk: ordinary checkpoints with the model's tensor names, which `fuse --method fisher --statistics` takes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fuseforget.checkpoint import MANIFEST_NAME, OutputFiles, TensorSpec, atomic_directory, open_checkpoint
from fuseforget.models import Classifier

__all__ = ["save_fisher"]

SHARD = 5 * 10**9


def save_fisher(
    fisher: Mapping[str, torch.Tensor], classifier: Classifier, out: str | Path, *, about: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:  # fmt: skip
    """Write a Fisher as a checkpoint in float32, under the names that the classifier's own checkpoint has for its tensors.

    Args:
        fisher: from :func:`fuseforget.fisher.diagonal_fisher` of this classifier.
        about: what the manifest says of it (data, labels, seed).

    Raises:
        InputError: ``out`` exists and may not be replaced.
        OutputError: it cannot be written.
    """
    checkpoint = open_checkpoint(classifier.source)
    named = {
        stored: fisher[name] for name, stored in _stored_names(classifier.model, set(checkpoint.infos)).items() if name in fisher
    }
    specs = [TensorSpec(name, "F32", tuple(values.shape)) for name, values in named.items()]
    with atomic_directory(Path(out), overwrite=overwrite, inputs=[checkpoint.path]) as partial:
        shutil.copyfile(checkpoint.path / "config.json", partial / "config.json")
        manifest = {"kind": "fisher", "what": "diagonal Fisher information", "model": classifier.source, **(about or {})}
        (partial / MANIFEST_NAME).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        with OutputFiles(partial, specs, SHARD) as files:
            for spec in specs:
                values = named[spec.name].detach().float().cpu().contiguous()
                files.write(spec, 0, memoryview(values.view(-1).numpy().data).cast("B"))
    return Path(out)


def _stored_names(model: Any, stored: set[str]) -> dict[str, str]:
    """The checkpoint's name of each parameter; where it has none, the model's own."""
    state = model.state_dict()
    names = {}
    for name, parameter in model.named_parameters():
        # A parameter that modules share is stored under one of its names; the first BERTs called two tensors otherwise.
        shared = [
            other for other, value in state.items() if value.data_ptr() == parameter.data_ptr() and value.shape == parameter.shape
        ]
        aliases = [name, *shared]
        aliases += [a.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta") for a in aliases]
        names[name] = next((alias for alias in aliases if alias in stored), name)
    return names
