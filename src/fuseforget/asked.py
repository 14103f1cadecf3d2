"""What models are asked: probes from a probes file, with their data read, and what a run says of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fuseforget.checkpoint import Checkpoint, file_sha256
from fuseforget.data import read_attributed, read_examples
from fuseforget.data.tables import find_source
from fuseforget.errors import InputError
from fuseforget.knowledge import MemorizationSpec, Probe, ProbeSpec, read_probes_file
from fuseforget.leakage import describe_data
from fuseforget.records import Record

__all__ = ["Asked", "as_probes", "describe_inputs", "describe_models", "describe_sources", "of_classifiers", "read_asked"]

Asked = Probe | MemorizationSpec


def as_probes(probes: str | Path | Sequence[Asked]) -> list[Probe]:
    """Probes of classifiers from a probes file, with their data read; probes as they are.

    Raises:
        InputError: an entry about language models.
    """
    specs = read_asked(probes)
    others = [spec.name for spec in specs if isinstance(spec, MemorizationSpec)]
    if others:
        found = f"{', '.join(others)} (kind: memorization)"
        raise InputError(
            "probes", expected="probes of classifiers", found=found, action="Ask language models with `fuseforget probe`."
        )
    return of_classifiers(specs)


def read_asked(probes: str | Path | Sequence[Asked]) -> Sequence[Asked | ProbeSpec]:
    """The entries of a probes file; probes as they are."""
    return read_probes_file(probes) if isinstance(probes, str | Path) else probes


def of_classifiers(specs: Sequence[Asked | ProbeSpec]) -> list[Probe]:
    """The probes of classifiers among what is asked, with their data read."""
    return [
        probe
        for spec in specs
        if not isinstance(spec, MemorizationSpec)
        for probe in (_load_probes(spec) if isinstance(spec, ProbeSpec) else [spec])
    ]


def describe_inputs(checkpoints: Sequence[Checkpoint], probes: Sequence[Probe]) -> Record:
    """What a run needs to say about its inputs to be repeated, and to refuse to resume on others."""
    return {
        **describe_models(checkpoints),
        "probes": {
            p.name: {
                "metric": p.metric,
                "n": len(p.texts),
                "sha256": hashlib.sha256(json.dumps(_content(p)).encode()).hexdigest(),
            }
            for p in probes
        },
    }


def describe_models(checkpoints: Sequence[Checkpoint]) -> Record:
    """Which checkpoints these are: their sources, and the hashes of their weight files."""
    return {
        "models": [c.source for c in checkpoints],
        "model_sha256": [[file_sha256(file) for file in c.files] for c in checkpoints],
    }


def describe_sources(probes: str | Path | Sequence[Asked]) -> Record:
    """Where a probes file's probes come from, to find them again: paths, columns, and hashes of the files.

    A run does not insist on these when it resumes: a file that moved is the same probe, and what its texts and labels are
    is in the settings (:func:`describe_inputs`).
    """
    if not isinstance(probes, str | Path):
        return {}
    specs = read_probes_file(probes)
    sources = {spec.name: {**_source(spec), "file_sha256": _file_sha256(spec)} for spec in specs if isinstance(spec, ProbeSpec)}
    leaks = {spec.name: describe_data(spec) for spec in specs if isinstance(spec, MemorizationSpec)}
    return {"probes_file": {"path": str(probes), "sha256": file_sha256(Path(probes))}, "sources": {**sources, **leaks}}


def _file_sha256(spec: ProbeSpec) -> str | None:
    """The digest of a probe's data file; None for a hub id or a directory of `datasets`, which are no single file."""
    file = find_source(spec.data, spec.split)
    return file_sha256(file) if file is not None and file.is_file() else None


def _source(spec: ProbeSpec) -> Record:
    """Where an entry's data is; what it does not name is left out, as in runs of before it could."""
    named = spec.model_dump(include={"attribute", "unit", "values"}, exclude_none=True, mode="json")
    return {**spec.model_dump(include={"data", "split", "text", "label"}), **named}


def _load_probes(spec: ProbeSpec) -> list[Probe]:
    """The probes of an entry, one a metric, which share its data."""
    if spec.attribute is None:
        examples = read_examples(spec.data, split=spec.split, text=spec.text, label=spec.label)
        of_data: dict[str, Any] = {}
    else:
        attributes = [spec.attribute] if spec.values is None else {spec.attribute: spec.values}
        data = read_attributed(
            spec.data, split=spec.split, text=spec.text, label=spec.label, attributes=attributes, unit=spec.unit
        )  # fmt: skip
        examples, units = data.examples, data.unit_codes()
        of_data = {
            "attribute": spec.attribute,
            "groups": tuple(data.codes(spec.attribute).tolist()),
            "group_names": data.values(spec.attribute),
            "units": () if units is None else tuple(units.tolist()),
        }
    return [
        Probe(name, examples.texts, examples.labels, metric, examples.own_names, examples.named, **of_data)
        for name, metric in spec.probes.items()
    ]


def _content(probe: Probe) -> list[Any]:
    """What makes a probe the same: texts and labels, the labels' names where these decide what is asked, and the groups."""
    names = [probe.label_names] if probe.label_names else []
    by = [probe.attribute, probe.groups, probe.group_names, probe.units] if probe.attribute else []
    return [probe.texts, probe.labels, *names, *by]
