"""Faults that really happen to runs: killed, out of space, damaged, in another time, interrupted. Nothing is lost or wrong."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

import faulty
from fuseforget import cli, stopping
from fuseforget.compiling import compiled
from fuseforget.errors import InputError, OutputError, Stopped
from fuseforget.paths import path as walk
from fuseforget.records import facts, read_records
from fuseforget.studies.memorization.base import cached_base

STEPS, KILLS = 8, 20
# The command line with a pause before each fact is written, so that there is time to interrupt between two.
SLOW = (
    "import sys, time\nfrom fuseforget.records import Run\nadd = Run.add\n"
    "def slow(*given, **fields):\n    time.sleep(0.4)\n    return add(*given, **fields)\n"
    "Run.add = slow\nsys.argv[0] = 'fuseforget'\nfrom fuseforget.cli import main\nmain()\n"
)


@dataclass(frozen=True)
class Undisturbed:
    """A run that nothing happened to: what it was made from, how long it took, and its table."""

    home: Path
    seconds: float
    table: str

    def place(self, name: str) -> Path:
        made = self.home / name
        made.mkdir()
        return made


def table(run: Path) -> str:
    """What a run found out, as text: equal to the byte or not."""
    return "\n".join(json.dumps(record) for record in facts(read_records(run)))


def begin_process(driver: Callable[..., None], *arguments: object) -> BaseProcess:
    process = faulty.context().Process(target=driver, args=arguments)
    process.start()
    return process


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    faulty.prepare(home)
    (home / "undisturbed").mkdir()
    begin_process(faulty.nothing).join()  # starts the server
    begun = time.perf_counter()
    process = begin_process(faulty.drive, home, home / "undisturbed", STEPS)
    process.join()
    assert process.exitcode == 0, (home / "undisturbed/stderr").read_text()
    found = read_records(home / "undisturbed/run")
    assert len(found) == 3 * (STEPS + 1)
    assert found[0]["value"] > 0.9 > 0.6 > found[-1]["value"], "one model knows what the other does not"
    return Undisturbed(home, time.perf_counter() - begun, table(home / "undisturbed/run"))


def drive_until(undisturbed: Undisturbed, place: Path, seconds: float | None, driver: Callable[..., None] = faulty.drive) -> bool:
    """Drive a run for so long, or to its end; whether it was killed before."""
    process = begin_process(driver, undisturbed.home, place, STEPS)
    process.join(seconds)
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL), (place / "stderr").read_text()
    return process.exitcode != 0


def test_sigkill_of_the_driver_at_20_random_moments(undisturbed):
    draw, kills, places = random.Random(20), 0, 0
    while kills < KILLS:
        places += 1
        place, kept = undisturbed.place(f"killed-{places}"), []
        while drive_until(undisturbed, place, draw.uniform(0, undisturbed.seconds) if kills < KILLS else None):
            kills += 1
            before, kept = kept, read_records(place / "run") if (place / "run/run.json").exists() else []
            assert kept[: len(before)] == before
            said = (place / faulty.LINES).read_text().count(": ") if (place / faulty.LINES).exists() else 0
            assert len(kept) >= said, "what was said to be measured is on the disk"
        assert table(place / "run") == undisturbed.table


def test_a_line_torn_at_any_byte_is_measured_again(undisturbed, monkeypatch):
    """The records' own tests go through every byte; here the engine itself fills the gap, for every seventh."""
    place = undisturbed.place("torn")
    shutil.copytree(undisturbed.home / "undisturbed", place, dirs_exist_ok=True)
    file = place / "run/records.jsonl"
    whole = file.read_bytes()
    last = len(whole.splitlines(keepends=True)[-1])
    for cut in (1, 2, *range(7, last, 31), last, last + 9):
        file.write_bytes(whole[: len(whole) - cut])
        again(place, undisturbed, monkeypatch)
        assert file.read_bytes() == whole


def again(place: Path, undisturbed: Undisturbed, monkeypatch: pytest.MonkeyPatch, out: Path | None = None) -> None:
    """The path of a driver, in this process."""
    monkeypatch.chdir(place)
    walk(["trained", "../other"], "../probes.yaml", out or "run", steps=STEPS)


def test_a_full_disk_is_said_and_when_there_is_room_the_run_goes_on(undisturbed, small_disk, monkeypatch):
    place = undisturbed.home / "undisturbed"
    room = [0, 1, 2, 3]  # pages of 4 KiB: for the lock, the description, some records
    for pages in room:
        filler = small_disk / "filler"
        filler.write_bytes(b"x" * (16 - pages) * 4096)
        with pytest.raises(OutputError, match=r"found a full disk\. .*Free some space"):
            again(place, undisturbed, monkeypatch, small_disk / "run")
        filler.unlink()
        if pages < room[-1]:
            shutil.rmtree(small_disk / "run", ignore_errors=True)
    assert 0 < len(read_records(small_disk / "run")) < 3 * (STEPS + 1)
    again(place, undisturbed, monkeypatch, small_disk / "run")
    assert table(small_disk / "run") == undisturbed.table


