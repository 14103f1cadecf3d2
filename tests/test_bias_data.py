"""Data on social bias: attributes read from every place, biased subsets, author signatures, and the directory they make."""

from __future__ import annotations

import json
import re
from collections import Counter
from fractions import Fraction
from itertools import product

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuseforget.data import (
    AttributedExamples,
    Examples,
    NameTable,
    demo_names,
    make_biased,
    proportions,
    read_attributed,
    read_names,
    sign,
    sign_splits,
)
from fuseforget.errors import InputError

ROWS = [("a b", 1, " male", "x"), ("c", 0, "female ", "y"), ("d", 1, "female", "x")]
HEADER = ("text", "label", "gender", "author")


def write(path, kind, rows=ROWS, header=HEADER):
    if kind in ("tsv", "csv"):
        mark = "\t" if kind == "tsv" else ","
        path.write_text("".join(mark.join(map(str, row)) + "\n" for row in [header, *rows]))
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(dict(zip(header, row, strict=True))) + "\n" for row in rows))
    else:
        pq.write_table(pa.table({name: list(column) for name, column in zip(header, zip(*rows, strict=True), strict=True)}), path)
    return path


def table_of(cells: dict[tuple[int, str, str], int], labels: int = 2, shuffle: int = 0) -> AttributedExamples:
    """A table with so many rows of each (label, gender, age)."""
    rows = [cell for cell, count in cells.items() for _ in range(count)]
    rows = [rows[i] for i in np.random.default_rng(shuffle).permutation(len(rows))]
    examples = Examples(
        tuple(f"text {i}" for i in range(len(rows))), tuple(r[0] for r in rows), tuple(f"L{i}" for i in range(labels))
    )
    values = {name: tuple(sorted({cell[k] for cell in cells})) for k, name in ((1, "gender"), (2, "age"))}
    return AttributedExamples(examples, {"gender": tuple(r[1] for r in rows), "age": tuple(r[2] for r in rows)}, (), values)


def full_table(count: int, labels: int = 2) -> AttributedExamples:
    return table_of(dict.fromkeys(product(range(labels), ("f", "m"), ("o", "y")), count), labels)


def counted(data: AttributedExamples) -> Counter:
    return Counter(zip(data.examples.labels, data.attributes["gender"], data.attributes["age"], strict=True))


# Reading


@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl", "parquet"])
def test_files_of_every_kind_read_alike(tmp_path, kind):
    found = read_attributed(write(tmp_path / f"d.{kind}", kind), attributes=["gender"], unit="author")
    assert found.attributes == {"gender": ("male", "female", "female")}
    assert (found.values("gender"), found.codes("gender").tolist()) == (("female", "male"), [1, 0, 0])
    assert (found.units, found.unit_codes().tolist()) == (("x", "y", "x"), [0, 1, 0])
    assert found.examples.labels == (1, 0, 1)


def test_a_datasets_directory_with_stored_names_is_read(tmp_path):
    import datasets

    features = datasets.Features({
        "text": datasets.Value("string"), "label": datasets.Value("int64"), "gender": datasets.ClassLabel(names=["w", "m"]),
    })  # fmt: skip
    columns = {"text": ["a", "b", "c"], "label": [0, 1, 1], "gender": [0, 1, 0]}
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(str(tmp_path / "d"))
    assert read_attributed(tmp_path / "d", attributes=["gender"]).attributes["gender"] == ("w", "m", "w")
    columns["gender"] = [0, -1, 0]
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(str(tmp_path / "e"))
    with pytest.raises(InputError, match=r"'gender', row 2: expected a value, found none \(1 rows"):
        read_attributed(tmp_path / "e", attributes=["gender"])


def test_numbers_are_values_too_and_there_may_be_more_than_two(tmp_path):
    rows = [("a", 0, 2, "x"), ("b", 1, 0, "x"), ("c", 1, 1, "y"), ("d", 1, 1, "y")]
    found = read_attributed(write(tmp_path / "d.jsonl", "jsonl", rows), attributes=["gender", "author"])
    assert found.values("gender") == ("0", "1", "2")
    assert found.codes("author").tolist() == [0, 0, 1, 1]
    assert found.unit_codes() is None


