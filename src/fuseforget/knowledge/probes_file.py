"""The probes file: which data sets to ask a model about, in YAML."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fuseforget.errors import InputError

__all__ = ["ProbeSpec", "read_probes_file"]


class ProbeSpec(BaseModel):
    """One probe: its name, where its data is and which columns to read.

    A relative ``data`` path is taken from the probes file's own directory.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    data: str = Field(min_length=1)
    split: str = "validation"
    text: str | None = None
    label: str = "label"
    metric: str = "accuracy"


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
    names = [spec.name for spec in specs]
    if len(set(names)) != len(names):
        raise InputError(str(file), expected="probes with different names", found=", ".join(names))
    return [spec.model_copy(update={"data": _relative_to(path.parent, spec.data)}) for spec in specs]


def _relative_to(directory: Path, data: str) -> str:
    candidate = directory / Path(data).expanduser()
    return str(candidate) if candidate.exists() else data
