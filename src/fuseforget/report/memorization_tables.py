"""The tables of the study of memorization: the paper's beside this run's, other fusion methods, and alternatives to fusing."""

from __future__ import annotations

from typing import Any

from fuseforget.report.blocks import Details, Table
from fuseforget.report.memorization_facts import BASE, CONTROL, OTHERS, OWN, SHARED, MemorizationFacts, exact
from fuseforget.report.memorization_paper import EPOCHS, MASKED, TABLE_5, published
from fuseforget.report.training import SPEED

__all__ = [
    "alr_details", "alternatives_table", "bound_table", "data_table", "epochs_table", "fixed_models", "fixed_table", "main_table",
    "methods_table", "retained_table", "tests_table", "training_table",
]  # fmt: skip

Record = dict[str, Any]
INTERVAL = "in brackets 95 % bootstrap intervals over rows"


def main_table(facts: MemorizationFacts) -> Table:
    """Table 5 (of three models: Table 2), or Table 7 for a masked model."""
    models = [BASE, *facts.names]
    models += [f(n) for f in (facts.fused, facts.full) for n in facts.numbers]
    sets = [*facts.names, SHARED, *([CONTROL] if (BASE, CONTROL) in facts.alr else [])]
    # A recipe shares nothing and trains on all there is: the paper has no numbers of such.
    paper = {} if facts.recipe else (MASKED if facts.masked else TABLE_5)
    rows = []
    for model in models:
        if model in facts.perplexity:
            cells = [_plain(facts.alr.get((model, name))) for name in sets]
            rows.append([model, *cells, exact(facts.perplexity[model], 2), published(paper.get(_row_of(facts, model)))])
    note = (
        "ALR (Eq. 17, energies averaged per token): the base has 1, lower is more memorised. Full models were trained on all "
        f"rows of their letters and the shared ones at once. {CONTROL}: rows that no model was trained on. Columns of rows that "
        "a full or fused model never had are in parentheses. Perplexity on validation rows, in brackets its 95 % interval; "
        "the ALRs' intervals are in the details."
    )
    number = "7" if facts.masked else "5" if len(facts.names) > 3 else "2"
    title = "ALR of every model on every set"
    columns = ["model", *sets, "perplexity", "paper: own, others', shared, perplexity"]
    return Table(
        title if facts.recipe else f"Table {number}: {title}", columns, [_bracketed(facts, row, sets) for row in rows], note
    )


def alr_details(facts: MemorizationFacts) -> Details:
    """All ALRs of the main table with their intervals."""
    sets = [OWN, OTHERS, SHARED, CONTROL]
    rows = [
        [model, *(exact(facts.alr.get((model, name))) for name in sets)]
        for model in (*facts.names, *(f(n) for n in facts.numbers for f in (facts.fused, facts.full)))
        if (model, OWN) in facts.alr
    ]
    return Details("ALR with intervals", [Table("", ["model", "own rows", "others' rows", *sets[2:]], rows)])


def epochs_table(facts: MemorizationFacts) -> Table:
    """Table 6."""
    number, rows = len(facts.few), []
    for epochs in sorted({*facts.settings["epochs"], facts.epochs}):
        first = facts.few[0] if epochs == facts.epochs else f"{facts.few[0]}@{epochs}"
        for role, model in (("single", first), ("fused", facts.fused(number, epochs)), ("full", facts.full(number, epochs))):
            if model in facts.perplexity:
                cells = [exact(facts.alr.get((model, on))) for on in (OWN, OTHERS, SHARED)]
                rows.append(
                    [
                        str(epochs),
                        f"{role} ({model})",
                        *cells,
                        exact(facts.perplexity[model], 2),
                        published(EPOCHS.get((role, epochs))),
                    ]
                )
    header = ["epochs", "model", "own rows", "others' rows", "shared", "perplexity", "paper: own, others', shared, perplexity"]
    note = f"Each number of epochs is a training of its own, with its own schedule; {INTERVAL}. The single model is the first."
    return Table("Table 6: by the number of epochs", header, rows, note)