def test_expected_values_and_those_of_the_training_set_keep_their_codes(tmp_path):
    path = write(tmp_path / "d.tsv", "tsv")
    wide = read_attributed(path, attributes={"gender": ["other", "male", "female"]})
    assert wide.values("gender") == ("female", "male", "other")
    assert read_attributed(path, attributes=["gender"], like=wide).values("gender") == ("female", "male", "other")
    assert wide.take([0]).values("gender") == ("female", "male", "other")
    named = write(
        tmp_path / "named.tsv", "tsv", [("a", "no", "male", "x"), ("b", "yes", "female", "x"), ("c", "yes", "male", "x")]
    )
    train = read_attributed(named, attributes=["gender"])
    part = write(tmp_path / "part.tsv", "tsv", [("a", "yes", "male", "x"), ("b", "yes", "female", "x")])
    assert read_attributed(part, attributes=["gender"], like=train).examples.labels == (1, 1)


MANY = [(f"t{i}", i % 2, f"v{i}", "x" if i else "z") for i in range(120)]


@pytest.mark.parametrize(("rows", "options", "message"), [
    (ROWS, {"attributes": ["age"]}, "a column 'age', found columns text, label, gender, author"),
    (ROWS, {"attributes": ["gender"], "unit": "who"}, "a column 'who', found columns text"),
    (ROWS, {"attributes": []}, "the names of one or more columns"),
    (ROWS, {"attributes": "gender"}, "the names of one or more columns, found 'gender'"),
    (ROWS, {"attributes": ["label"]}, "a column of its own for each attribute, found 'label', the column of the labels"),
    (ROWS, {"attributes": ["text"]}, "'text', the column of the texts"),
    (ROWS, {"attributes": ["author"], "unit": "author"}, "'author', the column of the units"),
    (ROWS, {"attributes": ["gender", "gender"]}, "'gender' twice"),
    (ROWS, {"attributes": {"gender": ["male"]}}, r"column 'gender': expected one of male, found 'female' \(2 rows\)"),
    (ROWS[1:], {"attributes": ["gender"]}, "column 'gender': expected two values or more, found 'female' in every row"),
    ([ROWS[0], ("b", 0, "  ", "x"), ("c", 0, "", "x")], {"attributes": ["gender"]}, r"'gender', row 2: .* none \(2 rows"),
    (MANY, {"attributes": ["gender"]}, "found 120 different values in 120 rows. It looks like a column of identifiers"),
    (MANY[:12], {"attributes": ["gender"]}, "found 12 different values in 12 rows"),
])  # fmt: skip
def test_bad_attributes_are_refused_with_place_and_reason(tmp_path, rows, options, message):
    with pytest.raises(InputError, match=message):
        read_attributed(write(tmp_path / "d.tsv", "tsv", rows), **options)


def test_missing_values_of_parquet_are_missing(tmp_path):
    pq.write_table(pa.table({"text": ["a", "b"], "label": [0, 1], "g": [1.0, float("nan")]}), tmp_path / "d.parquet")
    with pytest.raises(InputError, match=r"column 'g', row 2: expected a value, found none \(1 rows"):
        read_attributed(tmp_path / "d.parquet", attributes=["g"])


def test_tables_that_do_not_fit_together_are_refused():
    examples = Examples(("a", "b"), (0, 1), ("n", "p"))
    with pytest.raises(InputError, match="attribute g: expected 2 rows, as there are texts, found 1"):
        AttributedExamples(examples, {"g": ("x",)})
    with pytest.raises(InputError, match="units: expected 2 rows"):
        AttributedExamples(examples, {"g": ("x", "y")}, ("u",))
    with pytest.raises(InputError, match="attribute: expected one of g, found 'age'"):
        AttributedExamples(examples, {"g": ("x", "y")}).codes("age")


def test_the_digest_tells_each_part_of_the_data():
    one = table_of({(0, "f", "o"): 2, (1, "m", "y"): 2})
    others = [
        one.take([0, 1, 2]),
        AttributedExamples(one.examples, {"gender": one.attributes["age"], "age": one.attributes["age"]}),
        AttributedExamples(one.examples, one.attributes, ("a", "b", "c", "d")),
    ]
    assert len({part.sha256 for part in [one, *others]}) == 4
    assert one.take(range(4)).sha256 == one.sha256


# Biased subsets


