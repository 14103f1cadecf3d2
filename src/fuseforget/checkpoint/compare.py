"""Compare checkpoints from their headers, configurations and tokenizers alone, and report every difference at once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fuseforget.checkpoint.adapter import open_model
from fuseforget.checkpoint.reader import Checkpoint, open_checkpoint
from fuseforget.checkpoint.tokens import moved_tokens, read_tokens
from fuseforget.errors import InputError, MismatchError

__all__ = ["Difference", "check", "compare", "missing_prefix", "refuse", "require_same", "tied_twin"]

# Configuration that changes what the same weights compute: differing here, an average of weights means nothing.
STRUCTURAL = {
    "num_attention_heads", "num_key_value_heads", "n_head", "head_dim", "num_heads",
    "hidden_act", "activation_function", "activation", "hidden_activation",
    "layer_norm_eps", "layer_norm_epsilon", "rms_norm_eps",
    "position_embedding_type", "rope_theta", "rope_scaling", "rope_parameters", "sliding_window",
    "tie_word_embeddings", "is_decoder", "num_experts_per_tok",
}  # fmt: skip
# Bookkeeping that says nothing about the model, and what is compared by itself.
IGNORED = {
    "_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache", "architectures", "model_type",
    "id2label", "label2id", "_commit_hash", "problem_type",
}  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """One way in which a checkpoint differs from the first.

    Attributes:
        kind: architecture, config, label order, tokenizer, missing, extra, shape or dtype.
        name: the tensor, configuration key or file concerned.
        expected: what the first checkpoint has.
        found: what this one has.
        model: this one's name, as given.
        blocks: whether the checkpoints can therefore not be fused.
    """

    kind: str
    name: str
    expected: str
    found: str
    model: str
    blocks: bool = True

    def __str__(self) -> str:
        return f"{self.kind}: {self.name} is {self.expected} in the first model, {self.found} in {self.model}"


def check(models: Sequence[str | Path], base: str | Path | None = None) -> list[Difference]:
    """Open models (and their base) and return all differences from the first, without reading a tensor.

    A base may lack the head that fine-tuning added and the rows of tokens added to its vocabulary, so these do not block;
    tokens that both have in different rows do.
    """
    checkpoints = [open_model(model, base) for model in models]
    differences = compare(checkpoints)
    if base is not None:
        opened = open_checkpoint(base)
        for difference in compare([checkpoints[0], opened]):
            grown = difference.kind == "shape" and _has_more_rows(checkpoints[0], opened, difference.name)
            blocks = difference.blocks and difference.kind in ("shape", "dtype", "config") and not grown
            differences.append(replace(difference, blocks=blocks))
        moved = moved_tokens(checkpoints[0], opened)
        if moved:
            differences.append(Difference("tokenizer", "rows", "where the first has its tokens", moved, opened.source))
    return differences


def _has_more_rows(tuned: Checkpoint, base: Checkpoint, name: str) -> bool:
    """Whether a tensor of as many rows as the vocabulary has more of them than the base's, as added tokens make it."""
    a, b = tuned.infos[name].shape, base.infos[name].shape
    sizes = tuned.config.get("vocab_size"), base.config.get("vocab_size")
    return bool(a and b) and a[1:] == b[1:] and (a[0], b[0]) == sizes and a[0] > b[0]


def missing_prefix(model: Checkpoint, base: Checkpoint) -> str:
    """What a tuned model's names have before the base's: ``bert.`` where the base was saved without a head; else nothing."""
    heads = {"", *(name.partition(".")[0] + "." for name in model.infos if "." in name)}
    return max(sorted(heads), key=lambda head: sum(f"{head}{name}" in model.infos for name in base.infos))


def require_same(checkpoints: Sequence[Checkpoint]) -> list[Difference]:
    """Raise one :class:`MismatchError` with all differences that block fusing; return those that do not."""
    differences = compare(checkpoints)
    refuse(differences)
    return differences


def refuse(differences: Sequence[Difference]) -> None:
    """Raise one :class:`MismatchError` with all differences that block fusing."""
    blocking = [difference for difference in differences if difference.blocks]
    if blocking:
        lines = "\n".join(f"  {difference}" for difference in blocking)
        found = f"{len(blocking)} difference{'s' if len(blocking) > 1 else ''}:\n{lines}\n "
        raise MismatchError("models", expected="checkpoints of one architecture", found=found)


def compare(checkpoints: Sequence[Checkpoint], *, tensors: Callable[[str], bool] = lambda name: True) -> list[Difference]:
    """Return how each checkpoint differs from the first: architecture, config, labels, tokenizer and tensors.

    Args:
        tensors: which of them are compared, by name.
    """
    first = checkpoints[0]
    differences: list[Difference] = []
    for other in checkpoints[1:]:
        differences += _architecture(first, other)
        differences += _config(first.config, other.config, other.source)
        differences += _labels(first, other)
        differences += _tokenizer(first, other)
        differences += _tensors(first, other, tensors)
    return differences


