"""Studies by several workers: the records of one process, to the bit, but for times."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fuseforget.records import facts, read_records
from fuseforget.studies.bias import run_bias_study
from fuseforget.studies.shortcuts import run_shortcut_study, settings_for
from fuseforget.train import TrainSettings
from fuseforget.workers import Here, open_workers
from test_study_bias import settings_of as bias_settings
from test_study_bias import write as write_bias

FAST = TrainSettings(max_epochs=1, min_epochs=1, learning_rate=3e-3, batch_size=32)


@pytest.fixture
def inputs(bert, tmp_path):
    from fuseforget.data.demo_text import sentences

    data = tmp_path / "data"
    data.mkdir()
    for name, count, seed in (("train", 200, 1), ("validation", 60, 2)):
        rows = "".join(f"{t}\t{y}\n" for t, y in sentences(count, seed))
        (data / f"{name}.tsv").write_text("sentence\tlabel\n" + rows)
    return bert("base"), data


def test_a_shortcut_study_by_two_workers_is_that_of_one_process(inputs, tmp_path):
    settings = settings_for(
        "small", base=inputs[0], data=inputs[1], rules=("st", "op", "tic", "or"), parts=("pairs", "shared", "growth", "methods")
    )
    settings = replace(settings, train=FAST, steps=2)
    for name, workers in (("here", Here()), ("two", open_workers(2))):
        with workers:
            run_shortcut_study(settings, tmp_path / name, workers=workers)
    assert facts(read_records(tmp_path / "two")) == facts(read_records(tmp_path / "here"))
    assert {"training", "measurement", "growth", "method_result"} <= {r["kind"] for r in read_records(tmp_path / "here")}


def test_a_bias_study_by_three_workers_is_that_of_one_process(bert, tmp_path):
    three = ("gender", "age", "place")
    data = write_bias(tmp_path / "data", three)
    settings = bias_settings(bert("base"), data, rows=320, attributes=three, parts=("ratios", "triangle"))
    settings = replace(settings, train=FAST)
    for name, workers in (("here", Here()), ("three", open_workers(3))):
        with workers:
            run_bias_study(settings, tmp_path / name, workers=workers)
    assert facts(read_records(tmp_path / "three")) == facts(read_records(tmp_path / "here"))
