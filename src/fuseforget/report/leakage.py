"""What a run of ``probe`` says of language models: what they memorised, what attackers find, what fusing exposes."""

from __future__ import annotations

from typing import Any

from fuseforget.report.blocks import Block, Heading, Paragraphs, Table
from fuseforget.report.memorization_attacks import ATTACK_TITLES, HARM_HEADER, NOT_ONE, harm_cells, harm_note, rate_cell
from fuseforget.report.memorization_facts import exact

__all__ = ["leakage_blocks", "leakage_remarks", "leakage_tables", "missing_of_leakage"]

Record = dict[str, Any]
MEMBERS, NON_MEMBERS = "members", "non_members"
ON = {MEMBERS: "members", NON_MEMBERS: "non-members"}
HARMED = 10  # rows shown
NOTE = (
    "Members: rows that the models may have been trained on; non-members: rows of the same source that none was. ALR: 1 is "
    "the reference itself, lower is more memorised. MIA recall: rows whose likelihood ratio is below a threshold that 10 % of "
    "the first half of the non-members are below; on non-members it is the false positive rate on the other half. In brackets "
    "95 % intervals over rows."
)
ATTACKED = (
    "ROC AUC: .5 is chance, 1 a perfect attack. TPR: members found at so many false positives; in parentheses where there are "
    "too few non-members to tell that rate from none. An attack on the reference itself that compares with it says nothing."
)
TESTED = (
    "Each model's value less that of the first, on the same rows; paired randomisation test, corrected (Holm) for all such tests "
    "of the run."
)


def leakage_tables(records: list[Record]) -> dict[str, list[Table]]:
    """The tables of each entry of kind ``memorization``, by the entry's name."""
    tables: dict[str, list[Table]] = {}
    for probe in dict.fromkeys(r["probe"] for r in records if r["kind"] == "rows"):
        own = [r for r in records if r.get("probe") == probe]
        found = {(r["model"], r["metric"], r["on"]): r for r in own if r["kind"] == "leakage"}
        tables[probe] = [
            _rows([r for r in own if r["kind"] == "rows"]),
            *([_memorised(found)] if found else []),
            *_attacked(found),
            *_extracted(found),
            *_compared([r for r in own if r["kind"] == "leakage_comparison"]),
            *(_harmed(r) for r in own if r["kind"] == "harm"),
        ]
    return tables


def leakage_remarks(records: list[Record]) -> dict[str, list[str]]:
    """In words, by entry: whether its split leaks by itself, which is to be known before any attack; and harm by fusing."""
    said: dict[str, list[str]] = {r["probe"]: [_blind(r)] for r in records if r["kind"] == "blind"}
    for r in records:
        if r["kind"] == "harm":
            said.setdefault(r["probe"], []).append(f"{r['model']}: {harm_note(r)}")
    return said


def leakage_blocks(records: list[Record]) -> list[Block]:
    """The same for a page; nothing where no entry is about memorization."""
    blocks: list[Block] = []
    blind = {r["probe"]: r for r in records if r["kind"] == "blind"}
    for probe, tables in leakage_tables(records).items():
        blocks += [Heading(f"{probe}: memorization"), Paragraphs([NOTE])]
        if probe in blind:
            blocks.append(Paragraphs([_blind(blind[probe])], "note" if blind[probe].get("leaks") is False else "warn"))
        blocks += tables
    return blocks


def missing_of_leakage(description: Record, records: list[Record]) -> list[str]:
    """What a run of ``probe`` lacks of its entries of kind ``memorization``, in words."""
    entries, models = description["settings"].get("leakage", {}), list(dict.fromkeys(description["settings"]["models"]))
    measured = {(r["model"], r["probe"], r["metric"]) for r in records if r["kind"] == "leakage"}
    missing = []
    for name, entry in entries.items():
        lacking = sum((model, name, metric) not in measured for model in models for metric in entry["metrics"])
        missing += [f"{lacking} of {len(models) * len(entry['metrics'])} measurements of {name}"] if lacking else []
        compared = sum(metric in ("alr", "perplexity") for metric in entry["metrics"]) * (len(models) - 1)
        lacking = compared - sum(r["kind"] == "leakage_comparison" and r["probe"] == name for r in records)
        missing += [f"{lacking} comparisons of {name}"] if lacking else []
    return missing


