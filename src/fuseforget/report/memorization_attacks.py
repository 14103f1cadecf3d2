"""What attackers get out of the models: membership, rows word for word, canaries; and harm by fusing."""

from __future__ import annotations

from typing import Any

from fuseforget.report.blocks import Table
from fuseforget.report.memorization_facts import CONTROL, OWN, SHARED, MemorizationFacts, exact

__all__ = [
    "ATTACK_TITLES",
    "HARM_HEADER",
    "NOT_ONE",
    "attack_table",
    "canary_table",
    "extraction_table",
    "harm_cells",
    "harm_note",
    "harm_tables",
    "rate_cell",
    "recall_table",
]

Record = dict[str, Any]
ATTACK_TITLES = {
    "loss": "loss", "reference": "reference (LR)", "zlib": "zlib", "min_k": "Min-K%", "min_k_plus_plus": "Min-K%++",
    "windows": "windows (WBC)",
}  # fmt: skip
HARM_HEADER = ["row", "LR fused", "lowest LR of a parent", "excess", "p", "clear"]
NOT_ONE = ["none", *[""] * (len(HARM_HEADER) - 1)]
LEAST_P = 1e-12  # below it a number says nothing more


def attack_table(facts: MemorizationFacts) -> Table:
    """Membership inference on the base, a single, the full and the fused model."""
    rows = []
    for (model, on, attack), r in facts.attacks.items():
        rates = [rate_cell(r["tpr"][rate]) for rate in ("0.01", "0.001")]
        rows.append([model, on, ATTACK_TITLES.get(attack, attack), exact(r["auc"]), *rates])
    first = next(iter(facts.attacks.values()))["auc"]
    note = (
        f"Members: rows that the model was trained on (not shared, or shared); non-members: {first['non_members']} rows of the "
        "same source that no model saw, drawn at random. Intervals resample both. Of the base, which saw none of them, all "
        "values are chance. p: that chance finds as many (exact). In parentheses: fewer non-members than the rate needs to be "
        "told from none. WBC: Chen et al. 2026."
    )
    return Table("Membership inference", ["model", "rows", "attack", "ROC AUC", "TPR at 1 % FPR", "TPR at 0.1 % FPR"], rows, note)


def recall_table(facts: MemorizationFacts) -> Table:
    """The paper's MIA recall."""
    models = dict.fromkeys(model for model, _ in facts.recall)
    rows = [[model, *(exact(facts.recall.get((model, on))) for on in (OWN, SHARED, CONTROL))] for model in models]
    note = (
        "Share of rows below the highest likelihood ratio that at most 10 % of the validation rows are below (Mireshghallah et "
        f"al. 2022). On {CONTROL} rows it is the false positive rate on rows that the threshold was not chosen on."
    )
    return Table("MIA recall at 10 % false positives", ["model", "own rows", "shared", CONTROL], rows, note)


def extraction_table(facts: MemorizationFacts) -> Table:
    """Verbatim extraction."""
    rows = []
    for (model, on), r in facts.extraction.items():
        rows.append([model, on, exact(r["extracted"]), exact(r["leading"]), str(r["extracted"]["n"]), str(r["too_short"])])
    note = "Given a row's first 50 tokens, does greedy decoding give exactly the next 50; and how many of these before an error."
    header = ["model", "rows", "extracted", "share reproduced", "n", "too short"]
    return Table("Extraction word for word", header, rows, note)


def canary_table(facts: MemorizationFacts) -> Table:
    """Exposure of canaries."""
    rows = []
    for (model, where, repeats), r in facts.canaries.items():
        against = r["against"]
        p = "" if against is None else f"{against['p']:.2g}"
        rows.append([model, where, str(repeats), exact(r["mean"], 2), exact(r["extracted"], 2), str(r["mean"]["n"]), p])
    note = (
        "Secrets after a made-up word, in one model's rows (single), in the shared ones or in none's, so often repeated. "
        f"Exposure in bits: log2 of the {facts.secrets} that might be - log2 of the exact rank; 1.44 is the mean by chance. "
        "Extracted: share that are the most likely. Row single: each model alone on the canaries of its own rows. p: permutation "
        "test against canaries that were nowhere."
    )
    header = ["model", "canaries in", "repeats", "exposure", "extracted", "n", "p"]
    return Table("Canaries", header, rows, note)


def harm_tables(facts: MemorizationFacts) -> list[Table]:
    """Which rows became more exposed by fusing than by any parent."""
    tables = []
    for on, r in facts.harm.items():
        rows = [harm_cells(h, f"{h['set']} {h['row']}") for h in r["rows"][:10]] or [NOT_ONE]
        title = "shared" if on == SHARED else "not shared"
        tables.append(Table(f"Rows that fusing exposes more than any parent: {title}", HARM_HEADER, rows, harm_note(r)))
    return tables


def harm_note(record: Record) -> str:
    """What fusing does to rows on the whole."""
    controls = "unknown" if record["controls"] is None else exact(record["controls"])
    clear = "unknown, without never-seen rows" if record["clear"] is None else str(record["clear"])
    return (
        f"{exact(record['share'])} of the rows have a lower likelihood ratio by the fused model than by every parent; of rows "
        f"that no model saw {controls}; {record['chance']:.2f} were it one more model like them. Clearly more exposed than "
        f"never-seen rows become (Benjamini and Hochberg, 5 %): {clear}."
    )


def harm_cells(row: Record, called: str) -> list[str]:
    """One row that fusing exposes more, under :data:`HARM_HEADER`."""
    p = "" if row["p"] is None else f"{row['p']:.2g}"
    clear = "" if row["clear"] is None else "yes" if row["clear"] else "no"
    return [called, f"{row['fused']:.3f}", f"{row['lowest']:.3f} ({row['parent']})", f"{row['excess']:.3f}", p, clear]


def rate_cell(record: Record) -> str:
    p = f"p {record['p']:.1g}" if record["p"] >= LEAST_P else f"p < {LEAST_P:g}"
    shown = f"{exact(record)}, {p}"
    return shown if record["resolved"] else f"({shown})"
