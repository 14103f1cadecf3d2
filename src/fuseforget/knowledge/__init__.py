"""Knowledge: what a probe is, what a measurement is, and the statistics that compare models on the same examples.

Metrics by groups of people are in :mod:`fuseforget.knowledge.fairness`, those of memorised rows in
:mod:`fuseforget.knowledge.memorization`, and what an attacker makes of them in :mod:`fuseforget.knowledge.attacks` and
:mod:`fuseforget.knowledge.roc`.
"""

from fuseforget.knowledge.attacks import ATTACKS, Attack, Evidence, attack, attacks_for
from fuseforget.knowledge.blind import Blind, blind_baseline
from fuseforget.knowledge.exposure import Exposure, canary_exposure, compare_exposure, extractable, mean_exposure
from fuseforget.knowledge.extraction import Extraction, verbatim
from fuseforget.knowledge.harm import Harm, HarmRow, more_exposed
from fuseforget.knowledge.memorization import (
    alr,
    compare_alr,
    compare_perplexity,
    likelihood_ratio,
    mia_recall,
    perplexity,
    ratios,
    retained,
)
from fuseforget.knowledge.probes import METRICS, Measurement, Metric, Probe, measure
from fuseforget.knowledge.probes_file import MemorizationSpec, ProbeSpec, read_probes_file
from fuseforget.knowledge.roc import Auc, OperatingPoint, roc_auc, tpr_at
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
    "ATTACKS",
    "METRICS",
    "Attack",
    "Auc",
    "Blind",
    "Bound",
    "Evidence",
    "Exposure",
    "Extraction",
    "Harm",
    "HarmRow",
    "Interval",
    "Measurement",
    "MemorizationSpec",
    "Metric",
    "OperatingPoint",
    "Probe",
    "ProbeSpec",
    "alr",
    "attack",
    "attacks_for",
    "blind_baseline",
    "bootstrap_mean",
    "canary_exposure",
    "check_bound",
    "check_bound_of",
    "compare_alr",
    "compare_exposure",
    "compare_perplexity",
    "extractable",
    "holm",
    "knows_more",
    "likelihood_ratio",
    "mcnemar",
    "mean_exposure",
    "mean_retention",
    "measure",
    "mia_recall",
    "more_exposed",
    "perplexity",
    "ratios",
    "read_probes_file",
    "retained",
    "retention",
    "roc_auc",
    "sign_flip",
    "tpr_at",
    "verbatim",
]
