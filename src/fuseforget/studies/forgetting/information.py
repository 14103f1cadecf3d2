"""The Fisher information that methods need of what each model of a study of memorization read, kept in the run."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuseforget import stopping
from fuseforget.checkpoint import MANIFEST_NAME
from fuseforget.fisher import save_fisher_of_rows
from fuseforget.models import load_language_model
from fuseforget.studies.memorization.data import Corpus

__all__ = ["Information"]

Say = Callable[[str], None]


@dataclass(frozen=True)
class Information:
    """The base's Fisher information about each model's rows.

    Attributes:
        home: a directory, which has what was found before.
        seed: of a masked base's masks.
    """

    home: Path
    corpus: Corpus
    seed: int
    say: Say

    def of(self, names: Sequence[str]) -> tuple[str, ...]:
        """Checkpoints of it, in the models' order; what is lacking, or was computed of other rows or masks, is computed."""
        return tuple(str(self._of(name)) for name in names)

    def _of(self, name: str) -> Path:
        out, rows = self.home / name, self.corpus.trained_on([name])
        about = {"rows_of": name, "rows": len(rows), "rows_sha256": rows.sha256}
        if {**about, "seed": self.seed}.items() <= _manifest(out).items():
            return out
        stopping.check("Fisher information")
        base = load_language_model(self.corpus.base)
        save_fisher_of_rows(base, rows, self.corpus.reader, out, seed=self.seed, about=about, overwrite=True, say=self.say)
        self.say(f"{name}: Fisher information of the base about {len(rows)} rows")
        return out


def _manifest(directory: Path) -> dict[str, Any]:
    """What a checkpoint says of itself; nothing where it is not there or damaged."""
    try:
        found = json.loads((directory / MANIFEST_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
