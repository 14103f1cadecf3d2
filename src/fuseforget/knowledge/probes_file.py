"""The probes file: which data sets to ask a model about, in YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

from fuseforget.errors import SEEDS, InputError
from fuseforget.knowledge.leak_metrics import leak_metric
from fuseforget.knowledge.probes import require_metric

__all__ = ["AUDIT", "MemorizationSpec", "ProbeSpec", "read_probes_file", "require_evidence"]

CLASSIFICATION, MEMORIZATION = "classification", "memorization"

# What an entry with an attribute asks for by default.
AUDIT = (
    "accuracy", "f1", "worst_group_accuracy", "worst_cell_accuracy", "demographic_parity", "tpr_gap", "fpr_gap",
    "equalized_odds", "ece", "worst_group_ece", "ece_gap",
)  # fmt: skip


class ProbeSpec(BaseModel):
    """One entry about classifiers: its name, where its data is, which columns to read, and what to measure.

    A relative ``data`` path is taken from the probes file's own directory.

    Attributes:
        metric, metrics: one of the two. Several make a probe each, called by the entry's name, a dot and the metric's.
        attribute: the column of a protected attribute, whose groups the metrics compare; without ``metric`` and ``metrics``
            it is asked for :data:`AUDIT`.
        values: the values that the attribute may have; default: any.
        unit: the column of what rows that are not independent share (the author).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    kind: Literal["classification"] = "classification"
    data: str = Field(min_length=1)
    split: str = "validation"
    text: str | None = None
    label: str = "label"
    metric: str | None = None
    metrics: tuple[str, ...] | None = Field(default=None, min_length=1)
    attribute: str | None = Field(default=None, min_length=1)
    values: tuple[str, ...] | None = Field(default=None, min_length=2)
    unit: str | None = Field(default=None, min_length=1)

    @property
    def probes(self) -> dict[str, str]:
        """The metric of each probe that the entry makes, by the probe's name."""
        if self.metrics is None and (self.metric is not None or self.attribute is None):
            return {self.name: self.metric or "accuracy"}
        return {f"{self.name}.{metric}": metric for metric in self.metrics or AUDIT}


class MemorizationSpec(BaseModel):
    """One entry about language models: what they may have memorised, and with what they are compared.

    A relative path is taken from the probes file's own directory.

    Attributes:
        data: what models may have been trained on: texts, or a corpus that ``fuseforget data memorization`` made.
        non_members: texts (or a corpus) of the same source that none of the models was trained on; attacks need them.
        reference: the pretrained model; ALR and attacks that compare with it need it.
        split, non_members_split: which split of a directory or a hub data set.
        parts, non_members_parts: of a corpus, which parts.
        text: the column of the texts.
        block: tokens a row, texts packed one after the other; None: one text a row, cut to the model's window.
        metrics: see :func:`fuseforget.knowledge.leak_metrics.leak_metric`; None: all that can be measured.
        extract: how many tokens of a row are given, and how many are to follow word for word.
        seed: of masks, intervals and the blind baseline.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    kind: Literal["memorization"] = "memorization"
    data: str = Field(min_length=1)
    non_members: str | None = Field(default=None, min_length=1)
    reference: str | None = Field(default=None, min_length=1)
    split: str = "train"
    non_members_split: str = "validation"
    parts: tuple[str, ...] | None = Field(default=None, min_length=1)
    non_members_parts: tuple[str, ...] = Field(default=("control",), min_length=1)
    text: str | None = None
    block: int | None = None
    metrics: tuple[str, ...] | None = Field(default=None, min_length=1)
    extract: tuple[int, int] = (50, 50)
    seed: int = Field(default=0, ge=0, lt=SEEDS)


def _kind(entry: Any) -> str:
    return str(entry.get("kind", CLASSIFICATION)) if isinstance(entry, dict) else CLASSIFICATION


_Entry = Annotated[
    Annotated[ProbeSpec, Tag(CLASSIFICATION)] | Annotated[MemorizationSpec, Tag(MEMORIZATION)],
    Discriminator(_kind, "kind", f"a kind is {CLASSIFICATION} (the default) or {MEMORIZATION}"),
]


class _ProbesFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    probes: list[_Entry] = Field(min_length=1)


def read_probes_file(file: str | Path) -> list[ProbeSpec | MemorizationSpec]:
    """Read and check a probes file.

    Raises:
        InputError: absent, no YAML, an unknown or missing key, two probes of one name, or a metric that there is not or that
            lacks what it needs.
    """
    path = Path(file)
    if not path.is_file():
        raise InputError(str(file), expected="a probes file (YAML)", found="no such file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        specs = _ProbesFile.model_validate(content).probes
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(str(file), expected="YAML", found=" ".join(str(error).split())) from error
    except ValidationError as error:
        problems = "; ".join(f"{_place(e['loc'])}: {e['msg']}" for e in error.errors())
        raise InputError(str(file), expected="a list `probes` of name, data, ...", found=problems) from error
    for spec in specs:
        where = f"{file}, {spec.name}"
        if isinstance(spec, ProbeSpec):
            _require_measurable(where, spec)
        else:
            require_evidence(where, spec)
    names = [name for spec in specs for name in (spec.probes if isinstance(spec, ProbeSpec) else [spec.name])]
    if len({spec.name for spec in specs}) != len(specs) or len(set(names)) != len(names):
        raise InputError(str(file), expected="probes with different names", found=", ".join(names))
    return [spec.model_copy(update=_found_from(path.parent, spec)) for spec in specs]


def _place(loc: tuple[str | int, ...]) -> str:
    """Where in the file; the entry's kind, which pydantic puts between, is no key of it."""
    keys = [str(key) for number, key in enumerate(loc) if not (number == 2 and key in (CLASSIFICATION, MEMORIZATION))]
    return ".".join(keys) or "file"


