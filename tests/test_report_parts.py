"""The claims about a study's parts are judged by what was measured, and by nothing that is missing."""

from __future__ import annotations

import pytest

from fuseforget.report.facts import Facts
from fuseforget.report.part_claims import part_claims
from test_report import Made, interval, measured

RULES = ("st", "op", "tic", "or")
MODELS = ("tic+op", "tic+or")


def facts_of(*, shared=(0.97, 0.5, 0.5), center=0.5, task=0.95, drop=(0.3, 0.2, 0.4), learned=True, without=()):
    """A finished run: ``shared`` are TiC, OP and OR midway, ``center`` the shortcuts within the triangle."""
    made = Made(rules=RULES)
    records = [
        {"kind": "part", "name": "shared", "models": list(MODELS)},
        {"kind": "part", "name": "triangle", "models": ["st", "op", "or"]},
        {"kind": "part", "name": "growth", "subsets": [["st", "op"], list(RULES)]},
        *made.records,
    ]
    for model in MODELS:
        known = model.split("+")
        records += [{"kind": "learned", "model": model, "rule": rule, "learned": learned} for rule in known]
        records += [
            measured(1.0 if p in known else (0.95 if p == "task" else 0.5), p, model=model) for p in ("tic", "op", "or", "task")
        ]
    for step in range(11):
        middle = dict(zip(("tic", "op", "or", "task"), (*shared, 0.95), strict=True))
        weights = [(10 - step) / 10, step / 10]
        records += [measured(value, p, path="tic+op-tic+or", weights=weights) for p, value in middle.items()]
    for a in range(11):
        for b in range(11 - a):
            weights = [a / 10, b / 10, (10 - a - b) / 10]
            for p, weight in zip(("st", "op", "or"), weights, strict=True):
                records.append(measured(1.0 if weight == 1 else center, p, path="st-op-or", weights=weights))
            records.append(measured(0.95 if max(weights) == 1 else task, "task", path="st-op-or", weights=weights))
    for models, value in ((2, 0.5), (4, 0.5 - drop[0])):
        records.append({"kind": "growth", "models": models, "retention": interval("", value)})
    low = dict(zip(("value", "low", "high"), drop, strict=True))
    records.append({"kind": "growth_difference", "first": 2, "last": 4, **low})
    kept = [r for r in records if not any(all(r.get(k) == v for k, v in gone.items()) for gone in without)]
    return Facts(made.description, kept)


def verdicts(**changes):
    return {row[0].split(",")[0].split(":")[0]: row[2] for row in part_claims(facts_of(**changes))}


@pytest.mark.parametrize(("change", "claim", "verdict"), [
    ({}, "Fig. 3", "seen"),
    ({"shared": (0.7, 0.5, 0.5)}, "Fig. 3", "in part"),  # what both know is lost
    ({"shared": (0.97, 0.9, 0.5)}, "Fig. 3", "in part"),  # what one knows stays
    ({"learned": False}, "Fig. 3", "in part"),  # the task alone can be judged
    ({}, "Fig. 7", "seen"),
    ({"center": 0.9}, "Fig. 7", "in part"),
    ({"task": 0.8}, "Fig. 7", "in part"),
    ({"center": 0.9, "task": 0.8}, "Fig. 7", "not seen"),
    ({}, "Section 4.2", "seen"),
    ({"drop": (0.1, -0.1, 0.3)}, "Section 4.2", "in part"),
    ({"drop": (-0.1, -0.2, 0.1)}, "Section 4.2", "not seen"),
])  # fmt: skip
def test_verdicts(change, claim, verdict):
    assert verdicts(**change)[claim] == verdict


@pytest.mark.parametrize(("gone", "claim"), [
    ({"path": "tic+op-tic+or", "weights": [0.1, 0.9], "probe": "op"}, "Fig. 3"),
    ({"kind": "learned", "model": "tic+or", "rule": "or"}, "Fig. 3"),
    ({"path": "st-op-or", "weights": [0.1, 0.2, 0.7], "probe": "task"}, "Fig. 7"),
    ({"kind": "retention", "model": "fused", "rule": "st"}, "Fig. 7"),
    ({"kind": "growth", "models": 4}, "Section 4.2"),
    ({"kind": "growth_difference"}, "Section 4.2"),
])  # fmt: skip
def test_what_is_missing_is_no_ground_for_a_claim(gone, claim):
    assert verdicts().keys() - verdicts(without=[gone]).keys() == {claim}
