"""The finished studies whose models are fused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from fuseforget.checkpoint import Checkpoint, open_checkpoint
from fuseforget.errors import InputError
from fuseforget.records import Record, facts, read_records, read_run

__all__ = ["BIAS", "MEMORIZATION", "SHORTCUTS", "Source", "describe_source", "is_still", "open_sources"]

SHORTCUTS, BIAS, MEMORIZATION = "study shortcuts", "study bias", "study memorization"
KINDS = (SHORTCUTS, BIAS, MEMORIZATION)
CONCLUSION = "bound"  # the kind of record that each of these studies ends in
# What runs of one study have in common where their models are means of the same thing, over seeds; beside it their trainings
# and, of a data set, the texts that they are told by. (The tiny scale makes texts of its own, others for each seed.)
ALIKE = ("base_sha256", "rules", "ratio", "validation", "sentences", "full_epochs")


@dataclass(frozen=True)
class Source:
    """A finished study.

    Attributes:
        path: its run.
        command: the study, as its run calls it.
        settings: of that run.
        seed: that its models were trained with (of several, the first).
    """

    path: Path
    command: str
    settings: Record
    seed: int

    @property
    def name(self) -> str:
        """What records call it."""
        return self.path.name

    @property
    def texts(self) -> str:
        """What the texts of a shortcut study's own probes were made from, as a hash: seeds of one data set have the same ones."""
        return str(self.settings["data_sha256"]["validation"])

    def model(self, name: str) -> Checkpoint:
        """One of its models, by its path under ``models``; InputError where it has none of that name."""
        if not self.has(name):
            raise InputError(
                str(self.path), expected=f"a model {name}", found="none", action="Run that study again to finish it."
            )
        return open_checkpoint(self.path / "models" / name)

    def has(self, name: str) -> bool:
        return (self.path / "models" / name).is_dir()


def open_sources(paths: Sequence[str | Path]) -> tuple[Source, ...]:
    """Open finished studies, in the order in which they are given.

    Raises:
        InputError: no run, a run of another command, one that is not finished, one that is given twice, two directories of
            one name, and shortcut studies that differ in more than their seed.
    """
    sources = tuple(_open(Path(path)) for path in paths)
    for first, second in combinations(sources, 2):
        _refuse_twice(first, second)
    shortcuts = [source for source in sources if source.command == SHORTCUTS]
    for other in shortcuts[1:]:
        _require_alike(shortcuts[0], other)
    return sources


def describe_source(source: Source) -> Record:
    """What a run says of a source, to be repeated and to notice a source that was made anew (:func:`is_still`)."""
    made = {
        f"{r['kind']} {r.get('name') or ' '.join(str(r.get(key)) for key in ('attribute', 'ratio'))}": _digest(r)
        for r in facts(read_records(source.path))
        if r["kind"] in ("training", "data")
    }
    return {
        "name": source.name, "path": str(source.path), "command": source.command, "seed": source.seed,
        "base_sha256": source.settings["base_sha256"], "settings_sha256": _digest(source.settings), "made": made,
    }  # fmt: skip


def is_still(described: Record, known: Record) -> bool:
    """Whether a source has all that a run knew of it, as it was; a study may have been asked for more models since."""
    same = all(described["made"].get(name) == digest for name, digest in known["made"].items())
    return same and described["settings_sha256"] == known["settings_sha256"]


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _open(path: Path) -> Source:
    begun = read_run(path)
    if begun["command"] not in KINDS:
        raise InputError(str(path), expected=f"a run of {', '.join(KINDS)}", found=f"a run of {begun['command']}")
    source = Source(path.resolve(), begun["command"], begun["settings"], begun["settings"]["seed"])
    concluded = [r for r in read_records(path) if r["kind"] == CONCLUSION]
    lacking = _lacking_models(source)
    if not concluded or lacking:
        found = f"no model {', '.join(lacking)}" if lacking else "one without its conclusions"
        raise InputError(
            str(path), expected=f"a finished {source.command}", found=found, action="Run the same command again to finish it."
        )
    return source


def _lacking_models(source: Source) -> list[str]:
    """The models that a shortcut study ends with and this one lacks; of others what is asked for is looked for then."""
    wanted = ("start", "control", *source.settings["rules"]) if source.command == SHORTCUTS else ()
    return [name for name in wanted if not source.has(name)]


def _refuse_twice(first: Source, second: Source) -> None:
    if first.path == second.path or (first.command, first.settings) == (second.command, second.settings):
        raise InputError("--from", expected="different runs", found=f"{first.path} and {second.path}, which are the same study")
    if first.name == second.name:
        raise InputError(
            "--from", expected="directories of different names, which tables call the runs by",
            found=f"{first.path} and {second.path}",
        )  # fmt: skip


def _training(source: Source) -> Record:
    return {key: value for key, value in source.settings["train"].items() if key != "seed"}


def _texts(source: Source) -> str | None:
    return None if source.settings["data"] is None else source.texts


def _require_alike(first: Source, other: Source) -> None:
    differing = [key for key in ALIKE if first.settings[key] != other.settings[key]]
    differing += [f"{key} of training" for key, value in _training(first).items() if _training(other).get(key) != value]
    if _texts(first) != _texts(other):
        differing.append("data")
    if differing or first.seed == other.seed:
        found = f"other {', '.join(differing)}" if differing else f"seed {other.seed} as there"
        raise InputError(str(other.path), expected=f"the study of {first.path} with another seed", found=found)
