"""The layer and the kind that a tensor belongs to, read off its name alone."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["is_numbered", "kinds_of", "layers_of"]


def layers_of(names: Sequence[str]) -> dict[str, str]:
    """Return each tensor's layer, in order of depth: its first number, with the words before it where stacks differ.

    Tensors without a number belong to ``embeddings`` where a word of theirs says so, else to their module beside the stack
    (``pooler``, ``classifier``, ``norm``).
    """
    numbered = {name: _split(name) for name in names}
    stems = {tuple(before) for before, number, _ in numbered.values() if number}
    shared = _prefix([before for before, number, _ in numbered.values() if number])
    layers = {}
    for name, (before, number, _) in numbered.items():
        own = before[len(shared) :] if before[: len(shared)] == shared else before
        if number:
            layers[name] = f"layer {number}" if len(stems) == 1 else ".".join([*own, number])
        elif _is_embedding(before):
            layers[name] = "embeddings"
        else:
            layers[name] = _beside(before, stems)
    return dict(sorted(layers.items(), key=lambda item: _depth(item[1])))


def _depth(layer: str) -> tuple[int, int]:
    """Where a layer stands among others: embeddings, then stacks by number, then what is beside them."""
    number = _number(layer)
    return (0, 0) if layer == "embeddings" else (2, 0) if number is None else (1, number)


def is_numbered(layer: str) -> bool:
    """Whether a layer of :func:`layers_of` is one of a stack, not a module beside it."""
    return _number(layer) is not None


def _number(layer: str) -> int | None:
    last = layer.rpartition(".")[2].rpartition(" ")[2]
    return int(last) if last.isdecimal() else None


def kinds_of(names: Sequence[str]) -> dict[str, str]:
    """Return each tensor's kind: the module's path below its layer, without numbers (``attention.self.query``).

    A weight and its bias are of one kind. Of tensors without a number it is the path without the words that all stacks begin
    with (``embeddings.word_embeddings``, ``classifier``).
    """
    numbered = {name: _split(name) for name in names}
    roots = {before[0] for before, number, _ in numbered.values() if number and before}
    kinds = {}
    for name, (before, number, after) in numbered.items():
        words = after if number else before
        module = [word for word in words[:-1] if not word.isdecimal()] if len(words) > 1 else list(words)
        if not number and len(module) > 1 and module[0] in roots:
            module = module[1:]
        kinds[name] = ".".join(module)
    return kinds


def _split(name: str) -> tuple[list[str], str, list[str]]:
    """The words before the first number, the number (or nothing), the words after it."""
    words = name.split(".")
    place = next((i for i, word in enumerate(words) if word.isdecimal()), None)
    return (words, "", []) if place is None else (words[:place], words[place], words[place + 1 :])


def _prefix(stems: Sequence[Sequence[str]]) -> list[str]:
    common = []
    for words in zip(*stems, strict=False):
        if len(set(words)) > 1:
            break
        common.append(words[0])
    return common


def _is_embedding(words: Sequence[str]) -> bool:
    return any("embed" in word.lower() or word in ("wte", "wpe", "shared") for word in words[:-1])


def _beside(words: Sequence[str], stems: set[tuple[str, ...]]) -> str:
    """The first word that no stack begins with; the module's own where all do."""
    inner = words[:-1] or words
    for depth, word in enumerate(inner):
        if not any(stem[: depth + 1] == tuple(inner[: depth + 1]) for stem in stems):
            return word
    return inner[-1]
