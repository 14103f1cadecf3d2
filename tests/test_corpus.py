"""Texts without labels, and which of them are nearly the same."""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest

from fuseforget.data import near_duplicates, read_documents
from fuseforget.errors import InputError


@pytest.mark.parametrize("column", ["text", "sentence", "article", "content", "body"])
def test_tables_need_no_labels(tmp_path, column):
    texts = ["one text", " another\n\ntext "]
    path = tmp_path / "news.jsonl"
    path.write_text("\n".join(json.dumps({"id": i, column: text}) for i, text in enumerate(texts)))
    assert read_documents(path, text="body" if column == "body" else None) == tuple(texts)


def test_every_kind_of_table_and_split(tmp_path):
    import datasets
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "train.tsv").write_text("text\ta\n'x\t1\n")
    (tmp_path / "tables" / "dev.csv").write_text('text,a\n"x, y",1\n')
    (tmp_path / "tables" / "README.txt").write_text("What this is.")  # beside tables it is no document
    pyarrow.parquet.write_table(pyarrow.table({"article": ["p"]}), tmp_path / "tables" / "test.parquet")
    datasets.DatasetDict({"train": datasets.Dataset.from_dict({"content": ["d", "e"]})}).save_to_disk(str(tmp_path / "saved"))
    assert read_documents(tmp_path / "tables") == ("'x",)
    assert read_documents(tmp_path / "tables", split="validation") == ("x, y",)
    assert read_documents(tmp_path / "tables", split="test") == ("p",)
    assert read_documents(tmp_path / "saved") == ("d", "e")


def test_a_text_files_paragraphs(tmp_path):
    (tmp_path / "notes.txt").write_text("\ufeff\n first\nline \n \t\n\n\nsecond = 2\n")
    assert read_documents(tmp_path / "notes.txt") == ("first\nline", "second = 2")


def test_wikitexts_titles_begin_documents(tmp_path):
    content = (
        " \n = One = \n \n Text of one . \n More . \n \n = = Section = = \n \n Its text . \n \n = <unk> ( x ) = \n \n Two . \n"
    )
    (tmp_path / "valid.txt").write_text("before\n" + content)
    (tmp_path / "test.txt").write_text("= T =\n\nt")
    found = read_documents(tmp_path, split="validation")
    assert [re.sub(r"\s+", " ", text) for text in found] == [
        "before", "= One = Text of one . More . = = Section = = Its text .", "= <unk> ( x ) = Two .",
    ]  # fmt: skip
    assert read_documents(tmp_path, split="test") == ("= T =\n\nt",)
    with pytest.raises(InputError, match=r"\(train\): expected train.txt, found test.txt, valid.txt"):
        read_documents(tmp_path)


def test_a_directory_of_text_files(tmp_path):
    for name, text in {"b.txt": "second\n\nof two", "a.txt": " first\n"}.items():
        (tmp_path / name).write_text(text)
    assert read_documents(tmp_path) == ("first", "second\n\nof two")
    (tmp_path / "c.txt").write_text(" \n")
    with pytest.raises(InputError, match=r"a text in every file, found none in 1 of 3 \(c.txt\)"):
        read_documents(tmp_path)


