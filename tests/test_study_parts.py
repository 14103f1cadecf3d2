"""A study's parts: asked for later on a finished run, over earlier runs, and what they conclude from values known by hand."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import replace
from math import comb

import numpy as np
import pytest

from fuseforget.errors import InputError
from fuseforget.records import Run, encode_values, read_records, read_run
from fuseforget.report import write_report
from fuseforget.report.facts import Facts
from fuseforget.studies.shortcuts import SCALES, run_shortcut_study, settings_for
from fuseforget.studies.shortcuts.data import probes_of
from fuseforget.studies.shortcuts.growth import average_name, chosen_subsets, conclude_growth
from fuseforget.train import TrainSettings

FAST = TrainSettings(max_epochs=1, min_epochs=1, learning_rate=3e-3, batch_size=32)
FOUR = ("st", "op", "tic", "or")


@pytest.fixture
def inputs(bert, tmp_path):
    from fuseforget.data.demo_text import sentences

    data = tmp_path / "data"
    data.mkdir()
    for name, count, seed in (("train", 120, 1), ("validation", 60, 2)):
        rows = "".join(f"{t}\t{y}\n" for t, y in sentences(count, seed))
        (data / f"{name}.tsv").write_text("sentence\tlabel\n" + rows)
    return bert("base"), data


def settings_of(inputs, *parts, **changes):
    settings = settings_for("small", base=inputs[0], data=inputs[1], rules=("st", "op", "tic", "or"), parts=parts or None)
    return replace(settings, train=FAST, steps=2, **changes)


def facts_of(run):
    return Facts(read_run(run), read_records(run))


def test_a_finished_run_can_be_asked_for_more_and_ends_like_one_asked_at_once(inputs, tmp_path):
    run_shortcut_study(settings_of(inputs), tmp_path / "whole")
    for number, parts in enumerate((("triangle",), ("growth", "pairs"), ("shared",), ())):
        run_shortcut_study(settings_of(inputs, *parts), tmp_path / "run")
        assert facts_of(tmp_path / "run").missing() == {}
        if number == 0:
            assert facts_of(tmp_path / "run").parts == ["triangle"]
            assert "fig7-triangle" in write_report([tmp_path / "run"], tmp_path / "page.md").read_text()
    keep = {"kind", "model", "path", "weights", "probe", "value", "low", "high", "values", "models", "task", "retention"}

    def content(run):
        found = [r for r in read_records(run) if r["kind"] not in ("part", "training", "data")]
        return sorted(json.dumps({k: v for k, v in r.items() if k in keep}, sort_keys=True) for r in found)

    assert content(tmp_path / "run") == content(tmp_path / "whole")
    page = write_report([tmp_path / "whole"], tmp_path / "page.md").read_text()
    assert "not finished" not in page
    for words in ("Fig. 3, TiC+OP to TiC+OR", "Fig. 7, 8, ST, OP, OR", "Dependent shortcuts", "more models", "--part growth"):
        assert words in page, words


def test_what_a_part_lacks_is_named(inputs, tmp_path):
    run_shortcut_study(settings_of(inputs), tmp_path / "run")
    file = tmp_path / "run/records.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)

    def gone(line: bytes) -> bool:
        record = json.loads(line)
        corner = record.get("path") == "st-op-or" and record["weights"] == [0.5, 0.5, 0.0]
        of_two = record.get("members") == ["st", "op"] and record.get("probe") == "task"
        return corner or of_two or (record["kind"] == "growth" and record["models"] == 2) or record["kind"] == "learned"

    file.write_bytes(b"".join(line for line in lines if not gone(line)))
    missing = facts_of(tmp_path / "run").missing()
    assert len(missing["measurements on the triangle"]) == 4
    assert missing["measurements of averages"] == ["task on ST, OP"]
    assert missing["conclusions"] == [
        "whether TiC+OP learned TiC", "whether TiC+OP learned OP", "whether TiC+OR learned TiC", "whether TiC+OR learned OR",
        "averages of 2",
    ]  # fmt: skip
    assert "This run is not finished" in write_report([tmp_path / "run"], tmp_path / "page.md").read_text()
    run_shortcut_study(settings_of(inputs), tmp_path / "run")
    assert facts_of(tmp_path / "run").missing() == {}


def test_a_run_of_before_there_were_parts_goes_on(inputs, tmp_path):
    """Its pairs were settings then, four of them: they still count, and more can be asked for."""
    run, four = tmp_path / "run", (("op", "tic"), ("op", "st"))
    run_shortcut_study(settings_of(inputs, "pairs", pairs=four), run)
    description = read_run(run)
    assert not {"pairs", "parts"} & description["settings"].keys()
    description["settings"]["pairs"] = [list(pair) for pair in four]
    (run / "run.json").write_text(json.dumps(description))
    file = run / "records.jsonl"
    file.write_bytes(b"".join(line for line in file.read_bytes().splitlines(keepends=True) if b'"kind":"part"' not in line))
    earlier = facts_of(run)
    assert (earlier.parts, list(earlier.paths), earlier.missing()) == (["pairs"], ["op-tic", "op-st"], {})
    run_shortcut_study(settings_of(inputs, "pairs"), run)
    later = facts_of(run)
    assert len(later.paths) == len(SCALES["small"].pairs) == 10
    assert list(later.paths)[:2] == ["op-tic", "op-st"]
    assert later.missing() == {}
    with pytest.raises(InputError, match="seed"):
        run_shortcut_study(replace(settings_of(inputs, "pairs"), seed=1), run)


def test_parts_that_the_rules_do_not_allow():
    assert settings_for("tiny").parts == ("pairs",)
    assert settings_for("tiny").pairs == (("op", "tic"), ("or", "and"))
    assert settings_for("small", base="b", data="d").parts == ("pairs", "shared", "triangle", "growth", "forecast")
    assert settings_for("small", base="b", data="d", rules=("op", "tic")).parts == ("pairs",)
    assert settings_for("tiny", parts=("methods", "growth")).parts == ("growth", "methods")
    with pytest.raises(InputError, match="part triangle: expected the rules st, op, or"):
        settings_for("tiny", parts=("triangle",))
    with pytest.raises(InputError, match="3 rules or more"):
        settings_for("tiny", rules=("op", "tic"), parts=("growth",))
    with pytest.raises(InputError, match="4 rules or more"):
        settings_for("tiny", rules=("op", "tic", "or"), parts=("forecast",))
    with pytest.raises(InputError, match="one of pairs, shared"):
        settings_for("tiny", parts=("method",))


def test_other_texts_under_one_rule_are_refused(inputs):
    from fuseforget.data import ShortcutSettings, make_shortcut_data, read_splits

    train, validation = read_splits(inputs[1])
    sets = {r: make_shortcut_data(train, validation, ShortcutSettings((r,), validation="both")) for r in ("st", "op")}
    assert [p.name for p in probes_of(sets, ("st", "op"))] == ["st", "op", "task"]
    other = make_shortcut_data(train, validation, ShortcutSettings(("op",), validation="both", seed=1))
    with pytest.raises(InputError, match="original validation set of st"):
        probes_of({**sets, "op": other}, ("st", "op"))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [2, 3, 7, 10])
def test_subsets_are_all_or_an_even_sample(count, seed):
    rules = [f"r{i}" for i in range(count)]
    subsets = chosen_subsets(rules, seed)
    assert len(set(subsets)) == len(subsets)
    assert subsets == chosen_subsets(rules, seed)
    for size in range(2, count + 1):
        here = [s for s in subsets if len(s) == size]
        assert len(here) == min(21, comb(count, size))
        assert set(here) <= set(itertools.combinations(rules, size))
        used = Counter(rule for s in here for rule in s)
        assert max(used.values()) - min(used.values()) <= 1


def made_run(directory, left, *, seed=0, n=200):
    """Measurements in which the average of k models keeps ``left[k]`` of each shortcut (specialist 1, control one half)."""
    settings = replace(settings_for("small", base="b", data="d", rules=FOUR), seed=seed)
    rng = np.random.default_rng(seed)
    with Run(directory, command="test", settings={}) as run:

        def add(model, probe, share, **where):
            run.add("measurement", model=model, probe=probe, values=encode_values((rng.random(n) < share).astype(float)), **where)

        for model in (*FOUR, "control"):
            for probe in (*FOUR, "task"):
                add(model, probe, 0.9 if probe == "task" else (1.0 if model == probe else 0.5))
        for members in chosen_subsets(FOUR, seed):
            for probe in (*members, "task"):
                share = 0.9 if probe == "task" else 0.5 + 0.5 * left(len(members))
                add(average_name(members), probe, share, members=list(members))
        conclude_growth(run, settings)
        return list(run.records)


def test_growth_finds_the_share_that_is_left(tmp_path):
    """With a half, a third and a quarter left; and with the same left of all, where nothing falls. Intervals are of 95 %."""
    seeds = range(12)
    covered = {"falling": 0, "flat": 0}
    for seed in seeds:
        for name, left in (("falling", lambda k: 1 / k), ("flat", lambda k: 0.3)):
            records = made_run(tmp_path / f"{name}{seed}", left, seed=seed)
            for record in (r for r in records if r["kind"] == "growth"):
                found = record["retention"]
                # 200 examples: a standard error of .07 for a member, of which at least four are averaged.
                assert abs(found["value"] - left(record["models"])) < 0.14
                assert found["low"] < found["value"] < found["high"]
                assert found["least"] <= found["value"] <= found["greatest"]
                assert len(found["points"]) == record["subsets"] == comb(4, record["models"])
            (difference,) = [r for r in records if r["kind"] == "growth_difference"]
            assert (difference["first"], difference["last"]) == (2, 4)
            covered[name] += difference["low"] < left(2) - left(4) < difference["high"]
    assert min(covered.values()) >= 9, covered  # of 12; fewer than one in a thousand where intervals are of 95 %
