"""Reading labelled texts from every place."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fuseforget.data import Examples, read_examples, read_splits
from fuseforget.data.tables import has_split
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
    datasets.DatasetDict({"train": rows, "dev": rows}).save_to_disk(str(tmp_path / "d"))
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


def test_whether_there_is_a_split_is_known_without_reading_it(tmp_path):
    import datasets

    rows = datasets.Dataset.from_dict({"text": ["a"], "label": [0]})
    datasets.DatasetDict({"train": rows, "dev": rows}).save_to_disk(str(tmp_path / "d"))
    (tmp_path / "train.tsv").write_text("damaged")
    (tmp_path / "valid.csv").write_text("damaged")
    for place in (tmp_path, tmp_path / "d"):
        assert [has_split(place, name) for name in ("train", "validation", "test")] == [True, True, False]
    assert not has_split(tmp_path / "train.tsv", "test")
    with pytest.raises(InputError, match="no such path, and the hub answered"):
        has_split("no/such-data", "test")


def test_an_empty_directory_says_what_it_looked_for(tmp_path):
    with pytest.raises(InputError, match="validation"):
        read_examples(tmp_path)


def test_a_sample_is_seeded_and_refuses_too_many():
    assert EXPECTED.sample(2, 1) == EXPECTED.sample(2, 1)
    assert len(EXPECTED.sample(2, 1)) == 2
    with pytest.raises(InputError, match="1 to 3"):
        EXPECTED.sample(4, 0)


def test_a_test_set_is_not_taken_for_a_validation_set(tmp_path):
    import datasets

    write(tmp_path / "test.tsv", "tsv")
    with pytest.raises(InputError, match=r"found test.tsv alone\. To take another split in place of validation"):
        read_examples(tmp_path)
    assert read_examples(tmp_path, split="test") == EXPECTED
    datasets.DatasetDict({"test": datasets.Dataset.from_dict({"text": ["a"], "label": [0]})}).save_to_disk(str(tmp_path / "d"))
    with pytest.raises(InputError, match="a split 'validation', found test"):
        read_examples(tmp_path / "d")
    assert len(read_examples(tmp_path / "d", split="test")) == 1


@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl"])
def test_a_byte_order_mark_is_no_part_of_a_column(tmp_path, kind):
    file = tmp_path / f"d.{kind}"
    write(file, kind)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert read_examples(file) == EXPECTED


def named_rows(labels, names):
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    return datasets.Dataset.from_dict({"text": [f"text {i}" for i in labels], "label": labels}, features=features)


def test_the_names_that_a_data_set_stores_are_kept_with_their_numbers(tmp_path):
    named_rows([1, 0], ["positive", "negative"]).save_to_disk(str(tmp_path / "d"))
    found = read_examples(tmp_path / "d")
    assert (found.labels, found.label_names, found.named) == ((1, 0), ("positive", "negative"), False)
    named_rows([1, 0], ["positive", "negative"]).to_parquet(str(tmp_path / "d.parquet"))
    assert read_examples(tmp_path / "d.parquet") == found
    named_rows([1, -1], ["positive", "negative"]).save_to_disk(str(tmp_path / "withheld"))
    with pytest.raises(InputError, match="labels from 0 to 1, one of positive, negative, found -1"):
        read_examples(tmp_path / "withheld")


def test_a_held_out_set_is_numbered_as_its_training_set_is(tmp_path):
    (tmp_path / "train.csv").write_text("text,label\na,neutral\nb,bad\nc,good\n")
    (tmp_path / "validation.csv").write_text("text,label\na,neutral\nb,good\n")
    train, held_out = read_splits(tmp_path)
    assert train.label_names == held_out.label_names == ("bad", "good", "neutral")
    assert (train.labels, held_out.labels) == ((2, 0, 1), (2, 1))
    (tmp_path / "validation.csv").write_text("text,label\na,neutral\nb,awful\n")
    with pytest.raises(InputError, match=r"\(bad, good, neutral\), found awful"):
        read_splits(tmp_path)
    (tmp_path / "validation.csv").write_text("text,label\na,1\nb,0\n")
    with pytest.raises(InputError, match="found LABEL_0, LABEL_1"):
        read_splits(tmp_path)


def test_held_out_numbers_stay_and_may_not_pass_the_training_sets(tmp_path):
    (tmp_path / "train.csv").write_text("text,label\na,0\nb,2\n")
    (tmp_path / "validation.csv").write_text("text,label\na,2\nb,1\n")
    assert read_splits(tmp_path)[1] == Examples(("a", "b"), (2, 1), ("LABEL_0", "LABEL_1", "LABEL_2"))
    (tmp_path / "validation.csv").write_text("text,label\na,3\nb,1\n")
    with pytest.raises(InputError, match="found LABEL_3"):
        read_splits(tmp_path)


def test_stored_names_decide_where_two_splits_number_them_otherwise(tmp_path):
    import datasets

    splits = {"train": named_rows([0, 1], ["no", "yes"]), "validation": named_rows([0, 0, 1], ["yes", "no"])}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "d"))
    assert read_splits(tmp_path / "d")[1].labels == (1, 1, 0)


def test_one_table_is_not_both_training_and_held_out_set(tmp_path):
    write(tmp_path / "d.tsv", "tsv")
    named_rows([0, 1], ["no", "yes"]).save_to_disk(str(tmp_path / "d"))
    for source in (tmp_path / "d.tsv", tmp_path / "d"):
        with pytest.raises(InputError, match="one table, which would be both"):
            read_splits(source)


@pytest.mark.parametrize(("labels", "message"), [
    ([f"id-{i}" for i in range(101)], "101 different values in 101 rows"),
    ([f"id-{i % 1001}" for i in range(3000)], "1001 different values in 3000 rows"),
    (["0", "123456789012345"], "0 to 999, found 123456789012345"),
])  # fmt: skip
def test_a_column_of_identifiers_is_not_taken_for_labels(tmp_path, labels, message):
    (tmp_path / "d.tsv").write_text("text\tlabel\n" + "".join(f"a\t{label}\n" for label in labels))
    with pytest.raises(InputError, match=message):
        read_examples(tmp_path / "d.tsv")


def test_names_among_numbers_are_refused(tmp_path):
    (tmp_path / "d.tsv").write_text("text\tlabel\na\t1\nb\tneg\n")
    with pytest.raises(InputError, match="found both \\('1' among names\\)"):
        read_examples(tmp_path / "d.tsv")


@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("compression", ["snappy", "zstd", "gzip"])
def test_a_damaged_parquet_page_is_said(tmp_path, compression, checksum):
    rows = [(f"text number {i * 7919 % 1000}", i % 2) for i in range(1000)]
    table = pa.table({"text": [t for t, _ in rows], "label": [y for _, y in rows]})
    file = tmp_path / "d.parquet"
    pq.write_table(table, file, compression=compression, write_page_checksum=checksum)
    content = bytearray(file.read_bytes())
    content[200:260] = bytes(60)
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"d\.parquet: expected a parquet table"):
        read_examples(file)


@pytest.mark.parametrize(
    "metadata", ["{", "[]", '{"info": {"features": 3}}', '{"info": {"features": {"label": {"_type": "ClassLabel"}}}}']
)
def test_damaged_metadata_of_a_parquet_file_is_said(tmp_path, metadata):
    table = pa.table({"text": ["a"], "label": [0]}).replace_schema_metadata({"huggingface": metadata})
    pq.write_table(table, tmp_path / "d.parquet")
    with pytest.raises(InputError, match=r"d\.parquet: expected a parquet table"):
        read_examples(tmp_path / "d.parquet")


@pytest.mark.parametrize("damage", ["state.json", "dataset_info.json", "data-00000-of-00001.arrow"])
@pytest.mark.parametrize("how", ["absent", "cut", "emptied"])
def test_a_corrupt_datasets_directory_is_said(tmp_path, damage, how):
    named_rows([0, 1] * 50, ["no", "yes"]).save_to_disk(str(tmp_path / "d"))
    file = tmp_path / "d" / damage
    content = file.read_bytes()
    file.unlink()
    if how != "absent":
        file.write_bytes(content[: len(content) // 2] if how == "cut" else b"")
    with pytest.raises(InputError, match="a directory saved by datasets"):
        read_examples(tmp_path / "d")
