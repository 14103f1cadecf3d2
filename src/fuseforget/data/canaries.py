"""Canaries: made-up secrets of a stated format, put into training data to see how much a model gives away.

Carlini et al. 2019: the secret is drawn uniformly from the space R of all fills of its format; its rank among them under a
trained model is its exposure, log2 |R| - log2 rank.
"""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np

from fuseforget.data.common import generator
from fuseforget.errors import InputError, require_seed

__all__ = [
    "NOWHERE",
    "Canary",
    "CanaryFormat",
    "CanaryPlan",
    "Encode",
    "candidates",
    "draw_canaries",
    "encode_canaries",
    "spread_canaries",
]

Encode = Callable[[Sequence[str]], list[list[int]]]

NOWHERE = "none"  # the part of canaries that are held out: what exposure is by chance
LARGEST_SPACE = 10**6  # candidates: each is scored by each model
SLOTS = {"digit": tuple(string.digits), "letter": tuple(string.ascii_lowercase)}
SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]


@dataclass(frozen=True)
class CanaryFormat:
    """What canaries say, with places for what is made up.

    Attributes:
        template: a text with ``{word}``, a made-up word of each canary's own, which is known to who searches; and after
            it slots, which are searched.
        slots: by name the values that a slot can have.

    Raises:
        InputError: no word or no slot, a slot before the word, an unknown one, more than 10^6 fills.
    """

    template: str = "The access code of vault {word} is {digit} {digit} {digit} {digit}."
    slots: Mapping[str, Sequence[str]] = field(default_factory=lambda: dict(SLOTS))

    def __post_init__(self) -> None:
        thing, names = f"canary format {self.template!r}", self.fields
        repeated = sorted(name for name, values in self.slots.items() if len(set(values)) < len(values))
        if repeated:
            raise InputError(thing, expected="different values of a slot", found=f"one twice in {', '.join(repeated)}")
        unknown = [name for name in dict.fromkeys(names) if name != "word" and not self.slots.get(name)]
        if unknown:
            expected = f"the slots {', '.join(f'{{{name}}}' for name in ['word', *self.slots])} alone"
            raise InputError(thing, expected=expected, found=", ".join(f"{{{name}}}" for name in unknown))
        if names[:1] != ["word"] or names.count("word") != 1 or len(names) == 1:
            found = ", ".join(f"{{{name}}}" for name in names) or "no places"
            raise InputError(thing, expected="{word} once, and after it at least one slot to search", found=found)
        if self.space > LARGEST_SPACE:
            raise InputError(thing, expected=f"at most {LARGEST_SPACE} fills", found=str(self.space))

    @property
    def fields(self) -> list[str]:
        """The names of its places, in order."""
        return [name for _, name in _parsed(self.template) if name is not None]

    @property
    def space(self) -> int:
        """How many fills there are, |R|."""
        return math.prod(len(self.slots[name]) for name in self.fields if name != "word")

    def split(self, word: str) -> tuple[str, list[str]]:
        """A canary's prefix, and the literal texts around its slots: before the first, between, after the last.

        White space before the first slot belongs to the slot's side: tokenizers join it to what follows.
        """
        literals, current = [], ""
        for literal, name in _parsed(self.template):
            current += literal
            if name == "word":
                current += word
            elif name is not None:
                literals.append(current)
                current = ""
        before = literals[0].rstrip()
        return before, [literals[0][len(before) :], *literals[1:], current]


@dataclass(frozen=True)
class Canary:
    """A secret.

    Attributes:
        text: what stands in the data.
        prefix: the text before what is searched, without white space at its end.
        fill: the values of the slots, in order.
        format: what it was made by.
        repeats: how often it was put in.
        part: where; NOWHERE: held out.
        word: its own, which no other canary has.
    """

    text: str
    prefix: str
    fill: tuple[str, ...]
    format: CanaryFormat
    repeats: int
    part: str
    word: str


@dataclass(frozen=True)
class CanaryPlan:
    """How many canaries of a format go where, how often each.

    Raises:
        InputError: no canaries; repetitions below one, or any of those that go nowhere.
    """

    part: str
    repeats: int
    count: int = 1
    format: CanaryFormat = field(default_factory=CanaryFormat)

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError("number of canaries", expected="one or more", found=str(self.count))
        if self.repeats < 0 or (self.repeats == 0) != (self.part == NOWHERE):
            expected = "0, for canaries that are nowhere" if self.part == NOWHERE else "one or more"
            raise InputError(f"repetitions of canaries in part {self.part}", expected=expected, found=str(self.repeats))


def candidates(canary: Canary) -> tuple[tuple[str, ...], int]:
    """Every fill as the text that follows the canary's prefix, to its last slot, and which of them is the true one.

    In the order of the slots' values, the last slot running fastest. What follows the last slot is the same in all, and no
    part of the secret: scoring it would take a row of each fill's own.
    """
    values = _values(canary.format)
    _, literals = canary.format.split("x")
    searched = [*literals[:-1], ""]
    texts = tuple(_filled(searched, fill) for fill in product(*values))
    true = 0
    for value, options in zip(canary.fill, values, strict=True):
        true = true * len(options) + list(options).index(value)
    return texts, true