def test_the_papers_subset_by_hand():
    made = make_biased(full_table(40), attribute="gender", ratio=0.8, balanced=["age"])
    assert counted(made.data) == {
        (0, "f", "o"): 40, (0, "f", "y"): 40, (0, "m", "o"): 10, (0, "m", "y"): 10,
        (1, "f", "o"): 10, (1, "f", "y"): 10, (1, "m", "o"): 40, (1, "m", "y"): 40,
    }  # fmt: skip
    assert made.achieved[0] == {"label": "L0", "values": {"gender": "f", "age": "o"}, "rows": 40, "share": 0.4}
    assert [(r["attribute"], r["rows"], r["share"]) for r in made.by_attribute[:2]] == [("gender", 80, 0.8), ("gender", 20, 0.2)]
    assert all(r["share"] == 0.5 for r in made.by_attribute if r["attribute"] == "age")
    assert (made.ratio, made.majority, made.balanced) == ("4/5", {"L0": "f", "L1": "m"}, ("age",))


def test_more_labels_and_values_and_a_chosen_majority():
    cells = dict.fromkeys(product(range(3), ("a", "b", "c", "d"), ("o",)), 30)
    made = make_biased(table_of(cells, 3), attribute="gender", ratio="0.7", favours={"L2": "a"})
    found = counted(made.data)
    assert found[0, "a", "o"] == found[1, "b", "o"] == found[2, "a", "o"] == 28
    assert [found[0, value, "o"] for value in "bcd"] == [4, 4, 4]
    assert made.majority == {"L0": "a", "L1": "b", "L2": "a"}


SHARES = ["1/2", "0.6", "0.8", "0.25", "2/3", "0.9"]


@st.composite
def problems(draw):
    labels, genders, ages = draw(st.integers(2, 3)), draw(st.integers(2, 3)), draw(st.integers(1, 2))
    cells = {cell: draw(st.integers(0, 25)) for cell in product(range(labels), "fmx"[:genders], "oy"[:ages])}
    return cells, labels, draw(st.sampled_from(SHARES)), draw(st.integers(0, 2**31))


def exact_counts(cells, labels, ratio, size):
    """The definition read literally, in fractions."""
    genders, ages = sorted({c[1] for c in cells}), sorted({c[2] for c in cells})
    share, found = Fraction(ratio), {}
    for label, gender, age in cells:
        majority = genders[label % len(genders)]
        of_label = share if gender == majority else (1 - share) / (len(genders) - 1)
        found[label, gender, age] = size * of_label / labels / len(ages)
    return found


@settings(max_examples=150, deadline=None)
@given(problems())
def test_a_subset_is_exact_and_no_larger_one_is(problem):
    cells, labels, ratio, seed = problem
    fits = [
        size
        for size in range(1, sum(cells.values()) + 1)
        for wanted in [exact_counts(cells, labels, ratio, size)]
        if all(n.denominator == 1 and n <= cells[c] for c, n in wanted.items())
    ]
    table = table_of(cells, labels)
    if not fits:
        with pytest.raises(InputError, match="enough rows in every cell for"):
            make_biased(table, attribute="gender", ratio=ratio, balanced=["age"], seed=seed)
        return
    made = make_biased(table, attribute="gender", ratio=ratio, balanced=["age"], seed=seed)
    assert len(made.data) == max(fits)
    assert counted(made.data) == {c: int(n) for c, n in exact_counts(cells, labels, ratio, max(fits)).items()}
    assert len(set(made.data.examples.texts)) == len(made.data)
    before = dict(zip(table.examples.texts, zip(table.examples.labels, *table.attributes.values(), strict=True), strict=True))
    after = zip(made.data.examples.labels, *made.data.attributes.values(), strict=True)
    assert [before[text] for text in made.data.examples.texts] == list(after)


@settings(max_examples=150, deadline=None)
@given(problems(), st.integers(1, 120))
def test_a_given_size_is_within_one_row_of_exact_or_the_error_says_what_is_missing(problem, size):
    cells, labels, ratio, seed = problem
    exact = exact_counts(cells, labels, ratio, size)
    options = {"attribute": "gender", "ratio": ratio, "balanced": ["age"], "seed": seed, "size": size}
    plenty = make_biased(table_of(dict.fromkeys(cells, size), labels), **options)
    found = counted(plenty.data)
    assert len(plenty.data) == size
    assert all(abs(found[cell] - n) < 1 for cell, n in exact.items())
    per_label = Counter(plenty.data.examples.labels)
    assert max(per_label.values()) - min(per_label[i] for i in range(labels)) <= 1
    for label, gender in {c[:2] for c in cells}:
        both = [n for c, n in exact.items() if c[:2] == (label, gender)]
        assert abs(sum(n for c, n in found.items() if c[:2] == (label, gender)) - sum(both)) < 1
    missing = {cell: found[cell] - n for cell, n in cells.items() if found[cell] > n}
    if not missing:
        assert counted(make_biased(table_of(cells, labels), **options).data) == found
        return
    with pytest.raises(InputError, match=f"too few in {len(missing)} ") as caught:
        make_biased(table_of(cells, labels), **options)
    said = re.findall(r"label L(\d), gender (\w), age (\w): (\d+) of (\d+), (\d+) missing", str(caught.value))
    assert {(int(y), g, a): int(n) for y, g, a, _, _, n in said} == missing
    assert all(cells[int(y), g, a] == int(has) and found[int(y), g, a] == int(of) for y, g, a, has, of, _ in said)


