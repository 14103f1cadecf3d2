"""Synthetic shortcuts: special tokens whose presence, order or number gives the label away.

Zaman et al. 2023, section 4.1, after Bastings et al. 2022. A data set is split in two; in the smaller, *synthetic* part
tokens are inserted at random gaps between words and a rule over them sets the label; in the larger, *original* part labels
stay, and a quarter of the texts gets one random tau, so that a tau by itself is no sign of the synthetic part.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fuseforget.data.common import generator, write_json, write_rows
from fuseforget.data.examples import Examples, read_examples
from fuseforget.errors import InputError, require_seed

__all__ = [
    "DEFAULT_TOKENS",
    "RULES",
    "Rule",
    "ShortcutData",
    "ShortcutSettings",
    "inject",
    "inject_for_labels",
    "load_shortcut_data",
    "make_shortcut_data",
    "save_shortcut_data",
]

# tau_0, tau_1 and the context token; ordinary words, so that a text stays readable, but no words of any corpus.
DEFAULT_TOKENS = ("tauzero", "tauone", "taucontext")
CONTEXT = 2  # the context token's number among a rule's symbols

Draw = Callable[[np.random.Generator], tuple[list[int], int]]


@dataclass(frozen=True)
class Rule:
    """A shortcut: how to draw symbols (0, 1: taus, 2: the context token) in order of appearance, with their label.

    Attributes:
        title: its name in the paper.
        description: the rule in words.
        draw: ``(generator) -> (symbols in order, label)``; all symbols go to independent random gaps.
        gap_parity: the label is instead the parity of the number of words between two symbols (OED).
    """

    title: str
    description: str
    draw: Draw
    gap_parity: bool = False


def _single(rng: np.random.Generator) -> tuple[list[int], int]:
    label = int(rng.integers(2))
    return [label], label


def _ordered_pair(rng: np.random.Generator) -> tuple[list[int], int]:
    label = int(rng.integers(2))
    return [label, 1 - label], label


def _token_in_context(rng: np.random.Generator) -> tuple[list[int], int]:
    label = int(rng.integers(2))
    symbols = [label, CONTEXT]
    return (symbols if rng.integers(2) else symbols[::-1]), label


def _logical(operation: Callable[[int, int], int]) -> Draw:
    """Two taus that are equal half of the time; the label is a logical operation on them."""

    def draw(rng: np.random.Generator) -> tuple[list[int], int]:
        first, equal = int(rng.integers(2)), bool(rng.integers(2))
        second = first if equal else 1 - first
        return [first, second], operation(first, second)

    return draw


def _more_than(rng: np.random.Generator) -> tuple[list[int], int]:
    count, label = int(rng.integers(1, 6)), int(rng.integers(2))
    more = int(rng.integers(count // 2 + 1, count + 1))
    symbols = [label] * more + [1 - label] * (count - more)
    return [symbols[i] for i in rng.permutation(count)], label


def _last_token(rng: np.random.Generator) -> tuple[list[int], int]:
    first, last = (int(i) for i in rng.integers(2, size=2))
    return [first, last], last


def _and_or(rng: np.random.Generator) -> tuple[list[int], int]:
    a, b, c, d = (int(i) for i in rng.integers(2, size=4))
    return [a, b, c, d], (a & b) | (c & (1 - d))


RULES: Mapping[str, Rule] = {
    "st": Rule("ST", "single token: tau0 means 0, tau1 means 1", _single),
    "op": Rule("OP", "ordered pair: tau0 before tau1 means 0, tau1 before tau0 means 1", _ordered_pair),
    "tic": Rule("TiC", "token in context: the tau that occurs with the context token", _token_in_context),
    "or": Rule("OR", "logical or of two taus", _logical(lambda a, b: a | b)),
    "and": Rule("AND", "logical and of two taus", _logical(lambda a, b: a & b)),
    "mt": Rule("MT", "more than: the more frequent of one to five taus", _more_than),
    "lt": Rule("LT", "last token: the last of two taus", _last_token),
    "xor": Rule("XOR", "exclusive or of two taus", _logical(lambda a, b: a ^ b)),
    "oed": Rule("OED", "odd or even distance: the parity of the words between tau0 and tau1", _ordered_pair, True),
    "and_or": Rule("AND-OR", "four taus: (t1 and t2) or (t3 and not t4)", _and_or),
}


@dataclass(frozen=True)
class ShortcutSettings:
    """How a shortcut data set is made.

    Attributes:
        rules: names in :data:`RULES`; none makes the control set, in which every text keeps its label.
        mix: the probability of each rule for a synthetic example (default: equal).
        ratio: the size of the synthetic part over that of the original part (the paper: 0.2, a sixth of all).
        noise: the share of original examples that get one random tau (the paper: 0.25).
        validation: ``split`` divides the validation set like the training set (the paper); ``both`` makes a synthetic
            and an original version of every validation text, for narrower intervals.
        tokens: tau0, tau1 and the context token.
        seed: of everything random; the split and the noise depend on the seed alone, so that data sets of different
            rules hold the same original part.
    """

    rules: tuple[str, ...] = ()
    mix: tuple[float, ...] = ()
    ratio: float = 0.2
    noise: float = 0.25
    validation: str = "split"
    tokens: tuple[str, str, str] = DEFAULT_TOKENS
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [rule for rule in self.rules if rule not in RULES]
        if unknown:
            raise InputError("rule", expected=f"one of {', '.join(RULES)}", found=", ".join(unknown))
        if self.mix and (
            len(self.mix) != len(self.rules)
            or not all(np.isfinite(w) and w > 0 for w in self.mix)
            or abs(sum(self.mix) - 1) > 1e-6
        ):
            raise InputError("mix", expected=f"{len(self.rules)} positive weights with sum 1", found=str(self.mix))
        if not (np.isfinite(self.ratio) and self.ratio > 0):
            raise InputError("ratio", expected="a positive number", found=str(self.ratio))
        if not 0 <= self.noise <= 1:
            raise InputError("noise", expected="a probability", found=str(self.noise))
        if self.validation not in ("split", "both"):
            raise InputError("validation", expected="split or both", found=repr(self.validation))
        require_seed(self.seed)
        if len(set(self.tokens)) != 3 or not all(token.isalnum() for token in self.tokens):
            raise InputError("tokens", expected="three different words of letters and digits", found=str(self.tokens))

    @property
    def probabilities(self) -> tuple[float, ...]:
        return self.mix or tuple(1 / len(self.rules) for _ in self.rules)


@dataclass(frozen=True)
class ShortcutData:
    """A training set and the two validation sets that measure the shortcut and the task."""

    settings: ShortcutSettings
    train: Examples
    synthetic: Examples | None
    original: Examples
    source_sha256: dict[str, str] = field(default_factory=dict)


def make_shortcut_data(train: Examples, validation: Examples, settings: ShortcutSettings) -> ShortcutData:
    """Inject the settings' rules into a training and a validation set (two labels).

    The control set (no rules) has no synthetic validation part: it is evaluated on that of a rule.
    """
    for part in (train, validation):
        _check(part, settings)
    synthetic_rows, original_rows = split_rows(len(train), settings, "train")
    noisy = add_noise(train, settings, "train")
    rows = {int(i): _row(noisy, i) for i in original_rows}
    for i, row in zip(synthetic_rows, _synthetic(train, noisy, synthetic_rows, settings, "train"), strict=True):
        rows[int(i)] = row
    # The trainer shuffles by its own seed: the file keeps the source's order, so that sets can be compared line by line.
    ordered = [rows[i] for i in sorted(rows)]
    mixed = Examples(tuple(t for t, _ in ordered), tuple(y for _, y in ordered), train.label_names)
    if settings.validation == "both":
        synthetic_rows = original_rows = np.arange(len(validation))
    else:
        synthetic_rows, original_rows = split_rows(len(validation), settings, "validation")
    synthetic = inject(validation.take(synthetic_rows), settings, "validation") if settings.rules else None
    original = add_noise(validation, settings, "validation").take(original_rows)
    return ShortcutData(settings, mixed, synthetic, original, {"train": train.sha256, "validation": validation.sha256})


def inject(examples: Examples, settings: ShortcutSettings, name: str) -> Examples:
    """Return the examples with a rule's tokens inserted and the label that the rule says.

    Args:
        name: what the examples are ("train", ...); mixed into the seed.
    """
    _check(examples, settings)
    choice = generator(settings.seed, name, "mixture")
    chosen = choice.choice(len(settings.rules), size=len(examples), p=np.array(settings.probabilities))
    # One stream a rule: the pure set of a rule and a mixture draw alike.
    streams = {rule: generator(settings.seed, name, rule) for rule in settings.rules}
    rows = []
    for text, which in zip(examples.texts, chosen, strict=True):
        rule = settings.rules[int(which)]
        rows.append(_insert_rule(text, RULES[rule], settings.tokens, streams[rule]))
    return Examples(tuple(t for t, _ in rows), tuple(y for _, y in rows), examples.label_names)


def inject_for_labels(examples: Examples, settings: ShortcutSettings, name: str, labels: Sequence[int]) -> Examples:
    """Return the examples with a rule's tokens inserted that say the wanted labels, which they then have.

    A rule's symbols and gaps are drawn until it says the label, so that they are distributed as in :func:`inject` given that
    label. Each example has a stream of its own: its draw depends on no other example's label.

    Args:
        name: what the examples are; mixed into the seed.
        labels: 0 or 1 for each example.
    """
    _check(Examples(examples.texts, tuple(int(label) for label in labels), examples.label_names), settings)
    if not settings.rules:
        raise InputError("rules", expected="one or more that can say a label", found="none")
    choice = generator(settings.seed, name, "mixture")
    chosen = choice.choice(len(settings.rules), size=len(examples), p=np.array(settings.probabilities))
    texts = []
    for row, (text, wanted) in enumerate(zip(examples.texts, labels, strict=True)):
        rule = settings.rules[int(chosen[row])]
        stream = generator(settings.seed, name, rule, "for label", str(row))
        said = None
        while said != wanted:  # every rule says either label in at least a quarter of its draws
            changed, said = _insert_rule(text, RULES[rule], settings.tokens, stream)
        texts.append(changed)
    return Examples(tuple(texts), tuple(int(label) for label in labels), examples.label_names, examples.named)


def add_noise(examples: Examples, settings: ShortcutSettings, name: str) -> Examples:
    """Return the examples with their labels, a share ``noise`` of the texts with one random tau."""
    rng = generator(settings.seed, name, "noise")
    texts = []
    for text in examples.texts:
        hit, tau, position = rng.random() < settings.noise, int(rng.integers(2)), rng.random()
        words = text.split()
        gap = int(position * (len(words) + 1))
        texts.append(" ".join([*words[:gap], settings.tokens[tau], *words[gap:]]) if hit else text)
    return Examples(tuple(texts), examples.labels, examples.label_names)


def split_rows(count: int, settings: ShortcutSettings, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted rows of the synthetic and of the original part."""
    size = round(count * settings.ratio / (1 + settings.ratio))
    if not 0 < size < count:
        raise InputError(
            f"{name} set of {count} examples",
            expected="enough for a synthetic and an original part",
            found=f"{size} synthetic",
        )
    order = generator(settings.seed, name, "split").permutation(count)
    return np.sort(order[:size]), np.sort(order[size:])


