"""How a sweep's time and memory grow: with points, probes, the length of texts, and workers. Tables for sweep.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from fuseforget.checkpoint import open_checkpoint
from fuseforget.knowledge import Probe, measure
from fuseforget.models import Classifier, compute_dtype, cores, encode_batches, load_classifier, predict, tokenise
from fuseforget.models.peak import forward_flops
from fuseforget.paths import path, points
from fuseforget.sweep import Resident
from fuseforget.workers import Here, Workers, open_workers
from machine import Watch, high_water, peak, table, timed

LENGTHS = (8, 16, 32, 64, 128, 256, 512)
TOKENS = 1 << 15  # of the texts of one length
ROUNDS = 3
Models = Sequence[str | Path]


def by_parts(models: Models, probes: Sequence[Probe], steps: int) -> str:
    """Where the time of a sweep goes, from one point's parts, and the share of the peak of the passes alone."""
    loading, classifier = timed(lambda: load_classifier(models[0]))
    texts = list(dict.fromkeys(text for probe in probes for text in probe.texts))
    reading, batches = timed(lambda: encode_batches(classifier, texts))
    ends = [open_checkpoint(model) for model in models]
    resident = Resident(models[0], probes)
    grid = points(2, max(steps, ROUNDS))
    setting = median(timed(lambda w=w: resident.set_point(ends, w))[0] for w in grid[: ROUNDS + 1])
    predict(classifier.model, batches)
    passing = median(timed(lambda: predict(classifier.model, batches))[0] for _ in range(ROUNDS))
    scores = [np.zeros((len(probe.texts), 2)) for probe in probes]
    judging, _ = timed(lambda: [measure(*pair) for pair in zip(probes, scores, strict=True)])
    whole = median(timed(lambda: path(models, probes, steps=steps))[0] for _ in range(ROUNDS))
    ids, _ = tokenise(classifier, texts)
    share = forward_flops(classifier.model, [len(one) for one in ids]) / peak(compute_dtype())
    padded = 1 - sum(map(len, ids)) / sum(batch.input_ids.numel() for batch in batches)
    rows = [
        ["loading a model", "1", f"{loading:.2f}", ""], ["tokenising, packing", "1", f"{reading:.2f}", ""],
        ["setting the weights", str(steps + 1), f"{setting:.3f}", ""],
        ["forward passes", str(steps + 1), f"{passing:.2f}", f"{share / passing:.0%}"],
        ["intervals", str(steps + 1), f"{judging:.3f}", ""],
        ["the whole sweep", "1", f"{whole:.2f}", f"{share * (steps + 1) / whole:.0%}"],
    ]  # fmt: skip
    return (
        f"{table(['part', 'times', 'seconds each', 'share of the peak'], rows)}\n\npadding: {padded:.1%} of the tokens computed"
    )


def by_points(models: Models, probes: Sequence[Probe], steps: int) -> str:
    rows = []
    for one in (1, 2, 5, 10, 20):
        seconds, records = timed(lambda one=one: path(models, probes, steps=one))
        rows.append([str(one + 1), f"{seconds:.2f}", f"{seconds / (one + 1):.2f}", _rate(records, seconds)])
    return table(["points", "seconds", "a point", "examples/s"], rows)


def by_probes(models: Models, probes: Sequence[Probe], steps: int) -> str:
    rows = []
    for count in range(1, len(probes) + 1):
        seconds, records = timed(lambda count=count: path(models, probes[:count], steps=steps))
        rows.append([str(count), f"{seconds:.2f}", f"{seconds / count:.2f}", _rate(records, seconds)])
    return table(["probes", "seconds", "a probe", "examples/s"], rows)