def _require_measurable(where: str, spec: ProbeSpec) -> None:
    """Raise InputError for keys that do not go together, and metrics that there are not."""
    if spec.metric is not None and spec.metrics is not None:
        raise InputError(where, expected="metric or metrics", found="both")
    if spec.metrics is not None and len(set(spec.metrics)) != len(spec.metrics):
        raise InputError(where, expected="different metrics", found=", ".join(spec.metrics))
    for metric in spec.probes.values():
        require_metric(where, metric, spec.attribute is not None)
    alone = [key for key in ("values", "unit") if getattr(spec, key) is not None]
    if alone and spec.attribute is None:
        raise InputError(where, expected=f"an attribute, which {' and '.join(alone)} need", found="none")


def require_evidence(where: str, spec: MemorizationSpec) -> None:
    """Raise InputError for metrics that there are not, and for those whose rows or models the entry does not name."""
    asked = [leak_metric(where, name) for name in spec.metrics or ()]
    if len({one.name for one in asked}) != len(asked):
        raise InputError(where, expected="different metrics", found=", ".join(one.name for one in asked))
    lacking = {
        "reference": [one.name for one in asked if one.of_reference and spec.reference is None],
        "non_members": [one.name for one in asked if one.of_non_members and spec.non_members is None],
    }
    meaning = {"reference": "the pretrained model", "non_members": "rows that no model was trained on"}
    for key, names in lacking.items():
        if names:
            raise InputError(where, expected=f"{key} ({meaning[key]}), which {' and '.join(names)} need", found="none")
    if min(spec.extract) < 1:
        raise InputError(
            f"{where}, extract", expected="a prefix and a suffix of at least one token", found=str(list(spec.extract))
        )


def _found_from(directory: Path, spec: ProbeSpec | MemorizationSpec) -> dict[str, str]:
    """An entry's places, found from the directory of its file."""
    places = [spec.data] if isinstance(spec, ProbeSpec) else [spec.data, spec.non_members, spec.reference]
    named = zip(("data", "non_members", "reference"), places, strict=False)
    return {key: _relative_to(directory, place) for key, place in named if place is not None}


def _relative_to(directory: Path, data: str) -> str:
    candidate = directory / Path(data).expanduser()
    return str(candidate) if candidate.exists() else data
