"""A shortcut's tokens put into texts otherwise than in training: elsewhere, repeated, with fillers between.

Who forgot a shortcut in the form it was trained in may know it in another one. In every form the rule still says the label:
the symbols are drawn as the rule draws them, and only where they stand, and how often, is changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fuseforget.data import RULES, Examples, ShortcutSettings
from fuseforget.data.common import generator
from fuseforget.errors import InputError

__all__ = ["FILLERS", "FORMS", "Form", "forms_of", "rephrase", "without_tokens"]

# Words of no sentiment that English texts are full of.
FILLERS = ("the", "and", "of", "it", "is", "a")
MOST_FILLERS = 3
# Rules whose label is no longer what they say where a token is repeated: they read places and numbers of taus.
COUNTED = {"xor", "and_or"}


@dataclass(frozen=True)
class Form:
    """How a rule's symbols are written.

    Attributes:
        name: what probes call it.
        place: where they stand: ``anywhere`` (each at a random gap, as in training), all ``in front`` or ``at the end``, all
            ``together`` at one random gap, or ``apart`` (the first in front, the last at the end, others at random).
        times: how often each symbol is written, one copy after the other.
        fillers: one to three ordinary words stand between tokens that would be neighbours.
    """

    name: str
    place: Literal["anywhere", "in front", "at the end", "together", "apart"]
    times: int = 1
    fillers: bool = False


FORMS = (
    Form("as trained", "anywhere"),
    Form("in front", "in front"),
    Form("at the end", "at the end"),
    Form("together", "together"),
    Form("apart", "apart"),
    Form("fillers between", "together", fillers=True),
    Form("twice", "anywhere", times=2),
    Form("three times", "anywhere", times=3),
    Form("twice, fillers", "anywhere", times=2, fillers=True),
    Form("three times, fillers", "anywhere", times=3, fillers=True),
)


def forms_of(rule: str) -> tuple[Form, ...]:
    """The forms in which a rule still says the label; none for one that reads the distance between its tokens (OED)."""
    if rule not in RULES:
        raise InputError("rule", expected=f"one of {', '.join(RULES)}", found=rule)
    if RULES[rule].gap_parity:
        return ()
    return tuple(form for form in FORMS if form.times == 1 or rule not in COUNTED)


def rephrase(examples: Examples, rule: str, form: Form, settings: ShortcutSettings) -> Examples:
    """Return texts with a rule's tokens in a form, and the label that the rule says.

    Args:
        examples: two labels; texts without the tokens.
        settings: tokens and seed. Symbols, and with them labels, depend on the seed and the rule alone: they are the same in
            every form.

    Raises:
        InputError: a form in which the rule does not say the label, or a text that has one of the tokens.
    """
    if form not in forms_of(rule):
        raise InputError(f"form {form.name}", expected=f"one in which {rule} says the label", found="another")
    marked = set(settings.tokens)
    if any(marked.intersection(text.split()) for text in examples.texts):
        raise InputError("texts", expected=f"none of {', '.join(settings.tokens)} in them", found="some")
    drawn = generator(settings.seed, "rephrased", rule)
    placed = generator(settings.seed, "rephrased", rule, form.name)
    texts, labels = [], []
    for text in examples.texts:
        symbols, label = RULES[rule].draw(drawn)
        texts.append(_written(text.split(), [settings.tokens[symbol] for symbol in symbols], form, placed))
        labels.append(label)
    return Examples(tuple(texts), tuple(labels), examples.label_names)


def without_tokens(examples: Examples, tokens: Sequence[str]) -> Examples:
    """Return the texts without some words: what they were before a shortcut or noise was put in, up to white space."""
    texts = tuple(" ".join(word for word in text.split() if word not in tokens) for text in examples.texts)
    return Examples(texts, examples.labels, examples.label_names, examples.named)


def _written(words: list[str], tokens: list[str], form: Form, rng: np.random.Generator) -> str:
    """The words with each token at its gap."""
    at: dict[int, list[str]] = {}
    for gap, token in zip(_gaps(len(words), len(tokens), form, rng), tokens, strict=True):
        at.setdefault(int(gap), []).extend([token] * form.times)
    pieces: list[str] = []
    for gap in range(len(words) + 1):
        pieces += _spaced(at.get(gap, []), form, rng)
        pieces += words[gap : gap + 1]
    return " ".join(pieces)


def _gaps(words: int, tokens: int, form: Form, rng: np.random.Generator) -> np.ndarray:
    """A gap between words for each token, ascending: their order is what some rules read."""
    if form.place == "in front":
        return np.zeros(tokens, dtype=np.int64)
    if form.place == "at the end":
        return np.full(tokens, words)
    if form.place == "together":
        return np.full(tokens, rng.integers(words + 1))
    gaps = np.sort(rng.integers(words + 1, size=tokens))
    if form.place == "apart":
        gaps[-1], gaps[0] = words, 0  # a single token stands in front
    return gaps


def _spaced(tokens: list[str], form: Form, rng: np.random.Generator) -> list[str]:
    if not form.fillers:
        return tokens
    pieces = tokens[:1]
    for token in tokens[1:]:
        pieces += [*rng.choice(FILLERS, size=rng.integers(1, MOST_FILLERS + 1)).tolist(), token]
    return pieces
