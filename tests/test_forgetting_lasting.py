"""Whether the forgotten stays forgotten, examined on a small study, and the report."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from fuseforget.data import ShortcutSettings, load_shortcut_data
from fuseforget.errors import InputError
from fuseforget.knowledge import mean_retention
from fuseforget.models import encode_batches, features, load_classifier, predict
from fuseforget.models.quantise import BITS, quantise
from fuseforget.records import Run, decode_values
from fuseforget.report.blocks import Paragraphs, Pictures, Table
from fuseforget.report.forgetting_lasting import lasting_blocks
from fuseforget.studies.forgetting.examined import CONTROL, read_shortcut_models
from fuseforget.studies.forgetting.fusions import Fusion
from fuseforget.studies.forgetting.hidden import POOLED, cross_fitted
from fuseforget.studies.forgetting.lasting import do_lasting, rephrased_probes
from fuseforget.studies.forgetting.lasting_results import conclude_lasting
from fuseforget.studies.forgetting.relearning import CLEAN, further_data, tenth_of
from fuseforget.studies.forgetting.rephrased import FORMS
from fuseforget.workers import Here

TOKENS = ShortcutSettings().tokens
STEPS = (4, 8)
FUSIONS = (Fusion("average", "average"),)


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


def test_a_tenth_of_the_further_data_has_the_shortcut(shortcut_models):
    source = read_shortcut_models(shortcut_models)
    sets = further_data(source, 4000)
    assert list(sets) == [CLEAN, "a tenth op", "a tenth tic"]
    assert all(len(examples) == 4000 for examples in sets.values())
    assert not any(word in TOKENS for text in sets[CLEAN].texts for word in text.split())
    texts = set(source.texts.texts)
    assert set(sets[CLEAN].texts) == texts, "each at least once"
    both = sum({TOKENS[0], TOKENS[1]} <= set(text.split()) for text in sets["a tenth op"].texts)
    assert both / 4000 == pytest.approx(0.1, abs=0.01)
    context = sum(TOKENS[2] in text.split() for text in sets["a tenth tic"].texts)
    assert context / 4000 == pytest.approx(0.1, abs=0.01)


@pytest.fixture(scope="module")
def examined(shortcut_models, tmp_path_factory):
    """A run with the part, from the small study."""
    return _examine(shortcut_models, tmp_path_factory.mktemp("lasting") / "run")


def _examine(source: Path, out: Path) -> Path:
    with Run(out, command="study forgetting", settings={}) as run:
        do_lasting(run, [Source(source), Source(source, "study bias")], Settings(), Here(), print, fusions=FUSIONS, steps=STEPS)
    return out


def records_of(path: Path) -> list[dict]:
    from fuseforget.records import read_records

    return read_records(path)


def test_every_model_is_asked_in_every_way_and_the_specialists_know(examined, shortcut_models):
    records = records_of(examined)
    asked = {(r["model"], r["probe"], r["precision"]): r for r in records if r["kind"] == "measurement" and "precision" in r}
    source = read_shortcut_models(shortcut_models)
    probes = [*source.probes, *rephrased_probes(source)]
    assert len(probes) == 3 + 2 * len(FORMS)
    trained = ["op", "tic", CONTROL, "average"]
    assert {key[:2] for key in asked if key[2] == "as it is"} == {(m, p.name) for m in [*trained, "start"] for p in probes}
    assert {key for key in asked if key[2] != "as it is"} == {(m, p.name, b) for m in trained for p in probes for b in BITS}
    for rule in ("op", "tic"):
        assert asked[rule, rule, "as it is"]["value"] > 0.9
        assert asked[rule, f"{rule}: as trained", "as it is"]["value"] > 0.85
        assert asked[rule, rule, "int8"]["value"] > 0.9
        assert asked[CONTROL, rule, "as it is"]["value"] < 0.65
    # One of them from the model itself.
    form = next(probe for probe in probes if probe.name == "tic: three times, fillers")
    classifier = load_classifier(source.model("tic"))
    quantise(classifier, *BITS["int4"])
    right = predict(classifier.model, encode_batches(classifier, form.texts)).argmax(axis=1) == np.array(form.labels)
    assert asked["tic", form.name, "int4"]["value"] == pytest.approx(right.mean())


def test_linear_probes_are_of_the_models_states(examined, shortcut_models):
    source = read_shortcut_models(shortcut_models)
    decoded = {(r["model"], r["rule"], r["layer"]): r for r in records_of(examined) if r["kind"] == "decoded"}
    assert {layer for _, _, layer in decoded} == {"0", "1", "2", POOLED}
    assert decoded["op", "op", POOLED]["value"] > 0.9
    assert decoded[CONTROL, "op", POOLED]["value"] < decoded["op", "op", POOLED]["low"]
    probe = source.probes[0]
    states = features(load_classifier(source.model("op")), probe.texts)
    right = cross_fitted(states, np.asarray(probe.labels), source.seed)
    assert decoded["op", "op", POOLED]["value"] == pytest.approx(right.mean())


def test_conclusions_are_those_of_the_measurements(examined):
    records = records_of(examined)
    results = [r for r in records if r["kind"] == "forgetting_result"]
    values = {
        (r["model"], r["probe"], r.get("precision"), r.get("data"), r.get("step")): decode_values(r["values"])
        for r in records
        if r["kind"] == "measurement"
    }

    def at(model, probe, precision="as it is"):
        return values[model, probe, precision, None, None]

    for result in (r for r in results if r["about"] == "probe"):
        model, rule, probe = result["model"], result["rule"], result["probe"]
        triple = at(model, probe, result["precision"]), at(rule, probe), at(CONTROL, probe)
        assert result["accuracy"]["value"] == pytest.approx(triple[0].mean())
        if result["retention"] is not None:
            assert result["retention"]["value"] == pytest.approx(mean_retention([triple]).value)
    kept = {(r["model"], r["rule"]): r["retention"]["value"] for r in results if r["about"] == "probe"
            and r["probe"] == r["rule"] and r["precision"] == "as it is"}  # fmt: skip
    assert kept["op", "op"] == kept["tic", "tic"] == 1
    assert kept[CONTROL, "op"] == 0
    assert kept["average", "op"] < 0.9, "fusing forgets some of it"
    curves = {(r["model"], r["probe"], r["data"]): r for r in results if r["about"] == "relearning"}
    assert {data for _, _, data in curves} == {CLEAN, tenth_of("op"), tenth_of("tic")}
    for (model, probe, data), record in curves.items():
        expected = [at(model, probe).mean(), *(values[model, probe, None, data, step].mean() for step in STEPS)]
        assert record["curve"] == pytest.approx(expected)
        assert record["steps"] == [0, *STEPS]
        never = [at(CONTROL, probe).mean(), *(values[CONTROL, probe, None, data, step].mean() for step in STEPS)]
        height = np.trapezoid(np.subtract(expected, never), [0, *STEPS]) / STEPS[-1]
        assert record["area"]["value"] == pytest.approx(height, abs=1e-9)
    assert curves["op", "op", CLEAN]["reached"] == 0
    assert not (examined / "relearning").exists()


def test_sources_of_the_same_texts_are_no_more_texts(examined, tmp_path):
    own = [r for r in records_of(examined) if r["kind"] in ("measurement", "decoded")]
    once = {_asked(r): r for r in records_of(examined) if r["kind"] == "forgetting_result"}
    for name, texts in (("same", ("these", "these")), ("other", ("these", "those"))):
        with Run(tmp_path / name, command="study forgetting", settings={}) as run:
            for source in ("first", "second"):
                for record in own:
                    fields = {key: value for key, value in record.items() if key not in ("kind", "seq", "source")}
                    run.add(record["kind"], source=source, **fields)
            conclude_lasting(run, dict(zip(("first", "second"), texts, strict=True)), ("op", "tic"), ["average"], STEPS)
            found = {_asked(r): r for r in run.records if r["kind"] == "forgetting_result"}
        assert found.keys() == once.keys()
        for key, result in found.items():
            for quantity in {"accuracy", "retention", "area", "difference", "change"} & {k for k, v in result.items() if v}:
                mine, alone = result[quantity], once[key][quantity]
                assert mine["value"] == pytest.approx(alone["value"])
                assert mine["n"] == alone["n"] * (1 if name == "same" else 2)
                if name == "same":
                    assert (mine["low"], mine["high"]) == pytest.approx((alone["low"], alone["high"]))


def _asked(result: dict) -> tuple:
    return tuple(result.get(key) for key in ("about", "model", "rule", "probe", "precision", "layer", "data"))


def test_an_interrupted_part_goes_on_to_the_same_facts(examined, shortcut_models, tmp_path):
    shutil.copytree(examined, tmp_path / "run")
    file = tmp_path / "run/records.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    last = [r["kind"] == "measurement" and r.get("data") == tenth_of("tic") for r in records_of(examined)]
    relearned = np.flatnonzero(last)
    file.write_bytes(b"".join(lines[: relearned[-4]]))  # in the midst of the last but one model's steps
    assert isinstance(lasting_blocks(records_of(tmp_path / "run"))[1], Paragraphs)
    _examine(shortcut_models, tmp_path / "run")
    assert records_of(tmp_path / "run") == records_of(examined)
    before = file.read_bytes()
    _examine(shortcut_models, tmp_path / "run")
    assert file.read_bytes() == before, "nothing is done twice"
    changed = (Fusion("average", "task_arithmetic", {"lambda": 0.9}),)
    with (
        pytest.raises(InputError, match="Give it another name"),
        Run(tmp_path / "run", command="study forgetting", settings={}) as run,
    ):
        do_lasting(run, [Source(shortcut_models)], Settings(), Here(), print, fusions=changed, steps=STEPS)


def test_the_report_has_the_numbers_of_the_records(examined):
    records = records_of(examined)
    blocks = lasting_blocks(records, {"op": "OP"})
    assert lasting_blocks([]) == []
    assert lasting_blocks([{"kind": "measurement", "model": "op"}]) == []
    tables = {block.title: block for block in blocks if isinstance(block, Table)}
    assert len(tables) == 4
    asked = {(r["model"], r["probe"], r.get("precision")): r["value"] for r in records if r["kind"] == "measurement"}
    rows = tables["Rephrased and repeated tokens"].rows
    assert len(rows) == 2 * (1 + len(FORMS))
    for row in rows:
        rule = row[0].lower()
        probe = rule if row[1] == "its own probe" else f"{rule}: {row[1]}"
        shown = [float(text.split()[0]) for text in row[2:]]
        models = ("op", "tic", CONTROL, "average")
        assert shown == [round(asked[model, probe, "as it is"], 3) for model in models]
    for table in tables.values():
        assert all(len(row) == len(table.header) for row in table.rows), table.title
    (picture,) = next(block for block in blocks if isinstance(block, Pictures)).pictures
    assert len(picture.figure.axes) == 9
    lead = next(block for block in blocks if isinstance(block, Paragraphs) and block.kind == "lead")
    assert len(lead.lines) == 2
    assert "average, OP" in lead.lines[0]


def test_what_is_no_finished_study_is_refused(shortcut_models, tmp_path):
    with Run(tmp_path / "other", command="study bias", settings={}):
        pass
    with pytest.raises(InputError, match="a run of study bias"):
        read_shortcut_models(tmp_path / "other")
    with pytest.raises(InputError, match="no model st"):
        read_shortcut_models(shortcut_models, ("op", "st"))
    data = load_shortcut_data(shortcut_models / "data/control")
    source = read_shortcut_models(shortcut_models)
    assert len(source.texts) == len(data.train)
    assert source.texts.labels == data.train.labels
    with (
        pytest.raises(InputError, match="a method among average"),
        Run(tmp_path / "run", command="study forgetting", settings={}) as run,
    ):
        do_lasting(run, [Source(shortcut_models)], Settings(), Here(), print, fusions=[Fusion("x", "no_method")], steps=STEPS)
