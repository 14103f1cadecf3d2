"""Models with their tokenizers as transformers keeps them: read, written, and what is wrong with one said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fuseforget.checkpoint import Checkpoint
from fuseforget.errors import InputError, some_names
from fuseforget.models.running import device, quiet

__all__ = ["positions", "read_pretrained", "refuse_missing", "write_pretrained"]


def read_pretrained(checkpoint: Checkpoint, kind: Any, **options: Any) -> tuple[Any, Any, list[str]]:
    """Return model (float32, on this machine's device), tokenizer, and the names of tensors that the checkpoint lacks.

    Args:
        kind: the class of transformers that chooses the model's own (AutoModelFor...).
        options: what else its ``from_pretrained`` is to take.

    Raises:
        InputError: transformers cannot load it.
    """
    from transformers import AutoTokenizer

    try:
        with quiet():
            model, loading = kind.from_pretrained(
                checkpoint.path, dtype=torch.float32, local_files_only=True, output_loading_info=True, **options
            )
            tokenizer = AutoTokenizer.from_pretrained(checkpoint.path, local_files_only=True)
    # A damaged config.json or tokenizer.json ends in whatever the libraries' code meets first, tokenizers' bare Exception too.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise InputError(
            checkpoint.source,
            expected="a model and tokenizer that transformers can load",
            found=f"{type(error).__name__}: {reason:.300}",
        ) from error
    return model.to(device()), tokenizer, sorted(loading["missing_keys"])


def write_pretrained(model: Any, tokenizer: Any, directory: Path) -> None:
    """Save model and tokenizer as transformers does, in safetensors."""
    with quiet():
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
    # safetensors makes its files for their owner alone; whoever may read the directory may read the model.
    for file in directory.iterdir():
        if file.is_file():
            file.chmod(directory.stat().st_mode & 0o666)


def refuse_missing(source: str, missing: Sequence[str], what: str) -> None:
    """Raise InputError where a checkpoint lacks tensors of ``what`` it is to be."""
    if missing:
        raise InputError(
            source,
            expected=f"all tensors of {what}",
            found=f"no {some_names(missing)}",
            action="Train it first: what is missing would be drawn at random.",
        )


def positions(config: Any) -> int | None:
    """How many tokens a model has positions for; None where its configuration names no limit."""
    limit = getattr(config, "max_position_embeddings", None)
    # RoBERTa counts positions from past its padding token.
    offset = (config.pad_token_id or 0) + 1 if "roberta" in config.model_type else 0
    return int(limit) - offset if limit else None
