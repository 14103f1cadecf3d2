"""Methods on the models of a very small study of bias: biases are there first, settings are chosen, what is shared stays."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from conftest import make_bert
from forgetting_asked import Asked, Method, Source
from fuseforget.errors import InputError, Stopped
from fuseforget.fuse import fuse
from fuseforget.knowledge.fairness import Grouped, fairness
from fuseforget.models import encode_batches, load_classifier, predict
from fuseforget.records import Run, decode_values, facts, read_records
from fuseforget.report import write_report
from fuseforget.report.blocks import Details, Pictures, Table
from fuseforget.report.forgetting_bias import bias_blocks, last_results
from fuseforget.report.forgetting_bias_figures import settings_on_validation
from fuseforget.report.markdown import render_markdown
from fuseforget.studies.bias import run_bias_study
from fuseforget.studies.bias.answers import grouped
from fuseforget.studies.forgetting import ForgettingStudy, bias, run_forgetting_study
from fuseforget.studies.forgetting.bias import Candidate, choose_least_biased, do_bias
from fuseforget.studies.forgetting.bias_results import gone
from fuseforget.studies.forgetting.bias_source import read_bias_models
from fuseforget.studies.forgetting.contenders import Contender
from fuseforget.studies.forgetting.fusions import Fusion
from fuseforget.workers import Here
from test_study_bias import settings_of, write

CONTENDERS = (
    Method("average", "average"),
    Method("average, scaled", "task_arithmetic", ({"lambda": 0.4}, {"lambda": 1.0}, {"lambda": 1.3})),
    Method("ties", "ties", ({"density": 0.5},)),
)


def measure(run: Path, source: Path, contenders=CONTENDERS, stop=None) -> list[dict]:
    said = stop or (lambda line: None)
    with Run(run, command="study forgetting", settings={}, say=said) as made:
        do_bias(made, [Source(source, "study bias", "biased")], Asked(contenders), Here(), said)
        return list(made.records)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A study of two seeds and two ratios, not to be written to."""
    home = tmp_path_factory.mktemp("bias")
    settings = settings_of(make_bert(home / "base"), write(home / "data"), seeds=2, parts=("ratios",))
    run_bias_study(settings, home / "run")
    return home / "run"


@pytest.fixture(scope="module")
def records(source, tmp_path_factory):
    return measure(tmp_path_factory.mktemp("forgetting") / "run", source)


def results(records: list[dict]) -> dict:
    return {(r["group"], r["row"]): r for r in records if r["kind"] == "forgetting_result"}


def test_bias_is_there_and_goes_unless_both_models_have_it(records):
    known = {r["attribute"]: r for r in records if r["kind"] == "knowledge"}
    assert set(known) == {"gender", "age"}
    assert all(r["learned"] and r["low"] > 0.3 for r in known.values())
    at = results(records)
    own = at["ratio 0.8", "average"]["own_gaps"]
    assert min(own[a]["demographic_parity"]["value"] for a in own) > 0.6
    assert at["ratio 0.8", "average"]["gone_mean"]["low"] > 0.5
    for attribute in ("gender", "age"):
        assert at[f"both {attribute}", "average"]["gone_mean"]["high"] < 0.3
    assert {group for group, _ in at} == {"ratio 0.8", "ratio 0.9", "both gender", "both age"}
    assert all(r["seeds"] == [0, 1] for r in at.values())


def test_what_is_recorded_is_what_the_written_fusion_answers(source, records, tmp_path):
    """A fusion in memory, its gaps and what is gone of them, beside the fused checkpoint on the study's own texts."""
    models = source / "models/seed1"
    fuse([models / "gender", models / "age"], tmp_path / "fused", "ties", base=models / "start", density=0.5, seed=1)
    classifier = load_classifier(tmp_path / "fused")
    study = read_bias_models(source)
    texts = study.splits["test"]
    answers = predict(classifier.model, encode_batches(classifier, texts.examples.texts)).argmax(axis=1)
    where = {"kind": "point", "seed": 1, "group": "ratio 0.8", "row": "ties", "split": "test"}
    (point,) = [r for r in records if where.items() <= r.items()]
    assert (decode_values(point["predicted"]) == answers).all()
    left = []
    for attribute in study.pair:
        of = grouped(texts, attribute)
        (own,) = [a for a in study.answers if (a["seed"], a["model"], a["set"]) == (1, attribute, "test")]
        for metric in ("demographic_parity", "tpr_gap"):
            found = fairness(metric, of, answers).value
            assert point["metrics"][attribute][metric]["value"] == pytest.approx(found)
            left.append(found / fairness(metric, of, decode_values(own["predicted"]).astype(int)).value)
    told = results(records)["ratio 0.8", "ties"]
    by_seed = [told["gone"][a][m]["by_seed"][1] for a in study.pair for m in ("demographic_parity", "tpr_gap")]
    assert [1 - one for one in left] == pytest.approx(by_seed)


