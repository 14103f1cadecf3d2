"""What tests of faults run in processes of their own: a tiny training, and a path from its model to another one."""

from __future__ import annotations

import multiprocessing
import os
import sys
from multiprocessing.context import ForkServerContext
from pathlib import Path

__all__ = ["LINES", "context", "drive", "prepare", "texts"]

LINES = "lines.txt"  # what a driver said, of all its processes
PROBES = ("one", "two", "three")


def context() -> ForkServerContext:
    """Processes that begin where torch is imported already: a second each is saved, and each is killed for real."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(["preloaded"])
    return made


def texts(seed: int, count: int = 300) -> tuple[list[str], list[int]]:
    """Texts in the tiny tokenizer's words, with labels that can be learned."""
    import random

    draw = random.Random(seed)
    labels = [draw.randrange(2) for _ in range(count)]
    rest = ["a", "the", "film", "plot", "is", "not", "very"]
    made = [" ".join([*draw.choices(rest, k=draw.randint(2, 20)), "good" if label else "dull"]) for label in labels]
    return made, labels


def prepare(home: Path) -> None:
    """The start of the training, the other end of the path, and the probes."""
    from conftest import make_bert

    for seed, name in enumerate(("start", "other")):
        make_bert(home / name, seed=seed)
    entries = []
    for number, name in enumerate(PROBES):
        rows = zip(*texts(number), strict=True)
        (home / f"{name}.tsv").write_text("sentence\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows))
        entries.append(f"  - name: {name}\n    data: {home / name}.tsv\n")
    (home / "probes.yaml").write_text("probes:\n" + "".join(entries))


def drive(home: Path, place: Path, steps: int) -> None:
    """Train ``trained`` in a place and walk from it to the other model, as far as that is not done: what is killed."""
    import torch

    from fuseforget.data import Examples
    from fuseforget.paths import path
    from fuseforget.train import TrainSettings
    from fuseforget.train.trainer import fine_tune

    torch.set_num_threads(1)
    os.chdir(place)  # the same names in all places: records hold them
    os.dup2(os.open("stderr", os.O_WRONLY | os.O_CREAT | os.O_APPEND), sys.stderr.fileno())
    if not Path("trained").is_dir():
        given, labels = texts(9, 96)
        settings = TrainSettings(max_epochs=3, min_epochs=3, learning_rate=5e-3, batch_size=8)
        fine_tune(home / "start", Examples(tuple(given), tuple(labels), ("no", "yes")), Path("trained"), settings)
    with Path(LINES).open("a", buffering=1) as lines:
        path(["trained", "../other"], "../probes.yaml", "run", steps=steps, say=lambda line: print(line, file=lines))
