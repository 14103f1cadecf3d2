"""Fishers on disk: ordinary checkpoints with the model's tensor names, which `fuse --method fisher --statistics` takes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fuseforget.checkpoint import MANIFEST_NAME, OutputFiles, TensorSpec, atomic_directory, open_checkpoint
from fuseforget.models import Classifier, LanguageModel

__all__ = ["save_fisher"]

SHARD = 5 * 10**9


def save_fisher(
    fisher: Mapping[str, torch.Tensor], model: Classifier | LanguageModel, out: str | Path, *,
    about: Mapping[str, Any] | None = None, overwrite: bool = False,
) -> Path:  # fmt: skip
    """Write a Fisher as a checkpoint in float32, under the names that the model's own checkpoint has for its tensors.

    What its checkpoint has twice (a table of tokens that is the head too) is there twice.

    Args:
        fisher: from :func:`fuseforget.fisher.diagonal_fisher` or :func:`fuseforget.fisher.language_fisher` of this model.
        about: what the manifest says of it (data, labels, seed).

    Raises:
        InputError: ``out`` exists and may not be replaced.
        OutputError: it cannot be written.
    """
    checkpoint = open_checkpoint(model.source)
    stored = _stored_names(model.model, set(checkpoint.infos))
    named = {each: fisher[name] for name, names in stored.items() if name in fisher for each in names}
    specs = [TensorSpec(name, "F32", tuple(values.shape)) for name, values in named.items()]
    with atomic_directory(Path(out), overwrite=overwrite, inputs=[checkpoint.path]) as partial:
        shutil.copyfile(checkpoint.path / "config.json", partial / "config.json")
        manifest = {"kind": "fisher", "what": "diagonal Fisher information", "model": model.source, **(about or {})}
        (partial / MANIFEST_NAME).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        with OutputFiles(partial, specs, SHARD) as files:
            for spec in specs:
                values = named[spec.name].detach().float().cpu().contiguous()
                files.write(spec, 0, memoryview(values.view(-1).numpy().data).cast("B"))
    return Path(out)


def _stored_names(model: Any, stored: set[str]) -> dict[str, list[str]]:
    """The checkpoint's names of each parameter; where it has none, the model's own."""
    state = model.state_dict()
    inner = f"{model.base_model_prefix}."
    names = {}
    for name, parameter in model.named_parameters():
        shared = [
            other for other, value in state.items() if value.data_ptr() == parameter.data_ptr() and value.shape == parameter.shape
        ]
        # The first BERTs called two tensors otherwise; a checkpoint of a model without a head (GPT-2's on the hub) has no prefix.
        aliases = dict.fromkeys([name, *shared])
        aliases |= dict.fromkeys(
            alias.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta") for alias in aliases
        )
        aliases |= dict.fromkeys(alias.removeprefix(inner) for alias in aliases)
        names[name] = [alias for alias in aliases if alias in stored] or [name]
    return names
