"""A data set on social bias as a directory: a biased training set beside validation and test sets that are not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuseforget.data.attributes import AttributedExamples
from fuseforget.data.biased import BiasedSubset
from fuseforget.data.common import read_described, write_json, write_rows
from fuseforget.data.examples import Examples
from fuseforget.data.tables import read_table
from fuseforget.errors import InputError

__all__ = ["BiasData", "is_bias_data", "load_bias_data", "rows_of", "save_bias_data"]

DESCRIPTION = "bias.json"
COLUMNS = ("text", "label", "unit")


@dataclass(frozen=True)
class BiasData:
    """A biased training set and the sets that measure what a model makes of it.

    Attributes:
        subset: the training set with its proportions.
        validation: on which choices are made.
        test: on which results are reported, where the source has one.
        settings: how it was made, beside what the subset says; for people and for records.
        source_sha256: digests of what it was drawn from, by split.
    """

    subset: BiasedSubset
    validation: AttributedExamples
    test: AttributedExamples | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    source_sha256: Mapping[str, str] = field(default_factory=dict)

    @property
    def splits(self) -> dict[str, AttributedExamples]:
        """The sets by name; test only where there is one."""
        sets = {"train": self.subset.data, "validation": self.validation}
        return sets if self.test is None else {**sets, "test": self.test}


def save_bias_data(data: BiasData, directory: Path) -> None:
    """Write train, validation and test as JSONL (text, label, a column an attribute, unit) and ``bias.json``.

    Raises:
        InputError: an attribute with the name of one of the other columns, or splits with other labels or attributes.
    """
    train = data.subset.data
    taken = [name for name in train.attributes if name in COLUMNS]
    if taken:
        raise InputError("attributes", expected=f"other names than {', '.join(COLUMNS)}", found=", ".join(taken))
    for name, part in data.splits.items():
        if (part.examples.label_names, part.value_names) != (train.examples.label_names, train.value_names):
            found = f"{part.examples.label_names}, {part.value_names}"
            expected = f"the training set's labels and attributes, {train.examples.label_names}, {train.value_names}"
            raise InputError(f"{name} set", expected=expected, found=found)
    for name, part in data.splits.items():
        write_rows(directory / f"{name}.jsonl", rows_of(part))
    subset = {name: value for name, value in vars(data.subset).items() if name != "data"}
    description = {
        "kind": "bias",
        "settings": dict(data.settings),
        "subset": subset,
        "label_names": train.examples.label_names,
        "named": train.examples.named,
        "attributes": train.value_names,
        "rows": {name: len(part) for name, part in data.splits.items()},
        "sha256": {name: part.sha256 for name, part in data.splits.items()},
        "source_sha256": dict(data.source_sha256),
    }
    write_json(directory / DESCRIPTION, description)


def is_bias_data(directory: str | Path) -> bool:
    """Whether a directory holds a data set that :func:`save_bias_data` wrote."""
    return (Path(directory) / DESCRIPTION).is_file()


def load_bias_data(directory: str | Path) -> BiasData:
    """Read what :func:`save_bias_data` wrote.

    Raises:
        InputError: no such data set, or files that are not those that were written.
    """
    return read_described(directory, DESCRIPTION, "bias", _read)


def rows_of(part: AttributedExamples) -> list[dict[str, Any]]:
    """Each row as text, label, a value an attribute, and its unit where there are units."""
    rows: list[dict[str, Any]] = []
    for i, (text, label) in enumerate(zip(part.examples.texts, part.examples.labels, strict=True)):
        values = {name: column[i] for name, column in part.attributes.items()}
        rows.append({"text": text, "label": label, **values, **({"unit": part.units[i]} if part.units else {})})
    return rows


def _read(path: Path, about: Mapping[str, Any]) -> BiasData:
    parts = {name: _read_part(path / f"{name}.jsonl", about, digest) for name, digest in about["sha256"].items()}
    subset = BiasedSubset(data=parts["train"], **{**about["subset"], "balanced": tuple(about["subset"]["balanced"])})
    return BiasData(subset, parts["validation"], parts.get("test"), about["settings"], about["source_sha256"])


def _read_part(file: Path, about: Mapping[str, Any], digest: str) -> AttributedExamples:
    """A split as it was written; read by its description, since a small one may lack labels or values."""
    table = read_table(file, "")
    try:
        part = AttributedExamples(
            Examples(tuple(table["text"]), tuple(table["label"]), tuple(about["label_names"]), about["named"]),
            {name: tuple(table[name]) for name in about["attributes"]},
            tuple(table.get("unit", ())),
            {name: tuple(values) for name, values in about["attributes"].items()},
        )
        found = part.sha256
    except (KeyError, TypeError, InputError):
        found = ""
    if found != digest:
        raise InputError(
            str(file), expected=f"what {DESCRIPTION} was written with", found="other rows", action="Make the data set again."
        )
    return part
