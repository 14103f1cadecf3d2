"""Which tensor of each model's statistics belongs to a tensor of the models, and how it is lined up."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fuseforget.checkpoint import Checkpoint
from fuseforget.checkpoint.compare import missing_prefix
from fuseforget.errors import InputError, some_names
from fuseforget.fuse.align import Alignment
from fuseforget.fuse.recipe import Recipe
from fuseforget.fuse.sources import Gathered, Source
from fuseforget.methods import Method
from fuseforget.methods.method import DIAGONAL_FISHER

__all__ = ["Statistics"]

Open = Callable[[Checkpoint, str], Source]


class Statistics:
    """The statistics checkpoints of a recipe, one a model or none.

    Like a base's, their names may lack what the models' have in front, or have more.
    """

    def __init__(
        self, recipe: Recipe, method: Method, checkpoints: Sequence[Checkpoint], statistics: Sequence[Checkpoint], source: Open
    ) -> None:  # fmt: skip
        """Args: source: opens a tensor of a checkpoint."""
        self._recipe, self._checkpoints, self._statistics, self._source = recipe, checkpoints, statistics, source
        self._diagonal = method.statistics == DIAGONAL_FISHER
        pairs = list(zip(checkpoints, statistics, strict=True)) if statistics else []
        self._fewer = [missing_prefix(checkpoint, found) for checkpoint, found in pairs]
        self._more = [missing_prefix(found, checkpoint) for checkpoint, found in pairs]
        self._used = False
        self._without: list[str] = []

    def of(self, models: Sequence[int], names: Sequence[str], moved: Sequence[Alignment]) -> tuple[Source, ...]:
        """Those of a tensor, which has a name in each of some models; none where none of them has any.

        Args:
            moved: what lines the models' tensors up.

        Raises:
            InputError: some models have them and others do not, or a Fisher is not of the tensor's shape or has rows of tokens
                that would have to be lined up.
        """
        if not self._statistics:
            return ()
        found = [self._stored(model, name) for model, name in zip(models, names, strict=True)]
        lacking = [self._statistics[model].source for model, stored in zip(models, found, strict=True) if stored is None]
        if len(lacking) == len(found):
            self._without.append(names[0])
            return ()
        if lacking:
            raise InputError(f"statistics of {names[0]}", expected="them for all models", found=f"none in {', '.join(lacking)}")
        self._used = True
        sources = [
            self._source(self._statistics[model], stored)
            for model, stored in zip(models, found, strict=True) if stored is not None
        ]  # fmt: skip
        # Inner products of a layer's inputs have another shape than the layer, and no row of theirs is one of its outputs.
        return self._lined_up(sources, models, names, moved) if self._diagonal else tuple(sources)

    def notes(self) -> list[str]:
        """What a user may not expect, once all tensors are planned.

        Raises:
            InputError: no tensor has statistics.
        """
        if self._statistics and not self._used:
            raise InputError(
                f"statistics of {self._statistics[0].source}", expected="tensors of the models' names",
                found=f"none, but {some_names(self._statistics[0].infos)}",
            )  # fmt: skip
        if not self._diagonal or not self._without:
            return []
        return [f"statistics: have no {some_names(self._without)}; fused without"]

    def _stored(self, model: int, name: str) -> str | None:
        candidates = (name, name.removeprefix(self._fewer[model]), self._more[model] + name)
        return next((one for one in candidates if one in self._statistics[model].infos), None)

    def _lined_up(
        self, sources: Sequence[Source], models: Sequence[int], names: Sequence[str], moved: Sequence[Alignment]
    ) -> tuple[Source, ...]:  # fmt: skip
        if any(alignment.kind != "labels" for alignment in moved):
            raise InputError(
                f"statistics of {names[0]}",
                expected="the same tokens in the models and the base, since statistics are not lined up by token",
                found=f"others, which --tokenizer {self._recipe.tokenizer} lines up",
                action="Take a method without statistics, or give all of them the same tokens before they are trained.",
            )  # fmt: skip
        for source, model, name in zip(sources, models, names, strict=True):
            shape = self._checkpoints[model].infos[name].shape
            if source.shape != shape:
                raise InputError(
                    f"statistics of {name} in {self._statistics[model].source}", expected=f"the tensor's shape, {list(shape)}",
                    found=str(list(source.shape)),
                )  # fmt: skip
        for alignment in moved:
            sources = [Gathered(source, alignment.rows[m], ()) for source, m in zip(sources, models, strict=True)]
        return tuple(sources)