def test_a_setting_is_chosen_on_validation_texts_of_all_seeds(records):
    chosen = {r["row"]: r for r in records if r["kind"] == "chosen"}
    tried = [r for r in records if r["kind"] == "point" and r["split"] == "validation" and r["row"] == "average, scaled"]
    assert Counter(r["seed"] for r in tried if r["group"] == "ratio 0.8") == Counter(r["seed"] for r in tried) == {0: 3, 1: 3}
    level = chosen["average"]["accuracy"]
    best = chosen["average, scaled"]
    assert best["average"] == level
    means = {}
    for r in tried:
        means.setdefault(r["parameters"]["lambda"], []).append(r["metrics"]["accuracy"]["value"])
    means = {lambda_: float(np.mean(values)) for lambda_, values in means.items()}
    assert best["accuracy"] == pytest.approx(means[best["parameters"]["lambda"]])
    sound = [lambda_ for lambda_, accuracy in means.items() if accuracy >= level - 0.005]
    assert best["sound"] == bool(sound)
    assert best["parameters"]["lambda"] in (sound or means)
    drawn = settings_on_validation(records)["average, scaled"]
    assert sorted(accuracy for _, accuracy in drawn) == pytest.approx(sorted(means.values()))
    assert any(point == pytest.approx((best["bias"], best["accuracy"])) for point in drawn)
    told = {json.dumps(r["parameters"]) for r in records if r.get("split") == "test" and r.get("row") == "average, scaled"}
    assert told == {json.dumps(best["parameters"])}


def test_what_another_setting_came_to_is_not_counted_where_one_is_chosen_anew(source, records, tmp_path, monkeypatch):
    """As where settings were chosen on fewer seeds before: each is told by its own answers."""
    with monkeypatch.context() as patch:
        patch.setattr(bias, "choose_least_biased", lambda candidates, *level: (max(candidates, key=lambda c: c.bias), True))
        before = measure(tmp_path / "run", source)
    other, chosen = (
        next(r["parameters"] for r in of if r["kind"] == "chosen" and r["row"] == "average, scaled") for of in (before, records)
    )
    assert other != chosen
    both = measure(tmp_path / "run", source)
    at = {json.dumps([r["group"], r["row"], r["parameters"]]): r for r in both if r["kind"] == "forgetting_result"}
    for (group, row), alone in results(records).items():
        told = at[json.dumps([group, row, alone["parameters"]])]
        for key in ("seeds", "accuracy", "gaps", "gone"):
            assert told[key] == alone[key], (group, row, key)
    shown = [json.dumps([r["group"], r["row"], r["parameters"]]) for r in last_results(both)]
    assert len(shown) == len(set(shown)) == len(results(records))
    page = render_markdown(bias_blocks(both), lambda picture: picture.name)
    assert page.count(f"lambda {chosen['lambda']:g}") == 1
    assert f"lambda {other['lambda']:g} " not in page


def test_it_is_a_part_of_the_study_which_has_a_page_of_it(source, tmp_path):
    run = tmp_path / "run"
    run_forgetting_study(ForgettingStudy((str(source),), contenders=(Contender("average", "average"),)), run)
    page = write_report([run], tmp_path / "page.md").read_text()
    assert "Two models biased in one attribute each, ratio 0.8, seeds 0, 1" in page
    assert "not finished" not in page


def test_the_least_biased_of_the_sound_settings_is_chosen():
    one, two, three = (Candidate(Fusion(name, "ties"), *at) for name, at in {
        "biased": (0.90, 0.8), "sound": (0.895, 0.3), "dull": (0.5, 0.0),
    }.items())  # fmt: skip
    assert choose_least_biased([one, two, three], 0.9, 0.005) == (two, True)
    assert choose_least_biased([two, three], 0.95, 0.005) == (two, False)


