"""A dial's page from its records alone: the whole dial in a figure and a table, what is missing, how to fuse at a setting."""

from __future__ import annotations

import pytest

from fuseforget.records import Run
from fuseforget.report import write_report
from fuseforget.report.dial import fuse_command, summarise_dial
from fuseforget.report.dial_facts import DialFacts
from fuseforget.report.dial_figure import draw_dial
from parsing import parameters_of

MODELS = ["runs/base", "runs/x/last", "runs/y/last"]
METRICS = {"task": "accuracy", "gender.dp": "dp", "age.dp": "dp"}
DESCRIPTION = {
    "command": "dial", "about": {"default": 0.5},
    "settings": {
        "models": MODELS[1:], "base": {"models": MODELS[:1]}, "alone": MODELS, "method": "shrunk", "parameters": {}, "steps": 2,
        "forget": [0, 0.908, 0.999], "probes": {name: {"metric": metric, "n": 9} for name, metric in METRICS.items()},
    },
}  # fmt: skip
RECORDS = [
    {"kind": "measurement", key: place, "probe": probe, "value": number / 10, "low": 0.0, "high": 0.9}
    for key, places in (("forget", [0, 0.908, 0.999]), ("model", MODELS))
    for place in places
    for number, probe in enumerate(METRICS)
]


def test_columns_say_what_is_asked_once():
    (table,) = summarise_dial(DESCRIPTION, RECORDS).tables
    assert table.header == ["forget", "task, accuracy (n=9)", "gender.dp (n=9)", "age.dp (n=9)"]
    assert table.rows[1] == ["0.908", "0.000 [0.000, 0.900]", "0.100 [0.000, 0.900]", "0.200 [0.000, 0.900]"]


def test_the_figure_has_a_panel_a_metric_and_a_level_a_model_and_probe():
    facts = DialFacts(DESCRIPTION, RECORDS)
    figure = draw_dial(facts)
    panels = figure.axes
    assert [axes.get_ylabel() for axes in panels] == ["accuracy", "dp"]
    for axes, probes in zip(panels, (["task"], ["gender.dp", "age.dp"]), strict=True):
        curves = {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}
        assert list(curves) == probes
        for probe in probes:
            assert list(curves[probe].get_xdata()) == [0, 1, 2]
            assert list(curves[probe].get_ydata()) == [facts.on[at, probe]["value"] for at in facts.turned]
        labels = [text.get_text() for text in axes.get_xticklabels()]
        assert labels == ["0", "0.908", "0.999", "base", "x/last", "y/last"]
        levels = [line for line in axes.lines if list(line.get_xdata()) != [0, 1, 2] and len(line.get_xdata()) == 1]
        assert len(levels) == 3 * len(probes)
        assert min(line.get_xdata()[0] for line in levels) > 2


@pytest.fixture
def run(tmp_path):
    """The dial's run, finished."""
    with Run(tmp_path / "run", command="dial", settings=DESCRIPTION["settings"], about=DESCRIPTION["about"]) as opened:
        for record in RECORDS:
            opened.add("measurement", **{name: value for name, value in record.items() if name != "kind"})
    return tmp_path / "run"


@pytest.mark.parametrize("ending", ["html", "md"])
def test_the_page_shows_the_whole_dial_or_what_it_lacks(ending, run, tmp_path):
    page = write_report([run], tmp_path / f"page.{ending}").read_text()
    assert "not finished" not in page
    for shown in ("Fuse at a setting", "forget=FORGET", "shrunk of 2 models", "0.908", "without it the method takes 0.5"):
        assert shown in page
    lines = (run / "records.jsonl").read_bytes().splitlines(keepends=True)
    (run / "records.jsonl").write_bytes(b"".join(lines[:4]))
    page = write_report([run], tmp_path / f"page.{ending}").read_text()
    assert "Missing: 14 of 18 measurements (gender.dp at 0.908, age.dp at 0.908, task at 0.999, " in page.replace("\\", "")
    assert "not yet" in page
    (run / "records.jsonl").unlink()
    assert "18 of 18" in write_report([run], tmp_path / f"page.{ending}").read_text()


def test_the_command_that_fuses_at_a_setting_has_all_that_the_dial_was_given():
    given = {"weights": [0.75, 0.25], "parameters": {"lambda": 1.5, "whole": True}}
    options = parameters_of(fuse_command({**DESCRIPTION, "settings": {**DESCRIPTION["settings"], **given}}))
    assert (options["models"], options["base"], options["method"]) == (MODELS[1:], MODELS[0], "shrunk")
    assert options["param"] == ["forget=FORGET", "lambda=1.5", "whole=true"]
    assert options["weight"] == ["0.75", "0.25"]
