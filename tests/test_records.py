"""Records survive crashes, and a run is held by one process."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fuseforget.records as records
from fuseforget.errors import InputError, OutputError
from fuseforget.records import Run, decode_values, encode_values, read_records, read_run


def open_run(path, **settings):
    return Run(path, command="test", settings=settings)


def test_facts_are_found_again(tmp_path):
    with open_run(tmp_path / "r", seed=1) as run:
        run.add("measurement", model="a", probe="p", value=0.1 + 0.2)
    with open_run(tmp_path / "r", seed=1) as run:
        assert run.find("measurement", model="a", probe="p")["value"] == 0.1 + 0.2
        assert run.find("measurement", model="b") is None


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_torn_last_line_is_dropped_and_written_again(tmp_path, cut):
    with open_run(tmp_path / "r") as run:
        for i in range(3):
            run.add("fact", i=i)
    file = tmp_path / "r/records.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[:-cut])
    assert [r["i"] for r in read_records(tmp_path / "r")] == [0, 1]
    with open_run(tmp_path / "r") as run:
        assert [r["i"] for r in run.records] == [0, 1]
        run.add("fact", i=2)
    assert file.read_bytes() == whole


def test_a_damaged_line_is_refused_by_number(tmp_path):
    with open_run(tmp_path / "r") as run:
        run.add("fact", value=1)
        run.add("fact", value=2)
    file = tmp_path / "r/records.jsonl"
    file.write_text(file.read_text().replace('"value":1', '"value":7'))
    with pytest.raises(InputError, match="line 1"):
        read_records(tmp_path / "r")


def test_other_settings_are_refused_with_both_values(tmp_path):
    with open_run(tmp_path / "r", seed=1):
        pass
    with pytest.raises(InputError, match="seed 2, before 1"), open_run(tmp_path / "r", seed=2):
        pass


def test_a_second_writer_is_refused_with_who_holds_the_run(tmp_path):
    code = (
        "import sys, time\nfrom fuseforget.records import Run\n"
        "with Run(sys.argv[1], command='test', settings={}):\n    print('open', flush=True); time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, tmp_path / "r"], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "open\n"
    with pytest.raises(InputError, match=f"held by process {holder.pid}"), open_run(tmp_path / "r"):
        pass
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with open_run(tmp_path / "r"):  # a dead holder does not hold
        pass


def test_killed_at_any_moment_a_run_resumes_without_loss(tmp_path):
    code = (
        "import sys\nfrom fuseforget.records import Run\n"
        "with Run(sys.argv[1], command='test', settings={}) as run:\n"
        "    for i in range(len(run.records), 3000):\n        run.add('fact', i=i)\n        print(i, flush=True)\n"
    )
    promised = -1
    for seconds in (0.02, 0.05, 0.03):
        process = subprocess.Popen([sys.executable, "-c", code, tmp_path / "r"], stdout=subprocess.PIPE, text=True)
        first = process.stdout.readline()
        time.sleep(seconds)
        process.kill()
        lines = (first + process.communicate()[0]).splitlines()
        promised = max([promised, *(int(line) for line in lines if line.isdecimal())])
        kept = [r["i"] for r in read_records(tmp_path / "r")]
        assert kept == list(range(len(kept)))
        assert len(kept) > promised >= 0


def test_a_foreign_directory_is_left_alone(tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r/thesis.tex").write_text("x")
    with pytest.raises(InputError, match="other files"), open_run(tmp_path / "r"):
        pass
    assert [p.name for p in (tmp_path / "r").iterdir()] == ["thesis.tex"]


def test_a_full_disk_is_one_message_and_what_was_promised_stays(small_disk):
    promised = 0
    with pytest.raises(OutputError, match="a full disk") as caught, open_run(small_disk / "r") as run:  # noqa: PT012
        for i in range(1000):
            run.add("fact", i=i, values="x" * 900)
            promised += 1
    assert 10 < promised < 1000
    assert isinstance(caught.value.__cause__, OSError), "the refused write itself, not one that closing tried again"
    assert not isinstance(caught.value.__context__, OutputError)
    assert [r["i"] for r in read_records(small_disk / "r")] == list(range(promised))
    (small_disk / "r" / "records.jsonl").rename(small_disk / "r" / "records.old")
    (small_disk / "r" / "records.old").unlink()
    with open_run(small_disk / "r") as run:  # room again: the run goes on
        run.add("fact", i=0)


def test_a_full_disk_leaves_no_half_line_before_the_next(small_disk):
    with open_run(small_disk / "r") as run:
        with pytest.raises(OutputError):  # noqa: PT012
            for i in range(1000):
                run.add("fact", i=i, values="x" * 900)
        whole = len(run.records)
        run.add("fact", i=-1)  # a short one still fits
    assert [r["i"] for r in read_records(small_disk / "r")][whole:] == [-1]


def test_a_run_that_its_input_stopped_does_not_block_the_corrected_command(tmp_path):
    with pytest.raises(InputError, match="bad data"), open_run(tmp_path / "r", data="bad"):
        raise InputError("bad data", expected="good", found="bad")
    assert not (tmp_path / "r").exists()
    with open_run(tmp_path / "r", data="good") as run:
        run.add("fact")
    assert len(read_records(tmp_path / "r")) == 1


@pytest.mark.parametrize(("error", "made", "fact"), [
    (KeyboardInterrupt(), False, False), (InputError("x", expected="y", found="z"), True, False),
    (InputError("x", expected="y", found="z"), False, True),
])  # fmt: skip
def test_a_run_with_something_in_it_stays(tmp_path, error, made, fact):
    with pytest.raises(type(error)), open_run(tmp_path / "r") as run:  # noqa: PT012
        if made:
            (tmp_path / "r/data").mkdir()
            (tmp_path / "r/data/train.jsonl").write_text("{}")
        if fact:
            run.add("fact")
        raise error
    with pytest.raises(InputError, match="settings"), open_run(tmp_path / "r", other=1):
        pass


def test_other_code_or_versions_are_said_and_noted_before_the_first_new_fact(tmp_path, monkeypatch):
    said: list[str] = []
    with open_run(tmp_path / "r") as run:
        run.add("fact", i=0)
    now = {**records.versions(), "torch": "9.9"}
    monkeypatch.setattr(records, "versions", lambda: now)
    monkeypatch.setattr(records, "code_sha256", lambda: "f" * 64)
    with Run(tmp_path / "r", command="test", settings={}, say=said.append):
        pass  # nothing is added: nothing is noted
    assert len(read_records(tmp_path / "r")) == 1
    for i in (1, 2):  # noted once, not at each resumption
        with Run(tmp_path / "r", command="test", settings={}, say=said.append) as run:
            run.add("fact", i=i)
    found = read_records(tmp_path / "r")
    assert [r["kind"] for r in found] == ["fact", "resumed", "fact", "fact"]
    assert found[1]["versions"]["torch"] == "9.9"
    assert len(said) == 2
    assert "became ffffffffffff, torch " in said[0]
    assert read_run(tmp_path / "r")["code_sha256"] != "f" * 64


@given(st.lists(st.one_of(st.integers(0, 1).map(float), st.floats(-1e3, 1e3, width=32)), min_size=0, max_size=50))
def test_values_come_back(values):
    np.testing.assert_array_equal(decode_values(encode_values(values)), np.array(values, dtype=float))
