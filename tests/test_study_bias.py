"""The study of social bias end to end on a very small base: biases are learned, fused away, compared, killed and reported."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conftest import kill_when, make_bert
from fuseforget.errors import InputError
from fuseforget.knowledge.fairness import fairness
from fuseforget.records import facts, read_records
from fuseforget.report import write_report
from fuseforget.studies import study
from fuseforget.studies.bias import BiasStudy, run_bias_study, settings_for
from fuseforget.studies.bias.answers import grouped, predictions
from fuseforget.studies.bias.baselines import METHODS
from fuseforget.studies.bias.data import Subsets, read_splits_of
from fuseforget.train import TrainSettings

# What a text says of its author, in words that the small base knows.
SIGNS = {"gender": {"f": "b", "m": "c"}, "age": {"old": "plot", "young": "is"}, "place": {"east": "a", "west": "the"}}


def rows(count: int, seed: int, attributes: tuple[str, ...]) -> list[dict]:
    """Texts whose words tell the label seven times in ten, and whose authors' words tell the attributes."""
    rng = np.random.default_rng(seed)
    made = []
    for unit in range(count):
        label = int(rng.integers(2))
        values = {name: str(rng.choice(list(SIGNS[name]))) for name in attributes}
        word = ("dull", "moving")[label if rng.random() < 0.7 else 1 - label]
        text = " ".join([*(SIGNS[name][value] for name, value in values.items()), "film", word])
        made.append({"text": text, "label": label, **values, "author": f"{seed}-{unit // 2}"})
    return made


def write(directory: Path, attributes: tuple[str, ...] = ("gender", "age"), splits=("train", "validation", "test")) -> Path:
    directory.mkdir()
    for number, split in enumerate(splits):
        count = 4000 if split == "train" else 400
        lines = "".join(json.dumps(row) + "\n" for row in rows(count, number, attributes))
        (directory / f"{split}.jsonl").write_text(lines)
    return directory


def settings_of(base: Path, data: Path, *, epochs: int = 6, **changes) -> BiasStudy:
    asked = {"attributes": ("gender", "age"), "unit": "author", "rows": 800, "seeds": 1, "parts": ("baselines",), **changes}
    settings = settings_for("small", base=base, data=data, **asked)
    fast = TrainSettings(max_epochs=epochs, min_epochs=epochs, learning_rate=2e-3, batch_size=32)
    return replace(settings, train=fast, steps=4, ratios=(0.9,), triangle_steps=2, classifiers=3)


@pytest.fixture
def inputs(bert, tmp_path):
    return bert("base"), write(tmp_path / "data")


def rows_of(records: list[dict]) -> dict:
    return {(r["attribute"], r["row"]): r["metrics"] for r in records if r["kind"] == "row"}


