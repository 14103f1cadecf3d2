"""Packing, parts that no document is in two of, canaries, and the directory and command that hold them."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import make_bert
from fuseforget.data import (
    MIN_TOKENS,
    Canary,
    CanaryFormat,
    CanaryPlan,
    MemorizationData,
    Rows,
    candidates,
    draw_canaries,
    is_memorization_data,
    join_rows,
    load_memorization,
    make_memorization,
    model_names,
    near_duplicates,
    one_each,
    pack,
    save_memorization,
    spread_canaries,
)
from fuseforget.data.parts import require_separate
from fuseforget.errors import FuseForgetError, InputError
from test_cli import run

SEPARATOR = 1
SIZES: dict[str, Any] = {"models": 3, "rows": 6, "shared": 2, "control": 3, "validation": 3, "block": 16, "separator": SEPARATOR}


def encode(texts: Sequence[str]) -> list[list[int]]:
    """A character is a token."""
    return [[ord(character) for character in text] for text in texts]


def decode(ids: Sequence[int]) -> str:
    return "".join(map(chr, ids))


def encode_masked(texts: Sequence[str]) -> list[list[int]]:
    return [[2, *ids, 3] for ids in encode(texts)]


def documents(count: int, seed: int = 0, longest: int = 40) -> list[str]:
    """Texts of 3 to ``longest`` characters, some too short; the first five are there twice."""
    rng = random.Random(seed)
    texts = ["".join(rng.choice("abcdefghij") for _ in range(rng.randint(3, longest))) for _ in range(count)]
    return texts + texts[:5]


def make(texts: Sequence[str] | None = None, **options: Any) -> MemorizationData:
    return make_memorization(documents(120) if texts is None else texts, encode, **{**SIZES, **options})


def joined(lists: Sequence[Sequence[int]]) -> list[int]:
    """Token lists with separators between."""
    return [i for place, ids in enumerate(lists) for i in ([SEPARATOR] if place else []) + list(ids)]


# --- rows and packing


def test_rows_know_their_tokens_and_their_digest():
    rows = Rows(((1, 2), (3,)), ((0,), (0, 4)), short=2, cut=1, rest=3)
    assert (len(rows), rows.tokens) == (2, 3)
    assert rows.take([1, 0]) == Rows(((3,), (1, 2)), ((0, 4), (0,)))
    digests = {part.sha256 for part in [
        rows, rows.take([1, 0]), Rows(((1,), (2, 3)), rows.documents), Rows(rows.ids, ((0, 0), (4,))), Rows((), ()),
    ]}  # fmt: skip
    assert len(digests) == 5
    assert rows.take([0, 1]).sha256 == rows.sha256  # of the rows, not of what was left out in making them
    assert join_rows([rows, rows.take([0])]) == Rows((*rows.ids, (1, 2)), (*rows.documents, (0,)), short=2, cut=1, rest=3)
    with pytest.raises(InputError, match="documents of 1 rows, found 2"):
        Rows(((1,),), ((0,), (1,)))


def test_packing_by_hand():
    rows = pack([[11, 12, 13, 14, 15], [21, 22], [31, 32, 33, 34, 35, 36]], 5, SEPARATOR)
    assert rows == Rows(((11, 12, 13, 14, 15), (1, 31, 32, 33, 34)), ((0,), (2,)), short=1, rest=2)


@given(st.lists(st.lists(st.integers(10, 99), max_size=30), max_size=12), st.integers(MIN_TOKENS, 20))
def test_packing_loses_nothing_but_what_it_counts(lists, block):
    rows = pack(lists, block, SEPARATOR)
    kept = [(place, ids) for place, ids in enumerate(lists) if len(ids) >= MIN_TOKENS]
    stream = joined([ids for _, ids in kept])
    assert [i for row in rows.ids for i in row] == stream[: len(stream) - rows.rest]
    assert {len(row) for row in rows.ids} <= {block}
    assert rows.rest < block
    assert rows.short == len(lists) - len(kept)
    owners = joined([[100 + place] * len(ids) for place, ids in kept])
    for i, named in enumerate(rows.documents):
        own = owners[i * block : (i + 1) * block]
        assert named == tuple(dict.fromkeys(number - 100 for number in own if number != SEPARATOR))


def test_one_article_a_row():
    lists = [[2, *range(10, 20), 3], [2, 10, 11, 12, 13, 3], [2, 10, 11, 12, 13, 14, 3]]
    rows = one_each(lists, 8, special={2, 3}, numbers=[7, 8, 9])
    assert rows == Rows(((2, 10, 11, 12, 13, 14, 15, 3), (2, 10, 11, 12, 13, 14, 3)), ((7,), (9,)), short=1, cut=1)
    assert one_each(lists, 8).ids[0] == (2, 10, 11, 12, 13, 14, 15, 16)
    assert one_each(lists, None, special={2, 3}).ids[0] == tuple(lists[0])


@pytest.mark.parametrize("maker", [lambda: pack([], 4, SEPARATOR), lambda: one_each([], 4), lambda: make(block=4)])
def test_rows_of_fewer_than_five_tokens_are_refused(maker):
    with pytest.raises(InputError, match="expected 5 tokens or more, found 4"):
        maker()


# --- parts


def owners_of(data: MemorizationData) -> dict[int, set[str]]:
    found: dict[int, set[str]] = {}
    for part, numbers in data.documents.items():
        for number in numbers:
            found.setdefault(number, set()).add(part)
    return found


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), models=st.integers(1, 4), shared=st.integers(0, 4), own=st.integers(1, 4),
    block=st.one_of(st.none(), st.integers(5, 40)), longest=st.integers(25, 60), grouped=st.booleans(),
    order=st.randoms(use_true_random=False),
)  # fmt: skip
def test_parts_are_separate_whole_and_the_seeds_alone(seed, models, shared, own, block, longest, grouped, order):
    texts = documents(110, longest, longest)
    groups = [order.randrange(60) for _ in texts] if grouped else None
    if groups is not None:
        groups[110:] = groups[:5]  # of the same text
    options = {
        **SIZES, "models": models, "rows": shared + own, "shared": shared, "block": block, "seed": seed, "window": 12,
        "canaries": [CanaryPlan("none", 0)],
    }  # fmt: skip
    data = make_memorization(texts, encode, groups=groups, **options)
    assert {name: len(part) for name, part in data.parts.items()} == {
        "shared": shared, "control": 3, "validation": 3, **dict.fromkeys(model_names(models), own)
    }  # fmt: skip
    owners = owners_of(data)
    assert all(len(parts) == 1 for parts in owners.values())
    if groups is not None:
        by_group = {(groups[number], *parts) for number, parts in owners.items()}
        assert len(by_group) == len({group for group, _ in by_group})
    tokens = encode(texts)
    for part in data.parts.values():
        for ids, named in zip(part.ids, part.documents, strict=True):
            whole = "\x01".join(texts[number] for number in named)
            assert decode(ids).strip("\x01") in whole if block else ids == tuple(tokens[named[0]][:12])
            assert len(ids) == block if block else len(ids) <= 12
    # The source's order decides nothing: the same rows of a shuffled source.
    places = list(range(len(texts)))
    order.shuffle(places)
    shuffled = make_memorization(
        [texts[i] for i in places], encode, groups=None if groups is None else [groups[i] for i in places], **options
    )
    assert {name: part.ids for name, part in shuffled.parts.items()} == {name: part.ids for name, part in data.parts.items()}


def test_the_same_seed_gives_the_same_and_another_one_others():
    options: dict[str, Any] = {"block": 150, "canaries": spread_canaries(2, [1, 2], ["A", "B", "C"])}
    one, other, third = (make(documents(300), seed=seed, **options) for seed in (0, 0, 1))
    assert one == other
    assert all(one.sha256[name] != digest for name, digest in third.sha256.items())
    assert not {canary.word for canary in one.canaries} & {canary.word for canary in third.canaries}


@pytest.mark.parametrize("canaries", [False, True])
def test_parts_for_two_models_are_those_for_four(canaries):
    plans = [CanaryPlan("A", 2), CanaryPlan("shared", 1)] if canaries else []
    two, four = (make(documents(400), models=n, block=80, canaries=plans) for n in (2, 4))
    assert list(two.parts) == ["shared", "control", "validation", "A", "B"]
    assert four.models == ("A", "B", "C", "D")
    assert {name: part for name, part in four.parts.items() if name in two.parts} == dict(two.parts)


def test_a_total_is_divided_evenly_and_what_cannot_be_is_counted():
    data = make(rows=None, total=2 + 3 * 4 + 2)
    assert [len(data.parts[name]) for name in data.models] == [4, 4, 4]
    assert data.counts["undealt"] == 2
    assert data.parts == make(rows=6).parts
    assert make(rows=None, total=2 + 6, models=2).counts["undealt"] == 0


def test_what_each_model_reads():
    data = make(canaries=[CanaryPlan("B", 1)], block=80, seed=3)
    for model in data.models:
        read = data.trained_on(model)
        assert sorted(read.ids) == sorted(data.parts[model].ids + data.parts["shared"].ids)
        assert read.ids != data.parts[model].ids + data.parts["shared"].ids  # in an order of its own
        assert read == make(canaries=[CanaryPlan("B", 1)], block=80, seed=3).trained_on(model)
    everything = [ids for name in ("A", "B", "C", "shared") for ids in data.parts[name].ids]
    assert sorted(data.all.ids) == sorted(everything)
    assert sorted(data.trained_on("A", "C").ids) == sorted(everything[:4] + everything[8:])
    for wrong in [("D",), (), ("A", "A"), ("shared",)]:
        with pytest.raises(InputError, match="expected some of A, B, C"):
            data.trained_on(*wrong)


def test_texts_that_differ_in_white_space_are_one():
    texts = documents(100)[:100]
    data = make([*texts, *(f" {text}\n" for text in texts)])
    assert data.counts["duplicates"] == 100
    assert max(number for numbers in data.documents.values() for number in numbers) < 100


def test_what_is_left_out_is_counted():
    texts = documents(120)
    data = make(texts, rows=25)
    short = {text for text in texts[:120] if len(text) < MIN_TOKENS}
    used = {number for numbers in data.documents.values() for number in numbers}
    assert len(short) > 0
    assert data.counts["duplicates"] == 5
    assert 0 < data.counts["short"] < len(short)  # of those that were looked at
    assert data.counts["left_over"] == 120 - data.counts["short"] - len(used)
    with pytest.raises(InputError, match=f"{120 - len(short)} texts: .*5 are repetitions and {len(short)} too short"):
        make(texts, rows=2000)
    assert not {number for number in used if texts[number] in short or number >= 120}
    for part in data.parts.values():  # what a part's last document has beyond its last row
        whole = joined(encode([texts[number] for number in dict.fromkeys(n for row in part.documents for n in row)]))
        assert part.rest == len(whole) - part.tokens


def test_members_and_others_are_drawn_alike():
    """Long and short documents are as frequent in every part: over 20 seeds, within 5 standard errors."""
    texts = documents(400, longest=30)
    means: dict[str, list[float]] = {}
    for seed in range(20):
        for name, numbers in make(texts, seed=seed, rows=20, shared=10, control=10, validation=10).documents.items():
            means.setdefault(name, []).extend(len(texts[number]) for number in numbers)
    usable = [len(text) for text in texts[:400] if len(text) >= MIN_TOKENS]
    for name, lengths in means.items():
        assert len(lengths) > 150, name
        assert abs(np.mean(lengths) - np.mean(usable)) < 5 * np.std(usable) / np.sqrt(len(lengths)), name


def test_names_of_many_models():
    assert model_names(28)[-3:] == ("Z", "AA", "AB")
    assert len(set(model_names(800))) == 800


# --- near-duplicates and held-out texts


def test_near_duplicates_stay_together():
    rng = random.Random(0)
    first = [[f"w{rng.randrange(3000)}" for _ in range(40)] for _ in range(60)]
    texts = [" ".join([*words[:-1], "end"] if copy else words) for copy in range(2) for words in first]
    groups = near_duplicates(texts)
    assert groups.tolist() == [*range(60), *range(60)]
    apart = [split for seed in range(5) for split in pairs_apart(make(texts, seed=seed, block=600))]
    assert len(apart) > 25  # without groups, copies are in other parts
    assert not [split for seed in range(5) for split in pairs_apart(make(texts, seed=seed, block=600, groups=groups))]


def pairs_apart(data: MemorizationData) -> list[int]:
    owners = owners_of(data)
    return [number for number in owners if number + 60 in owners and owners[number] != owners[number + 60]]


def test_held_out_texts_are_what_validation_is_made_of():
    held_out = [f"held out text number {i}" for i in range(12)]
    data = make(held_out=held_out)
    assert set(data.documents["validation"]) <= set(range(125, 137))
    assert all(number < 125 for name, numbers in data.documents.items() if name != "validation" for number in numbers)
    assert "held out text" in decode([i for ids in data.parts["validation"].ids for i in ids])
    assert data.settings["held_out"] == 12
    assert make(held_out=held_out).parts["shared"] == make().parts["shared"]


def test_held_out_texts_that_are_in_the_corpus_are_refused():
    texts = documents(120)
    held_out = ["something else altogether", f"{texts[3]}  ", texts[100]]
    with pytest.raises(InputError, match=f"found 2 of 3 .row 2 '{texts[3]}'; row 3 '{texts[100]}'"):
        make(texts, held_out=held_out)
    near = ["one two three four five six", "one two three four five six", "else"]
    long = [" ".join(f"{text[0]}{i}" for i in range(30)) for text in near]
    nearly = [*long[:1], *texts, f"{long[0]} more", "nothing"]
    with pytest.raises(InputError, match=r"found 1 of 2 .row 1 'o0 o1"):
        make(nearly[:-2], held_out=nearly[-2:], groups=near_duplicates(nearly), validation=0)
    assert make(nearly[:-2], held_out=nearly[-2:], validation=0).parts  # without groups, only the same text is the same


# --- canaries


def test_a_canary_by_hand():
    form = CanaryFormat("Call {word}: {digit}-{letter}!", {"digit": ("0", "1"), "letter": ("a", "b", "c")})
    (canary,) = draw_canaries(form, 1, "A", 2, seed=5)
    assert form.space == 6
    assert canary.prefix == f"Call {canary.word}:"
    assert canary.text == f"Call {canary.word}: {canary.fill[0]}-{canary.fill[1]}!"
    texts, true = candidates(canary)
    # What follows the last slot is no part of the secret.
    assert texts == (" 0-a", " 0-b", " 0-c", " 1-a", " 1-b", " 1-c")
    assert canary.prefix + texts[true] + "!" == canary.text
    assert (canary.part, canary.repeats) == ("A", 2)


def test_the_usual_format_has_ten_thousand_fills():
    for canary in draw_canaries(CanaryFormat(), 20, "none", 0, seed=1):
        texts, true = candidates(canary)
        assert len(set(texts)) == len(texts) == 10**4 == canary.format.space
        assert canary.prefix + texts[true] + "." == canary.text
        assert true == int("".join(canary.fill))


@pytest.mark.parametrize("seed", range(3))
def test_fills_are_uniform_and_words_each_ones_own(seed):
    drawn = draw_canaries(CanaryFormat(), 3000, "A", 1, seed)
    assert len({canary.word for canary in drawn}) == 3000
    for slot in range(4):
        counts = Counter(canary.fill[slot] for canary in drawn)
        assert len(counts) == 10
        # Each a binomial of 3000 and 1/10: five standard deviations.
        assert max(abs(count - 300) for count in counts.values()) < 5 * np.sqrt(3000 * 0.1 * 0.9)
    assert draw_canaries(CanaryFormat(), 10, "A", 1, seed) == drawn[:10]
    others = draw_canaries(CanaryFormat(), 10, "A", 1, seed, taken={canary.word for canary in drawn[:10]})
    assert not {canary.word for canary in others} & {canary.word for canary in drawn[:10]}


def count_in(part: Rows, canary: Canary) -> int:
    return sum(decode(ids).count(canary.text) for ids in part.ids)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), block=st.one_of(st.none(), st.integers(45, 150)), longest=st.sampled_from([10, 60, 500]))
def test_canaries_are_whole_and_as_often_as_they_should(seed, block, longest):
    plans = [CanaryPlan("A", 1, 2), CanaryPlan("A", 4), CanaryPlan("C", 3), CanaryPlan("shared", 2), CanaryPlan("none", 0, 3)]
    options = {"rows": 14, "shared": 4, "block": block, "seed": seed, "canaries": plans}
    texts = documents({10: 1200, 60: 400, 500: 100}[longest], 1, longest)
    data = make(texts, **options)
    assert [canary.part for canary in data.canaries] == ["A", "A", "A", "C", "shared", "none", "none", "none"]
    assert len({canary.word for canary in data.canaries}) == 8
    for i, canary in enumerate(data.canaries):
        for name, part in data.parts.items():
            assert count_in(part, canary) == (canary.repeats if name == canary.part else 0)
            # Each time in another row, and the rows say so.
            assert sum(-1 - i in named for named in part.documents) == (canary.repeats if name == canary.part else 0)
    assert {name: len(part) for name, part in data.parts.items()}["A"] == 10
    if block:
        assert {len(ids) for part in data.parts.values() for ids in part.ids} == {block}
        for part in data.parts.values():  # a canary is a document of its own: separators, or a row's ends, around it
            for ids in part.ids:
                for canary in data.canaries:
                    before, found, after = decode(ids).partition(canary.text)
                    assert not found or (before[-1:] in ("", "\x01") and after[:1] in ("", "\x01"))
    else:
        assert all(canary.text in data.texts[canary.part] for canary in data.canaries if canary.repeats)


def test_documents_around_canaries_are_all_there():
    data = make(documents(400), block=150, canaries=[CanaryPlan("A", 3, 2)])
    (part, canaries) = data.parts["A"], [canary.text for canary in data.canaries]
    text = decode([i for ids in part.ids for i in [*ids, 2]])
    for canary in canaries:
        for whole in (f"\x01{canary}\x02", f"{canary}\x01"):
            text = text.replace(whole, "\x02" if whole.endswith("\x02") else "")
    numbers = [number for number in data.documents["A"] if number >= 0]
    assert "\x01".join(documents(400)[number] for number in numbers).startswith(text.replace("\x02", ""))
    assert len(text.replace("\x02", "")) == part.tokens - 6 * 44


def test_places_of_canaries_are_random():
    """The row of a canary, over 200 seeds: each of 4 rows 50 times, within 5 standard deviations."""
    rows = Counter(
        next(
            row
            for row, named in enumerate(make(block=60, seed=seed, canaries=[CanaryPlan("B", 1)]).parts["B"].documents)
            if -1 in named
        )
        for seed in range(200)
    )
    assert max(abs(rows[row] - 50) for row in range(4)) < 5 * np.sqrt(200 * 0.25 * 0.75)


def test_plans_for_a_study():
    plans = spread_canaries(4, [1, 16], ["A", "B", "C"])
    found = [(plan.part, plan.repeats, plan.count) for plan in plans]
    each = [("A", 2), ("B", 1), ("C", 1), ("shared", 4)]
    assert found == [*((part, often, n) for often in (1, 16) for part, n in each), ("none", 0, 4)]
    assert [plan.part for plan in spread_canaries(1, [1], ["A", "B"], shared=False)] == ["A", "none"]
    assert spread_canaries(0, [1], ["A"]) == ()


@pytest.mark.parametrize(("template", "message"), [
    ("The code of {word} is 1.", "{word} once, and after it at least one slot to search, found {word}"),
    ("The code is {digit}.", "{word} once, .* found {digit}"),
    ("The code {digit} of {word}.", "{word} once"),
    ("{word} {digit} {word}", "{word} once"),
    ("No places.", "found no places"),
    ("{word} {colour} {}", "expected the slots {word}, {digit}, {letter} alone, found {colour}, {}"),
    ("{word} {digit", "expected a text with {word} and slots"),
    ("{word} {digit:3}", "expected {digit} alone, found one with a conversion or width"),
    ("{word} " + "{digit}" * 7, "at most 1000000 fills, found 10000000"),
])  # fmt: skip
def test_formats_that_will_not_do(template, message):
    with pytest.raises(InputError, match=message.replace("{", r"\{")):
        CanaryFormat(template)


def test_slots_and_plans_that_will_not_do():
    with pytest.raises(InputError, match="different values of a slot, found one twice in x"):
        CanaryFormat("{word} {x}", {"x": ("a", "a")})
    for arguments, message in [
        (("A", 0), "repetitions of canaries in part A: expected one or more"),
        (("none", 1), "repetitions of canaries in part none: expected 0"),
        (("A", -1), "repetitions"),
        (("A", 1, 0), "number of canaries"),
    ]:
        with pytest.raises(InputError, match=message):
            CanaryPlan(*arguments)
    with pytest.raises(InputError, match="number of canaries"):
        draw_canaries(CanaryFormat(), 10**6, "A", 1, 0)


@pytest.mark.parametrize(("options", "message"), [
    ({"canaries": [CanaryPlan("control", 1)]}, "part of canaries: expected one of shared, A, B, C, none, found control"),
    ({"canaries": [CanaryPlan("D", 1)]}, "part of canaries"),
    ({"canaries": [CanaryPlan("A", 1)]}, "1 canaries in 4 rows: expected at most 16 tokens of canaries a row, found 44"),
    ({"canaries": [CanaryPlan("A", 5)], "block": 60}, "at most 60 tokens of canaries a row, found 88"),
    ({"canaries": [CanaryPlan("shared", 1)], "block": 60, "shared": 0}, "1 canaries in 0 rows"),
    ({"canaries": [CanaryPlan("A", 5)], "block": None}, "part A: expected at most 4 canaries, found 5"),
    ({"canaries": [CanaryPlan("A", 1)], "block": None, "window": 20}, "of at most 20 tokens, found 1, the longest of 43"),
])  # fmt: skip
def test_canaries_without_a_place_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        make(**options)


def test_a_tokenizer_that_reads_across_the_seam_is_refused():
    def merging(texts: Sequence[str]) -> list[list[int]]:
        return [[ord(c) for c in text.replace("s 7", "\u1000")] for text in texts]  # "is 7" is another token than "s" and " 7"

    plans = [CanaryPlan("A", 1, 3)]
    options = {**SIZES, "block": 60, "canaries": plans}
    with pytest.raises(InputError, match=r"vault [a-z]+ is 7 .*: expected a tokenizer that reads it as it reads its two parts"):
        make_memorization(documents(120), merging, **options)
    assert make_memorization(documents(120), encode, **options).canaries


def test_masked_models_read_canaries_with_special_tokens():
    options = {**SIZES, "block": None, "window": 60, "special": {2, 3}, "canaries": [CanaryPlan("B", 2)]}
    data = make_memorization(documents(200), encode_masked, **options)
    (canary,) = data.canaries
    assert data.parts["B"].ids.count((2, *encode([canary.text])[0], 3)) == 2
    short = len({text for text in documents(200) if len(text) < MIN_TOKENS})  # without special tokens
    assert short > 10
    with pytest.raises(InputError, match=f"{200 - short} texts: .*5 are repetitions and {short} too short"):
        make_memorization(documents(200), encode_masked, **{**options, "control": 200})


# --- what cannot be made


@pytest.mark.parametrize(("options", "message"), [
    ({"rows": None}, r"expected rows \(a model's\) or total \(all models'\), found neither"),
    ({"total": 20}, "found both"),
    ({"rows": 2}, "rows: expected 3 or more, 2 of them shared, found 2"),
    ({"rows": None, "total": 4}, "total: expected 5 or more, 2 of them shared, found 4"),
    ({"models": 0}, "models: expected one or more, found 0"),
    ({"control": -1}, "control: expected 0 or more, found -1"),
    ({"seed": -1}, "seed"),
    ({"separator": None}, "separator: expected a token to stand between packed documents"),
    ({"groups": [0]}, "groups: expected a number for each of 125 texts and 0 held-out ones, found 1"),
])  # fmt: skip
def test_sizes_that_cannot_be(options, message):
    with pytest.raises(InputError, match=message):
        make(**options)


@pytest.mark.parametrize("block", [16, None])
def test_too_few_documents_says_how_many_are_missing(block):
    texts = [f"text {i:02}" for i in range(100)]  # with a separator, two in a block of 16
    rows = 48 if block else 100  # a part's last row may need one more text
    options: dict[str, Any] = {"block": block, "control": 10, "validation": 10, "shared": 5, "models": 2}
    own = (rows - 25) // 2
    data = make(texts, rows=own + 5, **options)  # so many fit
    assert sum(map(len, data.parts.values())) == 25 + 2 * own
    message = rf"100 texts: expected {25 + 2 * own + 60} rows \(5 shared, 10 control, 10 validation, {own + 30} A, {own + 30} B\)"
    with pytest.raises(InputError, match=message + r", found (\d+) rows, (\d+) too few") as error:
        make(texts, rows=own + 35, **options)
    found, missing = (int(error.value.found.split()[place]) for place in (0, 2))
    assert found + missing == 25 + 2 * own + 60
    assert rows - 6 <= found <= rows  # each part but the last may lose some of its last text
    with pytest.raises(InputError, match=r"0 texts: expected 37 rows .* found 0 rows, 37 too few"):
        make([], block=block, models=2, rows=6 + 1, shared=7 - 1, control=20, validation=9)
    with pytest.raises(InputError, match=r"3 texts: expected 30 rows .30 validation., found"):
        make(texts, block=block, held_out=["held out one", "held out two", "held out three"], validation=30)


def test_what_was_made_is_checked_again():
    texts = documents(120)
    plans = [CanaryPlan("A", 2)]
    data = make(texts, block=60, canaries=plans)
    encoded, groups = encode([canary.text for canary in data.canaries]), list(range(len(texts)))
    require_separate(data.parts, data.canaries, encoded, texts, groups)
    twice = {**data.parts, "B": join_rows([data.parts["B"], data.parts["A"].take([0])])}
    with pytest.raises(FuseForgetError, match="expected only in A, found in B too"):
        require_separate(twice, data.canaries, encoded, texts, groups)
    inside = data.documents
    one, other = (next(number for number in inside[name] if number >= 0) for name in ("A", "C"))
    with pytest.raises(FuseForgetError, match=f"document {other}: expected only in A, found in C too"):
        require_separate(data.parts, data.canaries, encoded, texts, [groups[one] if g == other else g for g in groups])
    cut = Rows(tuple(ids[:-30] for ids in data.parts["A"].ids), data.parts["A"].documents)
    with pytest.raises(FuseForgetError, match="expected 2 times in A, found"):
        require_separate({**data.parts, "A": cut}, data.canaries, encoded, texts, groups)


# --- the directory and the command


@pytest.mark.parametrize("block", [60, None])
def test_saving_and_loading_gives_the_same(tmp_path, block):
    form = CanaryFormat("{word} {x} likes it", {"x": ("é", "b")})
    data = make(
        [*documents(120), *(f"naïve text “{i}”" for i in range(5))], block=block, window=50, tokenizer="abc",
        canaries=[CanaryPlan("A", 2), CanaryPlan("none", 0, 2, form)], control=0,
    )  # fmt: skip
    save_memorization(data, tmp_path)
    assert is_memorization_data(tmp_path)
    found = load_memorization(tmp_path)
    assert found.settings["tokenizer"] == "abc"
    assert found == data
    assert found.sha256 == data.sha256
    assert found.trained_on("A") == data.trained_on("A")
    assert candidates(found.canaries[0]) == candidates(data.canaries[0])
    line = json.loads((tmp_path / "A.jsonl").read_text().splitlines()[0])
    assert list(line) == (["ids", "documents"] if block else ["ids", "documents", "text"])
    if not block:
        assert all(
            decode(ids) == text[:50]
            for name, part in found.parts.items() for ids, text in zip(part.ids, found.texts[name], strict=True)
        )  # fmt: skip


def other_row(path: Path) -> None:
    lines = path.read_text().splitlines()
    row = json.loads(lines[0])
    row["ids"][0] += 1
    path.write_text("\n".join([json.dumps(row), *lines[1:]]))


def other_document(path: Path) -> None:
    path.write_text(path.read_text().replace('"documents": [', '"documents": [9, ', 1))


@pytest.mark.parametrize(("file", "change", "message"), [
    ("A.jsonl", other_row, "A.jsonl: expected what memorization.json was written with, found other rows"),
    ("shared.jsonl", other_document, "shared.jsonl: .* found other rows"),
    ("B.jsonl", lambda path: path.write_text('{"ids": "x", "documents": 3}'), "B.jsonl: .* found other rows"),
    ("B.jsonl", lambda path: path.write_text('{"ids": [1]}'), "B.jsonl: .* found other rows"),
    ("control.jsonl", Path.unlink, "control.jsonl: expected a file"),
    ("memorization.json", lambda path: path.write_text("{"), "the description of a memorization data set"),
    ("memorization.json", lambda path: path.write_text("{}"), "the description of a memorization data set"),
    ("memorization.json", Path.unlink, "made by `fuseforget data memorization`"),
])  # fmt: skip
def test_changed_files_are_refused(tmp_path, file, change: Callable[[Path], Any], message):
    save_memorization(make(), tmp_path)
    change(tmp_path / file)
    with pytest.raises(InputError, match=message):
        load_memorization(tmp_path)


def byte_level(directory: Path, texts: Sequence[str]) -> Path:
    """A decoder's tokenizer as GPT-2's, each digit a token of its own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    split = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=400, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False)
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", model_max_length=64).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """News of made-up words, two of them nearly the same; a decoder's tokenizer and a masked model's."""
    path = tmp_path_factory.mktemp("corpus")
    rng = random.Random(0)
    texts = [
        " ".join(rng.choice(["market", "film", "team", "rain", "vote", "code"]) for _ in range(rng.randint(3, 30)))
        for _ in range(200)
    ]
    with (path / "news.jsonl").open("w") as stream:
        for text in [*texts, texts[0], "no"]:
            stream.write(json.dumps({"article": text}) + "\n")
    (path / "held.txt").write_text("\n\n".join(f"{text} and more" for text in texts[:20]))
    byte_level(path / "decoder", texts)
    make_bert(path / "bert")
    config = json.loads((path / "bert" / "config.json").read_text())
    (path / "bert" / "config.json").write_text(json.dumps({**config, "architectures": ["BertForMaskedLM"]}))
    return path


COMMON = ["--models", 2, "--shared", 3, "--control", 4, "--validation", 4]


@pytest.fixture
def command(corpus, monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """The command in this process: to import transformers anew for each would take longer than all of these tests."""
    from fuseforget import cli

    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)  # the test's own process keeps its handlers
    monkeypatch.chdir(corpus)

    def call(*options: object) -> tuple[int, str, str]:
        words = ["fuseforget", "data", "memorization", "news.jsonl", *COMMON, *options]
        monkeypatch.setattr("sys.argv", [str(word) for word in words])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return int(stop.value.code or 0), *capsys.readouterr()

    return call


def test_the_command_makes_what_it_says(corpus, command, tmp_path):
    out = tmp_path / "out"
    options = ["--tokenizer", corpus / "decoder", "-o", out, "--rows", 9, "--canaries", 1, "--repeats", 1, "--repeats", 2]
    done = run("data", "memorization", corpus / "news.jsonl", *COMMON, *options, "--json")
    assert done.returncode == 0, done.stderr
    printed, data = json.loads(done.stdout), load_memorization(out)
    assert {name: part["rows"] for name, part in printed["parts"].items()} == {
        "shared": 3, "control": 4, "validation": 4, "A": 6, "B": 6,
    }  # fmt: skip
    assert {len(ids) for part in data.parts.values() for ids in part.ids} == {64}  # what the model reads, not 128
    assert {(c.part, c.repeats) for c in data.canaries} == {("A", 1), ("A", 2), ("shared", 1), ("shared", 2), ("none", 0)}
    assert data.counts == printed["counts"]
    assert data.counts["duplicates"] == 1
    code, _, error = command(*options)
    assert (code, "--overwrite" in error) == (2, True)
    code, printed_lines, _ = command(*options, "--overwrite")
    assert code == 0
    assert "A           6     384" in printed_lines
    assert "1 texts left out that are another one but for white space" in printed_lines
    assert "1 canaries in no part, to compare with" in printed_lines
    assert load_memorization(out) == data


def test_the_command_for_a_masked_model_and_held_out_texts(command, tmp_path):
    out = tmp_path / "out"
    code, printed, error = command(
        "--tokenizer", "bert", "-o", out, "--total", 14, "--no-near-duplicates", "--held-out", "held.txt",
        "--text", "article",
    )  # fmt: skip
    assert code == 0, error
    data = load_memorization(out)
    assert data.settings["block"] is None
    assert {ids[0] for part in data.parts.values() for ids in part.ids} == {2}  # [CLS]
    assert {ids[-1] for part in data.parts.values() for ids in part.ids} == {3}  # [SEP]
    assert [len(data.parts[name]) for name in data.models] == [5, 5]
    assert data.counts["undealt"] == 1
    assert all(text.endswith("and more") for text in data.texts["validation"])
    assert "1 rows of the total left out" in printed


@pytest.mark.parametrize(("options", "message"), [
    (["--tokenizer", "nowhere"], "nowhere: expected a directory with a tokenizer, found none at that path"),
    (["--tokenizer", "."], "expected a tokenizer that transformers can load"),
    (["--tokenizer", "decoder", "--block", 65], "--block: expected at most 64 tokens, which the model reads, found 65"),
    (["--tokenizer", "decoder", "--block", 32, "--articles"], "one of --block and --articles"),
    (["--tokenizer", "bert", "--block", 32], "--block: expected a decoder, found a masked language model"),
    (["--tokenizer", "decoder", "--repeats", 2], "--repeats: expected --canaries with it"),
    (["--tokenizer", "decoder", "--text", "body"], "a column 'body'"),
    (["--tokenizer", "decoder"], "expected rows (a model's) or total"),
    (["--tokenizer", "decoder", "--rows", 9, "--held-out", "held.txt"], "held-out texts: expected none that is in the corpus"),
    (["--tokenizer", "decoder", "--rows", 900], "too few"),
    (["--tokenizer", "decoder", "--rows", 9, "-o", "decoder", "--overwrite"], "a directory that is an input, decoder"),
])  # fmt: skip
def test_commands_that_will_not_do(command, tmp_path, options, message):
    code, _, error = command("-o", tmp_path / "out", *options)
    assert code == 2
    assert message in error
    assert not (tmp_path / "out").exists()