def fixed_table(facts: MemorizationFacts) -> Table:
    """The numbers of Fig. 11 and 12."""
    rows = []
    for model, label in fixed_models(facts):
        cells = [exact(facts.alr.get((model, on))) for on in (OWN, SHARED)]
        rows.append([label, *cells, exact(facts.perplexity[model], 2)])
    total = facts.settings["total"]
    note = f"All models together are trained on {total} rows, {facts.settings['shared']} of them shared; {INTERVAL}."
    return Table("Fig. 11, 12: a fixed total of rows", ["model", "rows that are not shared", "shared", "perplexity"], rows, note)


def fixed_models(facts: MemorizationFacts) -> list[tuple[str, str]]:
    """The models of a fixed total that are known, with their labels: the average of 2, 3, ..., and the full model."""
    found = [(f"fused-of-{n}", f"fused, {n} models") for n in facts.numbers]
    return [(model, label) for model, label in [*found, (facts.full_of_fixed, "full, one model")] if model in facts.perplexity]


def retained_table(facts: MemorizationFacts) -> Table:
    """How much of what single models memorised is left."""
    rows = [
        [models, *(_retained(facts.retained.get((models, role))) for role in ("fused", "full"))]
        for models in dict.fromkeys(models for models, _ in facts.retained)
    ]
    note = (
        "(E of models that never saw the rows - E) / (E of those - E of the single model that read them), in nats a token: 1 is "
        f"all, 0 none; {INTERVAL}."
    )
    return Table(
        "How much of the single models' memorization is left, on rows that are not shared",
        ["models", "fused", "full"],
        rows,
        note,
    )


def _retained(record: Record | None) -> str:
    return "not learned" if record is not None and "unlearned" in record else exact(record)


def tests_table(facts: MemorizationFacts) -> Table:
    """The paired tests of the order that the paper's tables claim."""
    rows = []
    for (models, first, second, on), r in facts.compared.items():
        digits = 2 if on == "perplexity" else 3
        difference = f"{r['value']:+.{digits}f} [{r['low']:+.{digits}f}, {r['high']:+.{digits}f}]"
        rows.append([models, f"{first} - {second}", on, difference, f"{r['p']:.2g}", f"{r['p_holm']:.2g}"])
    note = (
        "ALR on rows that are not shared (own) and on shared ones, and perplexity; single: each model on its own rows, for "
        "shared rows and perplexity the first. Paired bootstrap intervals and randomisation tests over rows; p (Holm) is "
        "corrected over all rows of this table."
    )
    return Table("Tests", ["models", "difference", "of", "value", "p", "p (Holm)"], rows, note)


def methods_table(facts: MemorizationFacts) -> Table:
    """Other fusion methods."""
    rows = []
    for r in facts.methods:
        if "failed" in r:
            rows.append([r["row"], f"not possible: {r['failed']:.80}", "", "", r["source"]])
            continue
        cells = [exact(facts.alr.get((r["model"], on))) for on in (OWN, SHARED)]
        rows.append([r["row"], *cells, exact(facts.perplexity.get(r["model"]), 2), r["source"]])
    left = ", ".join(f"{r['method']} ({r['reason']})" for r in facts.left_out)
    note = f"The models {', '.join(facts.few)} (pair: the first two) fused by each method; {INTERVAL}. Left out: {left}."
    return Table("Other fusion methods", ["method", "rows that are not shared", "shared", "perplexity", "settings"], rows, note)


