"""The probes file: which data sets to ask a model about, in YAML."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fuseforget.errors import InputError
from fuseforget.knowledge.probes import require_metric

__all__ = ["AUDIT", "ProbeSpec", "read_probes_file"]

# What an entry with an attribute asks for by default.
AUDIT = (
    "accuracy", "f1", "worst_group_accuracy", "worst_cell_accuracy", "demographic_parity", "tpr_gap", "fpr_gap",
    "equalized_odds", "ece", "worst_group_ece", "ece_gap",
)  # fmt: skip


class ProbeSpec(BaseModel):
    """One entry: its name, where its data is, which columns to read, and what to measure.

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


class _ProbesFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    probes: list[ProbeSpec] = Field(min_length=1)


def read_probes_file(file: str | Path) -> list[ProbeSpec]:
    """Read and check a probes file.

    Raises:
        InputError: absent, no YAML, an unknown or missing key, two probes of one name.
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
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
        raise InputError(str(file), expected="a list `probes` of name, data, ...", found=problems) from error
    for spec in specs:
        _require_measurable(f"{file}, {spec.name}", spec)
    names = [name for spec in specs for name in spec.probes]
    if len({spec.name for spec in specs}) != len(specs) or len(set(names)) != len(names):
        raise InputError(str(file), expected="probes with different names", found=", ".join(names))
    return [spec.model_copy(update={"data": _relative_to(path.parent, spec.data)}) for spec in specs]


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


def _relative_to(directory: Path, data: str) -> str:
    candidate = directory / Path(data).expanduser()
    return str(candidate) if candidate.exists() else data
