"""A bias data set as a directory, the command that makes one, and the training that takes one."""

from __future__ import annotations

import json
import shutil

import pytest

from conftest import make_bert
from fuseforget.data import BiasData, demo_names, load_bias_data, make_biased, save_bias_data, sign_splits
from fuseforget.errors import InputError
from fuseforget.train import train
from test_bias_data import NAMES, full_table, texts, write
from test_cli import run


def make(units: bool = True) -> BiasData:
    splits = sign_splits(texts(400), texts(20, 1, "test"), demo_names(), validation=20)
    subset = make_biased(splits["train"], attribute="gender", ratio="0.8", balanced=["age"])
    return BiasData(subset, splits["validation"], splits["test"] if units else None, {"seed": 0}, {"train": "abc"})


@pytest.mark.parametrize("units", [True, False])
def test_saving_and_loading_gives_the_same(tmp_path, units):
    made = make(units)
    save_bias_data(made, tmp_path)
    found = load_bias_data(tmp_path)
    assert found == made
    assert {name: part.sha256 for name, part in found.splits.items()} == {name: part.sha256 for name, part in made.splits.items()}
    assert (tmp_path / "test.jsonl").exists() == units
    first = json.loads((tmp_path / "validation.jsonl").read_text().splitlines()[0])
    assert list(first) == ["text", "label", "gender", "age", "unit"]


def test_a_small_set_that_lacks_values_is_read_as_it_was_written(tmp_path):
    table = full_table(3)
    subset = make_biased(table, attribute="gender", ratio="0.5", size=1)
    made = BiasData(subset, table.take([0]))
    save_bias_data(made, tmp_path)
    assert load_bias_data(tmp_path) == made
    assert load_bias_data(tmp_path).validation.values("gender") == ("f", "m")


@pytest.mark.parametrize(("file", "content", "message"), [
    ("train.jsonl", '{"text": "a", "label": 0, "gender": "female", "age": "old"}\n', "train.jsonl: .* found other rows"),
    ("train.jsonl", '{"text": "a", "label": 0}\n', "train.jsonl: .* found other rows"),
    ("bias.json", "{", "bias.json: expected the description of a bias data set"),
    ("bias.json", "{}", "bias.json: expected the description of a bias data set"),
    ("bias.json", None, "made by `fuseforget data bias`"),
    ("validation.jsonl", None, "validation.jsonl: expected a file"),
])  # fmt: skip
def test_damaged_sets_are_refused(tmp_path, file, content, message):
    save_bias_data(make(), tmp_path)
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_text(content)
    with pytest.raises(InputError, match=message):
        load_bias_data(tmp_path)


