"""Whether what is partly shared is kept in proportion, on a small study, and the report."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from fuseforget.knowledge import mean_retention
from fuseforget.records import Run, decode_values, read_records
from fuseforget.report.blocks import Paragraphs, Pictures, Table
from fuseforget.report.forgetting_partial import partial_blocks
from fuseforget.studies.forgetting.examined import read_shortcut_models
from fuseforget.studies.forgetting.fusions import Fusion
from fuseforget.studies.forgetting.partial import do_partial, mixed_data
from fuseforget.workers import Here

TAUS, CONTEXT = {"tauzero", "tauone"}, "taucontext"
SHARES = (0.0, 1.0)
FUSIONS = (Fusion("average", "average"),)
PAIR = ("op", "tic")


@dataclass(frozen=True)
class Source:
    """What the part needs of a source."""

    path: Path
    command: str = "study shortcuts"


@dataclass(frozen=True)
class Settings:
    """What the part needs of the study's settings."""

    seed: int = 0
    threads: int = 1


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_the_share_is_of_the_synthetic_part(shortcut_models, share):
    source = read_shortcut_models(shortcut_models)
    made = mixed_data(source, PAIR, share)
    synthetic = 2 / 3 * len(source.texts)
    ordered = sum(set(text.split()) >= TAUS for text in made.train.texts)
    context = sum(CONTEXT in text.split() for text in made.train.texts)
    assert ordered + context == synthetic
    # Drawn text by text: within five standard deviations.
    assert ordered / synthetic == pytest.approx(share, abs=5 * (share * (1 - share) / synthetic) ** 0.5)
    assert made.train.texts != mixed_data(source, PAIR, 0.75).train.texts


@pytest.fixture(scope="module")
def measured(shortcut_models, tmp_path_factory):
    """A run with the part, from the small study."""
    out = tmp_path_factory.mktemp("partial") / "run"
    _measure(shortcut_models, out)
    return out


def _measure(source: Path, out: Path) -> None:
    with Run(out, command="study forgetting", settings={}) as run:
        do_partial(run, [Source(source)], Settings(), Here(), print, fusions=FUSIONS, shares=SHARES)


def test_what_is_kept_is_that_of_the_measurements(measured, shortcut_models):
    records = read_records(measured)
    values = {(r["model"], r["share"], r["probe"]): decode_values(r["values"]) for r in records if r["kind"] == "measurement"}
    epochs = {len(r["losses"]) for r in records if r["kind"] == "training"}
    assert epochs == {read_shortcut_models(shortcut_models).train.max_epochs}, "none is trained longer than another"
    # The knowledge is there: of the shared rule in the first model and, where the share is whole, in the second.
    assert values["first", None, "op"].mean() > 0.9
    assert values["second", 1.0, "op"].mean() > 0.85
    assert values["second", 0.0, "tic"].mean() > 0.9
    assert values["second", 0.0, "op"].mean() < 0.7
    assert values["control", None, "op"].mean() < 0.65
    results = {(r["model"], r["share"]): r for r in records if r["kind"] == "forgetting_result"}
    assert results.keys() == {(model, share) for model in ("second", "average") for share in SHARES}
    for (model, share), result in results.items():
        triple = values[model, share, "op"], values["first", None, "op"], values["control", None, "op"]
        assert result["retention"]["op"]["value"] == pytest.approx(mean_retention([triple]).value)
        assert result["accuracy"]["task"]["value"] == pytest.approx(values[model, share, "task"].mean())
    kept = {share: results["average", share]["retention"]["op"] for share in SHARES}
    assert kept[1.0]["low"] > kept[0.0]["high"], "what both know is kept, what one knows is not"
    tic = results["average", 0.0]["retention"]["tic"]["value"]
    triple = values["average", 0.0, "tic"], values["second", 0.0, "tic"], values["control", None, "tic"]
    assert tic == pytest.approx(mean_retention([triple]).value)
    assert results["second", 1.0]["retention"]["tic"] is None, "nobody knows what no text has"


def test_an_interrupted_part_goes_on_to_the_same_facts(measured, shortcut_models, tmp_path):
    shutil.copytree(measured, tmp_path / "run")
    file = tmp_path / "run/records.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:9]))
    assert not any(r["kind"] == "forgetting_result" for r in read_records(tmp_path / "run"))
    assert [type(block) for block in partial_blocks(read_records(tmp_path / "run"))[1:]] == [Paragraphs]
    _measure(shortcut_models, tmp_path / "run")
    assert read_records(tmp_path / "run") == read_records(measured)
    before = file.read_bytes()
    _measure(shortcut_models, tmp_path / "run")
    assert file.read_bytes() == before, "nothing is done twice"


def test_the_report_has_the_numbers_of_the_records(measured):
    records = read_records(measured)
    assert partial_blocks([]) == []
    blocks = partial_blocks(records, {"op": "OP", "tic": "TiC"})
    (table,) = [block for block in blocks if isinstance(block, Table)]
    assert table.header == ["model", "share", "shared: OP", "second's own: TiC", "task"]
    assert [row[:2] for row in table.rows] == [["second", "0%"], ["second", "100%"], ["average", "0%"], ["average", "100%"]]
    asked = {(r["model"], r["share"], r["probe"]): r["value"] for r in records if r["kind"] == "measurement"}
    for row in table.rows:
        share = float(row[1][:-1]) / 100
        assert row[2].startswith(f"{asked[row[0], share, 'op']:.3f}, retention ")
        assert row[4].startswith(f"{asked[row[0], share, 'task']:.3f} [")
    assert table.rows[1][3] == "not known"
    (picture,) = next(block for block in blocks if isinstance(block, Pictures)).pictures
    assert len(picture.figure.axes) == 3
    lead = next(block for block in blocks if isinstance(block, Paragraphs))
    assert "average keeps of OP, by share: " in lead.lines[1]