def command(undisturbed: Undisturbed, out: Path) -> list[str]:
    return [
        "path", "trained", "../other", "--probes", "../probes.yaml", "--steps", str(STEPS), "-o", str(out),
    ]  # fmt: skip


def begin(undisturbed: Undisturbed, out: Path, code: str = SLOW) -> subprocess.Popen[str]:
    """The command line in a process of its own, beside the trained model."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *command(undisturbed, out)], cwd=undisturbed.home / "undisturbed", stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """Lines of progress up to the one with this text."""
    assert process.stderr is not None
    lines = []
    while not lines or text not in lines[-1]:
        lines.append(process.stderr.readline())
        assert lines[-1], f"it ended without {text!r}: {''.join(lines)}"
    return "".join(lines)


FIXED = "import sys\nsys.argv[0] = 'fuseforget'\nfrom fuseforget.cli import main\nmain()\n"


def test_the_command_line_on_a_full_disk(undisturbed, small_disk):
    (small_disk / "filler").write_bytes(b"x" * 13 * 4096)
    full = begin(undisturbed, small_disk / "run", FIXED)
    said = full.communicate()[1]
    assert full.returncode == 1, said
    assert "found a full disk. Finished parts are safe: run the same command again to resume. Free some space" in said
    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
    more = begin(undisturbed, small_disk / "run", FIXED)
    said = more.communicate()[1]
    assert more.returncode == 0, said
    assert table(small_disk / "run") == undisturbed.table


def test_ctrl_c_once_finishes_the_point_and_says_how_to_resume(undisturbed, tmp_path, monkeypatch):
    out = tmp_path / "a run"
    process = begin(undisturbed, out)
    read_until(process, ": one ")
    with pytest.raises(InputError, match=rf"held by process {process.pid} on .* since 20.*: fuseforget path trained \.\./other"):
        again(undisturbed.home / "undisturbed", undisturbed, monkeypatch, out)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130, said
    assert "stopping: what is being measured or trained is finished first" in said
    assert re.search("stopped after .*; what is finished is kept", said), said
    kept = read_records(out)
    assert len(kept) in range(3, 3 * STEPS + 1, 3), "whole points"
    printed = shlex.split(said.splitlines()[-1])
    assert printed == ["fuseforget", *command(undisturbed, out)]
    monkeypatch.chdir(undisturbed.home / "undisturbed")
    done = subprocess.run([sys.executable, "-m", *printed], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert read_records(out)[: len(kept)] == kept
    assert table(out) == undisturbed.table


def test_ctrl_c_twice_stops_at_once(undisturbed, tmp_path):
    process = begin(undisturbed, tmp_path / "run")
    read_until(process, ": one ")
    process.send_signal(signal.SIGINT)
    read_until(process, "stopping: ")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130, said
    assert "stopped after" not in said
    assert len(read_records(tmp_path / "run")) < 3, "not to the end of the point"


@pytest.mark.parametrize(("arguments", "code", "waits"), [
    (["path", "a", "b"], 130, True), (["train"], 130, True), (["study", "shortcuts"], 130, True), (["demo"], 130, True),
    (["probe", "a", "-o", "run"], 130, True), (["probe", "a", "--out=run"], 130, True),
    (["probe", "a"], 130, False), (["fuse", "a", "-o", "b"], 130, False), ([], 130, False),
])  # fmt: skip
def test_commands_that_go_on_later_finish_what_they_are_at(arguments, code, waits, monkeypatch, capsys):
    def work() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        stopping.check("3 of 4 points")

    monkeypatch.setattr(cli, "app", work)
    monkeypatch.setattr("sys.argv", ["/usr/bin/fuseforget", *arguments])
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background process ignores it
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == code
    said = capsys.readouterr().err
    assert ("stopped after 3 of 4 points; what is finished is kept" in said) == waits
    assert ("interrupted;" in said) != waits
    if waits:
        assert said.splitlines()[-1] == f"fuseforget {shlex.join(arguments)}"
    try:
        with pytest.raises(KeyboardInterrupt):  # as before the command
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_second_ctrl_c_is_left_to_others_where_it_is_asked_for():
    said: list[str] = []
    with stopping.finishing(said.append, again=False):
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Stopped, match="stopped after a finished step"):
            stopping.check()
    assert len(said) == 1
    stopping.check()


def test_a_clock_that_jumps_back_changes_nothing(undisturbed):
    """Each process begins earlier than the last one and its time runs backwards; times of files are of all ages."""
    draw, kills, places = random.Random(4), 0, 0
    while kills < 3:
        places += 1
        place = undisturbed.place(f"clock-{places}")
        while drive_until(
            undisturbed, place, draw.uniform(0.5, 1) * undisturbed.seconds if kills < 3 else None, faulty.drive_back
        ):
            kills += 1
            for file in [*place.rglob("*"), place]:
                when = draw.choice([0, 1e9, 4e9]) + draw.random()
                os.utime(file, (when, when))
        assert table(place / "run") == undisturbed.table


def test_no_epoch_is_lost_where_an_older_one_looks_newer(undisturbed, tmp_path):
    """Times of the states that a training keeps: the first epoch's is from the future."""

    def age(line: str) -> None:
        if "epoch 2," in line:
            (old,) = (tmp_path / ".out.training").glob("checkpoint-*")
            os.utime(old, (4e9, 4e9))
        if "epoch 3," in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        faulty.train(undisturbed.home / "start", tmp_path / "out", say=age)
    (left,) = (tmp_path / ".out.training").glob("checkpoint-*")
    assert left.name == f"checkpoint-{2 * 128 // 8}", "of the second epoch"
    faulty.train(undisturbed.home / "start", tmp_path / "out")
    weights = "model.safetensors"
    assert (tmp_path / "out" / weights).read_bytes() == (undisturbed.home / "undisturbed/trained" / weights).read_bytes()


