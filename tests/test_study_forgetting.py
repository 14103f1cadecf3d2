"""The study of forgetting end to end on very small models, its choices and means by hand, and what the report makes of it."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import fuseforget.studies.forgetting.probes as forgetting_probes
from conftest import make_bert
from fuseforget.checkpoint import open_checkpoint
from fuseforget.cli import app
from fuseforget.data import read_splits
from fuseforget.errors import InputError
from fuseforget.fuse import InPlace
from fuseforget.knowledge import mean_retention, retention
from fuseforget.methods import METHODS
from fuseforget.models import load_classifier
from fuseforget.records import Run, decode_values, facts, read_records, read_run
from fuseforget.report import write_report
from fuseforget.report.blocks import Table
from fuseforget.report.forgetting import summarise_forgetting
from fuseforget.report.forgetting_facts import ForgettingFacts, beyond_chance
from fuseforget.report.forgetting_numbers import numbers_blocks
from fuseforget.report.forgetting_pairs import best, pairs_blocks, undominated, verdict
from fuseforget.report.forgetting_shared import shared_blocks, stays
from fuseforget.studies import forgetting, study
from fuseforget.studies.forgetting import PARTS, ForgettingStudy, relearning, run_forgetting_study
from fuseforget.studies.forgetting.choice import Tried, choose
from fuseforget.studies.forgetting.contenders import AVERAGE, CONTENDERS, LEFT_OUT, MOST_SETTINGS, Contender
from fuseforget.studies.forgetting.disjoint import do_disjoint
from fuseforget.studies.forgetting.examined_fusions import EXAMINED, chosen_fusions
from fuseforget.studies.forgetting.families import record_family
from fuseforget.studies.forgetting.fusions import Fusion
from fuseforget.studies.forgetting.lasting import do_lasting
from fuseforget.studies.forgetting.numbers import subsets
from fuseforget.studies.forgetting.pairs import choosing_pairs
from fuseforget.studies.forgetting.partial import do_partial
from fuseforget.studies.forgetting.retained import Fused, Piece, mean_of_cases, point_values
from fuseforget.studies.forgetting.sources import Source, describe_source, is_still, open_sources
from fuseforget.studies.shortcuts import run_shortcut_study, settings_for
from fuseforget.sweep import Resident
from fuseforget.train import TrainSettings
from fuseforget.workers import Here

RULES = ("tic", "op", "or")
SOME = (
    Contender(AVERAGE, "average"),
    Contender("average, scaled", "task_arithmetic", ({"lambda": 0.5}, {"lambda": 1.4})),
    Contender("slerp", "slerp"),
    Contender("ties", "ties", ({"density": 0.5}, {"density": 1.0, "lambda": 1.5})),
)
METHOD_OF = {one.row: one.method for one in CONTENDERS}
DIAL = Contender("dial", "task_arithmetic", ({"lambda": 1.0}, {"lambda": 0.0}))


def by_command(*arguments: str | Path) -> list[str | Path]:
    return [sys.executable, "-m", "fuseforget", "study", "forgetting", *arguments]


def texts(count: int, seed: int, but: frozenset[str] = frozenset()) -> dict[str, int]:
    """Different texts of a good or a bad film, with their labels."""
    rng, found = np.random.default_rng(seed), {}
    while len(found) < count:
        label = int(rng.integers(2))
        words = rng.choice(["a", "film", "the", "is", "very", "plot", "moving", "b", "c"], size=rng.integers(4, 9))
        text = " ".join(rng.permutation([*words, ("bad", "good")[label]]))
        if text not in but:
            found[text] = label
    return found


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A finished shortcut study of three rules with the two models of Fig. 3; a hundred training texts are left."""
    root = tmp_path_factory.mktemp("forgetting")
    (root / "data").mkdir()
    train = texts(1000, 1)
    for name, rows in (("train", train), ("validation", texts(150, 2, frozenset(train)))):
        lines = "".join(f"{text}\t{label}\n" for text, label in rows.items())
        (root / "data" / f"{name}.tsv").write_text("sentence\tlabel\n" + lines)
    settings = settings_for(
        "small", base=make_bert(root / "base"), data=root / "data", rules=RULES, sentences=900, ratio=2.0, parts=("shared",)
    )
    fast = TrainSettings(max_epochs=8, min_epochs=2, learning_rate=5e-3, batch_size=32)
    run_shortcut_study(replace(settings, pairs=(), steps=2, train=fast), root / "shortcuts")
    return root / "shortcuts"


def small(source: Path, **changed) -> ForgettingStudy:
    few: dict[str, Any] = {"texts": 80, "contenders": SOME, "dial": DIAL, "parts": ("pairs", "numbers", "shared"), **changed}
    return ForgettingStudy((str(source),), **few)


