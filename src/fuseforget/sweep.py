"""Probes at points: one resident model whose weights are set in place, texts tokenised once, a record a measurement."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fuseforget.asked import Asked, as_probes, describe_inputs, describe_models, describe_sources, of_classifiers, read_asked
from fuseforget.audit import record_audit
from fuseforget.checkpoint import Checkpoint, open_checkpoint, require_same
from fuseforget.errors import InputError
from fuseforget.fuse import InPlace
from fuseforget.knowledge import Measurement, MemorizationSpec, Probe, measure
from fuseforget.knowledge.probes import in_labels_of, unique_names
from fuseforget.leakage import LEAKAGE_KINDS, describe_leaks, load_leak_probes, record_leakage
from fuseforget.models import (
    Batch,
    describe_cut,
    encode_batches,
    is_language_model,
    label_names,
    load_classifier,
    max_tokens,
    predict,
    set_weights,
    weight_slots,
)
from fuseforget.records import Record, Run, encode_values, run_or_memory

if TYPE_CHECKING:
    import torch

__all__ = [
    "Resident",
    "as_probes",
    "describe_inputs",
    "describe_models",
    "describe_sources",
    "measurement_fields",
    "probe",
    "record_missing",
]

Say = Callable[[str], None]
Logits = npt.NDArray[np.float32]
PRINTED = ("measurement", "group", "comparison", *LEAKAGE_KINDS)


class Resident:
    """One model in memory that takes the weights of any point, and probes whose texts are tokenised once.

    Args:
        template: the checkpoint whose architecture and tokenizer are used.
        probes: what to ask at each point.
        exact: compute in float32 throughout.
    """

    def __init__(self, template: str | Path, probes: Sequence[Probe], *, exact: bool = False) -> None:
        unique_names(probes)
        self._classifier = load_classifier(template)
        self._exact = exact
        names = label_names(self._classifier.model)
        self._probes = {probe.name: in_labels_of(probe, str(template), names) for probe in probes}
        self._batches: dict[tuple[str, ...], list[Batch]] = {}
        self._logits: dict[tuple[str, ...], Logits] = {}  # of the weights as they are
        self._planned: tuple[str, InPlace] | None = None  # the last point's fusion, by what it is

    def set_point(
        self, endpoints: Sequence[Checkpoint], weights: Sequence[float] | None, method: str = "average", *,
        base: Checkpoint | None = None, seed: int = 0, parameters: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """Set the resident weights to a fusion of the endpoints, computed from the endpoints and never from the last point.

        Args:
            weights: one an endpoint, as ``fuse`` takes them; None: the method's default.
            method, base, seed, parameters: as ``fuse`` takes them. A fusion that differs from the last point's in the weights
                alone is not planned again.
        """
        read = [file for one in (*endpoints, *([] if base is None else [base])) for file in one.files]
        # A file that was replaced is another.
        stored = [(str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in read]
        key = repr((stored, method, base is None, seed, sorted((parameters or {}).items())))
        if self._planned is None or self._planned[0] != key:
            models = [one.path for one in endpoints]
            fusion = InPlace(models, method, base=None if base is None else base.path, seed=seed, parameters=parameters)
            self._planned = key, fusion
        shared = [name for name in endpoints[0] if all(name in one.infos for one in endpoints)]
        self._planned[1].into(self.tensors(shared), weights)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of how the last point was fused."""
        return () if self._planned is None else self._planned[1].notes

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
        texts = self._probes[name].texts  # probes of one entry share them
        if texts not in self._batches:
            self._batches[texts] = encode_batches(self._classifier, texts)
        if texts not in self._logits:
            self._logits[texts] = predict(self._classifier.model, self._batches[texts], exact=self._exact)
        return self._logits[texts]

    def judge(self, name: str, scores: npt.ArrayLike) -> Measurement:
        """Turn scores on a probe's texts, examples x labels, into its measurement, whatever model gave them."""
        return measure(self._probes[name], scores)

    def ask(self, name: str) -> Measurement:
        """Measure one probe on the resident weights."""
        return self.judge(name, self.logits(name))

    def cut(self, name: str) -> int:
        """How many texts of a probe that was asked are longer than the model can read."""
        return sum(batch.cut for batch in self._batches[self._probes[name].texts])

    def describe_cut(self, name: str) -> str:
        """The same in words; nothing where none is."""
        return describe_cut(self.cut(name), len(self._probes[name].texts), max_tokens(self._classifier))