FUNCTION = "def added(x, y):\n    return x + 3 * y\n"


def load_function(file: Path) -> Callable[..., float]:
    """As a process that begins: the source is read, compiled code is looked for."""
    spec = importlib.util.spec_from_file_location("made", file)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    assert spec.loader is not None
    spec.loader.exec_module(module)
    return compiled(module.added)


def hits(function: Callable[..., float]) -> int:
    return sum(function.stats.cache_hits.values())


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
@pytest.mark.parametrize("how", ["torn", "emptied", "changed", "zeros"])
def test_compiled_code_that_is_damaged_is_compiled_again(tmp_path, suffix, how):
    source = tmp_path / "made.py"
    source.write_text(FUNCTION)
    assert load_function(source)(1.0, 2.0) == 7.0
    sound = load_function(source)
    assert (sound(1.0, 2.0), hits(sound)) == (7.0, 1), "it is kept"
    (kept,) = (tmp_path / "__pycache__").glob(f"*.{suffix}")
    content = kept.read_bytes()
    middle = len(content) // 2
    changed = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    kept.write_bytes({"torn": content[:middle], "emptied": b"", "changed": changed, "zeros": bytes(len(content))}[how])
    damaged = load_function(source)
    assert (damaged(1.0, 2.0), hits(damaged)) == (7.0, 0)
    again = load_function(source)
    assert (again(1.0, 2.0), hits(again)) == (7.0, 1), "kept anew"


def test_compiled_code_is_of_its_source_whatever_the_time_of_the_file(tmp_path):
    source = tmp_path / "made.py"
    for factor in ("3", "5"):  # as long, and as old
        source.write_text(FUNCTION.replace("3", factor))
        os.utime(source, (1e9, 1e9))
        shutil.rmtree(tmp_path / "__pycache__/made.cpython-311.pyc", ignore_errors=True)
        sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
        try:
            assert load_function(source)(1.0, 2.0) == 1 + 2 * int(factor)
        finally:
            sys.dont_write_bytecode = before


@pytest.mark.parametrize("how", ["changed", "torn", "gone"])
def test_a_damaged_base_is_pretrained_again(tmp_path, how):
    from test_memorization_base import TINY, sentences

    base = cached_base(sentences(20), TINY, cache=tmp_path)
    file = base / "model.safetensors"
    whole = file.read_bytes()
    assert cached_base(sentences(20), TINY, cache=tmp_path) == base
    file.write_bytes({"changed": whole[:-1] + bytes([whole[-1] ^ 64]), "torn": whole[:-100], "gone": b""}[how])
    if how == "gone":
        file.unlink()
    said: list[str] = []
    assert cached_base(sentences(20), TINY, cache=tmp_path, say=said.append) == base
    assert said[0] == f"the base kept in {base} is damaged: it is pretrained again"
    assert file.read_bytes() == whole
    assert cached_base(sentences(20), TINY, cache=tmp_path, say=said.append) == base
    assert sum("damaged" in line for line in said) == 1


def test_a_base_of_an_earlier_version_stays(tmp_path):
    from test_memorization_base import TINY, sentences

    base = cached_base(sentences(20), TINY, cache=tmp_path)
    digests = tmp_path / f"{base.name}.sha256.json"
    content = digests.read_text()
    digests.unlink()
    said: list[str] = []
    assert cached_base(sentences(20), TINY, cache=tmp_path, say=said.append) == base
    assert (said, digests.read_text()) == ([], content)
