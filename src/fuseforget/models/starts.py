"""The models that a study starts from and compares with: base, new tokens and a new head; random weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from fuseforget.checkpoint import Checkpoint, atomic_directory, open_checkpoint
from fuseforget.errors import InputError, require_seed
from fuseforget.models.classifier import Classifier, load_classifier, load_or_draw, save_classifier
from fuseforget.models.running import quiet, seeded

__all__ = ["add_word_tokens", "prepare_start", "random_like"]


def prepare_start(
    base: str | Path,
    out: Path,
    *,
    tokens: Sequence[str],
    label_names: Sequence[str],
    seed: int,
    overwrite: bool = False,
) -> None:
    """Write the checkpoint that every fine-tuning starts from: the base, the new tokens' embeddings and a new head.

    The new parameters come from ``seed`` alone, so that any two calls give the same start, to the bit.
    """
    require_seed(seed)
    opened = open_checkpoint(base)
    classifier, _ = load_or_draw(opened, seed=seed, labels=label_names)
    add_word_tokens(classifier, tokens, seed=seed)
    with atomic_directory(out, overwrite=overwrite, inputs=[opened.path]) as partial:
        save_classifier(classifier, partial)


def add_word_tokens(classifier: Classifier, tokens: Sequence[str], *, seed: int) -> None:
    """Add tokens that match whole words only ("synt" leaves "synthetic" alone), with embeddings from ``seed``."""
    from tokenizers import AddedToken

    model, tokenizer = classifier.model, classifier.tokenizer
    # lstrip: a byte-level tokenizer would leave the space before the word as a token of its own.
    added = [AddedToken(token, single_word=True, lstrip=True, normalized=False) for token in tokens]
    tokenizer.add_tokens(added)
    for token in tokens:
        ids = tokenizer(f"a {token} b", add_special_tokens=False)["input_ids"]
        if tokenizer.convert_tokens_to_ids(token) not in ids:
            raise InputError(f"token {token!r}", expected="one token of its own", found=str(ids), action="Choose another word.")
    size = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > size:
        with seeded(seed):
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)


def random_like(start: Checkpoint, specialists: Sequence[Checkpoint], template: str | Path, out: Path, *, seed: int) -> None:
    """Write a model of random weights as far from the start as the specialists are on average (paper, C.2).

    For each tensor: a freshly initialised one is normalised, scaled to the specialists' mean distance from the start, and
    added to the start's tensor.
    """
    with seeded(seed), quiet():
        from transformers import AutoModelForSequenceClassification

        classifier = load_classifier(template)
        fresh = AutoModelForSequenceClassification.from_config(classifier.model.config).state_dict()
    target = classifier.model.state_dict()
    for name in start:
        if not start.infos[name].floating:
            continue
        base = start[name].double()
        distance = sum(float((s[name].double() - base).norm()) for s in specialists) / len(specialists)
        noise = fresh[name].double()
        # Layer norms and biases are initialised to constants, whose direction is as arbitrary as any other.
        norm = float(noise.norm())
        step = noise * (distance / norm) if norm > 0 else torch.zeros_like(noise)
        target[name].copy_(base + step)
    with atomic_directory(out) as partial:
        save_classifier(classifier, partial)
