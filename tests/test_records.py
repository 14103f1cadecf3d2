"""Records survive crashes, and a run is held by one process."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fuseforget.records.run as module
from fuseforget.errors import InputError, OutputError
from fuseforget.records import (
    MemoryRun,
    Run,
    add_timing,
    decode_values,
    encode_values,
    facts,
    read_records,
    read_run,
    versions,
)


def open_run(path, **settings):
    return Run(path, command="test", settings=settings)


def test_facts_are_found_again(tmp_path):
    with open_run(tmp_path / "r", seed=1) as run:
        run.add("measurement", model="a", probe="p", value=0.1 + 0.2)
    with open_run(tmp_path / "r", seed=1) as run:
        assert run.find("measurement", model="a", probe="p")["value"] == 0.1 + 0.2
        assert run.find("measurement", model="b") is None


def test_a_last_line_torn_at_any_byte_is_dropped_and_written_again(tmp_path):
    with open_run(tmp_path / "r") as run:
        for i in range(3):
            run.add("fact", i=i)
    file = tmp_path / "r/records.jsonl"
    whole = file.read_bytes()
    last = len(whole.splitlines(keepends=True)[-1])
    for cut in range(last + 1):
        file.write_bytes(whole[: len(whole) - cut])
        kept = [0, 1, 2] if cut <= 1 else [0, 1]  # a line that lost its newline alone is whole
        assert [r["i"] for r in read_records(tmp_path / "r")] == kept, cut
        said: list[str] = []
        with Run(tmp_path / "r", command="test", settings={}, say=said.append) as run:
            assert [r["i"] for r in run.records] == kept
            for i in range(len(kept), 3):
                run.add("fact", i=i)
        assert file.read_bytes() == whole
        assert len(said) == (1 < cut < last), said


@pytest.mark.parametrize("noise", [b"\0\0\0\0", b"\r\n", b'{"crc":"00000000","kind":"fact","i":2}\n', b"\xff"])
def test_what_is_no_line_at_the_end_is_dropped(tmp_path, noise):
    """Blocks that never reached the disk read as zeros; a torn line may have its newline."""
    with open_run(tmp_path / "r") as run:
        run.add("fact", i=0)
    file = tmp_path / "r/records.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole + noise)
    assert [r["i"] for r in read_records(tmp_path / "r")] == [0]
    with open_run(tmp_path / "r"):
        pass
    assert file.read_bytes() == whole


def test_a_damaged_line_is_refused_by_number(tmp_path):
    with open_run(tmp_path / "r") as run:
        run.add("fact", value=1)
        run.add("fact", value=2)
    file = tmp_path / "r/records.jsonl"
    file.write_text(file.read_text().replace('"value":1', '"value":7'))
    for torn in (b"", b'{"crc":'):  # a tear at the end excuses nothing before it
        file.write_bytes(file.read_bytes() + torn)
        with pytest.raises(InputError, match="line 1"):
            read_records(tmp_path / "r")


def test_a_directory_in_place_of_the_records_is_refused(tmp_path):
    with open_run(tmp_path / "r"):
        pass
    (tmp_path / "r/records.jsonl").unlink()
    (tmp_path / "r/records.jsonl").mkdir()
    with pytest.raises(InputError, match="expected a file of records, found a directory"), open_run(tmp_path / "r"):
        pass
    with pytest.raises(InputError, match="found a directory"):
        read_records(tmp_path / "r")


def test_names_are_synced_as_well_as_contents(tmp_path, monkeypatch):
    """A file that is synced, but not the directory with its name, may be gone after a crash."""
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink())))
    with open_run(tmp_path / "r") as run:
        names = [str(tmp_path), str(tmp_path / "r/run.partial"), str(tmp_path / "r"), str(tmp_path / "r")]
        assert synced == names, "the new directory's name; the description, its name; the name of the records"
        run.add("fact")
    assert synced[4:] == [str(tmp_path / "r/records.jsonl")]


def test_a_run_that_stopped_before_its_description_is_called_that(tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r/.lock").touch()
    with pytest.raises(InputError, match=r"found one that stopped before it began\. Run its command again"):
        read_run(tmp_path / "r")


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
    with pytest.raises(InputError) as caught, open_run(tmp_path / "r"):
        pass
    said = f"held by process {holder.pid} on {platform.node()} since 20"
    assert said in str(caught.value)
    assert f"UTC: -c {tmp_path / 'r'}." in str(caught.value), "its command line"
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with open_run(tmp_path / "r"):  # a dead holder does not hold
        pass


def test_a_file_system_without_locks_is_called_that(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OutputError, match="expected a file system that locks files, found No locks available"):
        open_run(tmp_path / "r").__enter__()


def test_a_lock_of_a_run_that_was_taken_back_meanwhile_does_not_hold(tmp_path, monkeypatch):
    """Between opening the lock and taking it, the one who held it may have removed it."""
    locked, flock = [], fcntl.flock

    def late(stream, how):
        if not locked:
            (tmp_path / "r/.lock").unlink()
        locked.append(stream)
        flock(stream, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with open_run(tmp_path / "r"):
        assert len(locked) == 2
        with pytest.raises(InputError, match=f"held by process {os.getpid()}"), open_run(tmp_path / "r"):
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
    now = {**versions(), "torch": "9.9"}
    monkeypatch.setattr(module, "versions", lambda: now)
    monkeypatch.setattr(module, "code_sha256", lambda: "f" * 64)
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


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(0, 2), st.floats(0, 2), st.sampled_from("ab"), st.lists(st.integers(0, 1))
)
FIELDS = st.dictionaries(st.sampled_from("xyz"), VALUES)


@given(st.lists(st.tuples(st.sampled_from("kl"), FIELDS)), st.lists(st.tuples(st.sampled_from("klm"), FIELDS), max_size=5))
def test_the_first_record_with_these_values_is_found_as_by_looking_at_all(added, asked):
    run = MemoryRun()
    for number, (kind, fields) in enumerate(added):
        run.add(kind, **fields, number=number)
        for wanted, values in (*asked, (kind, fields)):
            slow = [r for r in run.records if r["kind"] == wanted and all(r.get(name) == value for name, value in values.items())]
            assert run.find(wanted, **values) is (slow[0] if slow else None)


def test_a_record_that_was_only_appended_is_found():
    run = MemoryRun()
    assert run.find("fact", i=1) is None
    run.records.append({"kind": "fact", "i": 1, "where": {"weights": [0.5, [1]]}})
    assert run.find("fact", where={"weights": [0.5, [1]]}) is run.records[0]
    assert run.find("fact", where={"weights": [0.5, (1,)]}) is None


@pytest.mark.parametrize("place", ["memory", "disk"])
def test_a_measurement_is_written_once(tmp_path, place):
    where = {"path": "a - b", "weights": [0.5, 0.5], "probe": "p"}
    with MemoryRun() if place == "memory" else open_run(tmp_path / "r") as run:
        first = run.add("measurement", **where, value=0.5, n=4)
        assert run.add("measurement", **where, value=0.5, n=4) is first
        with pytest.raises(RuntimeError, match="measured twice, with other results"):
            run.add("measurement", **where, value=0.75, n=4)
        run.add("measurement", **{**where, "weights": [0.25, 0.75]}, value=0.5, n=4)
        run.add("fact", i=1)
        run.add("fact", i=1)
        assert len(run.records) == 4


def test_facts_are_what_two_runs_share(tmp_path):
    kept = []
    for seconds in (1.2345, 6.7):
        with open_run(tmp_path / f"{seconds}") as run:
            run.add("training", name="a", losses=[0.5], seconds=seconds)
            assert add_timing(run, "a", seconds, tokens=7)["seconds"] == round(seconds, 3)
            run.add("measurement", probe="p", value=seconds // 10)
        kept.append(facts(read_records(tmp_path / f"{seconds}")))
    assert kept[0] == kept[1] == [
        {"kind": "training", "name": "a", "losses": [0.5]}, {"kind": "measurement", "probe": "p", "value": 0.0},
    ]  # fmt: skip