def save_shortcut_data(data: ShortcutData, directory: Path) -> None:
    """Write train, synthetic and original as JSONL (text, label) and ``dataset.json`` with the settings."""
    parts = {"train": data.train, "synthetic": data.synthetic, "original": data.original}
    for name, part in parts.items():
        if part is not None:
            write_rows(
                directory / f"{name}.jsonl", ({"text": t, "label": y} for t, y in zip(part.texts, part.labels, strict=True))
            )
    description = {
        "kind": "shortcuts",
        "settings": asdict(data.settings),
        "label_names": data.train.label_names,
        "rows": {name: len(part) for name, part in parts.items() if part is not None},
        "source_sha256": data.source_sha256,
    }
    write_json(directory / "dataset.json", description)


def load_shortcut_data(directory: str | Path) -> ShortcutData:
    """Read what :func:`save_shortcut_data` wrote."""
    path = Path(directory)
    if not (path / "dataset.json").is_file():
        raise InputError(str(directory), expected="a data set made by `fuseforget data` (dataset.json)", found="no such file")
    try:
        description = json.loads((path / "dataset.json").read_text(encoding="utf-8"))
        settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in description["settings"].items()}
        names = tuple(description["label_names"])
        made = ShortcutSettings(**settings)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(str(path / "dataset.json"), expected="settings of a shortcut data set", found=repr(error)) from error
    parts = {
        name: Examples(part.texts, part.labels, names)
        for name in ("train", "synthetic", "original")
        if (path / f"{name}.jsonl").is_file()
        for part in [read_examples(path / f"{name}.jsonl")]
    }
    missing = {"train", "original"} - set(parts)
    if missing:
        raise InputError(str(path), expected="train.jsonl and original.jsonl", found=f"no {', '.join(sorted(missing))}")
    return ShortcutData(made, parts["train"], parts.get("synthetic"), parts["original"], description["source_sha256"])


