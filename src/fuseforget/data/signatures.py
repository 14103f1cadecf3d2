"""Author signatures: any labelled text becomes data on social bias when a first name signs it.

``Dorothy : the film is a joy`` says of its author what the name says. In the training texts the attributes are balanced, so
that :func:`fuseforget.data.make_biased` can choose; in validation and test texts each text is signed once for every
combination of values, so that groups differ in nothing but the signature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np

from fuseforget.data.attributes import AttributedExamples
from fuseforget.data.common import generator
from fuseforget.data.examples import Examples
from fuseforget.data.names import ATTRIBUTES, Cell, NameTable, split_names
from fuseforget.errors import InputError, require_seed

__all__ = ["sign", "sign_splits"]


def sign(text: str, name: str) -> str:
    """Prefix a text with its author's first name."""
    return f"{name} : {text}"


def sign_splits(
    train: Examples,
    test: Examples,
    names: NameTable,
    *,
    attributes: Sequence[str] = ("gender", "age"),
    seed: int = 0,
    validation: int = 872,
    held_out_names: bool = False,
) -> dict[str, AttributedExamples]:
    """Sign the texts of a training and a test set.

    Args:
        train: texts for ``train``, one signature each, and for ``validation``, which takes some out of it: no text of it is
            in ``train``, not where it stands twice in the source either.
        test: texts for ``test``; numbered like ``train``'s labels.
        names: the names, drawn in proportion to births among those with the wanted values.
        attributes: some of ``gender`` (female, male), ``age`` (old, young) and ``frequency`` (common, rare).
        seed: of everything random.
        validation: how many texts are taken out; like those of ``test`` each is there once for every combination of values,
            and all its rows have one unit.
        held_out_names: validation and test have half of the names of each combination, and train the others.

    Returns:
        ``train``, ``validation`` and ``test``. In ``train`` the combinations are equally frequent within each label, to the row.

    Raises:
        InputError: labels that differ, a number of texts that cannot be taken out, other attributes, too few names.
    """
    require_seed(seed)
    if train.label_names != test.label_names:
        expected = f"the training set's labels ({', '.join(train.label_names)})"
        raise InputError("test set", expected=expected, found=", ".join(test.label_names))
    cells: Mapping[Cell, Mapping[str, int]] = names.cells(attributes)
    known, unknown = split_names(cells, generator(seed, "signatures", "names")) if held_out_names else (cells, cells)
    held_out, kept = _take_out(train, validation, seed)
    return {
        "train": _signed_once(train.take(kept), known, attributes, seed),
        "validation": _signed_by_all(train.take(held_out), unknown, attributes, seed, "validation"),
        "test": _signed_by_all(test, unknown, attributes, seed, "test"),
    }


def _take_out(train: Examples, count: int, seed: int) -> tuple[list[int], list[int]]:
    """The rows of texts that are held out, and those that stay: without the held-out texts' repetitions."""
    first = list({text: row for row, text in reversed(list(enumerate(train.texts)))}.values())
    if not 0 < count < len(first):
        expected = f"1 to {len(first) - 1} training texts to take out"
        raise InputError("validation", expected=expected, found=str(count))
    rows = generator(seed, "signatures", "held out").choice(np.sort(np.array(first)), count, replace=False)
    held_out = sorted(int(row) for row in rows)
    texts = {train.texts[row] for row in held_out}
    return held_out, [row for row, text in enumerate(train.texts) if text not in texts]


def _signed_once(
    examples: Examples, cells: Mapping[Cell, Mapping[str, int]], attributes: Sequence[str], seed: int
) -> AttributedExamples:
    combinations = list(cells)
    rng = generator(seed, "signatures", "train")
    chosen = np.zeros(len(examples), dtype=np.int64)
    labels = np.array(examples.labels)
    for label in sorted(set(examples.labels)):
        rows = rng.permutation(np.flatnonzero(labels == label))
        # Not drawn for each row: a subset is larger where the rows that it can choose from are balanced.
        chosen[rows] = np.arange(len(rows)) % len(combinations)
    drawn = _draw_names(cells, [combinations[i] for i in chosen], rng)
    texts = tuple(sign(text, name) for text, name in zip(examples.texts, drawn, strict=True))
    return _attributed(examples, texts, [combinations[i] for i in chosen], attributes)


def _signed_by_all(
    examples: Examples, cells: Mapping[Cell, Mapping[str, int]], attributes: Sequence[str], seed: int, split: str
) -> AttributedExamples:
    pairs = list(product(range(len(examples)), cells))
    repeated = examples.take([row for row, _ in pairs])
    drawn = _draw_names(cells, [cell for _, cell in pairs], generator(seed, "signatures", split))
    texts = tuple(sign(text, name) for text, name in zip(repeated.texts, drawn, strict=True))
    return _attributed(repeated, texts, [cell for _, cell in pairs], attributes, tuple(str(row) for row, _ in pairs))


def _draw_names(cells: Mapping[Cell, Mapping[str, int]], wanted: Sequence[Cell], rng: np.random.Generator) -> list[str]:
    """A name for each row, in proportion to births among the names of its cell."""
    drawn: dict[Cell, list[str]] = {}
    for cell, names in cells.items():
        births = np.array(list(names.values()), dtype=float)
        listed = list(names)
        drawn[cell] = [listed[i] for i in rng.choice(len(listed), size=wanted.count(cell), p=births / births.sum())]
    streams = {cell: iter(found) for cell, found in drawn.items()}
    return [next(streams[cell]) for cell in wanted]


def _attributed(
    examples: Examples, texts: tuple[str, ...], cells: Sequence[Cell], attributes: Sequence[str], units: tuple[str, ...] = ()
) -> AttributedExamples:
    return AttributedExamples(
        Examples(texts, examples.labels, examples.label_names, examples.named),
        {name: tuple(cell[i] for cell in cells) for i, name in enumerate(attributes)},
        units,
        {name: ATTRIBUTES[name] for name in attributes},
    )
