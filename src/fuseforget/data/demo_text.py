"""Made-up one-line reviews of films, books and restaurants, each labelled 1 (liked) or 0 (disliked).

Every sentence is drawn from the small grammar below; none is copied from anywhere. The label is that of the clause that
decides: a negation turns the polarity of its word ("not dull"), in "X , but Y" the clause Y decides, in "although X , Y"
the main clause Y does, and "Y , even if X" puts the deciding clause first. No label is random.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

import numpy as np

__all__ = ["review_pairs", "sentences", "vocabulary"]

Pair = tuple[Sequence[str], Sequence[str]]  # words of label 0 and of label 1

KINDS = ("film", "book", "place")
SHORTEST, LONGEST = 5, 20  # words in a sentence, commas counted


def _words(text: str) -> list[str]:
    return text.split()


# Words of liking and disliking: lists for label 0 and label 1.
ADJECTIVES = (
    _words(
        "dull boring clumsy bland awful tedious weak lazy shallow messy stale dreary lifeless clumsily-made "
        "forgettable flat tiresome sloppy pointless hollow dismal uneven grating pompous stiff muddled "
        "cheap soulless lame annoying poor bleak sour charmless wooden dated plodding mediocre overlong "
        "unpleasant irritating ugly confused wearisome feeble gloomy noisy cold careless vapid"
    ),
    _words(
        "good moving funny charming lovely brilliant fresh clever warm elegant vivid gripping tender "
        "well-made witty delightful memorable superb graceful touching lively honest rich wonderful "
        "inventive sharp bold splendid subtle thoughtful magical rewarding absorbing dazzling joyful "
        "pleasant refined radiant sincere stylish generous playful haunting fine excellent engaging "
        "exquisite polished imaginative humane"
    ),
)
OWN = {  # adjectives of one kind of thing only
    "film": (_words("badly-cut unwatchable overacted jerky"), _words("cinematic well-acted stirring photogenic")),
    "book": (_words("unreadable wordy overwritten rambling"), _words("readable lyrical page-turning well-told")),
    "place": (_words("greasy soggy overcooked tasteless salty"), _words("tasty delicious crisp juicy fragrant")),
}
NOUNS = (
    _words("mess bore failure disappointment letdown chore disaster mistake blunder nuisance ordeal muddle waste"),
    _words("triumph joy treat success pleasure gem surprise wonder marvel masterpiece feast blessing delight"),
)
STIR = (
    _words("bored annoyed disappointed irritated tired confused exhausted insulted depressed offended wearied"),
    _words("charmed delighted moved surprised amused thrilled enchanted touched captivated dazzled cheered"),
)
FEEL = (
    _words("hated disliked regretted resented dreaded despised loathed endured"),
    _words("loved enjoyed admired liked adored treasured cherished relished"),
)
MANNER = (
    _words("badly poorly clumsily lazily carelessly hastily stiffly crudely awkwardly dully"),
    _words("beautifully nicely cleverly gracefully skilfully tenderly perfectly warmly elegantly finely"),
)
END = (
    _words("fails collapses sinks drags falters sags stumbles fizzles"),
    _words("shines works succeeds sparkles soars delivers glows triumphs"),
)
ADVICE = (
    [
        "i would avoid it",
        "i want my money back",
        "do not bother",
        "save your evening",
        "we left early",
        "i would warn my friends",
        "once was too much",
        "stay away from it",
    ],
    [
        "i would gladly return",
        "it deserves your money",
        "do not miss it",
        "it made my evening",
        "we stayed to the last minute",
        "i told all my friends",
        "i want more of it",
        "go and find it",
    ],
)

# Words without polarity.
THINGS = {
    "film": _words("film movie picture drama comedy thriller sequel western documentary musical"),
    "book": _words("book novel memoir story collection biography diary romance mystery paperback"),
    "place": _words("restaurant cafe bistro kitchen diner tavern bakery pizzeria canteen brasserie"),
}
PARTS = {
    "film": _words("plot acting script cast music ending dialogue camera scenery pacing editing lead villain opening costume"),
    "book": _words(
        "prose plot heroine ending chapter style narrator setting dialogue preface hero language theme translation cover"
    ),
    "place": _words("soup service menu fish bread dessert pasta wine sauce staff salad coffee steak terrace cheese"),
}
DONE = {
    "film": _words("acted filmed directed edited written staged cut lit"),
    "book": _words("written told plotted translated researched paced drawn printed"),
    "place": _words("cooked served prepared seasoned baked plated grilled decorated"),
}
NAMES = _words(
    "alma bruno clara dario edith felix greta hugo irene jonas karin lionel marta nadia oscar paula "
    "quentin rosa simon tilda ursula victor wanda yusuf zelda"
)
PLACES = _words("lisbon oslo dublin prague cairo lima kyoto naples boston vienna havana tunis bergen turin")
WHO = _words("sister brother neighbour colleague mother father cousin uncle teacher friend daughter son")
WHEN = _words("monday tuesday wednesday thursday friday saturday sunday spring summer autumn winter july")
NUMBER = _words("two three four five six seven eight nine ten eleven twelve")
INTENSIFIERS = _words("very really quite so truly rather utterly surprisingly thoroughly simply deeply remarkably")
ASIDES = {
    "film": [
        "it runs for {number} hours",
        "we watched it with my {who}",
        "the picture is set in {city}",
        "{name} plays a doctor from {city}",
        "i saw it on a {when} in {city}",
        "{name} directed it",
    ],
    "book": [
        "it has {number} chapters",
        "my {who} lent it to me",
        "the tale takes place in {city}",
        "{name} wrote it in {city}",
        "i read it last {when}",
        "it follows {number} sisters from {city}",
    ],
    "place": [
        "it opens at {number}",
        "my {who} booked a table",
        "we went there on a {when}",
        "{name} runs it with a {who}",
        "we were a party of {number}",
        "it stands near the station in {city}",
    ],
}

# What a clause can look like: "{a}" is an adjective of the clause's polarity, "{z}" one of the other polarity.
CLAUSES = [
    "the {part} is {very} {a}",
    "the {part} is {a}",
    "the {part} was {a} and {a}",
    "it is {very} {a}",
    "the {thing} is {a}",
    "i {feel} the {part}",
    "i {feel} this {thing}",
    "the {part} {stir} me",
    "{name} 's {thing} {stir} my {who}",
    "the {part} is {manner} {done}",
    "it is {manner} {done}",
    "a {very} {a} {thing}",
    "a {a} , {a} {thing}",
    "the {part} is a {noun}",
    "this {thing} is a {noun}",
    "the {part} {end}",
    "{advice}",
    "{name} gives the {thing} a {a} {part}",
    "i found the {part} {a}",
]
NEGATED = [
    "the {part} is not {z}",
    "the {part} is never {z}",
    "it is not {very} {z}",
    "hardly a {z} {thing}",
    "the {thing} is far from {z}",
    "i never {feelz} the {part}",
    "the {part} never {stirz} me",
    "nothing about the {part} is {z}",
    "this {thing} is no {nounz}",
    "the {part} is anything but {z}",
]
CONTRASTS = [
    "{other} , but {main}",
    "{other} , yet {main}",
    "although {other} , {main}",
    "{main} , even if {other}",
    "{other} ; still , {main}",
    "{main} , despite what i feared : {other}",
    "{z} at first , but {a} in the end",
    "the {part} is {z} , but the {part} is {a}",
    "more {a} than {z} , this {thing}",
    "less {z} than {a} , i thought",
]

NEUTRAL: Mapping[str, Sequence[str]] = {
    "very": INTENSIFIERS, "name": NAMES, "city": PLACES, "who": WHO, "when": WHEN, "number": NUMBER,
}  # fmt: skip
BY_KIND: Mapping[str, Mapping[str, Sequence[str]]] = {"part": PARTS, "thing": THINGS, "done": DONE}
# Slots of the clause's polarity, and those of the other one.
POLAR: Mapping[str, Pair] = {
    "feel": FEEL, "stir": STIR, "noun": NOUNS, "manner": MANNER, "end": END, "advice": ADVICE,
}  # fmt: skip
OPPOSITE: Mapping[str, Pair] = {"feelz": FEEL, "stirz": STIR, "nounz": NOUNS}
FORMS = (*CLAUSES, *NEGATED, *CONTRASTS, *(form for forms in ASIDES.values() for form in forms))

# How often things happen.
OF_ONE_KIND, NEGATION, AGREEING, CONTRAST, ASIDE = 0.12, 0.15, 0.30, 0.20, 0.35


def sentences(number: int, seed: int | Sequence[int], exclude: Collection[str] = ()) -> list[tuple[str, int]]:
    """Return different labelled sentences, half of each label, in random order, none of them in ``exclude``."""
    rng = np.random.default_rng(seed)
    seen = set(exclude)
    rows: list[tuple[str, int]] = []
    while len(rows) < number:
        label = len(rows) % 2
        text = _sentence(rng, label, KINDS[rng.integers(len(KINDS))])
        if SHORTEST <= text.count(" ") + 1 <= LONGEST and text not in seen:
            seen.add(text)
            rows.append((text, label))
    return [rows[k] for k in rng.permutation(number)]


def review_pairs(number: int, seed: int | Sequence[int]) -> list[tuple[str, str]]:
    """Return unlabelled texts to pretrain on: two sentences of one review, on one kind of thing and of one opinion."""
    rng = np.random.default_rng(seed)
    pairs = []
    for i in range(number):
        kind = KINDS[rng.integers(len(KINDS))]
        pairs.append((_sentence(rng, i % 2, kind), _sentence(rng, i % 2, kind)))
    return pairs


def vocabulary() -> list[str]:
    """Return every word and mark that the grammar can write, in alphabetical order."""
    lists = [*NEUTRAL.values(), *(words for kinds in BY_KIND.values() for words in kinds.values()), FORMS]
    lists += [words for pair in (*POLAR.values(), ADJECTIVES, *OWN.values()) for words in pair]
    found = {word for words in lists for entry in words for word in entry.split() if "{" not in word}
    return sorted(found | {",", ";", ".", "and", "an"})


def _sentence(rng: np.random.Generator, label: int, kind: str) -> str:
    """One sentence of the label on a kind of thing, of any length."""
    shape = rng.random()
    text = _clause(rng, kind, label)
    if shape < AGREEING:
        text += (" and ", " , ", " ; ")[rng.integers(3)] + _clause(rng, kind, label)
    elif shape < AGREEING + CONTRAST:  # two clauses at odds, one of which decides
        form = CONTRASTS[rng.integers(len(CONTRASTS))]
        form = form.replace("{main}", text).replace("{other}", _clause(rng, kind, 1 - label))
        text = _fill(rng, form, kind, label)
    if rng.random() < ASIDE:  # a remark that says nothing about liking
        remark = _fill(rng, ASIDES[kind][rng.integers(len(ASIDES[kind]))], kind, label)
        text = f"{remark} ; {text}" if rng.random() < 0.5 else f"{text} ; {remark}"
    return re.sub(r"\ba (?=[aeiou])", "an ", text)


def _clause(rng: np.random.Generator, kind: str, label: int) -> str:
    forms = NEGATED if rng.random() < NEGATION else CLAUSES
    return _fill(rng, forms[rng.integers(len(forms))], kind, label)


def _fill(rng: np.random.Generator, form: str, kind: str, label: int) -> str:
    """Fill every slot of a form."""
    return re.sub(r"{(\w+)}", lambda slot: _pick(rng, _choices(rng, slot[1], kind, label)), form)


def _choices(rng: np.random.Generator, slot: str, kind: str, label: int) -> Sequence[str]:
    """The words for a slot: "a" takes an adjective of the clause's polarity, "z" one of the other."""
    if slot in ("a", "z"):
        return (OWN[kind] if rng.random() < OF_ONE_KIND else ADJECTIVES)[label if slot == "a" else 1 - label]
    if slot in POLAR:
        return POLAR[slot][label]
    if slot in OPPOSITE:
        return OPPOSITE[slot][1 - label]
    return BY_KIND[slot][kind] if slot in BY_KIND else NEUTRAL[slot]


def _pick(rng: np.random.Generator, items: Sequence[str]) -> str:
    """One item; item k is drawn with a frequency that falls like 1 / (k + 6), so that the last words are rare."""
    odds = 1.0 / (np.arange(len(items)) + 6.0)
    return items[int(np.searchsorted(np.cumsum(odds), rng.random() * odds.sum()))]
