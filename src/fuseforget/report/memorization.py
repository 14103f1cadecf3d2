"""What the records of a study of memorization say, and of its recipe: the paper's tables and figures beside this run's."""

from __future__ import annotations

from typing import Any

from fuseforget.report import memorization_attacks as attacks
from fuseforget.report import memorization_tables as tables
from fuseforget.report.blocks import Block, Details, Picture, Table, opening
from fuseforget.report.memorization_claims import NOTE, memorization_claims
from fuseforget.report.memorization_facts import BASE, CONTROL, OWN, SHARED, MemorizationFacts, exact
from fuseforget.report.memorization_figures import draw_alternatives, draw_epochs, draw_fixed, draw_methods, draw_numbers
from fuseforget.report.shortcuts import Summary

__all__ = ["memorization_blocks", "summarise_memorization"]

Record = dict[str, Any]


def summarise_memorization(description: Record, records: list[Record]) -> Summary:
    """Turn a run's records into tables; what is missing is listed, never guessed."""
    facts = MemorizationFacts(description, records)
    found = []
    judged = memorization_claims(facts)
    if facts.recipe:
        found += [_before_and_after(facts)] if facts.attacks else []
    elif judged:
        found.append(Table("The paper's claims, and what this run measured", ["paper", "this run", ""], judged, NOTE))
    sections = (
        (facts.perplexity, tables.main_table),
        ("epochs" in facts.parts, tables.epochs_table),
        ("fixed" in facts.parts, tables.fixed_table),
        (facts.retained, tables.retained_table),
        (facts.attacks, attacks.attack_table),
        (facts.extraction, attacks.extraction_table),
        (facts.canaries, attacks.canary_table),
        (facts.methods, tables.methods_table),
        (facts.alternatives, tables.alternatives_table),
    )
    found += [table_of(facts) for known, table_of in sections if known]
    return Summary(_headline(facts), [table for table in found if table.rows], facts.missing())


def memorization_blocks(description: Record, records: list[Record], warnings: list[Block]) -> list[Block]:
    """The study's part of the page."""
    facts, summary = MemorizationFacts(description, records), summarise_memorization(description, records)
    kind = "a masked language model" if facts.masked else "a decoder"
    what = "The recipe split-train-fuse" if facts.recipe else "Study of Zaman et al. 2023 (arXiv 2311.07682), section 6"
    about = f"{what}, at the {facts.settings['scale']} scale, of {kind}."
    blocks = opening("Fuse to forget: memorization", about, summary.headline, warnings, _pictures(facts))
    blocks += summary.tables
    if facts.alr:
        blocks.append(tables.alr_details(facts))
    blocks += attacks.harm_tables(facts)
    if facts.recall:
        blocks.append(attacks.recall_table(facts))
    if facts.compared:
        blocks.append(tables.tests_table(facts))
    if facts.bounds:
        blocks.append(Details("Eq. 2", [tables.bound_table(facts)]))
    if facts.data is not None:
        blocks.append(Details("The rows", [tables.data_table(facts)]))
    if facts.trained:
        blocks.append(Details("Training", [tables.training_table(facts)]))
    return blocks


def _pictures(facts: MemorizationFacts) -> list[Picture]:
    band = "bands are 95 % intervals over rows"
    drawn = []
    masked = "-masked" if facts.masked else ""
    if not facts.recipe and facts.perplexity and all(facts.fused(n) in facts.perplexity for n in facts.numbers):
        caption = f"Fig. 9, 10: ALR and perplexity by the number of models, each with rows of its own; {band}."
        drawn.append(Picture(f"fig9-numbers{masked}", draw_numbers(facts), caption, wide=True))
    if "fixed" in facts.parts and len(tables.fixed_models(facts)) > 2:
        caption = f"Fig. 11, 12: the same where all models together have {facts.settings['total']} rows; {band}."
        drawn.append(Picture(f"fig11-fixed{masked}", draw_fixed(facts), caption, wide=True))
    if "epochs" in facts.parts and facts.full(len(facts.few)) in facts.perplexity:
        caption = f"Table 6 drawn: three models after 5 to 20 epochs; {band}."
        drawn.append(Picture(f"epochs{masked}", draw_epochs(facts), caption, wide=True))
    if facts.alternatives and facts.perplexity:
        caption = "Alternatives to fusing, a point an epoch; stars: fused models. Above and to the left is better."
        drawn.append(Picture(f"alternatives{masked}", draw_alternatives(facts), caption))
    if facts.methods:
        caption = (
            "Other fusion methods: the further right the circle, the more is forgotten of what is not shared; the further "
            "left the square, the more is kept of what is."
        )
        drawn.append(Picture(f"methods{masked}", draw_methods(facts), caption, wide=True))
    return drawn