@pytest.mark.parametrize(("name", "content", "text", "message"), [
    ("a.jsonl", b'{"text": "x"}\n{"text": " "}\n{"text": null}\n{"text": 3}\n', None, r"none in 3 of 4 \(row 2, 3, 4\)"),
    ("a.jsonl", b'{"label": "x"}\n', None, "a column 'text' or 'sentence' or 'article' or 'content', found columns label"),
    ("a.jsonl", b'{"text": "x"}\n', "body", "a column 'body'"),
    ("a.jsonl", b"", None, "at least one document, found no rows"),
    ("a.txt", b" \n\n", None, "at least one document, found an empty file"),
    ("a.txt", b"a\xff\n", None, "expected text in UTF-8"),
    ("a.txt", b"a\n", "body", "column of texts: expected a table, found text files"),
    ("b.txt", None, None, "expected a text file, found nothing at that path"),
])  # fmt: skip
def test_what_holds_no_documents_is_refused(tmp_path, name, content, text, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_documents(tmp_path / name, text=text)


def sentence(rng: random.Random, words: int, vocabulary: int = 5000) -> list[str]:
    return [f"w{rng.randrange(vocabulary)}" for _ in range(words)]


def jaccard(a: str, b: str, words: int = 5) -> float:
    """Computed anew: of sets of runs of words."""
    sets = [{tuple(text.split()[i : i + words]) for i in range(len(text.split()) - words + 1)} for text in (a, b)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def planted(seed: int, pairs: int, changed: int) -> list[str]:
    """Texts and their copies, in which the last words are others; then as many texts that have nothing to do with them."""
    rng = random.Random(seed)
    first = [sentence(rng, 49) for _ in range(pairs)]
    copies = [words[: len(words) - changed] + sentence(rng, changed) for words in first]
    return [" ".join(words) for words in [*first, *copies, *(sentence(rng, 49) for _ in range(pairs))]]


@pytest.mark.parametrize("seed", range(5))
def test_near_copies_are_found_and_nothing_else(seed):
    pairs = 150
    texts = planted(seed, pairs, 5)
    assert jaccard(texts[0], texts[pairs]) == pytest.approx(40 / 50)  # at the threshold itself
    groups = near_duplicates(texts, seed=seed)
    assert groups.dtype == np.int64
    # One of 1,000 pairs at the threshold may be missed: three of 150 by chance in one of 20,000 runs.
    assert (groups[pairs : 2 * pairs] == np.arange(pairs)).sum() >= pairs - 2
    assert (groups[2 * pairs :] == np.arange(2 * pairs, 3 * pairs)).all()
    assert (groups[:pairs] == np.arange(pairs)).all()
    assert (near_duplicates(texts, seed=seed) == groups).all()


@pytest.mark.parametrize("seed", range(3))
def test_below_the_threshold_texts_stay_apart(seed):
    texts = planted(seed, 100, 6)
    assert jaccard(texts[0], texts[100]) == pytest.approx(39 / 51)
    assert (near_duplicates(texts, seed=seed) == np.arange(300)).all()
    assert (near_duplicates(texts, seed=seed, threshold=0.7)[100:200] == np.arange(100)).all()


def components(texts: Sequence[str], threshold: float) -> list[int]:
    """Groups by comparing every pair with every other."""
    groups = list(range(len(texts)))
    for i, j in combinations(range(len(texts)), 2):
        if jaccard(texts[i], texts[j], 2) >= threshold:
            a, b = sorted((groups[i], groups[j]))
            groups = [a if group == b else group for group in groups]
    return groups


@pytest.mark.parametrize("seed", range(3))
def test_groups_are_chains_of_similar_texts(seed):
    rng = random.Random(seed)
    texts = []
    for _ in range(15):
        words = sentence(rng, 30)
        for _ in range(4):  # each a little further from the first
            texts.append(" ".join(words))
            words = words[2:] + sentence(rng, 2)
    rng.shuffle(texts)
    expected = components(texts, 0.75)
    assert len(set(expected)) == 15
    assert near_duplicates(texts, seed=seed, words=2, threshold=0.75).tolist() == expected


def test_case_and_punctuation_make_no_difference_and_short_texts_are_compared_whole():
    texts = [
        "Stocks fell, again; today in New-York.",
        "stocks fell again today in new york",
        "Yes.",
        "yes",
        "No",
        "!!",
        "??",
        "!!",
    ]
    assert near_duplicates(texts).tolist() == [0, 0, 2, 2, 4, 5, 6, 5]
    assert near_duplicates([]).tolist() == []
    assert near_duplicates(["a b c d e f", "a b c d e f", "a b c d e g"], threshold=1).tolist() == [0, 0, 2]


@pytest.mark.parametrize(("options", "message"), [
    ({"threshold": 1.1}, "threshold of near-duplicates: expected 0.1 to 1, found 1.1"),
    ({"threshold": 0.05}, "threshold of near-duplicates"),
    ({"words": 0}, "words of near-duplicates"),
    ({"permutations": 4, "threshold": 0.3}, "permutations of near-duplicates: expected enough"),
    ({"seed": -1}, "seed"),
])  # fmt: skip
def test_what_cannot_be_compared_so_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        near_duplicates(["a", "b"], **options)


def test_without_datasketch_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasketch", None)
    with pytest.raises(InputError, match="pip install datasketch"):
        near_duplicates(["a", "b"])
