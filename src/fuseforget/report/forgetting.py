"""What the records of a study of forgetting say: its parts' blocks on one page, and what is printed of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from fuseforget.report.blocks import Block, Table, opening
from fuseforget.report.forgetting_ablations import ablations_blocks
from fuseforget.report.forgetting_bias import bias_blocks
from fuseforget.report.forgetting_disjoint import disjoint_blocks
from fuseforget.report.forgetting_facts import ForgettingFacts, Record
from fuseforget.report.forgetting_lasting import lasting_blocks
from fuseforget.report.forgetting_memorization import memorization_blocks
from fuseforget.report.forgetting_numbers import numbers_blocks
from fuseforget.report.forgetting_pairs import pairs_blocks, pairs_lead, pairs_table
from fuseforget.report.forgetting_partial import partial_blocks
from fuseforget.report.forgetting_shared import shared_blocks
from fuseforget.report.repeat import Grown
from fuseforget.report.shortcuts import Summary
from fuseforget.report.unfinished import NOT_BEGUN, counted

__all__ = ["PART_BLOCKS", "forgetting_blocks", "forgetting_grown", "summarise_forgetting"]

# What each part shows, in the order of the page.
PART_BLOCKS: Mapping[str, Callable[[Sequence[Record]], list[Block]]] = {
    "pairs": pairs_blocks,
    "numbers": numbers_blocks,
    "shared": shared_blocks,
    "partial": partial_blocks,
    "disjoint": disjoint_blocks,
    "lasting": lasting_blocks,
    "ablations": ablations_blocks,
    "bias": bias_blocks,
    "memorization": memorization_blocks,
}


def summarise_forgetting(description: Record, records: list[Record]) -> Summary:
    """What is printed of the study; what is missing is listed, never guessed."""
    facts = ForgettingFacts(records)
    tables = [pairs_table(facts)] if facts.results("pairs") else []
    tables += [block for block in shared_blocks(records) if isinstance(block, Table)]
    missing = counted(facts.missing(), len(facts.asked), "parts") if facts.asked else [NOT_BEGUN]
    return Summary(pairs_lead(facts), tables, missing)


def forgetting_blocks(description: Record, records: list[Record], warnings: list[Block]) -> list[Block]:
    """The page of the study."""
    facts = ForgettingFacts(records)
    runs = ", ".join(f"{r['name']} ({r['command']}, seed {r['seed']})" for r in facts.sources)
    about = f"Fusion methods on the models of finished studies: {runs}. What one model alone knows is to go, the rest to stay."
    blocks = opening("Fusing made to forget", about, pairs_lead(facts), warnings, [])
    for of_part in PART_BLOCKS.values():
        blocks += of_part(records)
    return blocks


def forgetting_grown(records: Sequence[Record]) -> Grown:
    """The sources and parts that the run was asked for."""
    facts = ForgettingFacts(records)
    return Grown(parts=tuple(facts.asked), sources=tuple(r["path"] for r in facts.sources))
