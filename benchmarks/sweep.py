"""Sweeps by fuseforget against the authors' published protocol, in turn in one run: throughput and accuracies.

    python benchmarks/sweep.py MODEL_A MODEL_B DATA [--probes op,tic,or,task] [--steps 10] [--rounds 3]
        [--examples 16] [--published-points 11] [--shape MODELS] [--scaling]

DATA holds data sets with shortcuts by name, as the study of shortcuts keeps them in its run; a probe is the synthetic
validation set of one of them, ``task`` their original one. Published: see published.py; as it takes long, it reads
``--examples`` sentences a probe at ``--published-points`` points, and loading its models is not counted. Ours is whole calls of
``fuseforget.path``: loading, tokenising, setting weights, predicting, intervals. What both read is compared: the largest
difference of an accuracy, in examples of 500, and how many single answers differ; and bfloat16 with float32 (exact) on all.

``--shape base`` takes models of BERT-base's size with random weights in place of the two, with MODEL_A's tokenizer (the default
on a GPU, where the share of the peak is what counts). ``--scaling`` prints the tables of scaling.py instead.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification

import published
import scaling
from fuseforget.data import load_shortcut_data
from fuseforget.knowledge import Probe
from fuseforget.models import Classifier, compute_dtype, cores, load_classifier, save_classifier, tokenise
from fuseforget.models.peak import forward_flops
from fuseforget.paths import path, points
from fuseforget.records import decode_values
from machine import describe_machine, peak, table, timed

TASK, PUBLISHED = "task", "published"
Right = dict[tuple[tuple[float, ...], str], np.ndarray]  # by point and probe: whether each answer is right
Rows = Mapping[str, np.ndarray]  # by probe: which sentences


def read_probes(data: Path, names: Sequence[str]) -> list[Probe]:
    sets = {name: load_shortcut_data(data / name) for name in names if name != TASK}
    found = {name: one.synthetic for name, one in sets.items()} | {TASK: next(iter(sets.values())).original}
    return [Probe(name, found[name].texts, found[name].labels) for name in names]


def by_engine(models: Sequence[str | Path], probes: Sequence[Probe], steps: int, *, exact: bool) -> Right:
    records = path(models, probes, steps=steps, exact=exact)
    return {(tuple(r["weights"]), r["probe"]): decode_values(r["values"]) for r in records}


def by_published(
    first: object, second: object, tokenizer: object, grid: Sequence[tuple[float, ...]], probes: Sequence[Probe], rows: Rows
) -> Right:
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        for weights in grid:
            model = published.interpolate(first, second, weights[0])
            for probe in probes:
                texts, labels = ([of[i] for i in rows[probe.name]] for of in (probe.texts, probe.labels))
                logits = published.predict(model, tokenizer, texts, labels, Path(scratch))
                found[weights, probe.name] = (logits.argmax(axis=1) == labels).astype(float)
    return found


def difference(found: Right, other: Right, rows: Rows) -> tuple[float, int, int]:
    """Of the points of ``other``, whose answers are about these rows: the largest difference of an accuracy in examples of 500;
    how many answers differ, and of how many.
    """
    pairs = [(found[key][rows[key[1]]], right) for key, right in other.items()]
    worst = max(abs(float(one.mean() - two.mean())) for one, two in pairs) * 500
    return worst, sum(int((one != two).sum()) for one, two in pairs), sum(len(one) for one, _ in pairs)


def spread(count: int, of: int) -> np.ndarray:
    """So many numbers below ``of``, from end to end."""
    return np.unique(np.linspace(0, of - 1, min(count, of)).round().astype(int))


def random_models(tokenizer_of: str, directory: Path, name: str) -> list[Path]:
    """Two classifiers of random weights, the second near the first, of BERT-base's size (a ``tiny`` one is for tests)."""
    tokenizer = load_classifier(tokenizer_of).tokenizer
    sizes = {"base": {}, "tiny": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}}
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(tokenizer), **sizes[name])
    model = BertForSequenceClassification(config)
    written = [directory / "first", directory / "second"]
    for place in written:
        place.mkdir()
        save_classifier(Classifier(model, tokenizer, str(place)), place)
        with torch.no_grad():
            for value in model.parameters():
                value.add_(torch.randn_like(value), alpha=0.003)
    return written


def work_of(model: str | Path, probes: Sequence[Probe]) -> float:
    """Operations of the forward passes of one point, unpadded; a text that several probes have is read once."""
    classifier = load_classifier(model)
    ids, _ = tokenise(classifier, list(dict.fromkeys(text for probe in probes for text in probe.texts)))
    return forward_flops(classifier.model, [len(one) for one in ids])