def test_gone_is_one_where_groups_are_alike_and_zero_where_nothing_changed():
    labels, groups = np.tile([0, 1], 200), np.repeat([0, 1], 200)
    of = Grouped(labels=labels, groups=groups, label_names=("no", "yes"), group_names=("f", "m"))
    biased = np.where(np.arange(400) % 3 == 0, groups, labels)
    assert gone(of, labels, [biased])["demographic_parity"].value == 1
    stayed = gone(of, biased, [biased, biased])["demographic_parity"]
    assert (stayed.value, stayed.low, stayed.high) == (0, 0, 0)


def test_a_stopped_part_goes_on_and_nothing_is_done_twice(source, records, tmp_path):
    lines = []

    def stop(line: str) -> None:
        lines.append(line)
        if len(lines) == 20:
            raise Stopped("stopped", expected="to go on", found="a test")

    with pytest.raises(Stopped):
        measure(tmp_path / "run", source, stop=stop)
    begun = len(read_records(tmp_path / "run"))
    assert 0 < begun < len(records)
    again = measure(tmp_path / "run", source)
    assert sorted(map(json.dumps, facts(again))) == sorted(map(json.dumps, facts(records)))
    assert measure(tmp_path / "run", source) == again


def test_an_unbiased_study_is_refused_to_be_judged(source, tmp_path):
    """Models that took on no bias have none to forget: no result is made up for them."""
    study = read_bias_models(source)
    same = tmp_path / "same"
    same.mkdir()
    for name in ("run.json", "data", "models"):
        (same / name).symlink_to(source / name)
    lines = [json.loads(line) for line in (source / "records.jsonl").read_text().splitlines()]
    own = {(r["seed"], r["set"]): r for r in lines if r["kind"] == "answers" and r.get("model") == "gender"}
    with Run(tmp_path / "copy", command="study bias", settings={}) as run:
        for r in lines:
            fields = {k: v for k, v in r.items() if k not in ("crc", "kind")}
            if r["kind"] == "answers" and r.get("model") == "age":
                fields["predicted"] = own[r["seed"], r["set"]]["predicted"]
            run.add(r["kind"], **fields)
    (same / "records.jsonl").write_text((tmp_path / "copy/records.jsonl").read_text())
    found = measure(tmp_path / "run", same)
    assert {r["attribute"]: r["learned"] for r in found if r["kind"] == "knowledge"} == dict.fromkeys(study.pair, False)
    assert not results(found)
    assert "No clear bias was learned in gender, age" in render_markdown(bias_blocks(found), lambda picture: picture.name)


def test_other_runs_and_other_texts_are_refused(source, tmp_path):
    with Run(tmp_path / "other", command="study fisher", settings={}) as run:
        run.add("data")
    with pytest.raises(InputError, match="study fisher"):
        read_bias_models(tmp_path / "other")
    changed = tmp_path / "changed"
    changed.mkdir()
    for name in ("run.json", "records.jsonl", "models"):
        (changed / name).symlink_to(source / name)
    (changed / "data/splits").mkdir(parents=True)
    for split in ("validation", "test"):
        rows = (source / "data/splits" / f"{split}.jsonl").read_text().splitlines()
        (changed / "data/splits" / f"{split}.jsonl").write_text("\n".join(rows[1:]) + "\n")
    with pytest.raises(InputError, match="the texts that its records are about"):
        read_bias_models(changed)


def test_the_report_shows_what_the_records_say(records):
    blocks = bias_blocks(records)
    tables = [block for block in blocks if isinstance(block, Table)]
    main, ratios, shared = tables
    at = results(records)
    told = at["ratio 0.8", "ties"]
    (row,) = [row for row in main.rows if row[0].startswith("ties")]
    assert row[1].startswith(f"{told['accuracy']['value']:.3f} [")
    assert row[2].startswith(f"{told['gaps']['gender']['demographic_parity']['value']:.3f} [")
    assert row[-1].startswith(f"{told['gone_mean']['value']:.0%} [")
    assert main.rows[0][0] == "biased models"
    assert ratios.header == ["method", "ratio 0.8", "ratio 0.9"]
    kept = 1 - at["both age", "average"]["gone_mean"]["value"]
    assert shared.rows[0][1 + 2 * shared.header[1::2].index("both age: kept")].startswith(f"{kept:.0%} [")
    names = [picture.name for block in blocks if isinstance(block, Pictures) for picture in block.pictures]
    assert names == ["forgetting-bias", "forgetting-bias-ratios", "forgetting-bias-shared"]
    assert isinstance(blocks[-1], Details)
    assert bias_blocks([]) == []
    begun = [r for r in records if r["kind"] != "forgetting_result"]
    assert "Not finished" in render_markdown(bias_blocks(begun), lambda picture: picture.name)
