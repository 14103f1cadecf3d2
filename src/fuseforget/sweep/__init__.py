"""Probes at points: a resident model whose weights are set in place, texts tokenised once, a record a measurement."""

from fuseforget.asked import as_probes, describe_inputs, describe_models, describe_sources
from fuseforget.sweep.measured import measurement_fields, record_missing
from fuseforget.sweep.points import Answer, Answers, Point, Sweep
from fuseforget.sweep.probing import probe, require_aligned
from fuseforget.sweep.recorded import record_points
from fuseforget.sweep.resident import Resident

__all__ = [
    "Answer",
    "Answers",
    "Point",
    "Resident",
    "Sweep",
    "as_probes",
    "describe_inputs",
    "describe_models",
    "describe_sources",
    "measurement_fields",
    "probe",
    "record_missing",
    "record_points",
    "require_aligned",
]
