"""What tests of faults run in processes of their own: a tiny training, and a path from its model to another one."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path

__all__ = ["LINES", "context", "drive", "drive_back", "nothing", "prepare", "texts", "train"]

LINES = "lines.txt"  # what a driver said, of all its processes
# What takes long to import, and computes nothing when it is.
PRELOADED = [
    "datasets",
    "torch",
    "transformers.trainer",
    "transformers.models.bert.modeling_bert",
    "transformers.tokenization_utils_tokenizers",
    "fuseforget.paths",
    "fuseforget.train.trainer",
]
PROBES = ("one", "two", "three")


def context() -> ForkServerContext:
    """Processes that begin where torch is imported already: a second each is saved, and each is killed for real."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(PRELOADED)
    return made


def texts(seed: int, count: int = 300) -> tuple[list[str], list[int]]:
    """Texts in the tiny tokenizer's words, with labels that can be learned."""
    import random

    draw = random.Random(seed)
    labels = [draw.randrange(2) for _ in range(count)]
    rest = ["a", "the", "film", "plot", "is", "not", "very"]
    made = [" ".join([*draw.choices(rest, k=draw.randint(1, 6)), "good" if label else "dull"]) for label in labels]
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


def train(start: Path, out: Path, say: Callable[[str], None] = lambda line: None) -> None:
    """Fine-tune the start until it knows what the probes ask; with one thread wherever it is: the last bits depend on it."""
    from fuseforget.data import Examples
    from fuseforget.models.running import intra_op
    from fuseforget.train import TrainSettings
    from fuseforget.train.trainer import fine_tune

    given, labels = texts(9, 128)
    settings = TrainSettings(max_epochs=3, min_epochs=3, learning_rate=1e-2, batch_size=8)
    with intra_op(1):
        fine_tune(start, Examples(tuple(given), tuple(labels), ("no", "yes")), out, settings, say=say)


def nothing() -> None:
    """For a process that only has to begin."""


def drive(home: Path, place: Path, steps: int) -> None:
    """Train ``trained`` in a place and walk from it to the other model, as far as that is not done: what is killed."""
    import torch

    from fuseforget.paths import path

    torch.set_num_threads(1)
    os.chdir(place)  # the same names in all places: records hold them
    os.dup2(os.open("stderr", os.O_WRONLY | os.O_CREAT | os.O_APPEND), sys.stderr.fileno())
    if not Path("trained").is_dir():
        train(home / "start", Path("trained"))
    with Path(LINES).open("a", buffering=1) as lines:
        path(["trained", "../other"], "../probes.yaml", "run", steps=steps, say=lambda line: print(line, file=lines))


def drive_back(home: Path, place: Path, steps: int) -> None:
    """The same where time runs backwards, from an hour before the last process' on."""
    back = place / "hours"
    back.write_text(str(hours := int(back.read_text()) + 1 if back.exists() else 0))
    begun, ticks = time.time() - 3600 * hours, itertools.count()
    time.time = lambda: begun - 10 * next(ticks)
    time.time_ns = lambda: int(time.time() * 1e9)
    drive(home, place, steps)
