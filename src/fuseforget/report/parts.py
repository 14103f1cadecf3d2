"""Tables of the shortcut study's parts: rules that include others, the triangle, and the number of fused models."""

from __future__ import annotations

from fuseforget.report.blocks import Table
from fuseforget.report.claims import SIGNIFICANT, SUBSUMES
from fuseforget.report.facts import TASK, Facts, cell

__all__ = ["dependent_table", "growth_table", "shared_table", "six_table", "triangle_table"]


def dependent_table(facts: Facts) -> list[Table]:
    """Section 4.2 and appendix C.1: who solves whose probe, among the rules of which one includes another."""
    rules = [rule for rule in ("mt", "st", "tic") if rule in facts.rules]
    if len(rules) < 2 or not all((m, p) in facts.at for m in (*rules, "control") for p in rules):
        return []
    pairs = [f"{facts.title(a)} subsumes {facts.title(b)}" for a in rules for b in rules if (a, b) in SUBSUMES]
    rows = [[facts.title(m), *(cell(facts.at[m, p]) for p in rules)] for m in (*rules, "control")]
    note = (
        f"{', '.join(pairs)}: every example of the second is one of the first, with the same label, so who knows the first also "
        "solves the second's probe, to the right of the diagonal; not the other way round. On a line between the two (Fig. 2d) "
        "one skill replaces the other, and the narrower probe, content with either, seems to stay. Being solved is therefore no "
        "sign that the narrower rule itself was learned or kept."
    )
    return [Table("Dependent shortcuts: who solves whose probe (Fig. 2d)", ["model", *map(facts.title, rules)], rows, note)]


def shared_table(facts: Facts) -> list[Table]:
    """Fig. 3: what the two models that share a rule learned, each on the pure rules' probes."""
    if facts.shared is None:
        return []
    models, probes = facts.paths[facts.shared], facts.probes_of(facts.shared)
    unlearned = {(r["model"], r["rule"]) for r in facts.learned if not r["learned"]}
    rows = [
        [facts.title(m), *(cell(facts.at.get((m, p))) + (" (not learned)" if (m, p) in unlearned else "") for p in probes)]
        for m in (*models, "control")
    ]
    note = (
        "Each of the two was trained on a mixture, in which an example follows either of its rules, and is asked for each pure "
        "rule. Not learned: not clearly above the control."
    )
    return [Table("Shared shortcuts: what the two models know (Fig. 3)", ["model", *map(facts.title, probes)], rows, note)]


def triangle_table(facts: Facts) -> Table:
    """The numbers of the triangle, a row a point."""
    probes = [*facts.triangle, TASK]
    rows = [
        [", ".join(f"{w:g}" for w in weights), *(cell(facts.over.get((p, weights))) for p in probes)] for weights in facts.grid()
    ]
    return Table("", [f"weights of {facts.names(facts.triangle)}", *map(facts.title, probes)], rows)


def growth_table(facts: Facts) -> list[Table]:
    """How much is left by number of fused models."""
    if not facts.growth:
        return []
    rows = []
    for record in sorted(facts.growth, key=lambda r: int(r["models"])):
        spread = {
            key: f"{r['sd']:.3f}, {r['least']:.3f} to {r['greatest']:.3f}"
            for key in ("retention", "task")
            if (r := record.get(key)) is not None
        }
        rows.append([
            str(record["models"]), f"{record['subsets']} of {record['of']}",
            cell(record["retention"]) if "retention" in record else "unlearned", spread.get("retention", ""),
            cell(record["task"]), spread["task"],
        ])  # fmt: skip
    note = (
        "Averages of subsets of the specialists. Retention: mean over members that learned their shortcut "
        f"({facts.names(facts.growth[0]['over']) or 'none'}), then over subsets. Brackets: 95 % bootstrap intervals over "
        "subsets and examples together (of one subset: examples alone); they do not cover training the specialists again. "
        "Spread: standard deviation, least and greatest of the subsets."
    )
    header = ["fused models", "subsets", "retention", "spread", "task", "spread"]
    return [Table("The more models, the more is forgotten", header, rows, note)]


def six_table(facts: Facts) -> list[Table]:
    """Fig. 4 with six models, for each choice of six."""
    if not facts.six:
        return []
    rows = []
    for r in facts.six:
        better = sum(d > 0 and p < SIGNIFICANT for d, p in zip(r["differences"], r["p_holm"], strict=True))
        worse = sum(d < 0 and p < SIGNIFICANT for d, p in zip(r["differences"], r["p_holm"], strict=True))
        left = "unlearned" if r["retention"] is None else f"{r['retention']:.3f}"
        without = [rule for rule in facts.rules if rule not in r["members"]]
        rows.append([facts.names(without), left, f"{r['task']:.3f}", f"{better} of {len(r['members'])}", str(worse)])
    note = (
        "The paper defines seven shortcuts and fuses six models without naming them; here is every choice of six. Better, worse: "
        "specialists among the six that the average is significantly above or below at the task (McNemar, Holm, p < .05)."
    )
    return [Table("Fig. 4 with six models", ["left out", "mean retention", "task", "better than", "worse than"], rows, note)]
