"""The tokens of a checkpoint, read as text: which there are, their rows, and how they are built."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fuseforget.checkpoint.reader import Checkpoint
from fuseforget.errors import InputError

__all__ = ["Tokens", "moved_tokens", "read_tokens"]


@dataclass(frozen=True)
class Tokens:
    """A vocabulary.

    Attributes:
        rows: each token's number, which is its row in embeddings.
        merges: which pairs are joined first, as text: they decide the tokens too.
    """

    rows: dict[str, int]
    merges: str = ""


def read_tokens(checkpoint: Checkpoint) -> Tokens | None:
    """Return a checkpoint's tokens, or None without a tokenizer that can be read as text.

    Raises:
        InputError: its ``tokenizer.json`` is damaged.
    """
    path = checkpoint.path
    if (content := checkpoint.json("tokenizer.json")) is not None:
        try:
            return _fast(content)
        except (TypeError, KeyError, IndexError, AttributeError) as error:
            thing = str(path / "tokenizer.json")
            raise InputError(thing, expected="a tokenizer of the tokenizers library", found=repr(error)) from error
    merges = path / "merges.txt"
    if (rows := checkpoint.json("vocab.json")) is not None:
        return Tokens({**rows, **_added(checkpoint)}, merges.read_text(encoding="utf-8") if merges.is_file() else "")
    if (path / "vocab.txt").is_file():
        lines = (path / "vocab.txt").read_text(encoding="utf-8").splitlines()
        return Tokens({**{line: i for i, line in enumerate(lines)}, **_added(checkpoint)})
    return None


def moved_tokens(model: Checkpoint, base: Checkpoint) -> str:
    """Say which tokens that both have stand in other rows of the base; nothing where none does, or one has no tokens as text.

    A task vector over such rows would be of two different tokens.
    """
    found = read_tokens(model), read_tokens(base)
    if found[0] is None or found[1] is None:
        return ""
    own, before = found[0].rows, found[1].rows
    moved = sorted((t for t in own.keys() & before.keys() if own[t] != before[t]), key=lambda t: own[t])
    shown = ", ".join(f"{t!r} {own[t]} and {before[t]}" for t in moved[:3]) + (", ..." if len(moved) > 3 else "")
    return f"{len(moved)} in other rows: {shown}" if moved else ""


def _fast(content: Mapping[str, Any]) -> Tokens:
    """Tokens of a ``tokenizer.json``."""
    model = content["model"]
    vocabulary = model.get("vocab", {})
    rows = dict(vocabulary) if isinstance(vocabulary, dict) else {str(entry[0]): i for i, entry in enumerate(vocabulary)}
    rows.update({token["content"]: token["id"] for token in content.get("added_tokens") or []})
    return Tokens(rows, json.dumps(model.get("merges")))


def _added(checkpoint: Checkpoint) -> dict[str, int]:
    return checkpoint.json("added_tokens.json") or {}
