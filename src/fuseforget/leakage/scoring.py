"""Energies of models on sets of rows, each computed once and kept in a run's records."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fuseforget.data import Rows
from fuseforget.models import Energies, LanguageModel, Masks, draw_masks, energies, load_language_model
from fuseforget.records import Run, decode_values, encode_values
from fuseforget.workers import Workers

__all__ = ["Scorer", "energies_of", "join_energies"]

Say = Callable[[str], None]
Open = Callable[[], LanguageModel]


class Scorer:
    """Computes the energies that a run lacks.

    Args:
        sets: rows by the name of their set.
        special: tokens that are no text: they are never masked.
        masked: whether the models are masked language models; all of them see the same masks, drawn from ``seed``.
        exact: compute in float32 throughout.
    """

    def __init__(
        self, run: Run, sets: Mapping[str, Rows], *, special: Collection[int], masked: bool, seed: int, say: Say,
        exact: bool = False,
    ) -> None:  # fmt: skip
        self.run, self.sets, self.say = run, sets, say
        self._special, self._masked, self._seed, self._exact = frozenset(special), masked, seed, exact
        self._masks: dict[str, Masks] = {}

    def lacks(self, sets: Sequence[str], **where: Any) -> list[str]:
        """The sets whose energies the run does not have for a model (and an epoch)."""
        return [name for name in sets if self.run.find("energies", set=name, **where) is None]

    def score(self, load: Open, sets: Sequence[str], **where: Any) -> None:
        """Record a model's energies on the sets that it was not asked about; it is loaded only if there are any.

        Args:
            load: gives the model.
            where: what the records call the model: ``model``, and what else tells it from others (an epoch).
        """
        lacking = self.lacks(sets, **where)
        if not lacking:
            return
        lm = load()
        for name in lacking:
            self.keep(name, energies(lm, self.sets[name].ids, masks=self.masks(name), exact=self._exact), **where)
        label = ", ".join(str(value) if key == "model" else f"{key} {value}" for key, value in where.items())
        self.say(f"{label}: energies on {', '.join(lacking)}")

    def score_each(self, models: Mapping[str, Path], sets: Sequence[str], workers: Workers) -> None:
        """Record the energies of checkpoints, by their names, on the sets that they were not asked about."""
        asked = [_Asked(name, path, tuple(self.lacks(sets, model=name))) for name, path in models.items()]
        asked = [one for one in asked if one.sets]
        rows = {name: self.sets[name] for one in asked for name in one.sets}
        read = _Read(rows, {name: self.masks(name) for name in rows}, self._exact)
        for one, found in zip(asked, workers.each(read, asked, name=lambda one: one.model), strict=True):
            for name in one.sets:
                self.keep(name, found[name], model=one.model)
            self.say(f"{one.model}: energies on {', '.join(one.sets)}")

    def keep(self, name: str, found: Energies, **where: Any) -> None:
        """Record a model's energies on a set, however they were computed, where the run has none."""
        if self.run.find("tokens", set=name) is None:
            self.run.add("tokens", set=name, tokens=encode_values(found.tokens.astype(np.float64)))
        if self.run.find("energies", set=name, **where) is None:
            self.run.add("energies", set=name, **where, sums=encode_values(found.sums))

    def masks(self, name: str) -> Masks | None:
        """The masks of a set's rows; none for decoders."""
        if not self._masked:
            return None
        if name not in self._masks:
            self._masks[name] = draw_masks(self.sets[name].ids, special=self._special, seed=self._seed)
        return self._masks[name]


@dataclass(frozen=True)
class _Asked:
    """A checkpoint, what records call it, and the sets that it is asked about."""

    model: str
    path: Path
    sets: tuple[str, ...]


@dataclass(frozen=True)
class _Read:
    """Reads sets of rows by a checkpoint's model, wherever it is called."""

    rows: Mapping[str, Rows]
    masks: Mapping[str, Masks | None]
    exact: bool

    def __call__(self, asked: _Asked) -> dict[str, Energies]:
        lm = load_language_model(asked.path)
        return {name: energies(lm, self.rows[name].ids, masks=self.masks[name], exact=self.exact) for name in asked.sets}


def energies_of(run: Run, set_name: str, **where: Any) -> Energies:
    """Recorded energies of a model on a set.

    Raises:
        RuntimeError: they were not recorded.
    """
    record, counted = run.find("energies", set=set_name, **where), run.find("tokens", set=set_name)
    if record is None or counted is None:
        raise RuntimeError(f"no energies of {where} on {set_name}")
    return Energies(decode_values(record["sums"]), decode_values(counted["tokens"]).astype(np.int64))


def join_energies(parts: Sequence[Energies]) -> Energies:
    """The energies of several sets' rows, one set after the other."""
    return Energies(np.concatenate([p.sums for p in parts]), np.concatenate([p.tokens for p in parts]))