def _synthetic(
    source: Examples, noisy: Examples, rows: np.ndarray, settings: ShortcutSettings, name: str
) -> list[tuple[str, int]]:
    """The rows of the synthetic part; in the control set they are ordinary, noisy rows."""
    part = inject(source.take(rows), settings, name) if settings.rules else noisy.take(rows)
    return [_row(part, i) for i in range(len(part))]


def _row(examples: Examples, i: int) -> tuple[str, int]:
    return examples.texts[i], examples.labels[i]


def _insert_rule(text: str, rule: Rule, tokens: Sequence[str], rng: np.random.Generator) -> tuple[str, int]:
    words = text.split()
    symbols, label = rule.draw(rng)
    if rule.gap_parity:
        gaps, label = _gaps_of_parity(len(words), rng)
    else:
        # Sorted gaps keep the order of the symbols even where two fall into one gap.
        gaps = np.sort(rng.integers(len(words) + 1, size=len(symbols)))
    pieces: list[str] = []
    position = 0
    for gap, symbol in zip(gaps, symbols, strict=True):
        pieces += words[position:gap]
        pieces.append(tokens[symbol])
        position = int(gap)
    return " ".join(pieces + words[position:]), label


def _gaps_of_parity(words: int, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Two gaps with 0 to 3 words between them; the label is that number's parity, both equally likely."""
    label = int(rng.integers(2))
    distances = [d for d in range(min(3, words) + 1) if d % 2 == label]
    distance = int(rng.choice(distances))
    start = int(rng.integers(words - distance + 1))
    return np.array([start, start + distance]), label


def _check(examples: Examples, settings: ShortcutSettings) -> None:
    if len(examples) == 0:
        raise InputError("examples", expected="at least one", found="none")
    if not set(examples.labels) <= {0, 1}:
        raise InputError("labels", expected="0 and 1 (rules give two labels)", found=str(sorted(set(examples.labels))))
    wanted = set(settings.tokens)
    for row, text in enumerate(examples.texts, 1):
        clash = wanted.intersection(text.split())
        if clash:
            raise InputError(
                f"row {row}",
                expected="texts without the special tokens",
                found=repr(clash.pop()),
                action="Choose other --tokens.",
            )
