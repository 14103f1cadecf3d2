"""Faults that happen to runs of `fuseforget path`, and what they cost: lost measurements, wrong measurements.

    python benchmarks/faults.py MODEL MODEL --probes FILE [--steps 10] [--tries 5] [--only TEXT] [--seed 0]

Each try is a run of its own: it is begun, the fault happens at a random moment, and the same command is given again until it
ends. Its table is compared with that of a run that nothing happened to. Lost: measurements that were on the disk before the
fault and were not afterwards, and such that are missing in the end. Wrong: such that differ in the end in any digit. The table
is printed as Markdown; what cannot be done on this machine is said. For Ray a cluster of two nodes is started here.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fuseforget.records import facts, read_records
from processes import cluster, descendants, words_of

Record = dict[str, Any]
Process = subprocess.Popen[bytes]
AGAIN = 10  # times that a command is given again after a fault
BACKWARDS = (
    "import itertools, os, time\n_begun = time.time() - float(os.environ['HOURS']) * 3600\n_ticks = itertools.count()\n"
    "time.time = lambda: _begun - 10 * next(_ticks)\n"
)


class Skip(Exception):
    """Why a fault cannot be tried here."""


@dataclass
class Bench:
    """The command, the table of a run that nothing happened to, and how long that took."""

    words: list[str]
    scratch: Path
    draw: random.Random
    seconds: float = 0.0
    table: dict[str, Record] | None = None

    def begin(self, out: Path, *options: str, **environment: str) -> Process:
        """The command in a process of its own; what it says goes beside the run."""
        log = (out.parent / f"{out.name}.log").open("ab")
        command = [sys.executable, "-m", "fuseforget", *self.words, "-o", str(out), *options]
        return subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **environment})

    def finish(self, out: Path, *options: str, **environment: str) -> None:
        """Give the command until it ends."""
        for _ in range(AGAIN):
            if self.begin(out, *options, **environment).wait() == 0:
                return
        raise RuntimeError(f"it does not end: {said(out)}")

    def moment(self) -> float:
        return self.draw.uniform(0, self.seconds)


Fault = Callable[[Bench, Path], list[Record]]


def wait_for(process: Process, seconds: float) -> bool:
    """Wait so long; whether the process still runs."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return True
    return False


def kept(out: Path) -> list[Record]:
    return read_records(out) if (out / "run.json").is_file() else []


def said(out: Path) -> str:
    return (out.parent / f"{out.name}.log").read_text()[-2000:]


def kill_driver(bench: Bench, out: Path) -> list[Record]:
    process = bench.begin(out)
    while not wait_for(process, bench.moment()):
        shutil.rmtree(out)
        process = bench.begin(out)
    process.kill()
    process.wait()
    before = kept(out)
    bench.finish(out)
    return before


def tear_last_line(bench: Bench, out: Path) -> list[Record]:
    bench.finish(out)
    file = out / "records.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    whole = bench.draw.randrange(len(lines))
    file.write_bytes(b"".join(lines[:whole]) + lines[whole][: bench.draw.randrange(1, len(lines[whole]) - 1)])
    before = kept(out)
    bench.finish(out)
    return before


def fill_disk(bench: Bench, out: Path) -> list[Record]:
    disk = out.with_suffix(".disk")
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        raise Skip("needs the right to mount a small tmpfs")
    try:
        run, filler = disk / "run", disk / "filler"
        filler.write_bytes(bytes(4096 * bench.draw.randrange(12, 17)))
        process = bench.begin(run)
        if process.wait() != 1:
            raise RuntimeError(f"a full disk, and exit {process.returncode}")
        before = kept(run)
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        bench.finish(run)
        shutil.copytree(run, out)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    return before


def damage_cache(bench: Bench, out: Path) -> list[Record]:
    """A bit of each file of compiled code, in a cache of this try's own."""
    cache = out.with_suffix(".cache")
    bench.finish(out.with_suffix(".first"), NUMBA_CACHE_DIR=str(cache))
    files = [file for file in cache.rglob("*.nb?") if file.is_file()]
    if not files:
        raise RuntimeError("nothing was kept")
    for file in files:
        content = bytearray(file.read_bytes())
        content[bench.draw.randrange(len(content))] ^= 1 << bench.draw.randrange(8)
        file.write_bytes(content)
    bench.finish(out, NUMBA_CACHE_DIR=str(cache))
    return []