def probe(
    models: Sequence[str | Path], probes: str | Path | Sequence[Asked], out: str | Path | None = None, *,
    exact: bool = False, say: Say = lambda line: None,
) -> list[Record]:  # fmt: skip
    """Measure every probe on every model.

    Args:
        models: sequence classifiers, each with its own tokenizer; or language models of one tokenizer, for entries of kind
            ``memorization``.
        probes: a probes file, or probes (:class:`fuseforget.knowledge.Probe`, :class:`fuseforget.knowledge.MemorizationSpec`).
        out: a run to keep the measurements in; run again, it resumes.

    Returns:
        A record a measurement: model, probe, metric, value, low, high, n, the per-example values, encoded, and how many
        texts were cut because the model reads no more of them; for probes by a protected attribute, their audit
        (:func:`fuseforget.audit.record_audit`): a record a model and group, and one a comparison with the first model. Of
        entries of kind ``memorization``: their rows, the blind baseline, and what
        :func:`fuseforget.leakage.conclusions.conclude` records.

    Raises:
        InputError: a model that is no whole classifier, or labels that it does not name; of entries of kind ``memorization``
            see :func:`fuseforget.leakage.load_leak_probes`.
    """
    specs = read_asked(probes)
    asked, private = of_classifiers(specs), [spec for spec in specs if isinstance(spec, MemorizationSpec)]
    sources = [str(model) for model in models]
    checkpoints = [open_checkpoint(source) for source in sources]
    if asked:
        _require_classifiers(asked, checkpoints)
    leaks = load_leak_probes(private, sources, say=say)
    settings = {**describe_inputs(checkpoints, asked), "exact": exact, **({"leakage": describe_leaks(leaks)} if leaks else {})}
    with run_or_memory(out, command="probe", settings=settings, about=describe_sources(probes), say=say) as run:
        for source in sources:
            names = [p.name for p in asked if run.find("measurement", model=source, probe=p.name) is None]
            if names:
                resident = Resident(source, asked, exact=exact)
                record_missing(run, resident, names, say=say, model=source)
        record_audit(run, asked, sources, say=say)
        record_leakage(run, leaks, checkpoints, exact=exact, say=say)
        return [record for record in run.records if record["kind"] in PRINTED]


def record_missing(run: Run, resident: Resident, probes: Sequence[str], *, say: Say, **where: Any) -> None:
    """Measure and record, at the resident weights, the probes that the run does not have yet for ``where``."""
    label = where.get("model") or "{path} at {weights}".format(**where)
    for name in probes:
        if run.find("measurement", probe=name, **where) is None:
            measurement = resident.ask(name)
            run.add("measurement", **where, **measurement_fields(measurement), cut=resident.cut(name))
            note = resident.describe_cut(name)
            say(f"{label}: {name} {measurement.interval.value:.3f}{note and f', {note}'}")


def measurement_fields(measurement: Measurement) -> Record:
    interval = measurement.interval
    return {
        "probe": measurement.probe,
        "metric": measurement.metric,
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        "n": interval.n,
        "values": encode_values(measurement.values),
        **({"answers": list(measurement.answers)} if measurement.answers else {}),
        **({"confidences": encode_values(measurement.confidences)} if measurement.confidences is not None else {}),
        **({"attribute": measurement.attribute} if measurement.attribute else {}),
    }


def _require_classifiers(probes: Sequence[Probe], checkpoints: Sequence[Checkpoint]) -> None:
    """Raise InputError for a language model, which has no head to ask for a label."""
    for checkpoint in checkpoints:
        if is_language_model(checkpoint.config):
            raise InputError(
                f"{probes[0].name} on {checkpoint.source}", expected="a sequence classifier",
                found=f"{checkpoint.config['architectures'][0]}, a language model without a classifier's head",
                action="Ask it by entries of kind: memorization; entries of both kinds need files of their own.",
            )  # fmt: skip


def require_aligned(checkpoints: Sequence[Checkpoint]) -> None:
    """Raise unless points between the checkpoints can be set in place."""
    require_same(checkpoints)
    lacking = [c.source for c in checkpoints[1:] if c.infos.keys() != checkpoints[0].infos.keys()]
    if lacking:
        raise InputError("models", expected="the same tensors in all", found=f"tied copies stored in some: {', '.join(lacking)}")
