"""The paper's claims about social bias (section 5) beside what a run measured."""

from __future__ import annotations

from typing import Any

from fuseforget.report.bias_facts import METRICS, ROWS, BiasFacts
from fuseforget.report.claims import SIGNIFICANT, verdict_on

__all__ = ["NOTE", "PAPER", "bias_claims"]

Record = dict[str, Any]
# Table 1: DP, TPR-GAP, accuracy.
PAPER = {
    "age": {"biased": (0.185, 0.088, 0.877), "inlp": (0.076, 0.041, 0.797), "leace": (0.206, 0.100, 0.874),
            "full": (0.099, 0.045, 0.894), "fused": (0.063, 0.028, 0.871)},
    "gender": {"biased": (0.122, 0.081, 0.872), "inlp": (0.071, 0.055, 0.871), "leace": (0.118, 0.080, 0.874),
               "full": (0.033, 0.038, 0.894), "fused": (0.047, 0.043, 0.867)},
}  # fmt: skip
CLAIMS = {
    "biased": "fusing lowers the bias of the biased model",
    "inlp": "fusing lowers it more than INLP",
    "inlp-chosen": "fusing lowers it more than INLP (the number of classifiers chosen on validation data)",
    "leace": "fusing lowers it more than LEACE",
}
LOST = 0.02  # of accuracy; at most so much, at the interval's lower end, where it is called kept
NOTE = (
    "Seen: every part of the claim holds; in part: some do. Lower: the paired difference is below zero with p < "
    f"{SIGNIFICANT:g}, corrected over all tests of the run. Kept: at most {LOST:g} of accuracy is lost, at the interval's lower "
    "end."
)


def bias_claims(facts: BiasFacts) -> list[list[str]]:
    """Rows of (the paper's claim, what the run measured, verdict); none for what the run cannot say yet."""
    at = {(r["attribute"], r["second"], r["metric"]): r for r in facts.compared}
    rows = []
    for attribute in facts.pair:
        for row, claim in CLAIMS.items():
            if (attribute, row, "demographic_parity") in at:
                parts = [_lower(at[attribute, row, metric]) for metric in ("demographic_parity", "tpr_gap")]
                rows.append([f"Table 1, {attribute}: {claim}", _found(facts, attribute, row), verdict_on(parts)])
    for attribute in facts.pair:
        if (attribute, "biased", "accuracy") in at:
            difference = at[attribute, "biased", "accuracy"]
            found = f"{_cells(facts, attribute, 'accuracy', 'biased')}; difference {_signed(difference)}"
            rows.append([f"Table 1, {attribute}: accuracy is kept", found, verdict_on([difference["low"] >= -LOST])])
    return [*rows, *_full_claim(facts, at), *_path_claim(facts)]


def _full_claim(facts: BiasFacts, at: dict[tuple[str, str, str], Record]) -> list[list[str]]:
    """What the paper found of the full model, which is less biased than the fused one in gender alone."""
    if set(facts.pair) != set(PAPER) or not all((a, "full", "demographic_parity") in at for a in facts.pair):
        return []
    found = "; ".join(f"{a}: {_cells(facts, a, 'demographic_parity', 'full')}" for a in facts.pair)
    parts = [_lower(at["age", "full", "demographic_parity"]), not _lower(at["gender", "full", "demographic_parity"])]
    return [["Table 1: the fused model's DP is lower than the full model's in age, not in gender", found, verdict_on(parts)]]


def _path_claim(facts: BiasFacts) -> list[list[str]]:
    """Fig. 5: towards the other model, an attribute's bias falls from its own model's."""
    found, parts = [], []
    for attribute in facts.pair:
        own = facts.spread((attribute, ()), attribute, "demographic_parity")
        half = facts.spread((facts.line, (0.5, 0.5)), attribute, "demographic_parity")
        if own is None or half is None:
            return []
        found.append(f"{attribute} DP {own.value:.3f} to {half.value:.3f}")
        parts.append(half.greatest < own.least)
    return [["Fig. 5: midway both biases are below those of their own models", "; ".join(found), verdict_on(parts)]]


def _lower(difference: Record) -> bool:
    return bool(difference["value"] < 0 and difference["p_holm"] < SIGNIFICANT)


def _found(facts: BiasFacts, attribute: str, row: str) -> str:
    """All three numbers: where accuracy is at chance, a bias near 0 means nothing."""
    return "; ".join(f"{title} {_cells(facts, attribute, metric, row)}" for metric, title in METRICS.items())


def _cells(facts: BiasFacts, attribute: str, metric: str, row: str) -> str:
    fused, other = (facts.rows[attribute, name, metric]["value"] for name in ("fused", row))
    return f"fused {fused:.3f}, {ROWS[row]} {other:.3f}"


def _signed(record: Record) -> str:
    return f"{record['value']:+.3f} [{record['low']:+.3f}, {record['high']:+.3f}]"