def alternatives_table(facts: MemorizationFacts) -> Table:
    """Alternatives to fusing at the end of their training, and at the fused model's perplexity."""
    equal = {r["model"]: r for r in facts.equal}
    first, fused = facts.few[0], facts.fused(len(facts.few))
    shown = facts.perplexity[fused]["value"]
    private = [r for r in facts.alternatives if "spent" in r]
    rows = [["fused", *(_plain(facts.alr.get((fused, on))) for on in (first, SHARED)), f"{shown:.2f}", "", "", ""]]
    for r in facts.alternatives:
        model, at = r["model"], equal.get(r["model"])
        label = r["family"] + _strength(r)
        end = [_plain(facts.alr.get((model, on))) for on in (first, SHARED)]
        held = facts.perplexity.get(model)
        rows.append([label, *end, "" if held is None else f"{held['value']:.2f}", *_reached(at, (first, SHARED))])
    note = (
        f"All but the fused model are trained on the rows of {', '.join(facts.few)} at once. Left: after all epochs. Right: at "
        f"the last time that the perplexity is the fused model's, {shown:.2f} (between two epochs linearly in its logarithm). "
        f"Rows {first}: rows that one model alone read before it was fused. One seed, the study's learning rate: "
        "nothing is tuned, and the crossing has no interval."
    )
    promised = [f"epsilon {r['spent']['epsilon']:.2f} at delta {r['spent']['delta']:.1g}" for r in private]
    if promised:
        note += f" DP-SGD promises about one row, not about an article that two rows have parts of: {', '.join(promised)}."
    header = [
        "alternative",
        f"ALR {first}",
        "ALR shared",
        "perplexity",
        "epoch of equal perplexity",
        f"ALR {first} there",
        "ALR shared there",
    ]
    return Table("Alternatives to fusing", header, rows, note)


def _reached(at: Record | None, sets: tuple[str, str]) -> list[str]:
    """Where an alternative has the fused model's perplexity: the epoch, and ALRs there; empty where it is not known yet."""
    if at is None:
        return ["", "", ""]
    return [f"{at['epoch']:.1f}", *(f"{at['alr'][on]:.3f}" for on in sets)] if at["reached"] else ["never", "", ""]


def bound_table(facts: MemorizationFacts) -> Table:
    """Eq. 2."""
    rows = [
        [r["models"], r["on"], f"{r['lowest']:.3f} to {r['highest']:.3f}", exact(r["slack"]), r["verdict"]] for r in facts.bounds
    ]
    note = "Eq. 2: the fused model's ALR lies between those of the models; slack: how far inside (negative: outside)."
    return Table("Eq. 2: the bound", ["models", "rows", "models' ALR", "slack", ""], rows, note)


def data_table(facts: MemorizationFacts) -> Table:
    """How many rows and tokens there are of each set."""
    data = facts.data
    assert data is not None
    rows = [[name, str(found["rows"]), str(found["tokens"])] for name, found in data["sets"].items()]
    counts = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in data["counts"].items())
    note = f"No article, and no near-duplicate of one, is in two sets. Left out: {counts}. Canaries: "
    note += f"{len(data['canaries'])}, in {data['carriers']} more rows, which models are trained on and not asked about."
    return Table("The rows", ["set", "rows", "tokens"], rows, note)


def training_table(facts: MemorizationFacts) -> Table:
    rows = [
        [r["name"], str(r["examples"]), str(r["epochs"]), str(r["steps"]), _last(r["losses"]), *facts.speed(r)]
        for r in facts.trained
    ]
    return Table("Training", ["model", "rows", "epochs", "steps", "loss", *SPEED], rows, f"In {facts.trained[0]['precision']}.")


def _last(losses: list[float]) -> str:
    """The last epoch's loss; none where private training drew no row in it."""
    return f"{losses[-1]:.3f}" if losses else ""


def _row_of(facts: MemorizationFacts, model: str) -> tuple[str, int]:
    if model == BASE:
        return BASE, 0
    if model in facts.names:
        return "single", 1
    role, _, letters = model.partition("-")
    return role, len(letters)


def _bracketed(facts: MemorizationFacts, row: list[str], sets: list[str]) -> list[str]:
    """Put the columns in parentheses whose rows a full or fused model never had."""
    role, _, letters = row[0].partition("-")
    if role not in ("full", "fused"):
        return row
    return [
        f"({cell})" if 0 < place <= len(sets) and sets[place - 1] in facts.names and sets[place - 1] not in letters else cell
        for place, cell in enumerate(row)
    ]


def _plain(record: Record | None) -> str:
    return "" if record is None else f"{record['value']:.3f}"


def _strength(record: Record) -> str:
    if "decay" in record:
        return f" {record['decay']:g}"
    return f", epsilon {record['epsilon']:g}" if "epsilon" in record else ""