def turn_clock(bench: Bench, out: Path) -> list[Record]:
    """Time runs backwards in each process, from an hour earlier on in the next; the times of files are of all ages."""
    place = out.with_suffix(".clock")
    place.mkdir()
    (place / "sitecustomize.py").write_text(BACKWARDS)
    path = os.pathsep.join([str(place), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = bench.begin(out, PYTHONPATH=path, HOURS="0")
    wait_for(process, bench.moment())
    process.kill()
    process.wait()
    for file in out.rglob("*"):
        when = bench.draw.choice([0, 1e9, 4e9])
        os.utime(file, (when, when))
    before = kept(out)
    bench.finish(out, PYTHONPATH=path, HOURS="1")
    return before


def interrupt(bench: Bench, out: Path) -> list[Record]:
    process = bench.begin(out)
    while not kept(out) and wait_for(process, 0.01):
        pass
    process.send_signal(signal.SIGINT)
    if process.wait() not in (0, 130):
        raise RuntimeError(f"Ctrl-C, and exit {process.returncode}")
    before = kept(out)
    bench.finish(out)
    return before


def kill_worker(bench: Bench, out: Path) -> list[Record]:
    """One of two processes that measure; the driver is not told, and has to end by itself."""
    require_option("--workers")
    process = bench.begin(out, "--workers", "2")
    found: list[int] = []
    while not found and wait_for(process, 0.05):
        found = [pid for pid in descendants(process.pid) if "spawn_main" in words_of(pid) or "forkserver" in words_of(pid)]
    delay = wait_for(process, bench.moment() / 2)
    alive = [pid for pid in found if pid in descendants(process.pid)]
    if not (delay and alive):
        raise RuntimeError("no worker to kill: give more --steps")
    before = kept(out)
    os.kill(bench.draw.choice(alive), signal.SIGKILL)
    if process.wait() != 0:
        raise RuntimeError(
            f"a worker died, and exit {process.returncode}: {out.with_name(out.name + '.log').read_text()[-2000:]}"
        )
    return before


def kill_on_ray(bench: Bench, out: Path, *, node: bool) -> list[Record]:
    """A worker, or a whole node, of a cluster of two nodes on this machine."""
    require_option("--ray")
    with cluster() as (address, kill_second):
        process = bench.begin(out, "--ray", address, "--workers", "2")
        found: list[int] = []
        while not (found and kept(out)) and wait_for(process, 0.05):
            found = [pid for pid in descendants(os.getpid()) if words_of(pid).startswith("ray::Resident")]
        if not found:
            raise RuntimeError("no worker to kill: give more --steps")
        before = kept(out)
        if node:
            kill_second()
        else:
            os.kill(bench.draw.choice(found), signal.SIGKILL)
        if process.wait() != 0:
            raise RuntimeError(f"it died, and exit {process.returncode}: {said(out)}")
    return before


def require_option(option: str) -> None:
    """Raise Skip where the command does not have the option, or nothing to do it with."""
    text = subprocess.run([sys.executable, "-m", "fuseforget", "path", "--help"], capture_output=True, text=True).stdout
    if option not in text:
        raise Skip(f"`fuseforget path` has no {option}")
    for module in ("ray", "fuseforget.workers.on_ray") if option == "--ray" else ():
        if importlib.util.find_spec(module) is None:
            raise Skip(f"there is no {module}")


def by_place(records: list[Record]) -> dict[str, Record]:
    return {json.dumps([r["path"], r["weights"], r["probe"]]): r for r in facts(records) if r["kind"] == "measurement"}


def compare(bench: Bench, before: list[Record], out: Path) -> tuple[int, int]:
    """How many measurements were lost, and how many are wrong."""
    assert bench.table is not None
    after, promised = by_place(read_records(out)), by_place(before)
    lost = {*promised, *bench.table} - after.keys()
    wrong = [
        place for place, record in after.items() if bench.table.get(place) != record or promised.get(place, record) != record
    ]
    return len(lost), len(wrong)


FAULTS: dict[str, Fault] = {
    "SIGKILL of the driver": kill_driver,
    "a torn last line": tear_last_line,
    "a full disk": fill_disk,
    "damaged compiled code in the cache": damage_cache,
    "a clock that jumps back, and SIGKILL": turn_clock,
    "Ctrl-C once": interrupt,
    "SIGKILL of a local worker": kill_worker,
    "SIGKILL of a Ray worker": partial(kill_on_ray, node=False),
    "SIGKILL of a Ray node": partial(kill_on_ray, node=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--probes", required=True)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--tries", type=int, default=5)
    parser.add_argument("--only", default="", help="faults whose name has this in it")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    words = ["path", *given.models, "--probes", given.probes, "--steps", str(given.steps)]
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(words, Path(scratch), random.Random(given.seed))
        begun = time.perf_counter()
        bench.finish(Path(scratch) / "undisturbed")
        bench.seconds = time.perf_counter() - begun
        bench.table = by_place(read_records(Path(scratch) / "undisturbed"))
        print(f"Undisturbed: {len(bench.table)} measurements in {bench.seconds:.1f} s.\n", flush=True)
        print("| fault | tries | lost measurements | wrong measurements |\n| --- | --- | --- | --- |", flush=True)
        for number, (name, fault) in enumerate(FAULTS.items()):
            if given.only in name:
                print(row(bench, name, fault, number, given.tries), flush=True)


def row(bench: Bench, name: str, fault: Fault, number: int, tries: int) -> str:
    """The fault's line of the table."""
    lost = wrong = 0
    for attempt in range(tries):
        out = bench.scratch / f"{number}-{attempt}"
        try:
            before = fault(bench, out)
        except Skip as reason:
            return f"| {name} | skipped: {reason} | | |"
        one = compare(bench, before, out)
        lost, wrong = lost + one[0], wrong + one[1]
        shutil.rmtree(out)
    return f"| {name} | {tries} | {lost} | {wrong} |"


if __name__ == "__main__":
    main()
