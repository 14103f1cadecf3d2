"""Knowledge: what a probe is, what a measurement is, and the statistics that compare models on the same examples.

Metrics by groups of people are in :mod:`fuseforget.knowledge.fairness`.
"""

from fuseforget.knowledge.probes import METRICS, Measurement, Metric, Probe, measure
from fuseforget.knowledge.probes_file import ProbeSpec, read_probes_file
from fuseforget.knowledge.statistics import (
    Bound,
    Interval,
    bootstrap_mean,
    check_bound,
    check_bound_of,
    holm,
    knows_more,
    mcnemar,
    mean_retention,
    retention,
    sign_flip,
)

__all__ = [
    "METRICS",
    "Bound",
    "Interval",
    "Measurement",
    "Metric",
    "Probe",
    "ProbeSpec",
    "bootstrap_mean",
    "check_bound",
    "check_bound_of",
    "holm",
    "knows_more",
    "mcnemar",
    "mean_retention",
    "measure",
    "read_probes_file",
    "retention",
    "sign_flip",
]
