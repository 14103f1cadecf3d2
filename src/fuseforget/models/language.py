"""A language model with its tokenizer, a decoder or a masked one, of any architecture that transformers knows."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuseforget.checkpoint import open_checkpoint
from fuseforget.errors import InputError
from fuseforget.models.pretrained import positions, read_pretrained, refuse_missing, write_pretrained

__all__ = [
    "LanguageModel",
    "encode",
    "is_language_model",
    "is_masked",
    "load_language_model",
    "max_positions",
    "padding_id",
    "save_language_model",
    "tokenizer_sha256",
]

DECODERS = ("ForCausalLM", "LMHeadModel")
MASKED = ("ForMaskedLM",)


@dataclass(frozen=True)
class LanguageModel:
    """A model with its tokenizer.

    Attributes:
        masked: it predicts masked tokens from both sides; a decoder predicts each token from those before it.
    """

    model: Any
    tokenizer: Any
    source: str
    masked: bool


def load_language_model(source: str | Path) -> LanguageModel:
    """Load a decoder or a masked language model and its tokenizer from a directory or the hub, in float32.

    Raises:
        InputError: no checkpoint, pickled weights, another architecture, no tokenizer or one of more ids than the model has
            embeddings, a masked model whose tokenizer has no mask, or a tensor of the model that the checkpoint lacks.
    """
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    checkpoint = open_checkpoint(source)
    masked = _of_architecture(str(source), checkpoint.config)
    model, tokenizer, missing = read_pretrained(checkpoint, AutoModelForMaskedLM if masked else AutoModelForCausalLM)
    refuse_missing(str(source), missing, "a language model, its head too")
    lm = LanguageModel(model.eval(), tokenizer, str(source), masked)
    _require_a_tokenizer_that_fits(lm)
    return lm


def is_masked(source: str | Path) -> bool:
    """Whether a checkpoint is a masked language model (else it is a decoder); its configuration alone is read.

    Raises:
        InputError: no checkpoint, or one of another architecture.
    """
    return _of_architecture(str(source), open_checkpoint(source).config)


def is_language_model(config: dict[str, Any]) -> bool:
    """Whether a checkpoint's configuration is that of a decoder or a masked language model."""
    return str((config.get("architectures") or [""])[0]).endswith(DECODERS + MASKED)


def save_language_model(lm: LanguageModel, directory: Path) -> None:
    """Save model and tokenizer as transformers does, in safetensors."""
    write_pretrained(lm.model, lm.tokenizer, directory)


def encode(lm: LanguageModel, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, not cut: a masked model's with its special tokens, a decoder's without any."""
    if not texts:
        return []
    ids = lm.tokenizer(list(texts), add_special_tokens=lm.masked, return_attention_mask=False, verbose=False)["input_ids"]
    return [list(one) for one in ids]


def max_positions(lm: LanguageModel) -> int:
    """How many tokens the model reads at once: as its configuration says, else its tokenizer; sys.maxsize if neither does."""
    return positions(lm.model.config) or min(int(lm.tokenizer.model_max_length), sys.maxsize)


def padding_id(lm: LanguageModel) -> int:
    """The token to fill rows up with: the padding token, else the end token, else 0; an attention mask hides it."""
    known = (lm.tokenizer.pad_token_id, lm.tokenizer.eos_token_id, 0)
    return next(int(one) for one in known if one is not None)


def tokenizer_sha256(tokenizer: Any) -> str:
    """A digest of what a tokenizer makes of texts; how it pads and cuts is left out."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else tokenizer.get_vocab()
    content = {name: value for name, value in backend.items() if name not in ("truncation", "padding")}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _of_architecture(source: str, config: dict[str, Any]) -> bool:
    architecture = str((config.get("architectures") or ["no architecture in its config.json"])[0])
    if architecture.endswith(MASKED):
        return True
    if architecture.endswith(DECODERS):
        return False
    raise InputError(
        source,
        expected="a decoder (...ForCausalLM, ...LMHeadModel) or a masked language model (...ForMaskedLM)",
        found=architecture,
        action="A model saved without its language model's head will not do: the head would be drawn at random.",
    )


def _require_a_tokenizer_that_fits(lm: LanguageModel) -> None:
    embeddings = lm.model.get_input_embeddings().num_embeddings
    ids = max(lm.tokenizer.get_vocab().values(), default=-1) + 1
    if not 0 < ids <= embeddings:
        raise InputError(
            f"the tokenizer of {lm.source}",
            expected=f"ids below {embeddings}, the embeddings that the model has",
            found=f"{ids} ids",
            action="Take the tokenizer that the model was trained with.",
        )
    if lm.masked and lm.tokenizer.mask_token_id is None:
        raise InputError(
            f"the tokenizer of {lm.source}", expected="a mask token, since the model predicts masked tokens", found="none"
        )
