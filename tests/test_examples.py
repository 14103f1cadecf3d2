"""Reading labelled texts from every place."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fuseforget.data import Examples, read_examples
from fuseforget.errors import InputError

ROWS = [('he said "no', 0), ("fine , really", 1), ("plain", 0)]
EXPECTED = Examples(tuple(t for t, _ in ROWS), tuple(y for _, y in ROWS), ("LABEL_0", "LABEL_1"))


def write(path, kind):
    if kind == "tsv":
        path.write_text("sentence\tlabel\n" + "".join(f"{t}\t{y}\n" for t, y in ROWS))
    elif kind == "csv":
        path.write_text("label,text\n" + "".join('{},"{}"\n'.format(y, t.replace('"', '""')) for t, y in ROWS))
    elif kind == "jsonl":
        path.write_text("".join(json.dumps({"text": t, "label": y}) + "\n" for t, y in ROWS))
    else:
        pq.write_table(pa.table({"text": [t for t, _ in ROWS], "label": [y for _, y in ROWS]}), path)


@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl", "parquet"])
def test_files_and_directories_of_every_kind_read_alike(tmp_path, kind):
    for name in ("train", "validation"):
        write(tmp_path / f"{name}.{kind}", kind)
    assert read_examples(tmp_path / f"train.{kind}") == EXPECTED
    assert read_examples(tmp_path, split="train") == read_examples(tmp_path) == EXPECTED


def test_a_datasets_directory_is_read(tmp_path):
    import datasets

    rows = datasets.Dataset.from_dict({"text": [t for t, _ in ROWS], "label": [y for _, y in ROWS]})
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(str(tmp_path / "d"))
    assert read_examples(tmp_path / "d", split="train") == read_examples(tmp_path / "d") == EXPECTED
    with pytest.raises(InputError, match="a split 'extra'"):
        read_examples(tmp_path / "d", split="extra")


def test_names_are_numbered_in_sorted_order(tmp_path):
    (tmp_path / "d.csv").write_text("text,label\na,pos\nb,neg\n")
    found = read_examples(tmp_path / "d.csv")
    assert (found.labels, found.label_names) == ((1, 0), ("neg", "pos"))


@pytest.mark.parametrize(("content", "message"), [
    ("text\tlabel\n", "no rows"),
    ("", "no rows"),
    ("text\tgold\na\t1\n", "a column 'label', found columns text, gold"),
    ("words\tlabel\na\t1\n", "'text' or 'sentence'"),
    ("text\tlabel\na\t1\n\t0\n", "row 2: expected a text"),
    ("text\tlabel\na\t1\nb\t\n", "row 2: expected a label"),
    ("text\tlabel\na\t-1\n", "whole numbers from 0"),
    ("text\tlabel\na\t1\tx\n", "line 2 with 3 fields"),
])  # fmt: skip
def test_bad_tables_are_refused_with_place_and_reason(tmp_path, content, message):
    (tmp_path / "d.tsv").write_text(content)
    with pytest.raises(InputError, match=message):
        read_examples(tmp_path / "d.tsv")


@pytest.mark.parametrize(("source", "message"), [
    ("./gone.tsv", "nothing at that path"), ("no/such-data", "the hub answered"),
])  # fmt: skip
def test_absent_data_is_said(source, message):
    with pytest.raises(InputError, match=message):
        read_examples(source)


def test_an_empty_directory_says_what_it_looked_for(tmp_path):
    with pytest.raises(InputError, match="validation"):
        read_examples(tmp_path)


def test_a_sample_is_seeded_and_refuses_too_many():
    assert EXPECTED.sample(2, 1) == EXPECTED.sample(2, 1)
    assert len(EXPECTED.sample(2, 1)) == 2
    with pytest.raises(InputError, match="1 to 3"):
        EXPECTED.sample(4, 0)