@pytest.fixture(scope="module")
def finished(source, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("finished") / "run"
    run_forgetting_study(small(source), run)
    return run


def test_every_method_that_needs_no_data_contends_or_is_left_out_with_a_reason():
    assert {one.method for one in CONTENDERS} | LEFT_OUT.keys() == METHODS.keys()
    assert not {one.method for one in CONTENDERS} & LEFT_OUT.keys()
    assert len({one.row for one in CONTENDERS}) == len(CONTENDERS)
    for one in CONTENDERS:
        row = METHODS[one.method]
        assert 1 <= len(one.grid) <= MOST_SETTINGS, one.row
        assert len({tuple(sorted(point.items())) for point in one.grid}) == len(one.grid), one.row
        row.check_models(2)
        row.check_base(one.takes_base)
        for point in one.grid:
            row.arguments(point, 2)
        names = {parameter.name for parameter in row.parameters}
        assert "lambda" not in names or len({point.get("lambda") for point in one.grid}) > 1, f"{one.row}: not with the scale"
    assert [one.row for one in CONTENDERS if not one.takes(3)] == ["slerp", "nuslerp"]


def test_the_choice_is_the_least_left_among_what_keeps_the_task():
    tried = [Tried({"x": 1}, 0.5, 0.90), Tried({"x": 2}, 0.1, 0.895), Tried({"x": 3}, 0.0, 0.894), Tried({"x": 4}, 0.2, 0.95)]
    assert choose(tried, 0.9).parameters == {"x": 2}  # half a point below is allowed to the bit
    assert choose([*tried, Tried({"x": 5}, 0.1, 0.896)], 0.9).parameters == {"x": 5}, "of equals the better at the task"
    assert choose(tried, 0.9, 0.01).parameters == {"x": 3}
    assert choose(tried, 0.9, 0.0).parameters == {"x": 4}
    assert choose(tried, 0.97).parameters == {"x": 4}  # none is allowed: the nearest
    assert choose([*tried, Tried({"x": 5}, 0.1, 0.95)], 0.97).parameters == {"x": 5}, "of equally near ones the least left"
    with pytest.raises(InputError, match="one or more"):
        choose([], 0.9)


def values(right: int, of: int = 100) -> np.ndarray:
    return np.arange(of) < right


def piece(rule: str = "op", case: tuple[str, ...] = ("op", "tic"), **changed) -> Piece:
    known = {"fused": 70, "reference": 80, "specialist": 100, "control": 50}
    of = {name: values(changed.get(name, right)).astype(float) for name, right in known.items()}
    others = tuple(values(right).astype(float) for right in changed.get("others", (60,)))
    return Piece(changed.get("source", "s"), case, rule, others=others, **of)


def test_what_is_left_by_hand():
    """(70 - 50) / (100 - 50) above the control, (70 - 60) / (100 - 60) above the other model; the average 30/50 and 20/40."""
    task = Fused("s", ("op", "tic"), values(90).astype(float), values(92).astype(float))
    found = mean_of_cases([piece()], [task])
    assert found["retention"]["value"] == pytest.approx(0.4)
    assert found["unshared"]["value"] == pytest.approx(0.25)
    assert found["retention_difference"]["value"] == pytest.approx(-0.2)
    assert found["unshared_difference"]["value"] == pytest.approx(-0.25)
    assert (found["task"]["value"], found["task_difference"]["value"]) == pytest.approx((0.9, -0.02))
    assert found["by_rule"] == {"op": {"retention": pytest.approx(0.4), "unshared": pytest.approx(0.25)}}
    # The other model of the case solves .95 of it: nothing unshared, but something left above the control.
    beside = piece("tic", others=(95,), fused=60)
    both = mean_of_cases([piece(), beside], [task])
    assert both["retention"]["value"] == pytest.approx((0.4 + 0.2) / 2)
    assert both["unshared"]["value"] == pytest.approx(0.25)
    assert (both["pieces"], both["unshared_pieces"]) == (2, 1)
    assert mean_of_cases([beside], [task])["unshared"] is None
    # Below the floor makes up for nothing.
    below = mean_of_cases([piece(), piece("tic", fused=50)], [task])
    assert below["unshared"]["value"] == pytest.approx((0.25 - 0.25) / 2)
    assert below["unshared_clipped"]["value"] == pytest.approx(0.25 / 2)


def test_the_interval_of_one_piece_is_that_of_its_retention_and_cases_widen_it():
    alone = mean_of_cases([piece(others=())], [])["retention"]
    exact = retention(values(70), values(100), values(50))
    assert alone["value"] == pytest.approx(exact.value)
    assert (alone["low"], alone["high"]) == pytest.approx((exact.low, exact.high), abs=0.02)
    two = [piece(others=()), piece("tic", others=())]
    pair = mean_retention([(values(70), values(100), values(50))] * 2)
    both = mean_of_cases(two, [])["retention"]
    assert (both["low"], both["high"]) == pytest.approx((pair.low, pair.high), abs=0.02)
    # Two cases that differ by more than the examples' noise: the interval reaches from one to the other.
    far = [piece(others=(), fused=55), piece(others=(), fused=95, case=("op", "or"))]
    wide = mean_of_cases(far, [])["retention"]
    assert wide["value"] == pytest.approx(0.5)
    assert wide["low"] < 0.1 + 0.1
    assert wide["high"] > 0.9 - 0.1
    seeds = mean_of_cases([replace(one, source=name) for one, name in zip(far, "st", strict=True)], [])["retention"]
    assert seeds["value"] == pytest.approx(0.5)
    assert point_values(far, [])["retention"] == pytest.approx(0.5)
    assert set(point_values([], []).values()) == {None}


def test_sources_of_the_same_texts_are_no_more_texts():
    """Two seeds that are right on the same examples are as sure as one, not as one of twice the examples."""
    case, right, never = ("op", "tic"), values(70).astype(float), values(50).astype(float)
    known = values(100).astype(float)

    def found(sources: str, texts: str) -> dict:
        tasks = [Fused(name, case, right, right, texts) for name in sources]
        return mean_of_cases([Piece(n, case, "op", right, right, known, never, (), texts=texts) for n in sources], tasks)

    for quantity in ("task", "retention"):
        one, alike, apart = (found(*of)[quantity] for of in (("s", ""), ("st", "a"), ("st", "")))
        assert (alike["low"], alike["high"]) == pytest.approx((one["low"], one["high"]))
        assert alike["high"] - alike["low"] > 1.08 * (apart["high"] - apart["low"])
        assert one["value"] == alike["value"] == apart["value"]


def test_subsets_are_the_first_and_another():
    for count in range(2, 7):
        first, other = subsets("abcdefg", count, seed=3)
        assert first == tuple("abcdefg"[:count])
        assert other != first
        assert len(other) == count
        assert list(other) == sorted(set(other))
        assert subsets("abcdefg", count, seed=3) == [first, other]
    assert subsets("abcdefg", 7, seed=3) == [tuple("abcdefg")]


def test_no_model_was_trained_on_the_texts_that_settings_are_chosen_on(source):
    (opened,) = open_sources([source])
    whole, validation = read_splits(opened.settings["data"])
    trained = whole.sample(900, opened.seed)
    left = forgetting_probes.untrained_texts(opened, 500)
    assert len(left) == 100
    assert set(left.texts).isdisjoint({*trained.texts, *validation.texts})
    assert set(left.texts) < set(whole.texts)
    probes = forgetting_probes.choosing_probes(opened, 60, 0)
    assert [probe.name for probe in probes] == [*RULES, "task"]
    assert {len(probe.texts) for probe in probes} == {60}
    told = {text for probe in forgetting_probes.telling_probes(opened) for text in probe.texts}
    assert all(set(probe.texts).isdisjoint(told) for probe in probes)
    shorter = forgetting_probes.choosing_probes(opened, 60, 0, rule_count=20)
    assert [len(probe.texts) for probe in shorter] == [20] * len(RULES) + [60]
    assert shorter[-1] == probes[-1]
    *rules, task = ({" ".join(word for word in text.split() if not word.startswith("tau")) for text in p.texts} for p in shorter)
    assert all(bare < task for bare in rules)
    assert task < set(left.texts)


def test_the_tiny_scale_has_further_texts_made():
    made = Source(Path("run"), "study shortcuts", {"data": None, "seed": 0}, 0)
    known = forgetting_probes.make_tiny_text(0)
    found = forgetting_probes.untrained_texts(made, 70)
    assert len(found) == 70
    assert set(found.texts).isdisjoint(text for part in known.values() for text in part.texts)
    assert set(found.labels) == {0, 1}


def test_a_study_that_left_no_texts_cannot_choose(source):
    (opened,) = open_sources([source])
    everything = replace(opened, settings={**opened.settings, "sentences": 960})
    with pytest.raises(InputError, match="others, by their hash"):
        forgetting_probes.untrained_texts(everything, 80)
    whole, _ = read_splits(opened.settings["data"])
    hashes = {**opened.settings["data_sha256"], "train": whole.sample(960, 0).sha256}
    with pytest.raises(InputError, match=r"50 training texts or more.*found 40 of 1000"):
        forgetting_probes.untrained_texts(replace(opened, settings={**everything.settings, "data_sha256": hashes}), 80)


def test_the_knowledge_was_there_and_each_choice_is_that_of_the_records(finished):
    records = read_records(finished)
    alone = {(r["split"], r["model"], r["probe"]): r["value"] for r in records if r["kind"] == "measurement"}
    for split in ("validation", "test"):
        for rule in RULES:
            assert alone[split, rule, rule] > alone[split, "control", rule] + 0.2
    assert alone["test", "tic+op", "tic"] > 0.9
    assert alone["test", "tic+or", "tic"] > 0.9
    found = ForgettingFacts(records)
    assert found.missing() == []
    assert found.chosen.keys() == {one.row for one in SOME}
    average = next(r["task"] for r in found.tried if r["row"] == AVERAGE)
    for one in SOME:
        tried = [Tried(r["parameters"], r["unshared_clipped"], r["task"]) for r in found.tried if r["row"] == one.row]
        assert [dict(t.parameters) for t in tried] == list(one.grid)
        assert found.chosen[one.row]["parameters"] == choose(tried, average).parameters
    points = [r for r in records if r["kind"] == "point"]
    assert len({r["model"] + r["split"] + r["part"] for r in points}) == len(points), "no point is recorded twice"


def test_each_number_of_the_table_is_that_of_the_points(finished):
    """Retention above the floor, above the control and the task's accuracy, from values per text and nothing else."""
    records = read_records(finished)
    alone = {(r["model"], r["probe"]): decode_values(r["values"]).mean() for r in records
             if r["kind"] == "measurement" and r["split"] == "test"}  # fmt: skip
    table = next(b for b in pairs_blocks(records) if isinstance(b, Table) and b.title.startswith("Pairs of"))
    chosen = {r["row"]: r["parameters"] for r in records if r["kind"] == "chosen"}
    for row in table.rows:
        points = [r for r in records if r["kind"] == "point" and (r["part"], r["split"], r["row"]) == ("pairs", "test", row[0])
                  and r["parameters"] == chosen[row[0]]]  # fmt: skip
        assert len(points) == 3
        raw, unshared, clipped = [], [], []
        for point in points:
            of_rules, of_unshared = [], []
            for rule, other in (point["case"], point["case"][::-1]):
                fused, control = decode_values(point["probes"][rule]["values"]).mean(), alone["control", rule]
                floor = max(control, alone[other, rule])
                of_rules.append((fused - control) / (alone[rule, rule] - control))
                if alone[rule, rule] - floor >= 0.1:
                    of_unshared.append((fused - floor) / (alone[rule, rule] - floor))
            raw.append(np.mean(of_rules))
            unshared += [np.mean(of_unshared)] if of_unshared else []
            clipped += [np.mean(np.maximum(of_unshared, 0))] if of_unshared else []
        task = np.mean([decode_values(point["probes"]["task"]["values"]).mean() for point in points])
        assert row[2].startswith(f"{np.mean(clipped):.3f} ["), row
        assert row[3].startswith(f"{np.mean(unshared):.3f} ["), row
        assert row[4].startswith(f"{np.mean(raw):.3f} ["), row
        assert row[6].startswith(f"{task:.3f} ["), row


def test_shared_numbers_and_the_dial_are_there(finished):
    records = read_records(finished)
    (_, table) = shared_blocks(records)
    assert [row[0] for row in table.rows] == [one.row for one in SOME]
    point = next(r for r in records if r["kind"] == "point" and (r["part"], r["row"]) == ("shared", AVERAGE))
    alone = {(r["model"], r["probe"]): r["value"] for r in records if r["kind"] == "measurement" and r["split"] == "test"}
    both = (alone["tic+op", "tic"] + alone["tic+or", "tic"]) / 2
    kept = (point["probes"]["tic"]["value"] - alone["control", "tic"]) / (both - alone["control", "tic"])
    assert table.rows[0][1].startswith(f"{kept:.3f} [")
    numbers = [b for b in numbers_blocks(records) if isinstance(b, Table)]
    assert numbers[0].header == ["method", "2", "3"]
    by_row = {row[0]: row for row in numbers[1].rows}
    assert by_row["slerp"][2] == "", "it takes two models alone"
    three = [r for r in records if r["kind"] == "point" and (r["part"], r["row"], len(r["case"])) == ("numbers", AVERAGE, 3)]
    assert by_row[AVERAGE][2].startswith(f"{three[0]['probes']['task']['value']:.3f} [")
    dial = next(b for b in pairs_blocks(records) if isinstance(b, Table) and b.title.startswith("The dial"))
    assert [row[0] for row in dial.rows] == ["0", "1"]
    # At lambda 1 task arithmetic with weights that sum to one is the average, at 0 the start, which knows no rule.
    average = next(r for r in records if r["kind"] == "forgetting_result" and (r["part"], r["row"]) == ("pairs", AVERAGE))
    assert dial.rows[1][3].startswith(f"{average['task']['value']:.3f}")


def test_a_study_that_was_stopped_goes_on_and_is_asked_for_more(source, finished, tmp_path, monkeypatch):
    whole = facts(read_records(finished))
    add, count = Run.add, 60

    def stop(run, kind, /, **fields):
        if len(run.records) >= count:
            raise KeyboardInterrupt
        return add(run, kind, **fields)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "add", stop)
        with pytest.raises(KeyboardInterrupt):
            run_forgetting_study(small(source), tmp_path / "run")
    page = write_report([tmp_path / "run"], tmp_path / "page.md").read_text()
    assert "not finished" in page
    assert "parts (" in page
    run_forgetting_study(small(source), tmp_path / "run")
    assert facts(read_records(tmp_path / "run")) == whole
    file = tmp_path / "run/records.jsonl"
    before = file.read_bytes()
    run_forgetting_study(small(source), tmp_path / "run")
    assert file.read_bytes() == before, "nothing is done twice"
    more = (*SOME, Contender("model_stock", "model_stock"))
    records = run_forgetting_study(small(source, parts=("pairs",), contenders=more), tmp_path / "run")
    assert [r for r in records if r["kind"] == "chosen"][-1]["row"] == "model_stock"
    assert ForgettingFacts(records).missing() == ["numbers", "shared"], "of the new method"
    other = (*SOME[:-1], replace(SOME[-1], grid=({"density": 0.3},)))
    with pytest.raises(InputError, match="the settings of ties that the run began with"):
        run_forgetting_study(small(source, contenders=other), tmp_path / "run")


