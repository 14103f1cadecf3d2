"""What models say whose weights are rounded to 8 and to 4 bits: whether what was forgotten comes back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fuseforget import stopping
from fuseforget.models import load_classifier
from fuseforget.models.quantise import BITS, quantise
from fuseforget.records import Run
from fuseforget.studies.forgetting.examined import ShortcutModels
from fuseforget.sweep import Resident, record_missing

__all__ = ["ask_quantised"]

Say = Callable[[str], None]


def ask_quantised(
    run: Run, part: str, source: ShortcutModels, models: Mapping[str, Path], resident: Resident, probes: Sequence[str], say: Say
) -> None:
    """Measure probes on each model's rounded weights, as ``measurement`` records with the precision's name.

    Args:
        resident: of the models' architecture, has the probes.
    """
    for name, path in models.items():
        for precision, (bits, group) in BITS.items():
            where = {"part": part, "source": source.name, "model": name, "precision": precision}
            if all(run.find("measurement", probe=probe, **where) is not None for probe in probes):
                continue
            stopping.check("a rounded model")
            classifier = load_classifier(path)
            quantise(classifier, bits, group)
            resident.set_tensors(classifier.model.state_dict())
            record_missing(run, resident, probes, say=say, **where)