def compare(models: Sequence[str | Path], probes: Sequence[Probe], options: argparse.Namespace) -> None:
    """Run the two in turn and print the table."""
    grid = points(2, options.steps)
    few = [grid[i] for i in spread(options.published_points, len(grid))]
    rows = {probe.name: spread(options.examples, len(probe.texts)) for probe in probes}
    (first, tokenizer), (second, _) = (published.load(model) for model in models)
    tasks = {
        PUBLISHED: lambda: by_published(first, second, tokenizer, few, probes, rows),
        "bfloat16": lambda: by_engine(models, probes, options.steps, exact=False),
        "float32": lambda: by_engine(models, probes, options.steps, exact=True),
    }
    # The first calls of each allocate and choose kernels.
    by_engine(models, [Probe("warm", probes[0].texts[:64], probes[0].labels[:64])], 1, exact=False)
    by_published(first, second, tokenizer, few[:1], probes[:1], {probes[0].name: rows[probes[0].name][: published.BATCH]})
    times: dict[str, list[float]] = {name: [] for name in tasks}
    processors: dict[str, list[float]] = {name: [] for name in tasks}
    answers: dict[str, Right] = {}
    for number in range(options.rounds):
        for name, task in tasks.items():
            if name != "float32" or number < options.exact_rounds:
                processor = time.process_time()
                seconds, answers[name] = timed(task)
                times[name].append(seconds)
                processors[name].append(time.process_time() - processor)
    count = {name: sum(len(right) for right in answers[name].values()) for name in tasks}
    work = {name: work_of(models[0], probes) * len(grid) for name in tasks}
    work[PUBLISHED] = forward_flops(first, [published.length_of(first)] * count[PUBLISHED])  # padding is computed as text is
    everything = {probe.name: np.arange(len(probe.texts)) for probe in probes}
    lines = []
    for name in tasks:
        each, processor = (median(of[name]) / count[name] for of in (times, processors))
        ratios = [theirs / mine for mine, theirs in zip(times[name], times[PUBLISHED], strict=False)]
        ratios = [ratio * count[name] / count[PUBLISHED] for ratio in ratios]
        share = work[name] / median(times[name]) / peak(compute_dtype() if name == "bfloat16" else torch.float32)
        lines.append(
            [name, str(count[name]), f"{1000 * each:.2f}", f"{1000 * processor:.2f}", f"{1 / each:.1f}", _range(ratios),
             f"{share:.0%}",
             "" if name == PUBLISHED else _in_words(difference(answers[name], answers[PUBLISHED], rows)),
             _in_words(difference(answers[name], answers["float32"], everything)) if name == "bfloat16" else ""]
        )  # fmt: skip
    columns = ["", "examples", "ms an example", "processor ms", "examples/s", "times published", "share of the peak"]
    print(table([*columns, "difference from published", "from float32 on all"], lines))


def _range(ratios: Sequence[float]) -> str:
    return f"{median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})"


def _in_words(found: tuple[float, int, int]) -> str:
    worst, apart, of = found
    return f"{worst:.2f} in 500; {apart} of {of} answers"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs=2)
    parser.add_argument("data", type=Path)
    parser.add_argument("--probes", default="op,tic,or,task")
    parser.add_argument("--sentences", type=int, help="of each probe; default: all")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--exact-rounds", type=int, default=1)
    parser.add_argument("--examples", type=int, default=16)
    parser.add_argument("--published-points", type=int, default=11)
    parser.add_argument("--shape", choices=("given", "base", "tiny"), default="base" if torch.cuda.is_available() else "given")
    parser.add_argument("--scaling", action="store_true")
    parser.add_argument("--only", default=",".join(scaling.TABLES), help="of the tables of scaling")
    options = parser.parse_args()
    torch.set_num_threads(cores())
    probes = read_probes(options.data, options.probes.split(","))
    if options.sentences:
        probes = [Probe(p.name, p.texts[: options.sentences], p.labels[: options.sentences]) for p in probes]
    print(describe_machine())
    peaks = {dtype: peak(dtype) for dtype in (torch.float32, torch.bfloat16)}
    print("; ".join(f"{str(d).removeprefix('torch.')}: {rate / 1e9:.0f} GFLOP/s at best" for d, rate in peaks.items()))
    with tempfile.TemporaryDirectory() as directory:
        shaped = options.shape != "given"
        models = random_models(options.models[0], Path(directory), options.shape) if shaped else options.models
        print(f"{options.steps + 1} points, {len(probes)} probes of {len(probes[0].texts)} sentences, {cores()} cores\n")
        if options.scaling:
            scaling.report(models, probes, options.steps, options.only.split(","))
        else:
            compare(models, probes, options)


if __name__ == "__main__":
    main()
