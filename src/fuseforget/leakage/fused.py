"""Which of some models is a fusion of others among them, by what its manifest says of its inputs' files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fuseforget.checkpoint import MANIFEST_NAME, Checkpoint
from fuseforget.checkpoint.reader import read_json
from fuseforget.errors import InputError
from fuseforget.fuse.hashing import digest

__all__ = ["fusions_among"]

Say = Callable[[str], None]


def fusions_among(checkpoints: Sequence[Checkpoint], *, say: Say) -> dict[str, list[str]]:
    """Return, by its source, the sources of the models that a fused model was made of, where all of them are at hand.

    Models are told by their weights' digests, not by their names: they may have been moved, or trained again.
    """
    inputs = {c.source: found for c in checkpoints if (found := _inputs(c))}
    if not inputs:
        return {}
    digests = {c.source: {file.name: digest(file) for file in c.files} for c in checkpoints}
    fused = {}
    for source, models in inputs.items():
        parents = [_at_hand(model, digests) for model in models]
        known = [parent for parent in parents if parent is not None]
        if len(known) == len(parents) and source not in known:
            fused[source] = list(dict.fromkeys(known))
        elif known:
            lacking = [model["model"] for model, parent in zip(models, parents, strict=True) if parent is None]
            say(f"{source} was fused of {', '.join(lacking)} too: probe these with it to see which rows fusing exposes more")
    return fused


def _inputs(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """The models of a fusion's manifest; none where there is no manifest, or that of a training."""
    file = checkpoint.path / MANIFEST_NAME
    if not file.is_file():
        return []
    manifest = read_json(file)
    if manifest.get("kind") != "fusion":
        return []
    try:
        return [{"model": one["model"], "blake3": dict(one["blake3"])} for one in manifest["inputs"] if one["role"] == "model"]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(str(file), expected="the manifest of a fusion", found=repr(error)) from error


def _at_hand(model: dict[str, Any], digests: dict[str, dict[str, str]]) -> str | None:
    for source, files in digests.items():
        if files.items() <= model["blake3"].items():
            return source
    return None
