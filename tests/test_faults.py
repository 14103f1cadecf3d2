"""Faults that really happen to runs: killed, out of space, damaged, in another time, interrupted. Nothing is lost or wrong."""

from __future__ import annotations

import json
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

import faulty
from fuseforget.errors import InputError, OutputError
from fuseforget.paths import path as walk
from fuseforget.records import facts, read_records

STEPS, KILLS = 12, 20
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


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    faulty.prepare(home)
    (home / "undisturbed").mkdir()
    for run in ("first", "second"):  # the first one also starts the server
        shutil.rmtree(home / "undisturbed")
        (home / "undisturbed").mkdir()
        begun = time.perf_counter()
        process = faulty.context().Process(target=faulty.drive, args=(home, home / "undisturbed", STEPS))
        process.start()
        process.join()
        assert process.exitcode == 0, f"{run}: {(home / 'undisturbed/stderr').read_text()}"
    found = read_records(home / "undisturbed/run")
    assert len(found) == 3 * (STEPS + 1)
    assert len({record["value"] for record in found}) > STEPS, "the table says something"
    return Undisturbed(home, time.perf_counter() - begun, table(home / "undisturbed/run"))


def drive_until(undisturbed: Undisturbed, place: Path, seconds: float | None) -> bool:
    """Drive a run for so long, or to its end; whether it was killed before."""
    process = faulty.context().Process(target=faulty.drive, args=(undisturbed.home, place, STEPS))
    process.start()
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
    room = [0, 1, 2, 3, 4]  # pages of 4 KiB: for the lock, the description, some records
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
    (small_disk / "filler").write_bytes(b"x" * 12 * 4096)
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
    read_until(process, "one 0")
    with pytest.raises(InputError, match=rf"held by process {process.pid} on .* since 20.*: fuseforget path trained \.\./other"):
        again(undisturbed.home / "undisturbed", undisturbed, monkeypatch, out)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130, said
    assert "stopping: what is being measured or trained is finished first" in said
    stopped = re.search(rf"stopped after (\d+) of {STEPS + 1} points; what is finished is kept", said)
    assert stopped, said
    kept = read_records(out)
    assert len(kept) == 3 * int(stopped[1]) < 3 * (STEPS + 1), "whole points"
    printed = shlex.split(said.splitlines()[-1])
    assert printed == ["fuseforget", *command(undisturbed, out)]
    monkeypatch.chdir(undisturbed.home / "undisturbed")
    done = subprocess.run([sys.executable, "-m", *printed], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert read_records(out)[: len(kept)] == kept
    assert table(out) == undisturbed.table


def test_ctrl_c_twice_stops_at_once(undisturbed, tmp_path):
    process = begin(undisturbed, tmp_path / "run")
    read_until(process, "one 0")
    process.send_signal(signal.SIGINT)
    read_until(process, "stopping: ")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130, said
    assert "stopped after" not in said
    assert len(read_records(tmp_path / "run")) < 3, "not to the end of the point"