def draw_canaries(
    form: CanaryFormat, count: int, part: str, repeats: int, seed: int, *, taken: Collection[str] = ()
) -> tuple[Canary, ...]:
    """Draw canaries with fills uniform over the format's space, each with a word of its own.

    Args:
        form: what they say.
        count: how many.
        part: where they go; NOWHERE: held out.
        repeats: how often each goes there.
        seed: of the draw, which depends on part and repetitions too.
        taken: words that other canaries have.

    Raises:
        InputError: a negative number, or more canaries than there are words.
    """
    require_seed(seed)
    if not 0 <= count + len(taken) <= len(SYLLABLES) ** 3 // 2:
        expected = f"0 to {len(SYLLABLES) ** 3 // 2} canaries"
        raise InputError("number of canaries", expected=expected, found=str(count + len(taken)))
    rng, used, values = generator(seed, "canaries", part, str(repeats)), set(taken), _values(form)
    drawn: list[Canary] = []
    while len(drawn) < count:
        word = _word(rng)
        fill = tuple(options[int(rng.integers(len(options)))] for options in values)
        if word not in used:
            used.add(word)
            prefix, literals = form.split(word)
            drawn.append(Canary(prefix + _filled(literals, fill), prefix, fill, form, repeats, part, word))
    return tuple(drawn)


def spread_canaries(
    count: int, repeats: Sequence[int], parts: Sequence[str], *, shared: bool = True, form: CanaryFormat | None = None
) -> tuple[CanaryPlan, ...]:
    """Plans for a study: what exposure comes of one model's repetitions, of every model's, and of none.

    For each number of repetitions ``count`` canaries are dealt over the models' parts in turn and ``count`` are in the shared
    part; and ``count`` are nowhere.

    Args:
        count: canaries of each kind; 0: none at all.
        repeats: the numbers of repetitions.
        parts: the models' own parts.
        shared: whether there is a shared part.
        form: what they say.
    """
    form = form or CanaryFormat()
    dealt = {part: len(range(place, count, len(parts))) for place, part in enumerate(parts)}
    dealt |= {"shared": count} if shared else {}
    inside = [CanaryPlan(part, often, n, form) for often in dict.fromkeys(repeats) for part, n in dealt.items() if n]
    return (*inside, *([CanaryPlan(NOWHERE, 0, count, form)] if count else []))


def encode_canaries(canaries: Sequence[Canary], encode: Encode, special: Collection[int] = ()) -> list[tuple[int, ...]]:
    """Each canary's tokens, special ones included.

    Raises:
        InputError: the tokenizer joins the prefix's end to what follows it, so that candidates cannot be scored after the
            prefix alone. Checked on the canary itself and on every value of its first slot.
    """
    encoded = encode([canary.text for canary in canaries]) if canaries else []
    for canary in canaries:
        _require_seam(canary, encode, special)
    return [tuple(ids) for ids in encoded]


def _require_seam(canary: Canary, encode: Encode, special: Collection[int]) -> None:
    _, literals = canary.format.split("x")
    first = _values(canary.format)[0]
    follow = [_filled(literals, (value, *canary.fill[1:])) for value in first]
    prefix, *others = [
        [i for i in ids if i not in special]
        for ids in encode([canary.prefix, *follow, *(canary.prefix + text for text in follow)])
    ]
    for text, alone, together in zip(follow, others, others[len(follow) :], strict=False):
        if prefix + alone != together:
            raise InputError(
                f"canary {canary.prefix + text!r}",
                expected="a tokenizer that reads it as it reads its two parts",
                found=f"other tokens for {canary.prefix!r} and {text!r} apart",
                action="Take a template with white space before its first slot, or a tokenizer that begins a token there.",
            )


def _parsed(template: str) -> list[tuple[str, str | None]]:
    """Each literal text of a template, and the name of the place that follows it."""
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise InputError(f"canary format {template!r}", expected="a text with {word} and slots", found=str(error)) from error
    odd = next((name for _, name, spec, conversion in parsed if spec or conversion), None)
    if odd is not None:
        raise InputError(f"canary format {template!r}", expected=f"{{{odd}}} alone", found="one with a conversion or width")
    return [(literal, name) for literal, name, _, _ in parsed]


def _values(form: CanaryFormat) -> list[Sequence[str]]:
    return [form.slots[name] for name in form.fields if name != "word"]


def _filled(literals: Sequence[str], fill: Sequence[str]) -> str:
    return literals[0] + "".join(value + literal for value, literal in zip(fill, literals[1:], strict=True))


def _word(rng: np.random.Generator) -> str:
    return "".join(SYLLABLES[int(i)] for i in rng.integers(len(SYLLABLES), size=3))
