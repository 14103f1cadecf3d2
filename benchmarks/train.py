"""Trainings by fuseforget against the authors' published protocol, in turn in one run: examples a second, and what is learned.

    python benchmarks/train.py BASE DATA [--examples 1920] [--steps 4] [--batch 32] [--rounds 3] [--threads 2] [--learned 16]

DATA is a data set with a shortcut. Published: transformers' Trainer on texts padded to 512 tokens in float32
(published.py), timed by its steps alone, without the first. Ours is a whole call of ``fine_tune`` of one epoch: loading,
tokenising, training, saving its state, publishing. Then the losses of both after ``--learned`` steps on the same texts, on these
and on others; ours with 1 thread against all; and two trainings at once, in processes of one thread each.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch

import published
from fuseforget.data import Examples, load_shortcut_data
from fuseforget.models import (
    Classifier,
    compute_dtype,
    cores,
    device,
    encode_batches,
    load_classifier,
    predict,
    prepare_start,
    tokenise,
)
from fuseforget.models.peak import forward_flops, matrix_peak
from fuseforget.train import TrainSettings
from fuseforget.train.trainer import fine_tune
from machine import describe_machine, table, timed

BACKWARD = 2  # times the operations of the forward pass


def ours(start: Path, examples: Examples, out: Path, options: argparse.Namespace) -> None:
    settings = TrainSettings(max_epochs=1, batch_size=options.batch, learning_rate=options.learning_rate)
    fine_tune(start, examples, out, settings)


def by_published(start: Path, examples: Examples, options: argparse.Namespace) -> tuple[Classifier, list[float]]:
    """The trained classifier, and the seconds of each step."""
    model, tokenizer = published.load(start)
    with tempfile.TemporaryDirectory() as scratch:
        seconds = published.train(
            model, tokenizer, examples.texts, examples.labels, Path(scratch), batch=options.batch,
            learning_rate=options.learning_rate, seed=0,
        )  # fmt: skip
    return Classifier(model, tokenizer, str(start)), seconds


def loss(classifier: Classifier, examples: Examples) -> float:
    """The mean negative log-likelihood of the labels, in nats."""
    logits = torch.from_numpy(predict(classifier.model, encode_batches(classifier, examples.texts), exact=True))
    return float(torch.nn.functional.cross_entropy(logits, torch.tensor(examples.labels)))


def compare(start: Path, examples: Examples, scratch: Path, options: argparse.Namespace) -> None:
    """Both in turn: examples and tokens a second, padding, the share of the peak."""
    few = examples.take(range((options.steps + 1) * options.batch))
    lengths = [len(ids) for ids in tokenise(load_classifier(start), examples.texts)[0]]
    model = load_classifier(start).model
    length = published.length_of(model)
    a_text = {"published": forward_flops(model, [length]), "ours": forward_flops(model, lengths) / len(lengths)}
    ours(start, examples.take(range(2 * options.batch)), scratch / "warm", options)
    seconds: dict[str, list[float]] = {"published": [], "ours": []}
    for number in range(options.rounds):
        _, steps = by_published(start, few, options)
        seconds["published"].append(median(steps[1:]) / options.batch)
        taken, _ = timed(lambda out=scratch / f"round-{number}": ours(start, examples, out, options))
        seconds["ours"].append(taken / len(examples))
    mean = sum(lengths) / len(lengths)
    rows = []
    for name, dtype in (("published", torch.float32), ("ours", compute_dtype())):
        each = median(seconds[name])
        share = (1 + BACKWARD) * a_text[name] / each / matrix_peak(dtype, options.threads, device().type)
        ratios = [theirs / mine for mine, theirs in zip(seconds[name], seconds["published"], strict=True)]
        rows.append([name, str(dtype).removeprefix("torch."), f"{1000 * each:.2f}", f"{1 / each:.1f}", f"{mean / each:.0f}",
                     f"{median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})", f"{share:.0%}"])  # fmt: skip
    columns = ["", "precision", "ms an example", "examples/s", "real tokens/s", "times published", "share of the peak"]
    print(table(columns, rows))
    print(f"\npublished: {1 - mean / length:.1%} of the tokens computed are padding; the share of its peak counts them")


def learned(start: Path, examples: Examples, held_out: Examples, scratch: Path, options: argparse.Namespace) -> None:
    """The losses of both after as many steps on the same texts."""
    same = examples.take(range(options.learned * options.batch))
    ours(start, same, scratch / "learned", options)
    found = {
        "at the start": load_classifier(start),
        "published": by_published(start, same, options)[0],
        "ours": load_classifier(scratch / "learned"),
    }
    rows = [[name, *(f"{loss(classifier, one):.3f}" for one in (same, held_out))] for name, classifier in found.items()]
    print(table([f"after {options.learned} steps of {options.batch}", "loss on these", "loss on others"], rows))


def side_by_side(start: Path, count: int, scratch: Path, options: argparse.Namespace) -> None:
    """Whole trainings in processes of their own: one thread or all, two in turn or at once. Starting a process is not counted."""
    rows = []
    for name, threads, at_once in (
        ("one thread", 1, 1),
        ("all threads", options.threads, 1),
        ("one thread each, two at once", 1, 2),
    ):
        rates = []
        for number in range(options.rounds):
            command = [sys.executable, __file__, *sys.argv[1:], "--one", str(threads), str(start)]
            outs = [scratch / f"side-{len(rows)}-{number}-{i}" for i in range(at_once)]
            running = [subprocess.Popen([*command, str(out)], stdout=subprocess.PIPE, text=True) for out in outs]
            seconds = [json.loads(process.communicate()[0].splitlines()[-1]) for process in running]
            rates.append(sum(count / one for one in seconds))
        rows.append((name, median(rates)))
    print(table(["", "examples/s in all", "of all threads"], [[n, f"{r:.0f}", f"{r / rows[1][1]:.2f}"] for n, r in rows]))


def read(options: argparse.Namespace) -> tuple[Examples, Examples, Sequence[str]]:
    """The texts to train on, others, and the tokens that the shortcut adds."""
    data = load_shortcut_data(options.data)
    order = np.random.default_rng(0).permutation(len(data.train))
    most = max(options.examples, (options.steps + 1) * options.batch, options.learned * options.batch)
    return data.train.take(order[:most]), data.train.take(order[most : most + 400]), data.settings.tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("data", type=Path)
    parser.add_argument("--examples", type=int, default=1920)
    parser.add_argument("--steps", type=int, default=4, help="of the published training, besides the first")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--learned", type=int, default=16)
    parser.add_argument("--only", default="compare,learned,side")
    parser.add_argument("--one", nargs=3, metavar=("THREADS", "START", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    many, others, tokens = read(options)
    examples = many.take(range(options.examples))
    if options.one:
        threads, start, out = options.one
        torch.set_num_threads(int(threads))
        ours(Path(start), examples.take(range(2 * options.batch)), Path(f"{out}-warm"), options)
        print(timed(lambda: ours(Path(start), examples, Path(out), options))[0])
        return
    torch.set_num_threads(options.threads)
    print(f"{describe_machine()}\n{len(examples)} examples, batches of {options.batch}, {options.threads} threads")
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        prepare_start(options.base, scratch / "start", tokens=tokens, label_names=many.label_names, seed=0)
        for name in options.only.split(","):
            print()
            if name == "compare":
                compare(scratch / "start", examples, scratch, options)
            elif name == "learned":
                learned(scratch / "start", many, others, scratch, options)
            else:
                side_by_side(scratch / "start", len(examples), scratch, options)


if __name__ == "__main__":
    main()
