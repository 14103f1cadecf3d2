"""The overlap of two models on labelled texts: the command ``fuseforget overlap`` as a function."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from fuseforget.checkpoint import Checkpoint, open_checkpoint, refuse_place, require_same
from fuseforget.data import read_examples
from fuseforget.errors import InputError, require_seed
from fuseforget.fisher.compare import Overlap, fold_overlap, jackknife_interval, split_half
from fuseforget.fisher.diagonal import LABELS_FROM, Fisher, Fishers
from fuseforget.fisher.files import save_fisher
from fuseforget.knowledge import Probe
from fuseforget.knowledge.probes import in_labels_of
from fuseforget.models import Classifier, label_names, load_classifier

__all__ = ["EXAMPLES", "FOLDS", "describe_overlap", "folds_of", "mean_fisher", "overlap", "save_folds"]

EXAMPLES = 200  # the paper's
FOLDS = 8  # even, so that they can be halved; 200 examples make folds of 25
Say = Callable[[str], None]


def overlap(
    first: str | Path, second: str | Path, data: str | Path, *,
    labels_from: str = "given", examples: int | None = EXAMPLES, folds: int = FOLDS, split: str = "validation",
    text: str | None = None, label: str = "label", seed: int = 0, out: str | Path | None = None, overwrite: bool = False,
    say: Say = lambda line: None,
) -> dict[str, Any]:  # fmt: skip
    """Measure how far two models use the same weights on labelled texts (Zaman et al. 2023, appendix D).

    Args:
        first, second: sequence classifiers with the same tensors.
        data, split, text, label: labelled texts; see :func:`fuseforget.data.read_examples`.
        labels_from: see :func:`fuseforget.fisher.diagonal_fisher`.
        examples: how many texts are drawn by ``seed``; all where there are fewer, or for None.
        folds: parts of the texts, for the jackknife's interval; even. Each model's Fishers of all parts are on disk
            meanwhile, ``folds`` times the size of a model in float32.
        out: where both models' Fishers are kept as checkpoints (``first`` and ``second``).

    Returns:
        ``overlap``, ``low``, ``high`` (95 %, delete-a-fold jackknife), ``n``, ``split_half`` of each model (what its Fisher on
        one half of the texts has in common with that on the other; see :func:`fuseforget.fisher.split_half`), ``by_layer`` and
        ``by_kind``.

    Raises:
        InputError: models that differ in their tensors, unusable data or settings.
    """
    if labels_from not in LABELS_FROM:
        raise InputError("labels", expected=f"one of {', '.join(LABELS_FROM)}", found=repr(labels_from))
    require_seed(seed)
    opened = [open_checkpoint(first), open_checkpoint(second)]
    require_same(opened)
    found = read_examples(data, split=split, text=text, label=label)
    taken = found if examples is None or examples >= len(found) else found.sample(examples, seed)
    parts = folds_of(len(taken), folds, seed)
    targets = [] if out is None else [Path(out) / name for name in ("first", "second")]
    for target in targets:
        refuse_place(target, overwrite=overwrite, inputs=[c.path for c in opened])
    probe = Probe("data", taken.texts, taken.labels, "accuracy", taken.own_names, taken.named)
    with tempfile.TemporaryDirectory() as scratch:
        stored, halves = [], []
        for number, source in enumerate((first, second)):
            classifier = load_classifier(source)
            asked = in_labels_of(probe, str(source), label_names(classifier.model)) if labels_from == "given" else probe
            place = Path(scratch) / str(number)
            kept = save_folds(classifier, asked.texts, asked.labels, parts, place, labels_from=labels_from, seed=seed, say=say)
            if targets:
                about = {
                    "labels_from": labels_from,
                    "seed": seed,
                    "data": str(data),
                    "data_sha256": taken.sha256,
                    "examples": len(taken),
                }
                save_fisher(mean_fisher(kept, parts), classifier, targets[number], about=about, overwrite=overwrite)
            del classifier
            halves.append(split_half(kept, [len(part) for part in parts]))
            stored.append(kept)
            say(f"{source}: Fisher of {len(taken)} texts, split-half {halves[-1]:.3f}")
        result = fold_overlap(stored[0], stored[1], [len(part) for part in parts])
    return {"first": str(first), "second": str(second), "labels_from": labels_from, "n": len(taken), "data_sha256": taken.sha256,
            **describe_overlap(result), "split_half": halves}  # fmt: skip


def describe_overlap(result: Overlap) -> dict[str, Any]:
    """An overlap with its interval as plain values."""
    low, high = jackknife_interval(result.whole, result.leave_out)
    plain = asdict(result)
    return {"overlap": plain.pop("whole"), "low": low, "high": high, **plain, "leave_out": list(result.leave_out)}


def folds_of(count: int, folds: int, seed: int) -> list[list[int]]:
    """Rows of the examples in each fold, drawn by ``seed``; sizes differ by one at most."""
    if folds < 2 or folds % 2 or folds > count:
        raise InputError("folds", expected=f"an even number from 2 to the {count} examples", found=str(folds))
    order = np.random.default_rng([seed, 0xF01D]).permutation(count)
    return [sorted(int(row) for row in part) for part in np.array_split(order, folds)]


def save_folds(
    classifier: Classifier, texts: Sequence[str], labels: Sequence[int], parts: Sequence[Sequence[int]], place: Path, *,
    labels_from: str = "given", seed: int = 0, say: Say = lambda line: None,
) -> list[Checkpoint]:  # fmt: skip
    """Write a model's Fisher over each part of the texts as a checkpoint under ``place``; those that stand there stay."""
    files = [place / f"fold-{number}" for number in range(len(parts))]
    missing = [number for number, file in enumerate(files) if not file.is_dir()]
    if missing:
        given = labels if labels_from == "given" else None
        with Fishers(classifier, texts, given, labels_from=labels_from, seed=seed, say=say) as fishers:
            for number in missing:
                save_fisher(fishers.of(parts[number]), classifier, files[number])
    return [open_checkpoint(file) for file in files]


def mean_fisher(folds: Sequence[Checkpoint], parts: Sequence[Sequence[int]]) -> Fisher:
    """The Fisher over all examples from those over the folds."""
    total = sum(len(part) for part in parts)
    return {
        name: sum(((len(part) / total) * fold[name] for fold, part in zip(folds[1:], parts[1:], strict=True)),
                  start=(len(parts[0]) / total) * folds[0][name])
        for name in folds[0]
    }  # fmt: skip
