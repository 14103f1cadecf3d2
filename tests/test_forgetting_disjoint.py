"""Whether the task stays where two models learned it from different texts, on a small study, and the report."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from fuseforget.data import read_splits
from fuseforget.data.demo_text import sentences
from fuseforget.errors import InputError
from fuseforget.knowledge import mean_retention
from fuseforget.records import Run, decode_values, read_records
from fuseforget.report.blocks import Details, Paragraphs, Table
from fuseforget.report.forgetting_disjoint import disjoint_blocks
from fuseforget.studies.forgetting import ForgettingStudy
from fuseforget.studies.forgetting.disjoint import OTHER, SAME, do_disjoint, second_data
from fuseforget.studies.forgetting.examined import read_shortcut_models
from fuseforget.studies.forgetting.fusions import AVERAGE, Fusion
from fuseforget.studies.forgetting.sources import SHORTCUTS, Source
from fuseforget.workers import Here

PAIR = ("op", "tic")
SCALED = Fusion("average, scaled", "task_arithmetic", {"lambda": 0.6}, None, True)
FUSIONS = (AVERAGE, SCALED)


def source_of(path: Path) -> Source:
    return Source(path, SHORTCUTS, {"rules": list(PAIR), "data": None, "seed": 0}, 0)


def test_the_second_models_differ_in_their_texts_alone(shortcut_models, tmp_path):
    for name, count, seed in (("train", 300, 5), ("validation", 60, 6)):
        lines = [f"{text}\t{label}" for text, label in sentences(count, seed)]
        (tmp_path / f"{name}.tsv").write_text("\n".join(["sentence\tlabel", *lines]) + "\n")
    whole, held_out = read_splits(tmp_path)
    seen = whole.sample(100, 0)
    study = replace(read_shortcut_models(shortcut_models), texts=seen, validation=held_out)
    settings = {"data": str(tmp_path), "sentences": 100, "seed": 0, "data_sha256": {"train": seen.sha256}}
    source = Source(shortcut_models, SHORTCUTS, settings, 0)
    made = second_data(source, study, "tic")
    assert list(made) == [SAME, OTHER]
    bare = {
        kind: [" ".join(w for w in t.split() if not w.startswith("tau")) for t in data.train.texts] for kind, data in made.items()
    }
    assert set(bare[SAME]) == set(seen.texts)
    assert set(bare[OTHER]) <= set(whole.texts)
    assert set(bare[OTHER]).isdisjoint({*seen.texts, *held_out.texts})
    assert len(bare[SAME]) == len(bare[OTHER])
    assert made[SAME].settings == made[OTHER].settings
    assert made[SAME].synthetic == made[OTHER].synthetic, "both are judged on the same texts"
    few = replace(source, settings={**settings, "sentences": 280, "data_sha256": {"train": whole.sample(280, 0).sha256}})
    with pytest.raises(InputError, match="50 training texts or more"):
        second_data(few, study, "tic")


@pytest.fixture(scope="module")
def measured(shortcut_models, tmp_path_factory):
    """A run with the part, from the small study."""
    out = tmp_path_factory.mktemp("disjoint") / "run"
    measure(shortcut_models, out)
    return out


def measure(path: Path, out: Path) -> None:
    with Run(out, command="study forgetting", settings={}) as run:
        do_disjoint(run, [source_of(path)], ForgettingStudy((str(path),)), Here(), print, fusions=FUSIONS)


def test_what_is_left_is_that_of_the_measurements(measured):
    records = read_records(measured)
    values = {(r["model"], r["texts"], r["probe"]): decode_values(r["values"]) for r in records if r["kind"] == "measurement"}
    # The knowledge is there: of each rule in its model alone.
    for kind in (SAME, OTHER):
        assert values["second", kind, "tic"].mean() > 0.9
        assert values["second", kind, "op"].mean() < 0.7
    assert values["first", None, "op"].mean() > 0.9
    assert values["first", None, "tic"].mean() < 0.7
    assert all(r["learned"] for r in records if r["kind"] == "knowledge")
    assert (values["second", SAME, "tic"] != values["second", OTHER, "tic"]).any() or (
        values["second", SAME, "task"] != values["second", OTHER, "task"]
    ).any()
    results = {(r["row"], r["texts"]): r for r in records if r["kind"] == "forgetting_result"}
    assert results.keys() == {(fusion.row, kind) for fusion in FUSIONS for kind in (SAME, OTHER)}
    for (row, kind), result in results.items():
        task = values[row, kind, "task"]
        assert result["task"]["value"] == pytest.approx(task.mean())
        assert result["task_difference"]["value"] == pytest.approx(task.mean() - values["average", kind, "task"].mean())
        assert result["task_less_same"]["value"] == pytest.approx(task.mean() - values[row, SAME, "task"].mean())
        triples = [
            (values[row, kind, "op"], values["first", None, "op"], values["control", None, "op"]),
            (values[row, kind, "tic"], values["second", kind, "tic"], values["control", None, "tic"]),
        ]
        assert result["retention"]["value"] == pytest.approx(sum(mean_retention([one]).value for one in triples) / 2)
        assert result["unshared_pieces"] == 2
    assert results["average", SAME]["task_less_same"]["value"] == 0


def test_an_interrupted_part_goes_on_to_the_same_facts(measured, shortcut_models, tmp_path):
    shutil.copytree(measured, tmp_path / "run")
    file = tmp_path / "run/records.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    cut = next(i for i, r in enumerate(read_records(measured)) if r["kind"] == "measurement" and r["texts"] == OTHER)
    file.write_bytes(b"".join(lines[:cut]))
    assert [type(block) for block in disjoint_blocks(read_records(tmp_path / "run"))[1:]] == [Paragraphs]
    measure(shortcut_models, tmp_path / "run")
    assert read_records(tmp_path / "run") == read_records(measured)
    before = file.read_bytes()
    measure(shortcut_models, tmp_path / "run")
    assert file.read_bytes() == before, "nothing is done twice"


def test_the_report_has_the_numbers_of_the_records(measured):
    records = read_records(measured)
    assert disjoint_blocks([]) == []
    blocks = disjoint_blocks(records)
    (table,) = [block for block in blocks if isinstance(block, Table)]
    results = {(r["row"], r["texts"]): r for r in records if r["kind"] == "forgetting_result"}
    assert [(row[0], row[2]) for row in table.rows] == [
        (fusion.row, words) for words in ("the same texts", "other texts") for fusion in FUSIONS
    ]
    for row in table.rows:
        kind = SAME if row[2] == "the same texts" else OTHER
        result = results[row[0], kind]
        assert row[3].startswith(f"{result['unshared_clipped']['value']:.3f} [")
        assert row[4].startswith(f"{result['task']['value']:.3f} [")
        assert (row[5] == "") == (row[0] == "average")
        assert (row[6] == "") == (kind == SAME)
    lead = next(block for block in blocks if isinstance(block, Paragraphs))
    said = results["average", OTHER]["task_less_same"]["value"]
    assert lead.lines[0].startswith(f"average: with other texts the task is {said:+.3f} [")
    (details,) = [block for block in blocks if isinstance(block, Details)]
    assert [row[:2] for row in details.blocks[0].rows] == [
        ["first", ""], ["control", ""], ["second", "the same texts"], ["second", "other texts"],
    ]  # fmt: skip
