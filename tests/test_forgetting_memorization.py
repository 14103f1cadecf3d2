"""Methods on the models of a very small study of memorization: rows are known first, and then held against mere shrinking."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import make_bert
from forgetting_asked import Asked, Method, Source
from fuseforget.checkpoint import open_checkpoint
from fuseforget.errors import InputError, Stopped
from fuseforget.fisher import fisher_of_texts
from fuseforget.fuse import fuse
from fuseforget.knowledge import tpr_at
from fuseforget.models import energies, load_language_model
from fuseforget.records import Run, facts, read_records
from fuseforget.report import write_report
from fuseforget.report.blocks import Details, Pictures, Table
from fuseforget.report.forgetting_facts import ForgettingFacts
from fuseforget.report.forgetting_memorization import memorization_blocks
from fuseforget.report.markdown import render_markdown
from fuseforget.studies.forgetting import ForgettingStudy, memorization, run_forgetting_study
from fuseforget.studies.forgetting.contenders import OF_TEXT, Contender
from fuseforget.studies.forgetting.fusions import Fusion
from fuseforget.studies.forgetting.memorization import do_memorization
from fuseforget.studies.forgetting.memorization_choice import (
    Candidate,
    Shrunk,
    at_equal,
    choose_beyond_shrinking,
    choose_least_memorised,
)
from fuseforget.studies.forgetting.memorization_results import SHRUNK, Case, Halves, conclude_case
from fuseforget.studies.forgetting.memorization_source import open_corpus
from fuseforget.studies.memorization import run_memorization_study
from fuseforget.workers import Here
from memorization_runs import make_inputs, settings_of

CONTENDERS = (
    Method("average", "average"),
    Method("average, scaled", "task_arithmetic", ({"lambda": 0.5}, {"lambda": 1.0})),
    Method("ties", "ties", ({"density": 0.5, "lambda": 0.8}, {"density": 0.2})),
    Method("slerp", "slerp"),
)


def measure(run: Path, source: Path, stop=None, contenders=CONTENDERS) -> list[dict]:
    said = stop or (lambda line: None)
    with Run(run, command="study forgetting", settings={}, say=said) as made:
        do_memorization(made, [Source(source, "study memorization", "rows")], Asked(contenders), Here(), said)
        return list(made.records)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A study of three models, not to be written to."""
    home = tmp_path_factory.mktemp("memorization")
    settings = settings_of(*make_inputs(home))
    run_memorization_study(replace(settings, parts=(), canaries=0), home / "run")
    return home / "run"


@pytest.fixture(scope="module")
def records(source, tmp_path_factory):
    return measure(tmp_path_factory.mktemp("forgetting") / "run", source)


def results(records: list[dict]) -> dict:
    return {(r["case"], r["row"]): r for r in records if r["kind"] == "forgetting_result"}


def beyond(records: list[dict]) -> dict:
    return {(r["case"], r["row"]): r for r in records if r["kind"] == "beyond_shrinking"}


def test_rows_are_known_and_the_unshared_ones_are_forgotten(records):
    # Margins are those of the same models in test_study_memorization: own rows .06 to .08, others' 2.3 to 3.4, seeds 0 to 2.
    known = {r["case"]: r for r in records if r["kind"] == "knowledge"}
    at = results(records)
    for case in known:
        assert known[case]["learned"]
        assert known[case]["value"] < -1
        single, average = at[case, "alone"], at[case, "average"]
        assert max(single["unshared"]["high"], single["shared"]["high"], *(r["high"] for r in single["by_model"].values())) < 0.2
        assert average["unshared"]["low"] > single["unshared"]["high"]
        assert average["shared"]["value"] < average["unshared"]["value"]
        assert 0 < average["retained"]["value"] < 0.95
    assert set(known) == {"AB", "ABC"}
    assert {row for case, row in at if case == "AB"} == {"alone", "average", "average, scaled", "ties", "slerp"}
    assert ("ABC", "slerp") not in at, "a method for two models is not asked of three"