def test_the_report_shows_it_and_says_how_to_repeat_it(source, finished, tmp_path):
    page = write_report([finished], tmp_path / "page.md").read_text()
    assert (
        f"fuseforget study forgetting --from {source} --part pairs --part numbers --part shared --seed 0 --validation 80 -o RUN"
        in page
    )
    assert "not finished" not in page
    for name in ("frontier-unshared_clipped", "frontier-retention", "dial", "forgetting-numbers"):
        assert (tmp_path / f"page-{name}.png").read_bytes()[:4] == b"\x89PNG"
    assert "tic beside or" in page, "what the other model solves as well is left out by name"
    command = [sys.executable, "-m", "fuseforget", "report", finished, "-o", tmp_path / "page.html"]
    subprocess.run(command, check=True, capture_output=True)
    assert "<svg" in (tmp_path / "page.html").read_text()


def test_settings_are_chosen_on_pairs_that_hold_each_rule_twice():
    rules = ("st", "op", "tic", "or", "and")
    (pairs,) = choosing_pairs([rules])
    assert len(pairs) == len(set(pairs)) == 5
    assert [sum(rule in pair for pair in pairs) for rule in rules] == [2] * 5
    assert set(pairs) <= set(combinations(rules, 2))
    assert choosing_pairs([("op", "tic")]) == [[("op", "tic")]]


