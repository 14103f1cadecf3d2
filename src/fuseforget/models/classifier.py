"""A sequence classifier with its tokenizer, of any architecture that transformers knows: loaded and saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuseforget.checkpoint import Checkpoint, open_checkpoint
from fuseforget.errors import InputError
from fuseforget.models.pretrained import read_pretrained, refuse_missing, write_pretrained
from fuseforget.models.running import seeded

__all__ = ["Classifier", "label_names", "load_classifier", "load_or_draw", "save_classifier"]


@dataclass(frozen=True)
class Classifier:
    """A model with its tokenizer."""

    model: Any
    tokenizer: Any
    source: str


def load_classifier(source: str | Path) -> Classifier:
    """Load a sequence classifier and its tokenizer from a directory or the hub, in float32.

    Raises:
        InputError: no checkpoint, pickled weights, no tokenizer, or a tensor of the classifier that the checkpoint lacks.
    """
    checkpoint = open_checkpoint(source)
    architectures = checkpoint.config.get("architectures") or ["no architecture in its config.json"]
    if not str(architectures[0]).endswith("ForSequenceClassification"):
        raise InputError(str(source), expected="a sequence classifier", found=str(architectures[0]))
    classifier, missing = load_or_draw(checkpoint, seed=0, labels=None)
    refuse_missing(str(source), missing, "a sequence classifier")
    return classifier


def save_classifier(classifier: Classifier, directory: Path) -> None:
    """Save model and tokenizer as transformers does, in safetensors."""
    write_pretrained(classifier.model, classifier.tokenizer, directory)


def label_names(model: Any) -> tuple[str, ...]:
    """A model's names of its labels, by logit; none where it has no names of its own, only LABEL_0, LABEL_1, ...

    Raises:
        InputError: its configuration names other labels than it has logits.
    """
    names = {int(number): str(name) for number, name in model.config.id2label.items()}
    if sorted(names) != list(range(model.config.num_labels)) or len(set(names.values())) < len(names):
        raise InputError("id2label in config.json", expected="a name for each label from 0", found=f"{names!r:.200}")
    ordered = tuple(names[number] for number in sorted(names))
    return () if ordered == tuple(f"LABEL_{i}" for i in range(len(ordered))) else ordered


def load_or_draw(checkpoint: Checkpoint, *, seed: int, labels: Sequence[str] | None) -> tuple[Classifier, list[str]]:
    """Return the classifier, and the names of its tensors that the checkpoint lacks: they are drawn from the seed."""
    from transformers import AutoModelForSequenceClassification

    options: dict[str, Any] = {}
    if labels is not None:
        options = {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
    with seeded(seed):
        model, tokenizer, missing = read_pretrained(checkpoint, AutoModelForSequenceClassification, **options)
    if tokenizer.pad_token_id is None:  # decoders: the model finds the last token by the padding that follows it
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise InputError(checkpoint.source, expected="a padding or an end token", found="neither in its tokenizer")
    model.config.pad_token_id = tokenizer.pad_token_id
    return Classifier(model, tokenizer, checkpoint.source), missing