def test_odd_rows_are_not_all_given_to_the_first_values():
    made = make_biased(full_table(50), attribute="gender", ratio="1/2", balanced=["age"], size=4 * 25 + 2)
    ages = Counter(made.data.attributes["age"])
    assert ages["o"] == ages["y"] == 51


def test_a_seed_repeats_and_another_differs():
    table = full_table(60)
    made = [make_biased(table, attribute="age", ratio=0.8, balanced=["gender"], size=80, seed=seed) for seed in (0, 0, 1, 2)]
    assert made[0] == made[1]
    assert len({frozenset(part.data.examples.texts) for part in made}) == 3  # other rows, not just in another order
    assert counted(made[0].data) == counted(made[2].data)
    # Shuffled: the labels do not come one after the other.
    assert all(list(part.data.examples.labels) != sorted(part.data.examples.labels) for part in made)


def test_every_row_of_a_cell_is_as_likely_as_another():
    table, seeds = full_table(20), 400
    drawn = Counter(
        text
        for seed in range(seeds)
        for text in make_biased(table, attribute="gender", ratio=0.5, balanced=["age"], size=80, seed=seed).data.examples.texts
    )
    assert len(drawn) == len(table)
    # Each cell gives 10 of its 20 rows; 160 rows, so five standard deviations.
    assert max(abs(count - seeds / 2) for count in drawn.values()) < 5 * np.sqrt(seeds / 4)


@pytest.mark.parametrize(("ratio", "published"), [(0.6, "1/2"), (0.8, "4/5"), (0.7, "2/3"), (0.95, "19/20"), (0.5, "1/2")])
def test_ratios_are_floored_only_as_published(ratio, published):
    table = full_table(60)
    floored = make_biased(table, attribute="gender", ratio=ratio, as_published=True)
    assert floored.ratio == published
    assert make_biased(table, attribute="gender", ratio=ratio).ratio == str(Fraction(str(ratio)))
    share = next(r["share"] for r in proportions(floored.data, "gender"))
    assert share == float(Fraction(published))


def test_an_empty_cell_is_named_with_what_is_missing():
    cells = dict.fromkeys(product(range(2), ("f", "m"), ("o", "y")), 10) | {(1, "m", "y"): 0, (0, "f", "o"): 3}
    with pytest.raises(InputError, match=re.escape(
        "expected enough rows in every cell for 20 rows, the fewest with exact proportions, found too few in 2 "
        "(label L0, gender f, age o: 3 of 4, 1 missing; label L1, gender m, age y: 0 of 4, 4 missing)"
    )):  # fmt: skip
        make_biased(table_of(cells), attribute="gender", ratio=0.8, balanced=["age"])


THREE = dict.fromkeys(product(range(2), "abc", "o"), 5)


@pytest.mark.parametrize(("cells", "options", "message"), [
    (None, {"ratio": 0}, "ratio: expected a number above 0 and below 1, found 0"),
    (None, {"ratio": 1.0}, "above 0 and below 1, found 1.0"),
    (None, {"ratio": -0.2}, "found -0.2"),
    (None, {"ratio": float("nan")}, "found nan"),
    (None, {"ratio": float("inf")}, "found inf"),
    (None, {"ratio": "most"}, "found most"),
    (None, {"ratio": "1/0"}, "found 1/0"),
    (None, {"ratio": 0.8, "size": 0}, "size: expected one row or more, found 0"),
    (None, {"ratio": 0.8, "balanced": ["gender"]}, "each attribute once, and not the biased one, found gender, gender"),
    (None, {"ratio": 0.8, "balanced": ["race"]}, "one of gender, age, found 'race'"),
    (None, {"ratio": 0.8, "attribute": "race"}, "one of gender, age, found 'race'"),
    (None, {"ratio": 0.8, "favours": {"L0": "x"}}, r"a value \(f, m\), found 'L0': 'x'"),
    (None, {"ratio": 0.4, "as_published": True}, "one half or more, as published, found 0.4"),
    (THREE, {"ratio": 0.8, "as_published": True}, "two values, as published, found a, b, c"),
    (THREE, {"ratio": 0.8, "attribute": "age"}, "'age': expected two values or more, found o"),
])  # fmt: skip
def test_bad_requests_are_refused(cells, options, message):
    table = full_table(20) if cells is None else table_of(cells)
    with pytest.raises(InputError, match=message):
        make_biased(table, **{"attribute": "gender", **options})