def by_length(models: Models, probes: Sequence[Probe], steps: int) -> str:
    """Texts of exactly so many tokens, as many tokens in all; the forward passes of one point, in both precisions."""
    classifier = load_classifier(models[0])
    words = _words(classifier, probes)
    limit = min(LENGTHS[-1], int(classifier.model.config.max_position_embeddings))
    rows = []
    for length in (one for one in LENGTHS if one <= limit):
        texts = _texts(classifier, words, length, TOKENS // length)
        batches = encode_batches(classifier, texts)
        predict(classifier.model, batches[:2])
        work = forward_flops(classifier.model, [length] * len(texts))
        line = [str(length)]
        for exact in (False, True):
            seconds = median(timed(lambda e=exact, b=batches: predict(classifier.model, b, exact=e))[0] for _ in range(ROUNDS))
            share = work / seconds / peak(torch.float32 if exact else compute_dtype())
            line += [f"{seconds / len(texts) * 1000:.2f}", f"{TOKENS / seconds:,.0f}", f"{share:.0%}"]
        rows.append(line)
    columns = [f"{dtype}: {what}" for dtype in ("bfloat16", "float32") for what in ("ms a text", "tokens/s", "share of the peak")]
    return table(["tokens a text", *columns], rows)


def by_workers(models: Models, probes: Sequence[Probe], steps: int) -> str:
    """One process that uses all cores, and two that share them: local ones, and one on each of two Ray nodes.

    Workers have started; each sweep has them load the model and read the texts anew, which is in the seconds, and not in
    those of a further point.
    """
    lines, alone, first = [], 0.0, None
    for name, given in (("one process", Here), ("2 workers", lambda: open_workers(2)), ("2 Ray nodes", _ray)):
        with given() as workers:
            path(models, [Probe("warm", ("a text",), (0,))], steps=4 * workers.count, workers=workers)  # all workers are there
            short, _ = timed(lambda who=workers: path(models, probes, steps=steps, workers=who))
            long, records = timed(lambda who=workers: path(models, probes, steps=2 * steps, workers=who))
        a_point = (long - short) / steps
        alone = alone or a_point
        answers = {(tuple(r["weights"]), r["probe"]): r["values"] for r in records}
        first = first or answers
        same = "yes" if answers == first else "NO"
        lines.append([name, f"{short:.2f}", f"{long:.2f}", f"{a_point:.2f} ({a_point / alone:.2f})", same])
    columns = ["", f"{steps + 1} points, s", f"{2 * steps + 1} points, s", "a further point, s (of one process)", "same answers"]
    return table(columns, lines)


def by_memory(models: Models, probes: Sequence[Probe], steps: int) -> str:
    """Peak memory of sweeps of 2, 3 and 11 points, each in a process of its own, and of one that only loads a model."""
    rows = []
    asked = json.dumps([{"name": p.name, "texts": p.texts, "labels": p.labels} for p in probes])
    for count in (0, 2, 3, 11):
        command = [sys.executable, __file__, str(count), *map(str, models)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process, \
                Watch(process.pid) as watch:  # fmt: skip
            printed, _ = process.communicate(asked)
        if process.returncode:
            raise SystemExit(f"{count} points: exit {process.returncode}")
        rows.append([str(count) if count else "a model loaded", f"{watch.peak / 1e6:.0f}", f"{float(printed):.0f}"])
    return table(["points", "anonymous memory, MB", "with mapped files, MB"], rows)


TABLES: dict[str, Callable[[Models, Sequence[Probe], int], str]] = {
    "parts": by_parts, "points": by_points, "probes": by_probes, "length": by_length, "workers": by_workers, "memory": by_memory,
}  # fmt: skip


def report(models: Models, probes: Sequence[Probe], steps: int, only: Sequence[str]) -> None:
    path(models, [Probe("warm", probes[0].texts[:64], probes[0].labels[:64])], steps=1)
    for name in only:
        print(f"{TABLES[name](models, probes, steps)}\n", flush=True)


def _rate(records: Sequence[dict[str, Any]], seconds: float) -> str:
    return f"{sum(r['n'] for r in records) / seconds:.0f}"


@contextmanager
def _ray() -> Iterator[Workers]:
    """Two nodes on this machine, each with half of its cores, on the loopback interface."""
    from ray.cluster_utils import Cluster

    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    cluster = Cluster()
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=max(1, cores() // 2), include_dashboard=False)
        with open_workers(2, cluster.address) as workers:
            yield workers
    finally:
        cluster.shutdown()


def _words(classifier: Classifier, probes: Sequence[Probe]) -> list[str]:
    """Words of the probes that are one token each."""
    found = sorted({word for text in probes[0].texts for word in text.split()})
    ids = classifier.tokenizer(found, add_special_tokens=False)["input_ids"]
    return [word for word, one in zip(found, ids, strict=True) if len(one) == 1 and word.isalpha()]


def _texts(classifier: Classifier, words: Sequence[str], length: int, count: int) -> list[str]:
    numbers = np.random.default_rng(0)
    special = len(classifier.tokenizer("")["input_ids"])
    texts = [" ".join(numbers.choice(words, length - special)) for _ in range(count)]
    assert {len(ids) for ids in tokenise(classifier, texts)[0]} == {length}
    return texts


def _sweep_of_given() -> None:
    """Do one sweep in this process and print its high-water mark: of memory's table."""
    count, models = int(sys.argv[1]), sys.argv[2:]
    probes = [Probe(p["name"], tuple(p["texts"]), tuple(p["labels"])) for p in json.load(sys.stdin)]
    if count:
        path(models, probes, steps=count - 1)
    else:
        load_classifier(models[0])
    print(high_water())


if __name__ == "__main__":
    _sweep_of_given()