def _blind(record: Record) -> str:
    if "unjudged" in record:
        return f"Whether the split itself tells members from non-members is not known: {record['unjudged']}"
    told = f"Members told from non-members by a bag of words, without any model: AUC {exact(record['auc'])}, p {record['p']:.2g}"
    if record["leaks"]:
        return f"THE SPLIT ITSELF LEAKS. {told}. Distrust the attacks: they may tell topics or dates, not membership."
    return f"{told}: the split itself does not leak."


def _rows(records: list[Record]) -> Table:
    counted = ("rows", "tokens", "documents", "short", "cut", "rest", "carriers")
    rows = [[ON[r["set"]], *(str(r[name]) for name in counted)] for r in records]
    header = ["", "rows", "tokens", "texts", "shorter than 5 tokens", "cut", "tokens left over", "with canaries"]
    shown = [i for i, name in enumerate(header) if i < 4 or any(row[i] != "0" for row in rows)]
    return Table("Rows", [header[i] for i in shown], [[row[i] for i in shown] for row in rows])


def _memorised(found: dict[tuple[str, str, str], Record]) -> Table:
    titles = {"alr": "ALR", "perplexity": "perplexity", "mia_recall": "MIA recall at 10 %"}
    columns = [(metric, on) for metric in titles for on in ON if any(key[1:] == (metric, on) for key in found)]
    rows = [
        [model, *(exact(found.get((model, *column)), 2 if column[0] == "perplexity" else 3) for column in columns)]
        for model in dict.fromkeys(key[0] for key in found)
    ]
    header = ["model", *(f"{titles[metric]}, {ON[on]}" for metric, on in columns)]
    return Table("What is memorised", header, rows)


def _attacked(found: dict[tuple[str, str, str], Record]) -> list[Table]:
    """A row a model and attack; columns of AUC and of the false positive rates that were asked for."""
    by_attack: dict[tuple[str, str], dict[str, Record]] = {}
    for (model, metric, _), r in found.items():
        measure, _, attack = metric.rpartition(".")
        if measure:
            by_attack.setdefault((model, attack), {})[measure] = r
    if not by_attack:
        return []
    measures = list(dict.fromkeys(measure for one in by_attack.values() for measure in one))
    measures.sort(key=lambda name: (name != "auc", -float(name.partition("@")[2] or 0)))
    rows = [
        [model, ATTACK_TITLES.get(attack, attack), *(_cell(one.get(measure)) for measure in measures)]
        for (model, attack), one in by_attack.items()
    ]
    titles = {name: "ROC AUC" if name == "auc" else f"TPR at {100 * float(name.partition('@')[2]):g} % FPR" for name in measures}
    return [Table("Membership inference", ["model", "attack", *titles.values()], rows, ATTACKED)]


def _cell(record: Record | None) -> str:
    if record is None:
        return ""
    return rate_cell(record) if "resolved" in record else exact(record)


def _extracted(found: dict[tuple[str, str, str], Record]) -> list[Table]:
    rows = [
        [model, ON[on], exact(r), exact(r["leading"]), str(r["n"]), str(r["too_short"])]
        for (model, metric, on), r in found.items()
        if metric == "extraction"
    ]
    note = "Given a row's beginning, does greedy decoding give exactly what follows; and how much of it before an error."
    header = ["model", "rows", "extracted", "share reproduced", "n", "too short"]
    return [Table("Extraction word for word", header, rows, note)] if rows else []


def _compared(records: list[Record]) -> list[Table]:
    rows = []
    for r in records:
        name = f"{'ALR' if r['metric'] == 'alr' else r['metric']}, {ON[r['on']]}"
        difference = f"{r['value']:+.3f} [{r['low']:+.3f}, {r['high']:+.3f}]"
        rows.append([r["model"], name, difference, f"{r['p']:.3g}", f"{r['p_holm']:.3g}"])
    header = ["model", "metric", "difference [95 % interval]", "p", "p, corrected"]
    return [Table(f"Less {records[0]['against']}", header, rows, TESTED)] if rows else []


def _harmed(record: Record) -> Table:
    rows = [
        harm_cells(h, f"{h['row']} (text {', '.join(str(number) for number in h['documents'])})") for h in record["rows"][:HARMED]
    ]
    rows = rows or [NOT_ONE]
    title = f"Members that {record['model']} exposes more than each of {', '.join(record['parents'])}"
    return Table(title, HARM_HEADER, rows, f"{harm_note(record)} Rows and texts are numbered from 0.")
