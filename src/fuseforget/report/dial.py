"""What a dial says: every probe from the average to what is strictly common, beside the single models; no torch here."""

from __future__ import annotations

import json
import shlex
from typing import Any

from fuseforget.report.blocks import Block, Code, Heading, Paragraphs, Picture, Table, opening
from fuseforget.report.dial_facts import DialFacts
from fuseforget.report.dial_figure import draw_dial
from fuseforget.report.facts import cell
from fuseforget.report.shortcuts import Summary

__all__ = ["dial_blocks", "fuse_command", "summarise_dial"]

Record = dict[str, Any]
CHOSEN = "FORGET"  # stands for the setting that the reader chooses
CAPTION = (
    "Every probe over the dial, a panel a metric; bands are 95 % intervals. Right of the line the models as they "
    "are. Left is the average; the further right, the more of what the models do not have in common is left out."
)
NOTE = (
    "A row a setting of forget, from 0, the average, to next to nothing but what the models have in common; below, the models as "
    "they are. In brackets 95 % bootstrap intervals."
)


def summarise_dial(description: Record, records: list[Record]) -> Summary:
    """The dial's table, and what is missing of it."""
    facts = DialFacts(description, records)
    header = ["forget", *(f"{facts.asked(probe)} (n={facts.n(probe)})" for probe in facts.probes)]
    rows = [[f"{at:g}", *(cell(facts.on.get((at, probe))) for probe in facts.probes)] for at in facts.turned]
    rows += [[model, *(cell(facts.at.get((model, probe))) for probe in facts.probes)] for model in facts.alone]
    return Summary([], [Table("The dial", header, rows, NOTE)], facts.missing)


def dial_blocks(description: Record, records: list[Record], warnings: list[Block]) -> list[Block]:
    """A dial's section of a page."""
    facts = DialFacts(description, records)
    drawn = [Picture("dial", draw_dial(facts), CAPTION, wide=True)] if records else []
    models = len(facts.settings["models"])
    about = (
        f"{facts.settings['method']} of {models} models fine-tuned from {facts.settings['base']['models'][0]}, as its one knob "
        "is turned from their average (forget 0) towards strictly what they have in common (forget 1)."
    )
    return [
        *opening("Dial", about, [], warnings, drawn),
        *summarise_dial(description, records).tables,
        Heading("Fuse at a setting"),
        Paragraphs([f"{CHOSEN} is a setting of the table, or one between; without it the method takes {facts.default:g}."]),
        Code(fuse_command(description)),
    ]


def fuse_command(description: Record) -> str:
    """The command that writes the model of a setting, which :data:`CHOSEN` stands for."""
    settings = description["settings"]
    words = ["fuseforget", "fuse", *settings["models"], "--base", settings["base"]["models"][0]]
    words += ["--method", settings["method"], "--param", f"forget={CHOSEN}"]
    for name, value in settings["parameters"].items():
        words += ["--param", f"{name}={json.dumps(value)}"]
    for weight in settings.get("weights", ()):
        words += ["--weight", str(weight)]
    return shlex.join([*words, "--dtype", "float32", "-o", "MODEL"])  # as the dial computes, whatever the models are stored in
