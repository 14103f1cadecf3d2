"""Measure ``fuseforget fuse`` against ``mergekit-yaml`` and against copying one checkpoint, in turn, in one run.

    python benchmarks/fuse.py --scratch DIR --mergekit PATH/TO/mergekit-yaml [--shape 1.1b] [--methods ties,sce] [--rounds 3]

Each command is a process of its own. Wall and processor time are the process's; peak anonymous memory is the highest RssAnon
that /proc shows, looked at every 20 ms, summed over the process and its children. All inputs are read once beforehand, so that
they are in the page cache for every contestant. The table is Markdown, for docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from checkpoints import SHAPES, make_checkpoint, make_sparse
from fuseforget.checkpoint import open_checkpoint
from fuseforget.methods import METHODS
from machine import Watch, describe_machine

# Parameters at which each method does its work, by our names and values; mergekit's are the same.
CASES: dict[str, dict[str, float]] = {
    "average": {}, "slerp": {}, "karcher": {}, "model_stock": {}, "task_arithmetic": {}, "ties": {"density": 0.5},
    "dare_ties": {"density": 0.5}, "dare_linear": {"density": 0.5}, "della": {"density": 0.5, "epsilon": 0.15},
    "breadcrumbs": {"density": 0.5, "gamma": 0.01}, "sce": {"select_topk": 0.5}, "spectral_consensus": {},
}  # fmt: skip
OURS_ALONE = ("spectral_consensus",)
RANDOM = ("dare_ties", "dare_linear", "della")


@dataclass(frozen=True)
class Cost:
    """What one process took: seconds of wall and processor time, and peak anonymous bytes."""

    wall: float
    cpu: float
    anonymous: int


def main() -> None:
    """Build the checkpoints, run all contestants in turn, print the table."""
    options = _options()
    scratch = Path(options.scratch)
    base, models = _checkpoints(scratch, options.shape, sparse=options.sparse)
    print(f"{describe_machine()}\n")
    print(f"{options.shape}, 3 models and a base in bfloat16, {open_checkpoint(base).nbytes / 1e9:.2f} GB each; "
          f"medians of {options.rounds}\n")  # fmt: skip
    print("| method | ours: wall, CPU, memory | mergekit: wall, CPU, memory | ours/mergekit | ours/cp | largest difference |")
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    for method in options.methods.split(","):
        print(_row(method, base, models, scratch, options), flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", required=True, help="a directory for checkpoints and outputs; what is there is used again")
    parser.add_argument("--mergekit", help="mergekit-yaml of an environment of its own; without it only ours and cp are measured")
    parser.add_argument("--shape", default="1.1b", choices=SHAPES)
    parser.add_argument("--sparse", action="store_true", help="checkpoints of zeros that take no disk (for memory)")
    parser.add_argument("--methods", default=",".join(CASES))
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def _checkpoints(scratch: Path, shape: str, *, sparse: bool) -> tuple[Path, list[Path]]:
    home = scratch / (f"{shape}-sparse" if sparse else shape)
    paths = [home / name for name in ("base", "a", "b", "c")]
    for seed, path in enumerate(paths):
        if path.is_dir():
            continue
        partial = path.with_name(f"{path.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        if sparse:
            make_sparse(partial, SHAPES[shape])
        else:
            make_checkpoint(partial, SHAPES[shape], seed, around=None if seed == 0 else 0)
        partial.rename(path)
    return paths[0], paths[1:]


def _row(method: str, base: Path, models: Sequence[Path], scratch: Path, options: argparse.Namespace) -> str:
    row = METHODS[method]
    used = list(models[: row.models[1] or 3])
    commands = {
        "cp": ["cp", "-r", str(models[0]), str(scratch / "out-cp")],
        "ours": _ours(method, base, used, scratch / "out-ours"),
    }
    if options.mergekit and method not in OURS_ALONE:
        commands["mergekit"] = _mergekit(options.mergekit, method, base, used, scratch)
    costs: dict[str, list[Cost]] = {name: [] for name in commands}
    for _ in range(options.rounds):
        for name, command in commands.items():
            shutil.rmtree(scratch / f"out-{name}", ignore_errors=True)
            _warm([*used, base])
            costs[name].append(_measure(command))
    wall = {name: statistics.median(c.wall for c in found) for name, found in costs.items()}
    compared = "mergekit" in costs
    theirs = _cell(costs["mergekit"]) if compared else "not run"
    ratio = f"1/{wall['mergekit'] / wall['ours']:.1f}" if compared else ""
    difference = _difference(method, scratch) if compared else ""
    return f"| {method} | {_cell(costs['ours'])} | {theirs} | {ratio} | {wall['ours'] / wall['cp']:.2f} | {difference} |"


def _ours(method: str, base: Path, models: Sequence[Path], out: Path) -> list[str]:
    command = [sys.executable, "-m", "fuseforget", "fuse", *map(str, models), "-o", str(out), "--method", method]
    if METHODS[method].base == "required":
        command += ["--base", str(base)]
    for name, value in CASES[method].items():
        command += ["--param", f"{name}={value}"]
    return command


def _mergekit(program: str, method: str, base: Path, models: Sequence[Path], scratch: Path) -> list[str]:
    weight = 1 / len(models)
    own = {k: v for k, v in CASES[method].items() if k != "select_topk"}
    entries = [{"model": str(m), "parameters": {"weight": weight, **own}} for m in models]
    config: dict[str, object] = {
        "merge_method": "linear" if method == "average" else method,
        "models": entries,
        "dtype": "bfloat16",
    }
    if METHODS[method].base == "required":
        config["base_model"] = str(base)
    if method == "slerp":
        config |= {"base_model": str(models[0]), "parameters": {"t": 0.5}}
    if method in ("model_stock", "karcher", "slerp"):
        config["models"] = [{"model": str(m)} for m in models]
    if method == "sce":
        config |= {"models": [{"model": str(m)} for m in models], "parameters": {"select_topk": CASES[method]["select_topk"]}}
    file = scratch / f"{method}.yml"
    file.write_text(yaml.safe_dump(config))
    return [program, str(file), str(scratch / "out-mergekit"), "--lazy-unpickle"]


def _measure(command: Sequence[str]) -> Cost:
    begun = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process, Watch(process.pid) as watch:
        errors = process.stderr.read() if process.stderr else b""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - begun
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}\n{errors.decode()[-2000:]}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, watch.peak)


def _warm(models: Sequence[Path]) -> None:
    buffer = bytearray(1 << 24)
    for model in models:
        for file in open_checkpoint(model).files:
            with file.open("rb", buffering=0) as stream:
                while stream.readinto(buffer):
                    pass


def _cell(costs: Sequence[Cost]) -> str:
    wall, cpu = (statistics.median(getattr(c, key) for c in costs) for key in ("wall", "cpu"))
    return f"{wall:.1f} s, {cpu:.1f} s, {max(c.anonymous for c in costs) / 1e9:.2f} GB"


def _difference(method: str, scratch: Path) -> str:
    """The largest difference between the outputs, in units of the last place of bfloat16 at the larger of the two values."""
    if method in RANDOM:
        return "random"
    ours, theirs = open_checkpoint(scratch / "out-ours"), open_checkpoint(scratch / "out-mergekit")
    worst, apart, count = 0.0, 0, 0
    for name in ours:
        a, b = ours[name].float(), theirs[name].float()
        unit = torch.maximum(a.abs(), b.abs()).clamp(min=2.0**-126).log2().floor().exp2() * 2.0**-7
        steps = (a - b).abs() / unit
        worst, apart, count = max(worst, float(steps.max())), apart + int((steps > 1).sum()), count + a.numel()
    return f"{worst:.1f} steps; more than one at {apart / count:.2e} of values"


if __name__ == "__main__":
    main()