def test_the_pairs_that_settings_are_chosen_on_are_dealt_out_among_sources():
    rules = ("st", "op", "tic", "or", "and")
    (ring,) = choosing_pairs([rules])
    dealt = choosing_pairs([rules] * 3)
    assert [len(pairs) for pairs in dealt] == [2, 2, 1]
    assert sorted(pair for pairs in dealt for pair in pairs) == sorted(ring), "each once"
    few = ("op", "tic")
    assert choosing_pairs([few] * 3) == [[few]] * 3, "each source has one"
    assert all(choosing_pairs([("a", "b", "c")] * 5))


def test_the_ablations_are_a_part_of_the_study(source, finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    records = run_forgetting_study(small(source, parts=("ablations",)), run)
    chosen = next(r["parameters"] for r in records if r["kind"] == "chosen" and r["row"] == "ties")
    assert chosen
    results = {r["row"]: r for r in records if r["kind"] == "ablation_result"}
    assert results["ties"]["parameters"] == [chosen], "other methods at their chosen settings"
    assert {r["split"] for r in records if r["kind"] == "point" and r["part"] == "ablations"} == {"validation"}
    cases = next(r["cases"] for r in records if r["kind"] == "ablation_cases")
    assert ["tic", "op"] in cases
    assert ["tic+op", "tic+or"] in [r["models"] for r in records if r["kind"] == "agreement_spectrum"]
    # The method's own variant is asked with the same weights as the method is, on the same texts.
    own = InPlace([source / "models" / name for name in ("tic", "op")], "spectral_consensus", base=source / "models/start")
    resident = Resident(source / "models/start", forgetting_probes.choosing_probes(open_sources([source])[0], 80, 0))
    own.into(resident.tensors(open_checkpoint(source / "models/start")))
    point = next(r for r in records if r["kind"] == "point" and r["row"] == "spectral consensus"
                 and r["parameters"] == {"forget": 0.99} and r["case"] == ["tic", "op"])  # fmt: skip
    for probe in ("tic", "op", "task"):
        agree = decode_values(point["probes"][probe]["values"]) == resident.ask(probe).values
        assert agree.mean() > 0.98, "but for rounding at the border between the labels"
    page = write_report([run], tmp_path / "page.md").read_text()
    assert "Which part of spectral consensus does the work?" in page
    for name in ("ablations", "agreement"):
        assert (tmp_path / f"page-{name}.png").read_bytes()[:4] == b"\x89PNG"
    before = (run / "records.jsonl").read_bytes()
    run_forgetting_study(small(source, parts=("ablations",)), run)
    assert (run / "records.jsonl").read_bytes() == before, "nothing is done twice"


TRAINING = ("lasting", "partial", "disjoint")  # the parts that train


@pytest.fixture
def few_steps(monkeypatch):
    """These of few steps and one share, on the pair in the order in which its points are asked."""
    pair = ("tic", "op")
    for name, do in {
        "lasting": partial(do_lasting, steps=(2,)),
        "partial": partial(do_partial, shares=(0.5,)),
        "disjoint": do_disjoint,
    }.items():
        monkeypatch.setitem(PARTS, name, replace(PARTS[name], do=partial(do, pair=pair)))


def test_what_lasts_and_what_is_partly_shared_are_asked_of_what_was_chosen(source, finished, few_steps, tmp_path):
    """Of a run that is asked for these parts alone: the choice of the part pairs, and the same fused models."""
    run_forgetting_study(small(source, parts=TRAINING), tmp_path / "run")
    records, before = read_records(tmp_path / "run"), read_records(finished)
    chosen = {r["row"]: r for r in before if r["kind"] == "chosen"}
    assert {r["row"]: r for r in records if r["kind"] == "chosen"} == chosen
    others = [r for row, r in chosen.items() if row not in EXAMINED and r["allowed"]]
    best_other = min(others, key=lambda r: (r["value"], -r["task"]))["row"]
    rows = [AVERAGE, "average, scaled", best_other]
    for part in TRAINING:
        (examined,) = [r for r in records if r["kind"] == "examined" and r["part"] == part]
        assert (examined["rows"], examined["other"]) == (rows, best_other)
        fusions = [r for r in records if r["kind"] == "fusion" and r["part"] == part]
        assert {r["row"] for r in fusions} == set(rows)
        assert all(r["parameters"] == chosen[r["row"]]["parameters"] for r in fusions)
    asked = {
        (r["model"], r["probe"]): r["values"] for r in records if r["kind"] == "measurement" and r.get("precision") == "as it is"
    }
    for row in rows:
        of_row = [r for r in before if r["kind"] == "point" and r["row"] == row and r["parameters"] == chosen[row]["parameters"]]
        (point,) = [r for r in of_row if (r["part"], r["split"], r["case"]) == ("pairs", "test", ["tic", "op"])]
        assert all(asked[row, probe] == point["probes"][probe]["values"] for probe in ("tic", "op", "task")), row
    page = write_report([tmp_path / "run"], tmp_path / "page.md").read_text()
    assert page.count("Settings as chosen on validation data for pairs of shortcuts: average; average, scaled (lambda ") == len(
        TRAINING
    )
    assert "the best of the other methods" in page
    assert "not finished" not in page
    file = tmp_path / "run/records.jsonl"
    written = file.read_bytes()
    run_forgetting_study(small(source, parts=TRAINING), tmp_path / "run")
    assert file.read_bytes() == written, "nothing is done twice"


def test_which_fusions_are_examined(tmp_path):
    """The best of the others is by validation data, among those that keep the task; more contenders may make it another."""
    others = (
        Contender("ties", "ties"),
        Contender("multislerp, base", "multislerp", base=True),
        Contender("tsv_m", "tsv_m", weight=0.5),
    )
    known = tuple(Contender(row, METHOD_OF.get(row, row)) for row in EXAMINED)
    values = {"ties": (0.3, 0.9, True), "multislerp, base": (0.2, 0.9, True), "tsv_m": (0.1, 0.5, False)}
    first = Source(tmp_path / "s", "study shortcuts", {"rules": ["op", "tic"]}, 0)

    def examined(run, contenders):
        return chosen_fusions(run, "lasting", [first], ForgettingStudy(("s",), contenders=contenders), Here(), print)

    with Run(tmp_path / "run", command="study forgetting", settings={}) as run:
        for one in (*known, *others):
            value, task, allowed = values.get(one.row, (0.0, 0.9, True))
            about = {
                "sources": ["s"],
                "row": one.row,
                "parameters": {"x": value},
                "value": value,
                "task": task,
                "allowed": allowed,
            }
            # What another part chose, or was chosen on more sources, is not what was chosen on pairs of these.
            run.add("chosen", part="bias", **{**about, "parameters": {"x": 9.0}, "value": -1.0})
            run.add(
                "chosen",
                part="pairs",
                **{**about, "sources": ["s", "t"], "parameters": {"x": 8.0}, "value": -value, "allowed": True},
            )
            run.add("chosen", part="pairs", **about)
        found = examined(run, (*known, *others))
        assert [one.row for one in found] == [*EXAMINED, "multislerp, base"]
        assert found[-1] == Fusion("multislerp, base", "multislerp", {"x": 0.2}, None, True)
        assert examined(run, (*known, *others)) == found
        assert [one.row for one in examined(run, (others[0], known[0]))] == [AVERAGE, "ties"]
        assert [one.row for one in examined(run, (*known, others[2]))] == list(EXAMINED), "none that keeps the task"
        recorded = [(r["rows"], r["other"]) for r in run.records if r["kind"] == "examined"]
    assert recorded == [
        ([*EXAMINED, "multislerp, base"], "multislerp, base"), ([AVERAGE, "ties"], "ties"), (list(EXAMINED), None),
    ]  # fmt: skip


def again(source: Path, to: Path, seed: int) -> Path:
    """A copy of a finished study that says that it has another seed, and so was trained on other texts."""
    copy = to / f"again-{seed}"
    shutil.copytree(source, copy)
    settings = read_run(source)["settings"]
    trained = read_splits(settings["data"])[0].sample(settings["sentences"], seed).sha256
    begun = copy / "run.json"
    text = re.sub(r'(  "seed": )0', rf"\g<1>{seed}", begun.read_text())
    begun.write_text(text.replace(settings["data_sha256"]["train"], trained))
    return copy


def test_settings_are_chosen_on_texts_of_all_sources(source, finished, tmp_path):
    """A finished run that is given another source has settings chosen anew, on the pairs that are dealt to each of the two."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    second = again(source, tmp_path, 5)
    both = replace(small(source, parts=("pairs",)), sources=(str(source), str(second)))
    records = run_forgetting_study(both, run)
    first = [r for r in records if r["kind"] in ("chosen", "tried") and r["sources"] == ["shortcuts"]]
    assert first == [r for r in read_records(finished) if r["kind"] in ("chosen", "tried")], "what was chosen before stays"
    points = [r for r in records if r["kind"] == "point" and r["split"] == "validation"]
    dealt = choosing_pairs([RULES, RULES])
    assert {tuple(r["case"]) for r in points if r["source"] == "again-5"} == set(dealt[1])
    found = ForgettingFacts(records)
    assert {tuple(r["sources"]) for r in [*found.tried, *found.chosen.values()]} == {("shortcuts", "again-5")}
    for tried in found.tried:
        of_setting = [r for r in points if (r["row"], r["parameters"]) == (tried["row"], tried["parameters"])]
        used = [r for r in of_setting if tuple(r["case"]) in dealt[r["source"] == "again-5"]]
        assert len(used) == sum(map(len, dealt)) == tried["cases"]
        assert tried["task"] == pytest.approx(np.mean([decode_values(r["probes"]["task"]["values"]).mean() for r in used]))
    average = next(r["task"] for r in found.tried if r["row"] == AVERAGE)
    for one in SOME:
        tried = [Tried(r["parameters"], r["unshared_clipped"], r["task"]) for r in found.tried if r["row"] == one.row]
        assert found.chosen[one.row]["parameters"] == choose(tried, average).parameters
    results = [r for r in records if r["kind"] == "forgetting_result" and len(r["sources"]) == 2]
    assert {r["row"]: r["parameters"] for r in results} == {row: r["parameters"] for row, r in found.chosen.items()}
    assert found.results("pairs") == results, "none of the settings that were chosen before"
    page = write_report([run], tmp_path / "page.md").read_text()
    assert "mean over 3 pairs of shortcuts, again-5" in page
    assert "on test data: 6 pairs of shortcuts, again-5" in page


def test_sources_that_come_later_are_asked_once_each(source, few_steps, tmp_path, monkeypatch):
    """Three sources, the last two given later, stopped in each: nothing is trained twice but what was not recorded yet."""
    sources = [source, again(source, tmp_path, 5), again(source, tmp_path, 6)]
    asked = ForgettingStudy((str(source),), ("lasting",), texts=80, contenders=SOME[:1], dial=None)
    more = replace(asked, sources=tuple(map(str, sources)))
    trained: list[str] = []

    def asked_as_it_is(start, examples, out, settings, *, watched, watch, **options):
        """In place of a training: how often there is one is what is looked at here."""
        trained.append(str(start))
        for step in watched:
            watch(step, load_classifier(start))

    monkeypatch.setattr(relearning, "fine_tune", asked_as_it_is)
    add, run = Run.add, tmp_path / "run"
    for settings, last in ((asked, "shortcuts"), (more, "again-5"), (more, "again-6")):

        def stop(run, kind, /, _last=last, **fields):
            if kind == "measurement" and fields.get("step") and (fields["model"], fields["source"]) == ("op", _last):
                raise KeyboardInterrupt
            return add(run, kind, **fields)

        with monkeypatch.context() as patch:
            patch.setattr(Run, "add", stop)
            with pytest.raises(KeyboardInterrupt):
                run_forgetting_study(settings, run)
        if settings is asked:
            run_forgetting_study(asked, run)
    records = run_forgetting_study(more, run)
    # The pair, the control and the average of each source, on three kinds of data.
    assert len(trained) == 3 * 4 * 3 + 3
    assert Counter(trained)[str(source / "models/op")] == 3 + 1, "the one that was stopped"
    assert sum(r["kind"] == "measurement" and "step" in r for r in records) == 3 * 4 * 3 * 3, "a record a probe"
    names = ["shortcuts", "again-5", "again-6"]
    assert [r["sources"] for r in records if r["kind"] == "chosen"] == [names[:1], names]
    # The copies are the same models: what they answer is known.
    of = {name: {(r["model"], r["probe"], r["precision"]): r["values"] for r in records if r["kind"] == "measurement"
                 and r["source"] == name and "precision" in r} for name in ("shortcuts", "again-5", "again-6")}  # fmt: skip
    assert of["shortcuts"] == of["again-5"] == of["again-6"]
    assert len(of["shortcuts"]) > 100
    found = {(len(r["sources"]), r["model"], r["probe"], r["precision"]): r["accuracy"] for r in records
             if r["kind"] == "forgetting_result" and r["about"] == "probe"}  # fmt: skip
    assert {key[0] for key in found} == {1, 3}
    one, three = (found[count, AVERAGE, "op", "as it is"] for count in (1, 3))
    assert three == pytest.approx(one), "the same answers to the same texts: no surer than one of them"
    before = (run / "records.jsonl").read_bytes()
    run_forgetting_study(more, run)
    assert (run / "records.jsonl").read_bytes() == before
    page = write_report([run], tmp_path / "page.md").read_text()
    assert "Sources: shortcuts, again-5, again-6; means over them." in page
    assert "chosen on validation data for pairs of shortcuts, again-5, again-6: average; no other method kept the task." in page


def test_settings_are_chosen_on_so_many_texts_and_the_page_says_so(source, tmp_path, monkeypatch):
    def fewer(settings, out, **options):
        return run_forgetting_study(replace(settings, contenders=SOME[:1], dial=None), out, **options)

    monkeypatch.setattr(forgetting, "run_forgetting_study", fewer)
    run = tmp_path / "run"
    words = ["study", "forgetting", "--from", source, "--part", "pairs", "--validation", "60", "-o", run]
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == 0, done.output
    assert read_run(run)["settings"]["texts"] == 60
    assert {r["n"] for r in read_records(run) if r["kind"] == "measurement" and r["split"] == "validation"} == {60}
    page = write_report([run], tmp_path / "page.md").read_text()
    again = next(line for line in page.splitlines() if line.startswith("fuseforget study forgetting --from"))
    assert "--validation 60" in again
    before = (run / "records.jsonl").read_bytes()
    printed = [str(run) if word == "RUN" else word for word in shlex.split(again)[1:]]
    assert CliRunner().invoke(app, printed).exit_code == 0
    assert (run / "records.jsonl").read_bytes() == before, "the printed command is of this run, which is finished"
    # The default, by the interface.
    study("forgetting", tmp_path / "default", source=source, parts=("pairs",))
    assert read_run(tmp_path / "default")["settings"]["texts"] == 2000
    assert {r["n"] for r in read_records(tmp_path / "default") if r["kind"] == "measurement" and r["split"] == "validation"} == {
        100
    }
    command = by_command("--from", source, "--validation", "49", "-o", tmp_path / "x")
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "validation texts: expected 50 or more, found 49" in refused.stderr
    assert not (tmp_path / "x").exists()


def test_what_other_parts_choose_is_not_the_pairs_choice(finished):
    description, records = read_run(finished), read_records(finished)
    of_bias = {"kind": "chosen", "part": "bias", "row": "average", "parameters": {"lambda": 9.0}, "sound": True}
    tried = {"kind": "tried", "part": "bias", "row": "average", "parameters": {"lambda": 9.0}}
    more = summarise_forgetting(description, [*records, of_bias, tried])
    assert more.tables
    assert [table.rows for table in more.tables] == [table.rows for table in summarise_forgetting(description, records).tables]


def test_a_source_may_grow_but_not_change(source):
    known = describe_source(open_sources([source])[0])
    assert {"training op", "data op", "training control"} <= known["made"].keys()
    grown = {**known, "made": {**known["made"], "training one more": "of later"}}
    assert is_still(known, known)
    assert is_still(grown, known)
    assert not is_still(known, grown)
    assert not is_still({**known, "made": {**known["made"], "training op": "again"}}, known)
    assert not is_still({**known, "settings_sha256": "others"}, known)


def result(unshared: float, low: float, high: float, task: float, task_low: float) -> dict:
    left = {"value": unshared, "low": low, "high": high}
    return {"row": "x", "unshared": left, "unshared_clipped": left,
            "task_difference": {"value": task, "low": task_low, "high": 0.02}}  # fmt: skip


def test_verdicts_and_the_frontier_by_hand():
    assert verdict(result(0.05, 0.0, 0.09, 0.0, -0.004)) == "reached, clearly"
    assert verdict(result(0.05, 0.0, 0.12, 0.0, -0.004)) == "reached"
    assert verdict(result(0.05, 0.0, 0.09, -0.005, -0.02)) == "reached"
    assert verdict(result(0.2, 0.1, 0.3, -0.01, -0.02)) == "not: too much left, task lower"
    assert verdict({**result(0, 0, 0, 0, 0), "unshared_clipped": None}) == "nothing unshared"
    assert (
        best([result(0.0, 0, 0, -0.1, -0.2), result(0.3, 0, 1, 0.0, 0.0), result(0.2, 0, 1, 0.0, 0.0)])["unshared"]["value"]
        == 0.2
    )
    assert best([result(0.0, 0, 0, -0.1, -0.2)]) is None
    assert undominated([(0.5, 0.9), (0.1, 0.8), (0.3, 0.7), (0.1, 0.6), (0.6, 0.9)]) == [(0.1, 0.8), (0.5, 0.9)]
    kept = {"value": 0.95, "low": 0.92, "high": 1.0}
    assert stays({"kept": kept}) == "clearly"
    assert stays({"kept": {**kept, "low": 0.8}}) == "yes"
    assert stays({"kept": {**kept, "value": 0.85}}) == "no"
    assert stays({"kept": None}) == "nothing known"


def test_what_is_beyond_chance_is_corrected_over_what_a_table_shows(tmp_path):
    """One test of p .02 is; of nine such, each of another row, none is, also where the one was recorded before."""
    nine = [{"row": str(i), "parameters": {}, "against_average": [{"on": "shared", "p": 0.02, "value": 1}]} for i in range(9)]
    alone = {"row": "alone"}
    with Run(tmp_path / "run", command="study forgetting", settings={}) as run:
        record_family(run, {"case": "AB"}, [alone, nine[0]])
        assert beyond_chance(run.records) == {"0": [{"row": "0", "on": "shared", "p_holm": 0.02}]}
        for _ in range(2):
            record_family(run, {"case": "AB"}, [alone, *nine])
        assert sum(r["kind"] == "family" for r in run.records) == 2
        assert beyond_chance(run.records) == {}
        sure = {"row": "x", "parameters": {}, "against_average": [{"on": "shared", "p": 1e-6}, {"on": "unshared", "p": 0.03}]}
        record_family(run, {"case": "AC"}, [nine[0], nine[1], sure])
        found = beyond_chance(run.records, case="AC")
        assert [(t["on"], t["p_holm"]) for t in found["x"]] == [("shared", pytest.approx(4e-6))]
        assert list(found) == ["x"]
        assert beyond_chance(run.records, case="AB") == {}
        assert beyond_chance([]) == {}


def test_a_run_that_is_asked_for_fewer_methods_keeps_the_others_in_its_tables_tests(tmp_path):
    def result(row: str, p: float, **parameters: float) -> dict:
        return {"row": row, "parameters": parameters, "against_average": [{"on": "shared", "p": p}]}

    with Run(tmp_path / "run", command="study forgetting", settings={}) as run:
        first = [run.add("forgetting_result", case="AB", **result(row, 0.01)) for row in "abc"]
        run.add("forgetting_result", case="AC", **result("d", 0.01))
        record_family(run, {"case": "AB"}, first)
        record_family(run, {"case": "AB"}, first[:1])
        assert sum(r["kind"] == "family" for r in run.records) == 1
        assert {row: tests[0]["p_holm"] for row, tests in beyond_chance(run.records).items()} == pytest.approx(
            {"a": 0.03, "b": 0.03, "c": 0.03}
        )
        # Another setting of one was chosen: what the former came to is no row of the table any more.
        anew = run.add("forgetting_result", case="AB", **result("b", 0.9, density=0.5))
        record_family(run, {"case": "AB"}, [anew])
        assert beyond_chance(run.records).keys() == {"a", "c"}
        record_family(run, {"case": "AB"}, [first[1]])  # and the former again
        assert beyond_chance(run.records).keys() == {"a", "b", "c"}


def test_what_cannot_be_a_source_is_refused(source, finished, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(source, copy)
    refused = [
        ([source, source], "the same study"),
        ([source, copy], "the same study"),
        ([finished], "a run of study forgetting"),
        ([tmp_path / "nothing"], "nothing"),
    ]
    for paths, message in refused:
        with pytest.raises(InputError, match=message):
            open_sources(paths)
    begun = copy / "run.json"
    before = begun.read_text()
    begun.write_text(re.sub(r'"ratio": 2.0', '"ratio": 1.0', before))
    with pytest.raises(InputError, match=r"expected the study of .* with another seed, found other ratio"):
        open_sources([source, copy])
    others = {'"max_epochs": [0-9]+': '"max_epochs": 77', '(?s)("data_sha256".*?"validation": ")[0-9a-f]{4}': r"\g<1>0000"}
    for (written, otherwise), what in zip(others.items(), ("max_epochs of training", "data"), strict=True):
        begun.write_text(re.sub(r'(  "seed": )0', r"\g<1>5", re.sub(written, otherwise, before)))
        with pytest.raises(InputError, match=f"with another seed, found other {what}"):
            open_sources([source, copy])
    begun.write_text(re.sub(r'"steps": 2', '"steps": 3', before))
    with pytest.raises(InputError, match="found seed 0 as there"):
        open_sources([source, copy])
    begun.write_text(re.sub(r'(  "seed": )0', r"\g<1>5", before))
    assert [one.seed for one in open_sources([source, copy])] == [0, 5]
    twin = tmp_path / "other" / source.name
    shutil.copytree(copy, twin)
    with pytest.raises(InputError, match="directories of different names"):
        open_sources([source, twin])
    shutil.rmtree(copy / "models/op")
    with pytest.raises(InputError, match="a finished study shortcuts, found no model op"):
        open_sources([copy])
    lines = (twin / "records.jsonl").read_bytes().splitlines(keepends=True)
    (twin / "records.jsonl").write_bytes(b"".join(line for line in lines if b'"kind":"bound"' not in line))
    with pytest.raises(InputError, match="found one without its conclusions"):
        open_sources([twin])
    with pytest.raises(InputError, match="expected a model mt, found none"):
        open_sources([source])[0].model("mt")


def test_parts_that_the_sources_do_not_allow_are_refused(source, finished, tmp_path):
    assert list(PARTS)[:3] == ["pairs", "numbers", "shared"]
    bare = tmp_path / "bare"
    shutil.copytree(source, bare)
    shutil.rmtree(bare / "models/tic+op")
    with pytest.raises(InputError, match="part shared: expected a shortcut study with its part shared"):
        study("forgetting", tmp_path / "run", source=[bare], parts=("shared",))
    with pytest.raises(InputError, match=r"part: expected one of pairs, numbers, shared.* found lasts"):
        study("forgetting", tmp_path / "run", source=source, parts=("lasts",))
    with pytest.raises(InputError, match="--from RUN"):
        study("forgetting", tmp_path / "run")
    with pytest.raises(InputError, match="options among --from, --part, --validation, found --base"):
        study("forgetting", tmp_path / "run", source=source, base="x")
    with pytest.raises(InputError, match=r"one shortcut study .*found 2 runs"):
        study("fisher", tmp_path / "run", source=[source, bare])
    with pytest.raises(InputError, match="average among them"):
        small(source, contenders=SOME[1:])
    with pytest.raises(InputError, match=r"validation texts: expected 50 or more, found 20.*--validation"):
        study("forgetting", tmp_path / "run", source=source, validation=20)
    assert not (tmp_path / "run").exists()
    command = by_command("--from", source, "--from", source, "-o", tmp_path / "run")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "the same study" in done.stderr
    taken = tmp_path / "taken"
    shutil.copytree(finished, taken)
    with pytest.raises(InputError, match="not fewer"):
        run_forgetting_study(small(bare, parts=("pairs",)), taken)