def facts_of(run: Path) -> list[dict]:
    """A run's facts, without what differs between two runs of the same, in any order."""
    return sorted(facts(read_records(run)), key=json.dumps)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study of two seeds with the baselines: its settings and its run, not to be written to."""
    home = tmp_path_factory.mktemp("finished")
    settings = settings_of(make_bert(home / "base"), write(home / "data"), seeds=2)
    run_bias_study(settings, home / "run")
    return settings, home / "run"


def test_biases_are_learned_and_fused_away(finished):
    """What the biased models must show first is that they learned their bias; margins from six runs of other seeds.

    There demographic parity was .89 to 2 in the biased models and .10 to .11 in the fused one.
    """
    records = read_records(finished[1])
    at = rows_of(records)
    for attribute in ("gender", "age"):
        biased, fused = at[attribute, "biased"], at[attribute, "fused"]
        assert min(biased["demographic_parity"]["by_seed"]) > 0.6
        assert fused["demographic_parity"]["value"] < 0.5 * biased["demographic_parity"]["value"]
        assert at[attribute, "leace"]["demographic_parity"]["value"] < biased["demographic_parity"]["value"]
        assert len(biased["accuracy"]["by_seed"]) == 2
    compared = [r for r in records if r["kind"] == "comparison"]
    assert {(r["attribute"], r["second"]) for r in compared} == {
        (a, row) for a in ("gender", "age") for row in ("biased", *METHODS, "full")
    }
    assert all(r["p"] <= r["p_holm"] <= 1 for r in compared)


def test_the_recorded_metrics_are_those_of_the_recorded_answers(finished):
    settings, run = finished
    records = read_records(run)
    splits, _ = read_splits_of(settings, lambda line: None)
    measured = [r for r in records if r["kind"] == "fairness" and r["attribute"] is not None]
    assert {r["set"] for r in measured} == {"validation", "test"}
    answers = {
        json.dumps([r.get(k) for k in ("seed", "model", "path", "weights", "set")]): r for r in records if r["kind"] == "answers"
    }
    for record in measured[::5]:
        answer = answers[json.dumps([record.get(k) for k in ("seed", "model", "path", "weights", "set")])]
        of = grouped(splits[record["set"]], record["attribute"])
        for metric in ("demographic_parity", "tpr_gap"):
            assert record["metrics"][metric]["value"] == pytest.approx(fairness(metric, of, predictions(answer)).value)


def test_the_training_sets_are_biased_in_one_attribute_alone(inputs):
    settings = settings_of(*inputs)
    splits, _ = read_splits_of(settings, lambda line: None)
    data = Subsets(settings, splits["train"], lambda line: None)("gender", 0.8, 0)
    labels, gender, age = np.asarray(data.examples.labels), data.codes("gender"), data.codes("age")
    assert [(labels == y).sum() for y in (0, 1)] == [400, 400]
    assert sorted([(gender[labels == y] == 0).sum() for y in (0, 1)]) == [80, 320]
    assert [(age[labels == y] == 0).sum() for y in (0, 1)] == [200, 200]


def test_a_killed_study_ends_like_an_undisturbed_one(inputs, tmp_path):
    settings = settings_of(*inputs, epochs=2)
    run_bias_study(settings, tmp_path / "whole")
    code = (
        "from pathlib import Path\nfrom test_study_bias import settings_of, run_bias_study\n"
        "run_bias_study(settings_of(*sys.argv[1:3], epochs=2), Path(sys.argv[3]))\n"
    )
    kill_when([tmp_path / "run/models/seed0" / name for name in ("gender", "fused")], code, *inputs, tmp_path / "run")
    run_bias_study(settings, tmp_path / "run")
    assert facts_of(tmp_path / "run") == facts_of(tmp_path / "whole")
    before = (tmp_path / "run/records.jsonl").read_bytes()
    run_bias_study(settings, tmp_path / "run")  # nothing is done twice
    assert (tmp_path / "run/records.jsonl").read_bytes() == before


def test_a_finished_study_can_be_asked_for_more(bert, tmp_path):
    three = ("gender", "age", "place")
    base, data = bert("base"), write(tmp_path / "data", three)
    small = settings_of(base, data, attributes=three, parts=("baselines",), epochs=1)
    run_bias_study(small, tmp_path / "run")
    records = run_bias_study(replace(small, parts=("ratios", "triangle"), seeds=2), tmp_path / "run")
    models = {(r["seed"], r["model"]) for r in records if r["kind"] == "answers" and "model" in r}
    assert {(s, m) for s in (0, 1) for m in ("gender@0.9", "age@0.9", "place", "fused")} <= models
    triangle = {tuple(r["weights"]) for r in records if r["kind"] == "answers" and r.get("path") == "gender-age-place"}
    assert triangle == {(a / 2, b / 2, (2 - a - b) / 2) for a in range(3) for b in range(3 - a)} | {(1 / 3, 1 / 3, 1 / 3)}
    assert len([r for r in records if r["kind"] == "centre" and r["seeds"] == [0, 1]]) == 9
    page = write_report([tmp_path / "run"], tmp_path / "page.md").read_text()
    assert "By the bias of the training sets" in page
    assert (tmp_path / "page-triangle.png").is_file()
    assert "seed 1" in page  # whose baselines were never made
    assert "not finished" in page
    records = run_bias_study(replace(small, parts=("baselines", "ratios", "triangle"), seeds=2), tmp_path / "run")
    assert "not finished" not in write_report([tmp_path / "run"], tmp_path / "page.md").read_text()


def test_the_report_has_the_papers_numbers_and_says_what_is_missing(finished, tmp_path):
    shutil.copytree(finished[1], tmp_path / "run", ignore=shutil.ignore_patterns("models"))
    page = write_report([tmp_path / "run"], tmp_path / "page.md").read_text()
    assert "0.185, 0.088, 0.877" in page  # Table 1, age, biased
    assert "Table 1, gender: fusing lowers it more than LEACE" in page
    assert "0.3 against age" in page or ".3 against age" in page
    html = write_report([tmp_path / "run"], tmp_path / "page.html").read_text()
    assert html.count("<svg") >= 1
    lines = (tmp_path / "run/records.jsonl").read_text().splitlines(keepends=True)
    cut = next(i for i, line in enumerate(lines) if '"choice"' in line)
    (tmp_path / "run/records.jsonl").write_text("".join(lines[:cut]))
    unfinished = write_report([tmp_path / "run"], tmp_path / "page.md").read_text()
    assert "not finished" in unfinished
    assert "the choice of the weight of seed 0" in unfinished


def test_without_a_test_split_half_of_the_authors_are_kept_for_it(bert, tmp_path):
    data = write(tmp_path / "data", splits=("train", "validation"))
    said: list[str] = []
    splits, _ = read_splits_of(settings_of(bert("base"), data), said.append)
    assert len(splits["validation"]) + len(splits["test"]) == 400
    assert not set(splits["validation"].units) & set(splits["test"].units)
    assert any("no test split" in line for line in said)


def test_as_published_differs_where_the_authors_code_does(inputs, finished, tmp_path):
    """The weight is chosen on the test data, ratios are floored, and the test features are not erased."""
    settings = settings_of(*inputs, as_published=True, ratio=0.6, epochs=1)
    records = run_bias_study(settings, tmp_path / "run")
    assert {r["on"] for r in records if r["kind"] == "choice"} == {"test"}
    (gender,) = [r for r in records if r["kind"] == "data" and r["attribute"] == "gender"]
    assert {line["share"] for line in gender["achieved"]} == {0.25}  # .6 became .5, and age is balanced within
    assert {r["on"] for r in read_records(finished[1]) if r["kind"] == "choice"} == {"validation"}


@pytest.mark.parametrize(("change", "message"), [
    ({"scale": "tiny", "base": "x"}, "scale tiny: expected neither --base nor --data nor --names"),
    ({"scale": "small"}, "expected --base and --data"),
    ({"scale": "small", "base": "x", "data": "y", "attributes": ("gender",)}, "two or more different ones"),
    ({"scale": "small", "base": "x", "data": "y", "ratio": 1.0}, "ratio: expected a share between 0 and 1"),
    ({"scale": "small", "base": "x", "data": "y", "seeds": 0}, "seeds: expected 1 or more"),
    ({"scale": "small", "base": "x", "data": "y", "parts": ("growth",)}, "part: expected one of baselines, ratios, triangle"),
    ({"scale": "small", "base": "x", "data": "y", "parts": ("triangle",)}, "part triangle: expected three attributes"),
    ({"scale": "small", "base": "x", "data": "y", "attributes": ("gender", "full")}, "other than start, full, .* found full"),
    ({"scale": "small", "base": "x", "data": "y", "attributes": ("gender", "a-b")}, "letters, digits and _, .* found a-b"),
    ({"scale": "small", "base": "x", "data": "y", "skip_damaged": True}, "--skip-damaged: expected a corpus in PAN16's format"),
    ({"scale": "small", "base": "x", "data": "y", "names": "z", "unit": "author"}, "--unit: expected data that are not signed"),
    ({"scale": "small", "base": "x", "data": "y", "rules": ("op",)}, "study bias: expected options among .* found --rule"),
])  # fmt: skip
def test_what_cannot_be_studied_is_refused(change, message, tmp_path):
    with pytest.raises(InputError, match=message):
        study("bias", tmp_path / "run", **change)
    assert not (tmp_path / "run").exists()


def test_a_ratio_of_the_scales_own_is_not_varied_twice(bert, tmp_path):
    settings = settings_for("small", base=bert("base"), data=write(tmp_path / "data"), ratio=0.9)
    assert 0.9 not in settings.ratios
    assert set(settings.ratios) == {0.6, 0.7, 0.95}


def test_training_sets_have_one_size_whatever_is_asked_for(bert, tmp_path):
    """The largest possible one differs by ratio: models that saw different amounts could not be compared."""
    three = ("gender", "age", "place")
    base, data = bert("base"), write(tmp_path / "data", three)
    sizes = set()
    for parts in (("baselines",), ("ratios",), ("baselines", "ratios", "triangle")):
        settings = replace(settings_of(base, data, attributes=three, parts=parts, rows=None), scale_rows=None, ratios=(0.6, 0.95))
        splits, _ = read_splits_of(settings, lambda line: None)
        subsets = Subsets(settings, splits["train"], lambda line: None)
        sizes |= {len(subsets(attribute, ratio, 0)) for attribute, ratio in subsets.needed()}
    assert len(sizes) == 1


def test_held_out_data_that_leave_a_metric_undefined_are_refused_before_there_is_a_run(inputs, tmp_path):
    base, data = inputs
    lines = [json.loads(line) for line in (data / "test.jsonl").read_text().splitlines()]
    kept = [row for row in lines if (row["age"], row["label"]) != ("old", 1)]
    (data / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    with pytest.raises(InputError, match="old has no row of label"):
        run_bias_study(settings_of(base, data), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_authors_in_train_and_test_are_refused(inputs, tmp_path):
    base, data = inputs
    (data / "test.jsonl").write_text((data / "train.jsonl").read_text())
    with pytest.raises(InputError, match=r"units of train and test: expected none in both.* found 2000 in both"):
        run_bias_study(settings_of(base, data), tmp_path / "run")


def test_a_page_of_an_unfinished_run_leaves_out_what_is_not_whole(finished, tmp_path):
    """Cut anywhere, also between two attributes of one point, the records make a page that says what is missing."""
    source = (finished[1] / "records.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "run").mkdir()
    shutil.copy(finished[1] / "run.json", tmp_path / "run")
    for cut in range(0, len(source), max(1, len(source) // 15)):
        (tmp_path / "run/records.jsonl").write_text("".join(source[:cut]))
        assert "not finished" in write_report([tmp_path / "run"], tmp_path / "page.md").read_text()


def test_data_that_do_not_allow_a_training_set_are_refused_before_there_is_a_run(inputs, tmp_path):
    with pytest.raises(InputError, match="missing"):
        run_bias_study(settings_of(*inputs, rows=3900), tmp_path / "run")
    assert not (tmp_path / "run").exists()