def test_an_attribute_called_like_another_column_and_splits_that_differ_are_refused(tmp_path):
    made = make()
    table = full_table(10)
    with pytest.raises(InputError, match="validation set: expected the training set's labels and attributes"):
        save_bias_data(BiasData(made.subset, table), tmp_path)
    clash = type(table)(table.examples, {"unit": table.attributes["gender"]})
    subset = make_biased(clash, attribute="unit", ratio=0.5)
    with pytest.raises(InputError, match="other names than text, label, unit, found unit"):
        save_bias_data(BiasData(subset, clash), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A labelled table with attribute columns in every split, and a table of names."""
    path = tmp_path_factory.mktemp("source")
    for split, count in (("train", 160), ("validation", 40), ("test", 24)):
        rows = [(f"{split} film {i}", i % 2, "fm"[i // 2 % 2], "oy"[i // 4 % 2], i // 8) for i in range(count)]
        write(path / f"{split}.tsv", "tsv", rows, ("sentence", "label", "gender", "age", "author"))
    (path / "names").mkdir()
    (path / "names" / "names.tsv").write_text(NAMES)
    return path


def test_the_command_makes_a_set_from_columns(source, tmp_path):
    done = run(
        "data",
        "bias",
        source,
        "-o",
        tmp_path / "d",
        "--biased",
        "gender",
        "--ratio",
        ".8",
        "--attribute",
        "age",
        "--unit",
        "author",
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert done.stdout.startswith(f"{tmp_path / 'd'}: gender biased at 4/5; rows: 100 train, 40 validation, 24 test")
    assert ["LABEL_0", "gender", "f", "40", "0.8000"] in lines
    assert ["LABEL_1", "age", "y", "25", "0.5000"] in lines
    made = load_bias_data(tmp_path / "d")
    assert made.subset.balanced == ("age",)
    assert len(set(made.validation.units)) == 5
    assert made.test is not None
    shutil.copytree(source, tmp_path / "two")
    (tmp_path / "two" / "test.tsv").unlink()
    done = run("data", "bias", tmp_path / "two", "-o", tmp_path / "e", "--biased", "age", "--favour", "LABEL_0=y", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found["rows"]) == {"train", "validation"}
    assert found["majority"] == {"LABEL_0": "y", "LABEL_1": "y"}
    assert sum(cell["rows"] for cell in found["achieved"]) == found["rows"]["train"]


def test_the_command_signs_texts(source, tmp_path):
    options = ["--biased", "age", "--names", source / "names" / "names.tsv", "--validation-texts", 30, "--size", 50]
    done = run("data", "bias", source, "-o", tmp_path / "d", *options)
    assert done.returncode == 0, done.stderr
    made = load_bias_data(tmp_path / "d")
    assert {name: len(part) for name, part in made.splits.items()} == {"train": 50, "validation": 120, "test": 160}
    done = run("data", "bias", source, "-o", tmp_path / "e", *options[:2], "--demo-names", "--attribute", "frequency",
               "--validation-texts", 30, "--held-out-names", "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["balanced"] == ["gender", "frequency"]


@pytest.mark.parametrize(("options", "message"), [
    (["--biased", "race"], "a column 'race', found columns sentence, label, gender, age, author"),
    (["--biased", "gender", "--ratio", "1"], "ratio: expected a number above 0 and below 1, found 1"),
    (["--biased", "gender", "--size", "150"], "too few in"),
    (["--biased", "race", "--demo-names"], "some of gender, age, frequency"),
    (["--biased", "gender", "--demo-names", "--pan16"], "one of --names, --demo-names and --pan16"),
    (["--biased", "gender", "--texts", "t.tsv"], "--texts: expected DATA of --pan16"),
    (["--biased", "gender", "--held-out-names"], "--held-out-names: expected texts signed with --names or --demo-names"),
    (["--biased", "gender", "--demo-names", "--unit", "author"], "--unit: expected DATA whose attributes are columns"),
    (["--biased", "gender", "--pan16", "--label", "x"], "--label: expected a labelled table as DATA"),
    (["--biased", "race", "--pan16"], "one of gender, age, which PAN16 has, found race"),
    (["--biased", "gender", "--favour", "LABEL_0"], "--favour: expected LABEL=VALUE"),
])  # fmt: skip
def test_the_command_says_what_is_wrong_and_leaves_nothing(source, tmp_path, options, message):
    done = run("data", "bias", source, "-o", tmp_path / "d", *options)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())


def test_one_table_cannot_be_both_sets(source, tmp_path):
    done = run("data", "bias", source / "train.tsv", "-o", tmp_path / "d", "--biased", "gender")
    assert done.returncode == 2
    assert "one table, which would be both" in done.stderr


def test_a_biased_set_can_be_trained_on(tmp_path):
    made = make()
    save_bias_data(made, tmp_path)
    result = train(make_bert(tmp_path / "base"), tmp_path, tmp_path / "model", max_epochs=1)
    assert (result.epochs, result.monitored) == (1, [])
    about = json.loads((tmp_path / "model" / "fuseforget.json").read_text())
    assert about["data_sha256"] == made.subset.data.examples.sha256
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["id2label"] == {"0": "neg", "1": "pos"}
    assert config["vocab_size"] == json.loads((tmp_path / "base" / "config.json").read_text())["vocab_size"]
