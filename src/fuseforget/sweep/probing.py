"""Models asked for probes, a model after another: the command ``fuseforget probe`` as a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from fuseforget.asked import Asked, describe_inputs, describe_sources, of_classifiers, read_asked
from fuseforget.audit import record_audit
from fuseforget.checkpoint import Checkpoint, open_checkpoint, require_same
from fuseforget.errors import InputError
from fuseforget.knowledge import MemorizationSpec, Probe
from fuseforget.leakage import LEAKAGE_KINDS, describe_leaks, load_leak_probes, record_leakage
from fuseforget.models import is_language_model
from fuseforget.records import Record, run_or_memory
from fuseforget.sweep.points import AskAlone, Point, lacking, name_of, record_answers
from fuseforget.workers import Here, Workers

__all__ = ["probe", "require_aligned"]

Say = Callable[[str], None]
PRINTED = ("measurement", "group", "comparison", *LEAKAGE_KINDS)


def probe(
    models: Sequence[str | Path], probes: str | Path | Sequence[Asked], out: str | Path | None = None, *,
    exact: bool = False, workers: Workers | None = None, say: Say = lambda line: None,
) -> list[Record]:  # fmt: skip
    """Measure every probe on every model.

    Args:
        models: sequence classifiers, each with its own tokenizer; or language models of one tokenizer, for entries of kind
            ``memorization``.
        probes: a probes file, or probes (:class:`fuseforget.knowledge.Probe`, :class:`fuseforget.knowledge.MemorizationSpec`).
        out: a run to keep the measurements in; run again, it resumes.
        workers: who measures (see :func:`fuseforget.workers.open_workers`); default: this process.

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
        names = tuple(probe.name for probe in asked)
        points = lacking(run, [Point({"model": source}, (source,), None, names) for source in dict.fromkeys(sources)])
        for point, answers in zip(points, (workers or Here()).each(AskAlone(asked, exact), points, name=name_of), strict=True):
            record_answers(run, point, answers, say=say)
        record_audit(run, asked, sources, say=say)
        record_leakage(run, leaks, checkpoints, exact=exact, say=say)
        return [record for record in run.records if record["kind"] in PRINTED]


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
