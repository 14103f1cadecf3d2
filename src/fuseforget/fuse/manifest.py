"""What is published with a fusion: the manifest from which it can be made again, with the hashes of all inputs."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fuseforget.errors import InputError
from fuseforget.fuse.hashing import Hashes
from fuseforget.fuse.plan import Plan

__all__ = ["Fused", "Hashing", "manifest_of", "require_hashes"]


@dataclass(frozen=True)
class Fused:
    """A checkpoint that was written: where, and its manifest (recipe, inputs, hashes, versions)."""

    path: Path
    manifest: dict[str, Any]


class Hashing:
    """The digests of all input files of a plan, taken beside the work."""

    def __init__(self, plan: Plan) -> None:
        self._files = [[*c.described_by, *c.files] for c in plan.opened]
        self._hashes = Hashes([file for files in self._files for file in files])

    def __enter__(self) -> Hashing:
        self._hashes.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hashes.__exit__(*error)

    def result(self) -> list[dict[str, str]]:
        """A digest for each file of each checkpoint, by the file's name."""
        found = self._hashes.result()
        return [{file.name: found[file] for file in files} for files in self._files]


def require_hashes(plan: Plan, digests: Sequence[Mapping[str, str]]) -> None:
    """Where the recipe is a manifest, its inputs must be what they were."""
    for source, found in zip(plan.recipe.sources, digests, strict=True):
        expected = plan.recipe.digests.get(source)
        if expected is not None and dict(expected) != dict(found):
            changed = sorted(n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n))
            raise InputError(
                source, expected="the files that the manifest was made from", found=f"another content of {', '.join(changed)}"
            )  # fmt: skip


def manifest_of(plan: Plan, digests: Sequence[Mapping[str, str]], survey: Sequence[float] = ()) -> dict[str, Any]:
    """What makes the result again: recipe, inputs with their hashes, versions; and what the user should know of it.

    Args:
        survey: the sums of what the method surveyed.
    """
    remarks = plan.method.remarks(survey) if plan.method.remarks and survey else ()
    versions = {"fuseforget": version("fuseforget"), "torch": version("torch"), "python": platform.python_version()}
    return {
        "kind": "fusion",
        "method": plan.method.name,
        "weights": plan.weights,
        "recipe": plan.recipe.plain(),
        "inputs": [
            {"model": source, "role": role, "blake3": dict(of_files)}
            for source, role, of_files in zip(plan.recipe.sources, _roles(plan), digests, strict=True)
        ],
        "added_tokens": [asdict(token) for token in plan.added_tokens],
        "notes": [*plan.notes, *remarks],
        "versions": versions,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _roles(plan: Plan) -> list[str]:
    recipe = plan.recipe
    return ["model"] * len(recipe.models) + ["base"] * (recipe.base is not None) + ["statistics"] * len(recipe.statistics)
