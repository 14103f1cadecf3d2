"""Line up models whose rows mean different things: vocabularies by token string, heads by label name.

Which tensors have a row for each token or class is decided from their shapes. What a model lacks is filled from the base or,
where that lacks it too, from the mean of the models that have it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fuseforget.checkpoint import Checkpoint
from fuseforget.checkpoint.tokens import moved_tokens, read_tokens
from fuseforget.errors import InputError
from fuseforget.fuse.settings import layer_of
from fuseforget.fuse.sources import Rows

__all__ = ["AddedToken", "Alignment", "align_labels", "align_vocabularies", "require_base_tokens", "tokens_of"]

# Kinds of tokenizers whose vocabulary is a plain list: a token may be added to it without rules of how to build it.
LISTED = ("WordLevel", "WordPiece")
COMPARED = ("normalizer", "pre_tokenizer", "decoder")
AFFIXES = ("continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
# Tensors outside of layers whose rows are neither tokens nor classes, though there may be as many of them.
OTHER_ROWS = {"vocabulary": ("position", "wpe", "token_type"), "labels": ("emb", "wpe", "wte")}


@dataclass(frozen=True)
class AddedToken:
    """A token of the output that the first model does not have."""

    token: str
    id: int
    models: tuple[str, ...]


@dataclass(frozen=True)
class Alignment:
    """Which row of each checkpoint's tensor is each row of the output's.

    Attributes:
        kind: ``vocabulary`` or ``labels``.
        rows: for each checkpoint (models, then the base), its row for each row of the output, or -1 where it has none.
        sizes: how many rows each checkpoint's tensors have.
        added: tokens that the first model lacks.
        tokenizer: the files of which checkpoint the output takes, and the changed ``tokenizer.json`` if it changes.
        config: what changes in the output's configuration.
    """

    kind: str
    rows: tuple[Rows, ...]
    sizes: tuple[int, ...]
    added: tuple[AddedToken, ...] = ()
    tokenizer: tuple[Checkpoint, dict[str, Any] | None] | None = None
    config: Mapping[str, Any] = field(default_factory=dict)

    def donors(self, base: int | None) -> list[Rows]:
        """For each checkpoint, its row for each row of the output where it is to stand in for those that lack it.

        The base stands in wherever it has the row; elsewhere all that have it do.
        """
        if base is None:
            return list(self.rows)
        return [own if i == base else np.where(self.rows[base] >= 0, -1, own) for i, own in enumerate(self.rows)]

    def fits(self, name: str, shapes: Sequence[tuple[int, ...]], sizes: Sequence[int]) -> bool:
        """Whether a tensor, of these shapes in checkpoints whose tensors have so many rows, has the rows of the alignment."""
        if layer_of(name) is not None:
            return False
        if any(part in name.lower() for part in OTHER_ROWS[self.kind]):
            return False
        pairs = zip(shapes, sizes, strict=True)
        return all(len(shape) > 0 and shape[0] == size and shape[1:] == shapes[0][1:] for shape, size in pairs)


def align_labels(models: Sequence[Checkpoint], base: Checkpoint | None) -> Alignment | None:
    """Return how classes are lined up where all models name the same ones in another order; None where there is nothing to do.

    Models' labels that are not the same set are left to the comparison of checkpoints, which refuses them. A base that does
    not name these classes has a head of its own or none: its rows stay.
    """
    names = [_labels(model) for model in models]
    first = names[0]
    if first is None or len(set(first)) != len(first) or all(other == first for other in names):
        return None
    if any(other is None or sorted(other) != sorted(first) for other in names):
        return None
    if base is not None:
        told = _labels(base)
        names.append(told if told is not None and sorted(told) == sorted(first) else first)
    _require_clear_head(models[0], len(first))
    rows = tuple(np.array([(other or first).index(name) for name in first]) for other in names)
    return Alignment("labels", rows, (len(first),) * len(names))


def _require_clear_head(model: Checkpoint, classes: int) -> None:
    """Refuse to reorder rows where a layer before the head has as many: the shapes then do not say which is the head."""
    square = [name for name, info in model.infos.items() if layer_of(name) is None and info.shape == (classes, classes)]
    if square:
        raise InputError(
            model.source, expected="one order of the labels in all models, since the head cannot be told from its shape",
            found=f"another order, and {classes} classes like the width of {', '.join(square)}",
            action="Reorder the head's rows and id2label of one model first.",
        )  # fmt: skip


def _labels(checkpoint: Checkpoint) -> list[str] | None:
    labels = checkpoint.config.get("id2label")
    if not isinstance(labels, dict) or not all(str(key).isdecimal() for key in labels):
        return None
    return [str(labels[key]) for key in sorted(labels, key=int)]


def align_vocabularies(checkpoints: Sequence[Checkpoint], base: int | None, choice: str) -> Alignment | None:
    """Return how tokens are lined up, or None where all checkpoints have the same.

    Args:
        checkpoints: the models, then the base if there is one.
        base: the base's number among them, or None.
        choice: whose tokens the output has: ``first``, ``base`` or ``union``.

    Raises:
        InputError: a tokenizer cannot be read as text, or they split text differently so that tokens cannot be compared.
    """
    tokens = [tokens_of(checkpoint) for checkpoint in checkpoints]
    if choice == "base" and base is None:
        raise InputError("--tokenizer base", expected="a base", found="none", action="Pass --base MODEL.")
    if all(other == tokens[0] for other in tokens):
        return None
    _require_comparable(checkpoints, union=choice == "union")
    sizes = tuple(_vocabulary_size(checkpoint) for checkpoint in checkpoints)
    leader = base if choice == "base" and base is not None else 0
    chosen, length = dict(tokens[leader]), sizes[leader]
    added: list[AddedToken] = []
    if choice == "union":
        added = _others(tokens, checkpoints, start=max(chosen.values()) + 1)
        chosen.update({one.token: one.id for one in added})
        length = max(length, max(chosen.values()) + 1)
    rows = tuple(
        _rows(own, chosen, length, size, is_leader=i == leader)
        for i, (own, size) in enumerate(zip(tokens, sizes, strict=True))
    )  # fmt: skip
    changed = _with_tokens(checkpoints, added) if added else None
    config = _with_vocabulary(checkpoints[0].config, tokens[0], chosen, (sizes[0], length))
    return Alignment("vocabulary", rows, sizes, tuple(added), (checkpoints[leader], changed), config)


def require_base_tokens(model: Checkpoint, base: Checkpoint) -> None:
    """Refuse a base whose rows are other tokens than the model's: a task vector would be of two different tokens.

    Tokens that only one of them has are rows that the other lacks, which is seen from the shapes.
    """
    moved = moved_tokens(model, base)
    if moved:
        raise InputError(
            f"tokenizers of {model.source} and of the base {base.source}", expected="the same rows for the same tokens",
            found=moved, action="Pass --tokenizer first, base or union to line them up.",
        )  # fmt: skip


def tokens_of(checkpoint: Checkpoint) -> dict[str, int]:
    """Return a checkpoint's tokens and their rows.

    Raises:
        InputError: it has no tokenizer that can be read as text.
    """
    tokens = read_tokens(checkpoint)
    if tokens is not None:
        return tokens.rows
    raise InputError(
        checkpoint.source, expected="a tokenizer that can be compared (tokenizer.json, vocab.json or vocab.txt)", found="none",
        action="Save it as a fast tokenizer first (AutoTokenizer.from_pretrained(...).save_pretrained(...)).",
    )  # fmt: skip


def _with_vocabulary(
    config: Mapping[str, Any], tokens: Mapping[str, int], chosen: Mapping[str, int], sizes: tuple[int, int]
) -> dict[str, Any]:
    """What changes in a configuration, or a part of it, for another vocabulary: its size and the numbers of special tokens.

    Args:
        sizes: the vocabulary's, before and after.
    """
    strings = {row: token for token, row in tokens.items()}

    def moved(number: Any) -> Any:
        if isinstance(number, list):
            return [moved(one) for one in number]
        return chosen.get(strings[number], number) if type(number) is int and number in strings else number

    changed: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and (part := _with_vocabulary(value, tokens, chosen, sizes)):
            changed[key] = {**value, **part}
        elif key == "vocab_size" and value == sizes[0]:
            changed[key] = sizes[1]
        elif key.endswith("_token_id") and moved(value) != value:
            changed[key] = moved(value)
    return changed


def _vocabulary_size(checkpoint: Checkpoint) -> int:
    for config in (checkpoint.config, *(v for v in checkpoint.config.values() if isinstance(v, dict))):
        if isinstance(config.get("vocab_size"), int):
            return int(config["vocab_size"])
    raise InputError(checkpoint.source, expected="vocab_size in config.json", found="none")


def _require_comparable(checkpoints: Sequence[Checkpoint], *, union: bool) -> None:
    """Refuse tokenizers that take text apart differently: the same string is then another token."""
    forms = [_form(checkpoint, union=union) for checkpoint in checkpoints]
    for checkpoint, form in zip(checkpoints[1:], forms[1:], strict=True):
        different = sorted(key for key in forms[0].keys() | form.keys() if forms[0].get(key) != form.get(key))
        if different:
            raise InputError(
                f"tokenizers of {checkpoints[0].source} and {checkpoint.source}",
                expected="ones that take text apart in the same way, so that equal strings are equal tokens",
                found=f"another {', '.join(different)}",
            )


def _form(checkpoint: Checkpoint, *, union: bool) -> dict[str, Any]:
    content = checkpoint.json("tokenizer.json")
    if content is None:
        return {"kind of tokenizer": "vocab.json" if checkpoint.json("vocab.json") is not None else "vocab.txt"}
    model = content["model"]
    form = {"kind of tokenizer": model.get("type"), **{key: content.get(key) for key in COMPARED}}
    form |= {key: model.get(key) or None for key in AFFIXES}
    if union and model.get("type") not in LISTED:
        # A token of a BPE or Unigram vocabulary is built by merges or scores, which cannot be mixed.
        form |= {"merges": model.get("merges"), "vocabulary (union can add only added tokens to this kind)": model.get("vocab")}
    return form


def _others(tokens: Sequence[Mapping[str, int]], checkpoints: Sequence[Checkpoint], *, start: int) -> list[AddedToken]:
    """Tokens that the first lacks, in the order of the models and their rows."""
    found: dict[str, list[str]] = {}
    for own, checkpoint in zip(tokens[1:], checkpoints[1:], strict=True):
        for token in sorted(own.keys() - tokens[0].keys(), key=lambda t: own[t]):
            found.setdefault(token, []).append(checkpoint.source)
    return [AddedToken(token, start + i, tuple(models)) for i, (token, models) in enumerate(found.items())]


def _rows(own: Mapping[str, int], chosen: Mapping[str, int], length: int, size: int, *, is_leader: bool) -> Rows:
    rows = np.full(length, -1, dtype=np.int64)
    if is_leader:
        rows[: min(length, size)] = np.arange(min(length, size))  # rows of no token (padding) too
    for token, row in chosen.items():
        here = own.get(token, -1)
        if row < length:
            rows[row] = here if here < size else -1
    return rows


def _with_tokens(checkpoints: Sequence[Checkpoint], added: Sequence[AddedToken]) -> dict[str, Any]:
    """The first model's tokenizer.json with more tokens."""
    contents = [checkpoint.json("tokenizer.json") for checkpoint in checkpoints]
    first = contents[0]
    if first is None:
        raise InputError(
            checkpoints[0].source, expected="tokenizer.json, to add tokens to", found="none",
            action="Save it as a fast tokenizer first, or choose --tokenizer first.",
        )  # fmt: skip
    changed: dict[str, Any] = json.loads(json.dumps(first))
    entries = {e["content"]: e for content in reversed(contents) if content for e in content.get("added_tokens") or []}
    for one in added:
        if one.token in entries:
            changed.setdefault("added_tokens", []).append({**entries[one.token], "id": one.id})
        else:
            changed["model"]["vocab"][one.token] = one.id
    return changed