def _headline(facts: MemorizationFacts) -> list[str]:
    lines = []
    number = facts.numbers[-1]
    models = {
        "one model alone": facts.names[0],
        "trained on all at once": facts.full(number),
        f"{number} fused": facts.fused(number),
    }
    if all(m in facts.perplexity and (m, OWN) in facts.alr for m in models.values()):
        own = ", ".join(f"{label} {facts.alr[m, OWN]['value']:.3f}" for label, m in models.items())
        lines.append(f"ALR on rows that are not shared (1: not memorised): {own}.")
        if all((m, SHARED) in facts.alr for m in models.values()):
            lines.append("On shared rows: " + ", ".join(f"{facts.alr[m, SHARED]['value']:.3f}" for m in models.values()) + ".")
        held = ", ".join(f"{label} {facts.perplexity[m]['value']:.1f}" for label, m in {"the base": BASE, **models}.items())
        lines.append(f"Perplexity: {held}.")
    if facts.blind is not None:
        auc, leaks = facts.blind["auc"], facts.blind["leaks"]
        said = "the split itself leaks: distrust the attacks" if leaks else "no sign that the split itself leaks"
        lines.append(f"Members told from non-members by their words alone: AUC {exact(auc)}, p {facts.blind['p']:.2g}: {said}.")
    if facts.recipe and facts.attacks:
        lines += _recipe_lines(facts)
    return lines


def _recipe_lines(facts: MemorizationFacts) -> list[str]:
    """What is still exposed, in numbers of examples and canaries."""
    rows = {row[0]: row for row in _before_and_after(facts).rows}
    return [f"{what}: {once} once, {fused} fused." for what, once, fused in rows.values() if what != "perplexity"]


def _before_and_after(facts: MemorizationFacts) -> Table:
    """The recipe: what is exposed after training on everything once, and after split, train, fuse."""
    number = facts.numbers[-1]
    once, fused = facts.full(number), facts.fused(number)
    rows = [["examples exposed at 1 % false positives (reference attack)", *(_flagged(facts, m) for m in (once, fused))]]
    if (once, "unshared") in facts.extraction:
        found = (facts.extraction.get((model, "unshared")) for model in (once, fused))
        rows.append(["examples extracted word for word", *("" if r is None else _counted(r["extracted"]) for r in found)])
    for (model, where, repeats), r in facts.canaries.items():
        if model == once and where != "none":
            other = facts.canaries.get((fused, where, repeats))
            after = "" if other is None else _counted(other["extracted"])
            rows.append([f"canaries repeated {repeats} times, extracted", _counted(r["extracted"]), after])
    rows.append(["perplexity", *(exact(facts.perplexity.get(m), 1) for m in (once, fused))])
    false = facts.alr.get((fused, CONTROL))
    note = (
        "Once: one model trained on all rows. Fused: as many models as there are shards, each trained on its own, averaged. Of "
        "rows that no model saw the reference attack flags 1 % too. Neither read the "
        f"{facts.settings['control'] + facts.settings['validation']} rows held out to measure this."
        + ("" if false is None else f" ALR of the fused model on these: {exact(false)}.")
    )
    return Table("Before and after", ["", "trained on everything once", f"split in {number}, trained, fused"], rows, note)


def _flagged(facts: MemorizationFacts, model: str) -> str:
    found = facts.attacks.get((model, "unshared", "reference"))
    return "" if found is None else _counted({**found["tpr"]["0.01"], "n": found["tpr"]["0.01"]["members"]})


def _counted(record: Record) -> str:
    count, n = round(record["value"] * record["n"]), record["n"]
    return f"{count} of {n} [{record['low']:.1%}, {record['high']:.1%}]"