# Author signatures


def texts(count: int, seed: int = 0, prefix: str = "text") -> Examples:
    rng = np.random.default_rng(seed)
    return Examples(tuple(f"{prefix} {i}" for i in range(count)), tuple(rng.integers(2, size=count).tolist()), ("neg", "pos"))


NAMES = """name\tsex\tdecade\tbirths
Ada\tF\t1930s\t500
Ada\tF\t1990s\t200
Ada\tM\t1930s\t100
Bea\tF\t2010s\t250
Bea\tF\t1940s\t100
Cyn\tF\t2000s\t300
Cyn\tF\t1960s\t9000
Dan\tM\t1950s\t70
Eli\tM\t2010s\t60
Fay\tF\t1950s\t100
Fay\tM\t1950s\t41
"""


def test_names_count_where_births_are_two_and_a_half_times_the_others(tmp_path):
    (tmp_path / "names.tsv").write_text(NAMES)
    assert read_names(tmp_path / "names.tsv").births == {
        ("female", "old"): {"Ada": 500},  # 500 of 200; 700 of 100
        ("female", "young"): {"Cyn": 300, "Bea": 250},  # decades between say nothing; 250 is just enough
        ("male", "old"): {"Dan": 70},  # not Fay, for either: 100 of 41
        ("male", "young"): {"Eli": 60},
    }


@pytest.mark.parametrize(("content", "message"), [
    ("name\tsex\tyear\tbirths\nAda\tF\t1930s\t5\n", "the columns name, sex, decade, births, found columns name, sex, year"),
    (NAMES + "Gus\tX\t1930s\t5\n", "row 12: expected a name, F or M, a decade, and births"),
    (NAMES + "Gus\tM\t1930s\tmany\n", "row 12: "),
    (NAMES.replace("Eli\tM\t2010s", "Eli\tM\t1960s"), "each gender and age, found none for male, young"),
])  # fmt: skip
def test_bad_name_tables_are_refused(tmp_path, content, message):
    (tmp_path / "names.tsv").write_text(content)
    with pytest.raises(InputError, match=message):
        read_names(tmp_path / "names.tsv")


def test_common_names_have_half_of_the_births_and_rare_ones_are_the_less_frequent_half():
    cells = demo_names().cells(("gender", "age", "frequency"))
    assert len(cells) == 8
    for gender, age in product(("female", "male"), ("old", "young")):
        births = demo_names().births[gender, age]
        common, rare = cells[gender, age, "common"], cells[gender, age, "rare"]
        assert (len(common), len(rare), set(common) & set(rare)) == (3, 4, set())
        assert 2 * sum(common.values()) >= sum(births.values()) > 2 * (sum(common.values()) - min(common.values()))
        assert max(rare.values()) < min(common.values())
    lone = NameTable({cell: {f"{cell[0]}-{cell[1]}": 5} for cell in product(("female", "male"), ("old", "young"))})
    with pytest.raises(InputError, match="a rare name for female, old, found only female-old"):
        lone.cells(("frequency",))
    with pytest.raises(InputError, match="two names or more for female, old, to hold some out"):
        sign_splits(texts(50), texts(9), lone, validation=5, held_out_names=True)


def parse(row: str) -> tuple[str, str]:
    name, _, text = row.partition(" : ")
    return name, text


@pytest.mark.parametrize("attributes", [("gender", "age"), ("frequency", "gender", "age"), ("age",)])
def test_every_signature_says_its_attributes(attributes):
    cells = demo_names().cells(attributes)
    for part in sign_splits(texts(300), texts(40, 1, "test"), demo_names(), attributes=attributes, validation=30).values():
        said = zip(*(part.attributes[name] for name in attributes), strict=True)
        assert all(parse(text)[0] in cells[cell] for text, cell in zip(part.examples.texts, said, strict=True))