def test_it_is_a_part_of_the_study_which_has_a_page_of_it(source, tmp_path):
    run = tmp_path / "run"
    average = Contender("average", "average")
    run_forgetting_study(ForgettingStudy((str(source),), contenders=(average, *OF_TEXT)), run)
    page = write_report([run], tmp_path / "page.md").read_text()
    assert "Memorised rows: 2 models fused, A, B" in page
    assert "Memorised rows: 3 models fused, A, B, C" in page
    assert "not finished" not in page
    records = read_records(run)
    asked = {r["row"]: r["only"] for r in records if r["kind"] == "contender"}
    assert asked == {"average": None} | {one.row: "memorization" for one in OF_TEXT}
    less = [r if r["kind"] != "done" else {**r, "contenders": ["average"]} for r in records]
    assert (ForgettingFacts(records).missing(), ForgettingFacts(less).missing()) == ([], ["memorization"])
    others = tuple(replace(one, grid=one.grid[:1]) for one in OF_TEXT)
    with pytest.raises(InputError, match=f"the settings of {OF_TEXT[0].row} that the run began with"):
        run_forgetting_study(ForgettingStudy((str(source),), contenders=(average, *others)), run)


def test_what_is_recorded_is_what_the_written_fusion_says_on_the_half_that_tells(source, records, tmp_path):
    told = results(records)["AB", "ties"]
    base, models = open_corpus(source).base, [source / "models" / name for name in "AB"]
    fuse(models, tmp_path / "fused", "ties", base=base, **told["parameters"])
    sets = open_corpus(source).sets
    read = {}
    for name, path in (("fused", tmp_path / "fused"), ("base", base)):
        lm = load_language_model(path)
        read[name] = {on: energies(lm, sets[on].ids) for on in ("A", "B", "shared", "validation", "control")}

    def halves(*names: str) -> np.ndarray:
        both = [(read["fused"][on], read["base"][on]) for on in names]
        return np.concatenate([((f.sums - b.sums) / f.tokens)[len(f.sums) // 2 :] for f, b in both])

    assert told["unshared"]["value"] == pytest.approx(np.exp(halves("A", "B")).mean(), rel=1e-5)
    assert told["by_model"]["B"]["value"] == pytest.approx(np.exp(halves("B")).mean(), rel=1e-5)
    assert told["shared"]["value"] == pytest.approx(np.exp(halves("shared")).mean(), rel=1e-5)
    held = read["fused"]["validation"]
    middle = len(held.sums) // 2
    assert told["perplexity"]["value"] == pytest.approx(np.exp(held.sums[middle:].sum() / held.tokens[middle:].sum()), rel=1e-5)
    attacked = tpr_at(-halves("A", "B"), -halves("control"), 0.01)
    assert told["tpr"]["unshared"]["value"] == attacked.value


def test_what_several_models_read_are_no_more_rows(source, records):
    alone, average = (results(records)["AB", row] for row in ("alone", "average"))
    for on in ("unshared", "shared", "perplexity"):
        assert alone[on]["n"] == average[on]["n"]
    assert alone["tpr"]["shared"]["n"] == average["tpr"]["shared"]["n"]
    corpus = open_corpus(source)
    rows = corpus.sets["shared"].ids
    base, *models = (energies(load_language_model(path), rows) for path in (corpus.base, *(source / "models" / n for n in "AB")))
    ratio = np.mean([np.exp((one.sums - base.sums) / one.tokens) for one in models], axis=0)
    assert alone["shared"]["value"] == pytest.approx(ratio[len(ratio) // 2 :].mean(), rel=1e-5)


def test_another_setting_of_a_row_has_a_result_of_its_own(records, tmp_path):
    with Run(tmp_path / "run", command="study forgetting", settings={}) as run:
        for record in facts(records):
            run.add(record["kind"], **{key: value for key, value in record.items() if key not in ("kind", "seq")})
        case = Case(Halves(run, "rows"), ("A", "B"))
        for _ in range(2):
            conclude_case(case, [Fusion("ties", "average")])
        found = [r for r in run.records if r["kind"] == "forgetting_result" and (r["case"], r["row"]) == ("AB", "ties")]
        chosen = [r["parameters"] for r in run.records if r["kind"] == "chosen" and (r["case"], r["row"]) == ("AB", "ties")]
        assert [r["parameters"] for r in found] == [*chosen, {}]
        (table, *_) = (block for block in memorization_blocks(run.records) if isinstance(block, Table))
        (row,) = [row for row in table.rows if row[0].startswith("ties")]
        assert row[1].startswith(f"{found[0]['unshared']['value']:.3f} ["), "the one that was chosen is shown"


def test_the_average_shrunk_to_its_own_place_is_itself(records):
    for case in ("AB", "ABC"):
        for equal in beyond(records)[case, "average, scaled"]["at_equal"].values():
            assert equal["reached"]
            assert equal["gain"]["value"] <= 1e-6, "where several scales are equal, the one that is best for the average"


def test_what_lies_beyond_the_average_is_not_held_against_shrinking(records):
    """A stretched average would be reached at scales above 1, where it forgets by being broken."""
    reached = [one for r in beyond(records).values() for one in r["at_equal"].values() if one["reached"]]
    assert reached
    assert all(0 <= one["scale"] <= 1 for one in reached)


def test_only_the_chosen_are_asked_about_control_rows_and_equal_fusions_once(records):
    read = Counter((r["model"], r["set"]) for r in records if r["kind"] == "energies")
    assert max(read.values()) == 1
    control = {model for model, on in read if on == "rows: control" and " by " in model}
    assert len(control) == len(
        {(r["case"], json.dumps([r["method"], r["parameters"]])) for r in records if r["kind"] == "chosen"}
    )
    asked = {model for model, on in read if on == "rows: A" and model.startswith("rows: AB by")}
    # The scaled averages are among the shrunk ones.
    assert len(asked) == len(SHRUNK) + 1 + 2 + 1


def test_a_setting_is_chosen_on_the_first_half(records):
    points = {(r["case"], r["row"], json.dumps(r["parameters"]), r["split"]): r for r in records if r["kind"] == "point"}
    for chosen in [r for r in records if r["kind"] == "chosen"]:
        point = points[chosen["case"], chosen["row"], json.dumps(chosen["parameters"]), "validation"]
        average = points[chosen["case"], "average", "{}", "validation"]
        assert [chosen[on] for on in ("unshared", "shared", "perplexity")] == [
            point[on]["value"] for on in ("unshared", "shared", "perplexity")
        ]
        no_worse = all(chosen[on] <= average[on]["value"] * (1 + 1e-6) for on in ("shared", "perplexity"))
        assert chosen["sound"] == no_worse
        assert points[chosen["case"], chosen["row"], json.dumps(chosen["parameters"]), "test"]["unshared"] != point["unshared"]


def test_the_most_forgetful_of_the_sound_settings_is_chosen_else_the_nearest():
    average = Candidate(Fusion("average", "average"), 0.3, 0.1, 200.0)
    better, forgetful, far = (
        Candidate(Fusion("ties", "ties"), *found) for found in ((0.5, 0.1, 150.0), (0.9, 0.11, 100.0), (0.95, 0.9, 90.0))
    )  # fmt: skip
    assert choose_least_memorised([better, forgetful, far], average) == (better, True)
    assert choose_least_memorised([far, forgetful], average) == (forgetful, False)


def test_the_setting_that_forgets_most_beyond_shrinking_is_found_at_equal_shared_alr():
    curve = [Shrunk(scale, {"shared": 1 - scale}, np.full(4, 1 - 0.5 * scale)) for scale in (0.0, 0.5, 1.0)]
    average = Candidate(Fusion("average", "average"), 0.5, 0.0, 180.0)
    little, much, outside, broken = (
        Candidate(Fusion("ties", "ties"), *found)
        for found in ((0.9, 0.7, 150.0), (0.8, 0.2, 170.0), (2.0, 1.5, 150.0), (1.5, 0.2, 900.0))
    )
    assert choose_beyond_shrinking([little, much, outside, broken], average, curve) == much
    assert choose_beyond_shrinking([outside, broken], average, curve) is None


def test_what_is_beyond_shrinking_is_told_on_the_half_that_did_not_choose_it(records):
    points = {(r["case"], r["row"], json.dumps(r["parameters"]), r["split"]): r for r in records if r["kind"] == "point"}
    found = beyond(records)
    assert {row for case, row in found if case == "AB"} >= {"average, scaled", "ties"}
    for (case, row), one in found.items():
        for on in ("unshared", "shared", "perplexity"):
            assert one[on] == points[case, row, json.dumps(one["parameters"]), "test"][on]
            assert one[on] != points[case, row, json.dumps(one["parameters"]), "validation"][on]


def test_the_shrunk_average_is_interpolated_where_it_is_equal():
    rows = np.ones(4)
    curve = [
        Shrunk(0.0, {"perplexity": 100.0}, 1.0 * rows),
        Shrunk(0.5, {"perplexity": 90.0}, 0.6 * rows),
        Shrunk(1.0, {"perplexity": 130.0}, 0.2 * rows),
    ]
    found = at_equal(curve, "perplexity", 110.0)
    assert (found.scale, found.rows.mean()) == pytest.approx((0.75, 0.4))
    twice = at_equal(curve, "perplexity", 95.0)
    assert (twice.scale, twice.rows.mean()) == pytest.approx((0.25, 0.8)), "the place where the average forgets more"
    assert at_equal(curve, "perplexity", 131.0) is None
    assert at_equal(curve, "perplexity", 89.0) is None


FISHER = (
    Method("average", "average"),
    Method("spectral_consensus, tables", "spectral_consensus", ({"forget": 0.9, "embeddings": True},)),
    Method("fisher_consensus", "fisher_consensus", ({"forget": 0.9},)),
)


def test_a_method_that_needs_information_gets_it_of_each_models_rows(source, tmp_path, monkeypatch):
    """It is kept in the run, it is what the command gives, and what is told of it is what the written fusion says.

    Two models fused: unshared .72 (the average .39), shared .23 (.32 by rows of tables); three: .90 (.63) and .32 (.42).
    """
    monkeypatch.setattr(memorization, "NUMBERS", (2,))
    made, corpus = tmp_path / "run", open_corpus(source)
    at = results(measure(made, source, contenders=FISHER))
    average, rows, found = (at["AB", method.row] for method in FISHER)
    assert at["AB", "alone"]["unshared"]["high"] < 0.2, "the rows are known"
    assert found["unshared"]["low"] > average["unshared"]["high"]
    assert found["shared"]["value"] < rows["shared"]["value"], "what is shared is told better by what texts ask for"
    kept = [made / "fishers" / "rows" / name for name in "AB"]
    parts = {name: list(corpus.own(name)) for name in "AB"}
    for fisher, name in zip(kept, "AB", strict=True):
        told = fisher_of_texts(corpus.base, source / "data", tmp_path / name, parts=parts[name])
        assert told["rows"] == len(corpus.trained_on([name]))
        again, stored = (open_checkpoint(place) for place in (tmp_path / name, fisher))
        for tensor, values in stored.items():
            torch.testing.assert_close(values, again[tensor], rtol=1e-4, atol=1e-6 * float(values.max()))
    models = [source / "models" / name for name in "AB"]
    fuse(models, tmp_path / "fused", "fisher_consensus", base=corpus.base, statistics=kept, **found["parameters"])
    lm, start = load_language_model(tmp_path / "fused"), load_language_model(corpus.base)
    read = [energies(one, corpus.sets["shared"].ids) for one in (lm, start)]
    middle = len(read[0].sums) // 2
    told = np.exp(((read[0].sums - read[1].sums) / read[0].tokens)[middle:]).mean()
    assert found["shared"]["value"] == pytest.approx(told, rel=1e-5)
    with pytest.raises(InputError, match="some of"):
        fisher_of_texts(corpus.base, source / "data", tmp_path / "other", parts=["Z"])


def test_a_stopped_part_goes_on_and_nothing_is_done_twice(source, records, tmp_path):
    lines = []

    def stop(line: str) -> None:
        lines.append(line)
        if len(lines) == 15:
            raise Stopped("stopped", expected="to go on", found="a test")

    with pytest.raises(Stopped):
        measure(tmp_path / "run", source, stop=stop)
    assert 0 < len(read_records(tmp_path / "run")) < len(records)
    again = measure(tmp_path / "run", source)
    assert sorted(map(json.dumps, facts(again))) == sorted(map(json.dumps, facts(records)))
    assert measure(tmp_path / "run", source) == again


def test_models_that_memorised_nothing_are_not_judged(source, tmp_path):
    """The base in place of every model: it knows no row, and no result is made up for it."""
    same = tmp_path / "same"
    (same / "models").mkdir(parents=True)
    for name in ("run.json", "records.jsonl", "data"):
        (same / name).symlink_to(source / name)
    for name in "ABC":
        (same / "models" / name).symlink_to(open_corpus(source).base)
    found = measure(tmp_path / "run", same)
    assert [r["learned"] for r in found if r["kind"] == "knowledge"] == [False, False]
    assert not results(found)
    page = render_markdown(memorization_blocks(found), lambda picture: picture.name)
    assert page.count("do not clearly know their own rows") == 2


def test_other_runs_and_other_bases_are_refused(source, tmp_path):
    with Run(tmp_path / "other", command="study bias", settings={}) as run:
        run.add("data")
    with pytest.raises(InputError, match="study bias"):
        open_corpus(tmp_path / "other")
    changed = tmp_path / "changed"
    changed.mkdir()
    (changed / "data").symlink_to(source / "data")
    about = json.loads((source / "run.json").read_text())
    about["settings"]["base"] = str(make_bert(tmp_path / "bert"))
    (changed / "run.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match="the base of"):
        open_corpus(changed)


def test_the_report_shows_what_the_records_say(records):
    blocks = memorization_blocks(records)
    tables = [block for block in blocks if isinstance(block, Table)]
    assert [table.title for table in tables] == ["What each method forgets", "Against the average that is only shrunk"] * 2
    told = results(records)["AB", "ties"]
    (row,) = [row for row in tables[0].rows if row[0].startswith("ties")]
    assert row[1].startswith(f"{told['unshared']['value']:.3f} [")
    assert row[2].startswith(f"{told['shared']['value']:.3f} [")
    assert row[3].startswith(f"{told['perplexity']['value']:.1f} [")
    (equal,) = [row for row in tables[1].rows if row[0] == "ties"]
    shown = beyond(records)["AB", "ties"]
    assert equal[2] == f"{shown['unshared']['value']:.3f}"
    at = shown["at_equal"]["perplexity"]
    assert equal[6] == "" if not at["reached"] else equal[6].startswith(f"{at['gain']['value']:+.3f} [")
    names = [picture.name for block in blocks if isinstance(block, Pictures) for picture in block.pictures]
    source = told["source"]
    assert names == [f"forgetting-memorization-{source}-AB", f"forgetting-memorization-{source}-ABC"]
    both = memorization_blocks([*records, *({**r, "source": "another"} for r in records)])
    drawn = [picture.name for block in both if isinstance(block, Pictures) for picture in block.pictures]
    assert len(set(drawn)) == 4, "a source's figure would be shown as another's"
    assert isinstance(blocks[-1], Details)
    assert memorization_blocks([]) == []
    begun = [r for r in records if r["kind"] != "forgetting_result"]
    assert "Not finished" in render_markdown(memorization_blocks(begun), lambda picture: picture.name)
