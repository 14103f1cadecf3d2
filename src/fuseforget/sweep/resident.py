"""One model in memory that takes the weights of any point, and probes whose texts are read once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fuseforget.checkpoint import Checkpoint
from fuseforget.fuse import InPlace
from fuseforget.knowledge import Measurement, Probe, measure
from fuseforget.knowledge.probes import in_labels_of, unique_names
from fuseforget.models import (
    Batch,
    describe_cut,
    label_names,
    load_classifier,
    max_tokens,
    plan_batches,
    predict,
    set_weights,
    tokenise,
    weight_slots,
)
from fuseforget.models.together import Together, works_together
from fuseforget.sweep.on_device import OnDevice

if TYPE_CHECKING:
    import torch

__all__ = ["Logits", "Resident"]

Logits = npt.NDArray[np.float32]
Texts = tuple[str, ...]
PLANNED = 4  # fusions that are kept planned: models are visited in turn by few methods at a time


class Resident:
    """One model in memory that takes the weights of any point, and probes whose texts are tokenised once.

    Args:
        template: the checkpoint whose architecture and tokenizer are used.
        probes: what to ask at each point.
        exact: compute in float32 throughout.
        compiled: have torch compile the model's forward pass, which takes its time before the first point.
    """

    def __init__(
        self, template: str | Path, probes: Sequence[Probe], *, exact: bool = False, compiled: bool = False
    ) -> None:  # fmt: skip
        unique_names(probes)
        self._classifier = load_classifier(template)
        self._exact = exact
        self._forward = _compile(self._classifier.model) if compiled else self._classifier.model
        self._tokens: dict[str, tuple[list[int], bool]] = {}  # of each text, and whether it was cut
        names = label_names(self._classifier.model)
        self._probes = {probe.name: in_labels_of(probe, str(template), names) for probe in probes}
        self._read: dict[tuple[Texts, ...], _Read] = {}
        self._logits: dict[Texts, Logits] = {}  # of the weights as they are
        self._on_device: OnDevice | None = None
        self._planned: dict[str, InPlace] = {}  # the last points' fusions, by what they are
        self._together: Together | None = None
        self._can_be: bool | None = None
        self._notes: tuple[str, ...] = ()

    def set_point(
        self, endpoints: Sequence[Checkpoint], weights: Sequence[float] | None, method: str = "average", *,
        base: Checkpoint | None = None, seed: int = 0, parameters: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """Set the resident weights to a fusion of the endpoints, computed from the endpoints and never from the last point.

        The endpoints are read where the operating system keeps them: once for all processes of a machine.

        Args:
            weights: one an endpoint, as ``fuse`` takes them; None: the method's default.
            method, base, seed, parameters: as ``fuse`` takes them. A fusion that differs from one of the last in the weights
                alone is not planned again.
        """
        stored = _stored([file for one in (*endpoints, *([] if base is None else [base])) for file in one.files])
        key = repr((stored, method, base is None, seed, sorted((parameters or {}).items())))
        fusion = self._planned.pop(key, None)
        if fusion is None:
            models = [one.path for one in endpoints]
            fusion = InPlace(models, method, base=None if base is None else base.path, seed=seed, parameters=parameters)
        self._planned[key] = fusion
        while len(self._planned) > PLANNED:
            del self._planned[next(iter(self._planned))]
        targets = self.tensors([name for name in endpoints[0] if all(name in one.infos for one in endpoints)])
        if not (method == "average" and self._averaged_there(targets, endpoints, weights)):
            fusion.into(targets, weights)
        self._notes = fusion.notes

    def _averaged_there(
        self, targets: Mapping[str, torch.Tensor], endpoints: Sequence[Checkpoint], weights: Sequence[float] | None
    ) -> bool:
        """Set the weights to an average of endpoints that a GPU holds; False on a CPU, and where it cannot hold them."""
        device = self._classifier.model.device
        named = {repr(_stored(one.files)): one for one in endpoints}
        if device.type == "cpu" or len(named) < len(endpoints):
            return False
        self._on_device = self._on_device or OnDevice(device)
        return self._on_device.average_into(targets, named, weights)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of how the last point was fused."""
        return self._notes

    def set_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Set the resident weights to these: a model that was computed in another way."""
        self._logits.clear()
        set_weights(self._classifier.model, tensors)

    def tensors(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """The resident weights, not copied, by a checkpoint's names; to be taken anew for each change that is measured."""
        self._logits.clear()
        return weight_slots(self._classifier.model, names)

    def logits(self, name: str) -> Logits:
        """Return the resident weights' logits on a probe's texts, examples x labels, float32."""
        return self.logits_of([name])[name]

    def logits_of(self, names: Sequence[str]) -> dict[str, Logits]:
        """The same for several probes: texts of all of them are read together, and a text that several have once."""
        asked = {name: self._probes[name].texts for name in names}  # probes of one entry share them
        lacking = tuple(dict.fromkeys(texts for texts in asked.values() if texts not in self._logits))
        if lacking:
            read = self._reading(lacking)
            found = predict(self._forward, read.batches, exact=self._exact)
            for texts in lacking:
                self._logits[texts] = found[read.rows[texts]]
        return {name: self._logits[texts] for name, texts in asked.items()}

    @property
    def can_be_together(self) -> bool:
        """Whether several sets of the model's weights can be computed at once: some operations cannot (vmap)."""
        if self._can_be is None:
            self._can_be = works_together(self._classifier)
        return self._can_be

    def logits_together(
        self, places: Sequence[Callable[[], None]], names: Sequence[str], *, count: int
    ) -> list[dict[str, Logits]]:
        """The logits of several points on probes' texts, computed at once.

        Args:
            places: each sets the resident weights to a point.
            count: how many are always computed at once, no fewer: so a point's logits do not depend on the others.
        """
        if self._together is None:
            self._together = Together(self._classifier.model, count)
        for number in range(count):
            if number < len(places):
                places[number]()
            self._together.take(number)
        texts = tuple(dict.fromkeys(self._probes[name].texts for name in names))
        read = self._reading(texts)
        found = self._together.predict(read.batches, exact=self._exact)
        return [{name: one[read.rows[self._probes[name].texts]] for name in names} for one in found[: len(places)]]

    def judge(self, name: str, scores: npt.ArrayLike) -> Measurement:
        """Turn scores on a probe's texts, examples x labels, into its measurement, whatever model gave them."""
        return measure(self._probes[name], scores)

    def ask(self, name: str) -> Measurement:
        """Measure one probe on the resident weights."""
        return self.judge(name, self.logits(name))

    def cut(self, name: str) -> int:
        """How many texts of a probe that was asked are longer than the model can read."""
        texts = self._probes[name].texts
        return next(read.cut[texts] for read in self._read.values() if texts in read.cut)

    def describe_cut(self, name: str) -> str:
        """The same in words; nothing where none is."""
        return describe_cut(self.cut(name), len(self._probes[name].texts), max_tokens(self._classifier))

    def _reading(self, asked: tuple[Texts, ...]) -> _Read:
        if asked not in self._read:
            self._read[asked] = self._read_anew(asked)
        return self._read[asked]

    def _read_anew(self, asked: Sequence[Texts]) -> _Read:
        number = {text: row for row, text in enumerate(dict.fromkeys(text for texts in asked for text in texts))}
        new = [text for text in number if text not in self._tokens]
        ids, cut = tokenise(self._classifier, new)
        self._tokens |= {text: (one, row in cut) for row, (text, one) in enumerate(zip(new, ids, strict=True))}
        known = [self._tokens[text] for text in number]
        batches = plan_batches(self._classifier, [one for one, _ in known], {row for row, (_, cut) in enumerate(known) if cut})
        rows = {texts: np.array([number[text] for text in texts], dtype=np.int64) for texts in asked}
        return _Read(batches, rows, {texts: sum(self._tokens[text][1] for text in texts) for texts in asked})


@dataclass(frozen=True)
class _Read:
    """Texts of some probes as one set of batches.

    Attributes:
        batches: of the distinct texts.
        rows: for each probe's texts, which of the distinct ones they are.
        cut: how many of each probe's texts are longer than the model can read.
    """

    batches: list[Batch]
    rows: dict[Texts, npt.NDArray[np.int64]]
    cut: dict[Texts, int]


def _stored(files: Sequence[Path]) -> list[tuple[str, int, int, int]]:
    """What files are: one that was replaced is another."""
    return [(str(file), (of := file.stat()).st_ino, of.st_mtime_ns, of.st_size) for file in files]


def _compile(model: Any) -> Any:
    import torch

    return torch.compile(model, dynamic=True)