def _architecture(first: Checkpoint, other: Checkpoint) -> Iterator[Difference]:
    for key in ("model_type", "architectures"):
        a, b = first.config.get(key), other.config.get(key)
        if a != b:
            yield Difference("architecture", key, _short(a), _short(b), other.source)


def _config(first: Mapping[str, Any], other: Mapping[str, Any], source: str, part: str = "") -> Iterator[Difference]:
    """How configurations differ, also those of parts (``text_config``)."""
    for key in sorted((first.keys() | other.keys()) - IGNORED):
        a, b = first.get(key), other.get(key)
        if a == b:
            continue
        if key.endswith("_config") and isinstance(a, dict) and isinstance(b, dict):
            yield from _config(a, b, source, f"{part}{key}.")
        else:
            yield Difference("config", f"{part}{key}", _short(a), _short(b), source, blocks=key in STRUCTURAL)


def _labels(first: Checkpoint, other: Checkpoint) -> Iterator[Difference]:
    a, b = _label_order(first.config), _label_order(other.config)
    if a != b:
        yield Difference("label order", "id2label", _short(a), _short(b), other.source)


def _label_order(config: dict[str, Any]) -> list[str] | None:
    labels = config.get("id2label")
    if not isinstance(labels, dict):
        return None
    if not all(key.isdecimal() for key in labels):
        raise InputError("id2label in config.json", expected="class numbers as keys", found=_short(list(labels)))
    names = [str(labels[key]) for key in sorted(labels, key=int)]
    # transformers leaves the default names out of config.json, or writes them: both mean the same.
    return None if names == [f"LABEL_{i}" for i in range(len(names))] else names


def _tokenizer(first: Checkpoint, other: Checkpoint) -> Iterator[Difference]:
    a, b = _vocabulary(first), _vocabulary(other)
    if a is None or b is None:
        if (a is None) != (b is None):
            has = ("a vocabulary", "no tokenizer file")
            first_has, other_has = has if b is None else has[::-1]
            yield Difference("tokenizer", "files", first_has, other_has, other.source, blocks=False)
        return
    if a != b:
        yield Difference("tokenizer", "vocabulary", a, b, other.source)


def _vocabulary(checkpoint: Checkpoint) -> str | None:
    """The size and the digest of a vocabulary, or None without a tokenizer file."""
    tokens = read_tokens(checkpoint)
    if tokens is None:
        opaque = sorted(f for f in checkpoint.path.glob("*.model") if f.is_file())
        return f"{opaque[0].name} #{hashlib.sha256(opaque[0].read_bytes()).hexdigest()[:8]}" if opaque else None
    digest = hashlib.sha256(f"{json.dumps(sorted(tokens.rows.items()))} {tokens.merges}".encode()).hexdigest()
    return f"{len(tokens.rows)} tokens #{digest[:8]}"


def _tensors(first: Checkpoint, other: Checkpoint, compared: Callable[[str], bool]) -> Iterator[Difference]:
    for name, a in first.infos.items():
        if not compared(name):
            continue
        b = other.infos.get(name)
        if b is None:
            if tied_twin(first, name, other.infos.__contains__) is None:
                yield Difference("missing", name, f"{a.dtype} {list(a.shape)}", "absent", other.source)
        elif a.shape != b.shape:
            yield Difference("shape", name, str(list(a.shape)), str(list(b.shape)), other.source)
        elif a.dtype != b.dtype:
            yield Difference("dtype", name, a.dtype, b.dtype, other.source, blocks=a.floating != b.floating)
    for name, b in other.infos.items():
        if name not in first.infos and compared(name) and tied_twin(other, name, first.infos.__contains__) is None:
            yield Difference("extra", name, "absent", f"{b.dtype} {list(b.shape)}", other.source)


def tied_twin(holder: Checkpoint, name: str, known: Callable[[str], bool]) -> str | None:
    """The known tensor that ``name`` only repeats, to the byte: weights tied in one file, stored twice in another.

    This is the one place where data is read to compare, and only for a tensor that a checkpoint lacks.
    """
    import torch

    info = holder.infos[name]
    for twin, twin_info in holder.infos.items():
        same_form = twin_info.shape == info.shape and twin_info.dtype == info.dtype
        if twin != name and same_form and known(twin) and len(info.shape) > 1:
            a, b = holder[name].view(torch.uint8), holder[twin].view(torch.uint8)
            if torch.equal(a, b):
                return twin
    return None


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else text[:77] + "..."
