"""The diagonal Fisher against a loop of one backward pass an example: time, peak memory, agreement.

    python benchmarks/fisher.py MODEL DATA [--examples 200] [--rounds 3] [--threads 2]

MODEL is a sequence classifier, DATA labelled texts. Both run alternately, each in a process of its own, so that neither
inherits the other's memory; the medians over the rounds are compared, of wall time and of processor time (user and system,
which other work on the machine disturbs less). The loop is what one would write: tokenised beforehand, loss.backward() on a
single text, squares added to tensors that are there.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from fuseforget.data import read_examples
from fuseforget.fisher import diagonal_fisher
from fuseforget.models import Classifier, load_classifier

Fisher = dict[str, torch.Tensor]


def by_loop(classifier: Classifier, texts: tuple[str, ...], labels: tuple[int, ...]) -> Fisher:
    """One backward pass an example."""
    model = classifier.model.eval()
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for text, label in zip(texts, labels, strict=True):
        inputs = classifier.tokenizer(text, truncation=True, return_tensors="pt")
        model.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(model(**inputs).logits, torch.tensor([label])).backward()
        for name, p in model.named_parameters():
            total[name].addcmul_(p.grad, p.grad)
    return {name: values / len(texts) for name, values in total.items()}


def measure(kind: str, model: str, data: str, examples: int, threads: int, out: str) -> None:
    """Run one of the two in this process and print what it took."""
    torch.set_num_threads(threads)
    classifier = load_classifier(model)
    found = read_examples(data)
    taken = found.sample(min(examples, len(found)), 0)
    run = by_loop if kind == "loop" else diagonal_fisher
    run(classifier, taken.texts[:8], taken.labels[:8])  # first calls allocate and choose kernels
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, processor = time.perf_counter(), time.process_time()
    fisher = run(classifier, taken.texts, taken.labels)
    result = {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    torch.save(fisher, out)
    print(json.dumps({**result, "peak_mb": peak / 1000, "before_mb": before / 1000, "n": len(taken)}))


def compare(found: Fisher, expected: Fisher) -> tuple[float, float]:
    """The largest difference, relative to the largest value of its tensor, and relative to the largest of all.

    Tensors whose values are below 1e-12 of the largest of all are rounding alone (a key's bias, whose gradient is zero) and
    are left out of the first.
    """
    largest = max(float(v.max()) for v in expected.values())
    errors = {name: float((found[name] - v).abs().max()) for name, v in expected.items()}
    own = max(errors[n] / float(v.max()) for n, v in expected.items() if float(v.max()) > 1e-12 * largest)
    return own, max(errors.values()) / largest


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", nargs=2, metavar=("KIND", "OUT"))
    given = parser.parse_args()
    if given.one:
        measure(given.one[0], given.model, given.data, given.examples, given.threads, given.one[1])
        return
    rows: dict[str, list[dict[str, Any]]] = {"loop": [], "fuseforget": []}
    with tempfile.TemporaryDirectory() as scratch:
        files = {kind: Path(scratch) / kind for kind in rows}
        sizes = [f"--examples={given.examples}", f"--threads={given.threads}"]
        for _ in range(given.rounds):
            for kind, file in files.items():
                command = [sys.executable, __file__, given.model, given.data, *sizes, "--one", kind, str(file)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                rows[kind].append(json.loads(done.stdout.splitlines()[-1]))
        own, whole = compare(torch.load(files["fuseforget"]), torch.load(files["loop"]))
    print(f"{rows['loop'][0]['n']} examples, {given.threads} threads, medians of {given.rounds} rounds")
    print(f"{'':12}{'wall s':>10}{'processor s':>14}{'peak MB':>10}")
    for kind, found in rows.items():
        wall, processor, peak = (median(row[key] for row in found) for key in ("wall", "processor", "peak_mb"))
        print(f"{kind:12}{wall:10.2f}{processor:14.2f}{peak:10.0f}")
    for key in ("wall", "processor"):
        ratio = median(row[key] for row in rows["loop"]) / median(row[key] for row in rows["fuseforget"])
        print(f"{key} time, loop over fuseforget: {ratio:.2f}")
    print(f"largest difference: {own:.1e} of the tensor's largest value, {whole:.1e} of the largest of all")


if __name__ == "__main__":
    main()
