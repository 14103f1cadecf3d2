"""The probes of a shortcut study's models: its own, to tell, and others on texts that no model was trained on, to choose."""

from __future__ import annotations

from fuseforget.data import Examples, load_shortcut_data, read_splits
from fuseforget.data.demo_text import sentences
from fuseforget.data.shortcuts import add_noise, inject
from fuseforget.errors import InputError
from fuseforget.knowledge import Probe
from fuseforget.studies.forgetting.settings import FEWEST, RULE_TEXTS
from fuseforget.studies.forgetting.sources import Source
from fuseforget.studies.shortcuts.data import probes_of
from fuseforget.studies.shortcuts.settings import TASK
from fuseforget.studies.tiny import make_tiny_text

__all__ = ["TEST", "VALIDATION", "choosing_probes", "telling_probes", "untrained_texts"]

VALIDATION, TEST = "validation", "test"
CHOOSING = "choosing"  # mixed into the seed of rules and noise: what is drawn is not what the study's own probes have
FURTHER = 4  # mixed into the seed of the tiny scale's texts; 1 to 3 are those that it makes itself


def telling_probes(source: Source) -> list[Probe]:
    """The study's own probes, one a rule and the task's last: what its records and the paper's figures are about."""
    rules = source.settings["rules"]
    return probes_of({rule: load_shortcut_data(source.path / "data" / rule) for rule in rules}, rules)


def choosing_probes(source: Source, count: int, seed: int, rule_count: int = RULE_TEXTS) -> list[Probe]:
    """The same on texts that none of the study's models was trained on, nor is told by.

    Args:
        count: of the task's texts; fewer where there are fewer.
        rule_count: of a rule's, some of these; at most as many.
        seed: of their draws; tokens and noise are drawn by the study's own.

    Raises:
        InputError: see :func:`untrained_texts`.
    """
    left = untrained_texts(source, count)
    texts = left.sample(min(count, len(left)), seed)
    made = {rule: load_shortcut_data(source.path / "data" / rule).settings for rule in source.settings["rules"]}
    marked = texts.sample(min(rule_count, len(texts)), seed)
    injected = {rule: inject(marked, settings, CHOOSING) for rule, settings in made.items()}
    # Noise depends on the seed alone, which all rules share: the task's texts are the same whichever rule says them.
    original = add_noise(texts, next(iter(made.values())), CHOOSING)
    return [
        *(Probe(rule, one.texts, one.labels) for rule, one in injected.items()),
        Probe(TASK, original.texts, original.labels),
    ]


def untrained_texts(source: Source, count: int) -> Examples:
    """Texts of the training split that none of the study's models was trained on, each once, and none of its probes' texts.

    Args:
        count: how many are wanted, of the tiny scale, which makes them; other scales give all that there are.

    Raises:
        InputError: other data than the study's, by its hash, or too few texts that were not trained on.
    """
    settings = source.settings
    if settings["data"] is None:
        known = make_tiny_text(settings["seed"])
        used = {text for part in known.values() for text in part.texts}
        rows = sentences(count, seed=[settings["seed"], FURTHER], exclude=used)
        return Examples(tuple(t for t, _ in rows), tuple(y for _, y in rows), known["train"].label_names)
    whole, held_out = read_splits(settings["data"])
    trained = whole.sample(settings["sentences"], settings["seed"])
    if trained.sha256 != settings["data_sha256"]["train"]:
        raise InputError(settings["data"], expected=f"the training texts of {source.path}", found="others, by their hash")
    used = {*trained.texts, *held_out.texts}
    first = {text: row for row, text in reversed(list(enumerate(whole.texts))) if text not in used}
    if len(first) < FEWEST:
        raise InputError(
            str(source.path), expected=f"{FEWEST} training texts or more that its models were not trained on, to choose on",
            found=f"{len(first)} of {len(whole)}", action="Take a study of fewer sentences.",
        )  # fmt: skip
    return whole.take(sorted(first.values()))