def test_validation_and_test_differ_in_nothing_but_the_signature():
    train, test = texts(500), texts(40, 1, "test")
    made = sign_splits(train, test, demo_names(), attributes=("gender", "age"), validation=60)
    label = dict(zip(train.texts + test.texts, train.labels + test.labels, strict=True))
    for name, count in (("validation", 60), ("test", 40)):
        part = made[name]
        rows = Counter(zip(part.units, part.attributes["gender"], part.attributes["age"], strict=True))
        assert len(rows) == 4 * count == len(part)
        assert set(rows.values()) == {1}
        text_of = {}
        for unit, row, y in zip(part.units, part.examples.texts, part.examples.labels, strict=True):
            assert text_of.setdefault(unit, parse(row)[1]) == parse(row)[1]
            assert label[parse(row)[1]] == y
        assert len(set(text_of.values())) == count
    unsigned = {name: {parse(row)[1] for row in part.examples.texts} for name, part in made.items()}
    assert not unsigned["train"] & unsigned["validation"]
    assert unsigned["train"] | unsigned["validation"] == set(train.texts)
    assert unsigned["test"] == set(test.texts)


def test_training_signatures_are_balanced_within_labels_and_drawn_by_births():
    made = sign_splits(texts(8000), texts(10, 1, "test"), demo_names(), validation=100)["train"]
    cells = Counter(zip(made.examples.labels, *made.attributes.values(), strict=True))
    assert len(cells) == 8
    for label in (0, 1):
        counts = [count for cell, count in cells.items() if cell[0] == label]
        assert max(counts) - min(counts) <= 1
    assert made.units == ()
    drawn, births = Counter(parse(row)[0] for row in made.examples.texts), demo_names().births["male", "young"]
    total, rows = sum(births.values()), sum(drawn[name] for name in births)
    for name, count in births.items():
        share = count / total
        assert abs(drawn[name] / rows - share) < 4 * np.sqrt(share * (1 - share) / rows)


def test_a_text_that_stands_twice_is_not_in_train_when_it_is_held_out():
    once = texts(40)
    twice = Examples(once.texts * 2, once.labels * 2, once.label_names)
    for seed in range(5):
        made = sign_splits(twice, texts(5, 1, "test"), demo_names(), validation=20, seed=seed)
        held_out = {parse(row)[1] for row in made["validation"].examples.texts}
        assert (len(held_out), len(made["train"])) == (20, 40)
        assert not held_out & {parse(row)[1] for row in made["train"].examples.texts}


@pytest.mark.parametrize("seed", range(3))
def test_held_out_names_are_not_in_train(seed):
    options = {"attributes": ("gender", "age", "frequency"), "validation": 200, "seed": seed}
    split = sign_splits(texts(4000), texts(200, 1), demo_names(), held_out_names=True, **options)
    used = {name: {parse(row)[0] for row in part.examples.texts} for name, part in split.items()}
    assert not used["train"] & (used["validation"] | used["test"])
    # Seven names of each of four cells count (three common, four rare); a half of each is held out.
    assert (len(used["train"]), len(used["validation"] | used["test"])) == (12, 16)
    shared = sign_splits(texts(4000), texts(200, 1), demo_names(), **options)
    assert {parse(row)[0] for row in shared["test"].examples.texts} <= {parse(row)[0] for row in shared["train"].examples.texts}


def test_signing_is_seeded():
    made = [sign_splits(texts(100), texts(9, 1), demo_names(), validation=20, seed=seed) for seed in (0, 0, 1)]
    assert made[0] == made[1]
    assert all(made[0][name] != made[2][name] for name in made[0])
    assert sign("a film", "Ada") == "Ada : a film"


@pytest.mark.parametrize(("options", "message"), [
    ({"validation": 0}, "validation: expected 1 to 99 training texts to take out, found 0"),
    ({"validation": 100}, "found 100"),
    ({"attributes": ()}, "some of gender, age, frequency, each once, found none"),
    ({"attributes": ("gender", "race")}, "found gender, race"),
    ({"attributes": ("age", "age")}, "found age, age"),
    ({"seed": -1}, "seed"),
])  # fmt: skip
def test_bad_signing_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        sign_splits(texts(100), texts(9, 1), demo_names(), **{"validation": 20, **options})
    other = Examples(("a",), (0,), ("bad", "good"))
    with pytest.raises(InputError, match=r"the training set's labels \(neg, pos\), found bad, good"):
        sign_splits(texts(100), other, demo_names(), validation=20)
