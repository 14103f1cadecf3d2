"""The paper's claims about memorization (section 6, appendix E) beside what a run measured."""

from __future__ import annotations

from typing import Any

from fuseforget.report.claims import SIGNIFICANT, verdict_on
from fuseforget.report.memorization_facts import BASE, OWN, SHARED, MemorizationFacts

__all__ = ["NOTE", "memorization_claims"]

Record = dict[str, Any]
NOTE = (
    "Seen: every part of the claim holds; in part: some do. Lower, higher: the paired difference has that sign with p < "
    f"{SIGNIFICANT:g}, corrected over all tests of the run. Stays low: at most twice the single model's ALR, the paper's being "
    ".24 to .22. By number and by epochs: the values' order alone. Rows count as independent, though neighbours may share an "
    "article: intervals are somewhat narrow."
)
STAYS = 2.0


def memorization_claims(facts: MemorizationFacts) -> list[list[str]]:
    """Rows of (the paper's claim, what the run measured, verdict); none for what the run cannot say yet."""
    rows = []
    for number in facts.numbers:
        rows += _order(facts, number)
    rows += [*_growing(facts), *_generalising(facts), *_fixed(facts), *_epochs(facts)]
    return rows


def _order(facts: MemorizationFacts, number: int) -> list[list[str]]:
    """Single < full < fused < 1 on rows that are not shared; shared rows stay memorised."""
    models = "".join(facts.names[:number])
    pairs = [("single", "full"), ("full", "fused"), ("fused", BASE)]
    if any((models, a, b, OWN) not in facts.compared for a, b in pairs):
        return []
    single = _mean([facts.value(name, OWN) for name in facts.names[:number]])
    values = [single, facts.value(facts.full(number), OWN), facts.value(facts.fused(number), OWN)]
    found = "single {:.3f}, full {:.3f}, fused {:.3f}".format(*(value or 0.0 for value in values))
    parts = [_lower(facts.compared[models, a, b, OWN]) for a, b in pairs]
    where = f"Table {'7' if facts.masked else '5'}, {number} models"
    claims = [
        [f"{where}: unshared rows are memorised most by single models, then full, then fused (below 1)", found, verdict_on(parts)]
    ]
    shared = [facts.value(model, SHARED) for model in (facts.names[0], facts.fused(number), facts.full(number))]
    if None not in shared and not facts.recipe:
        alone, fused, full = (float(value) for value in shared if value is not None)
        parts = [fused <= STAYS * alone, _lower(facts.compared[models, "fused", "full", SHARED])]
        found = f"single {alone:.3f}, fused {fused:.3f}, full {full:.3f}"
        claims.append(
            [f"{where}: shared rows stay memorised by the fused model, more than by the full one", found, verdict_on(parts)]
        )
    return claims


def _growing(facts: MemorizationFacts) -> list[list[str]]:
    """Fig. 9: the more models, the more is forgotten of what is not shared."""
    values = [facts.value(facts.fused(n), OWN) for n in facts.numbers]
    if len(values) < 2 or None in values:
        return []
    known = [value for value in values if value is not None]
    found = ", ".join(f"{n} models {value:.3f}" for n, value in zip(facts.numbers, known, strict=True))
    where = "Table 7" if facts.masked else "Fig. 9"
    claim = f"{where}: the more models are fused, the less is memorised of unshared rows"
    return [[claim, found, verdict_on([known == sorted(known)])]]


def _generalising(facts: MemorizationFacts) -> list[list[str]]:
    """Fig. 10: fused models have lower perplexity than single ones, and higher than full ones (in masked models too)."""
    rows = []
    for number in facts.numbers:
        models = "".join(facts.names[:number])
        single, full = (facts.compared.get((models, a, b, "perplexity")) for a, b in (("single", "fused"), ("fused", "full")))
        if single is None or full is None:
            continue
        found = ", ".join(
            f"{role} {facts.perplexity[model]['value']:.1f}"
            for role, model in (("single", facts.names[0]), ("fused", facts.fused(number)), ("full", facts.full(number)))
        )
        # Of masked models the paper's fused ones are worse than single ones: 6.2 to 6.7 against 6.0.
        against_single = _lower(single) if facts.masked else _higher(single)
        claim = "above single and full models" if facts.masked else "between single and full models"
        where = f"{'Table 7' if facts.masked else 'Fig. 10'}, {number} models"
        rows.append([f"{where}: the fused model's perplexity is {claim}", found, verdict_on([against_single, _higher(full)])])
    return rows


def _fixed(facts: MemorizationFacts) -> list[list[str]]:
    """Fig. 11 and 12: with a fixed total more models forget more, and have higher perplexity."""
    models = [f"fused-of-{n}" for n in facts.numbers]
    if len(models) < 2 or any(m not in facts.perplexity for m in models):
        return []
    alr, shared = ([facts.value(m, on) or 0.0 for m in models] for on in (OWN, SHARED))
    held = [float(facts.perplexity[m]["value"]) for m in models]
    found = "; ".join(
        f"{n} models {a:.3f} ({s:.3f} shared), perplexity {p:.1f}"
        for n, a, s, p in zip(facts.numbers, alr, shared, held, strict=True)
    )
    parts = [alr == sorted(alr), shared == sorted(shared, reverse=True), held == sorted(held)]
    claim = "Fig. 11, 12: of a fixed total, more models forget more unshared and memorise more shared rows, and perplexity rises"
    return [[claim, found, verdict_on(parts)]]


def _epochs(facts: MemorizationFacts) -> list[list[str]]:
    """Table 6: the order of the rows holds after any number of epochs."""
    rows = []
    number = len(facts.few)
    for epochs in facts.settings["epochs"]:
        singles = [facts.value(f"{name}@{epochs}", OWN) for name in facts.few]
        others = [facts.value(model, OWN) for model in (facts.full(number, epochs), facts.fused(number, epochs))]
        if "epochs" in facts.parts and None not in (*singles, *others):
            full, fused = (float(value) for value in others if value is not None)
            found = f"single {_mean(singles):.3f}, full {full:.3f}, fused {fused:.3f}"
            parts = [_mean(singles) < full, full < fused, fused < 1]
            rows.append([f"Table 6, {epochs} epochs: single below full below fused below 1", found, verdict_on(parts)])
    return rows


def _lower(record: Record) -> bool:
    return bool(record["value"] < 0 and record["p_holm"] < SIGNIFICANT)


def _higher(record: Record) -> bool:
    return bool(record["value"] > 0 and record["p_holm"] < SIGNIFICANT)


def _mean(values: list[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known)
