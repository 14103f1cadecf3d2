"""A table of ALRs of several models on several splits against plain forward passes: time and peak memory.

    python benchmarks/energies.py [--layers 12] [--width 768] [--length 1024] [--rows 8] [--rounds 3] [--threads 2]

A GPT-2-shaped reference of random weights and copies of it, each perturbed a little, are written to a temporary directory. The
table reads every model once and computes its energies on every split, the reference's once for all. A plain pass is what
transformers does with labels: model(ids, labels=ids), logits of the whole batch and one loss of it, of each split by the
reference and by each model. Both load the models, in the same batches and the same precision, and run alternately in one
process, in turns going first; medians over the rounds. Peak memory is the high-water mark (VmHWM) of processes of their own:
the whole table; one model, one reference and one plain batch.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np
import torch

from fuseforget.models import Energies, LanguageModel, autocast, energies, load_language_model, save_language_model
from machine import high_water

T = TypeVar("T")
Split = list[list[int]]
MODEL = {"layers": 12, "width": 768, "vocabulary": 50257, "length": 1024}
DEFAULTS = {**MODEL, "models": 8, "splits": 5, "rows": 8, "rounds": 3, "threads": 2}
TOKEN_BUDGET = 4096


def write_models(directory: Path, options: argparse.Namespace) -> list[Path]:
    """The reference, and then models like it."""
    from tokenizers import Tokenizer, models
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    config = GPT2Config(
        n_layer=options.layers, n_embd=options.width, n_head=max(1, options.width // 64), n_positions=options.length,
        vocab_size=options.vocabulary, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    words = Tokenizer(models.WordLevel({"<end>": 0, "a": 1}, unk_token="a"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>")
    lm = LanguageModel(GPT2LMHeadModel(config), tokenizer, "reference", masked=False)
    reference = {name: value.clone() for name, value in lm.model.state_dict().items()}
    written = []
    for number in range(options.models + 1):
        with torch.no_grad():
            for name, value in lm.model.named_parameters():
                value.copy_(reference[name])
                if number:
                    value.add_(torch.randn_like(value), alpha=0.003)
        written.append(directory / f"model-{number}")
        written[-1].mkdir()
        save_language_model(lm, written[-1])
    return written


def make_splits(options: argparse.Namespace) -> list[Split]:
    shape = (options.splits, options.rows, options.length)
    splits: list[Split] = np.random.default_rng(0).integers(0, options.vocabulary, size=shape).tolist()
    return splits


def by_table(source: Path, splits: Sequence[Split]) -> list[Energies]:
    lm = load_language_model(source)
    return [energies(lm, rows, token_budget=TOKEN_BUDGET) for rows in splits]


def by_plain_passes(source: Path, splits: Sequence[Split]) -> list[float]:
    """The mean loss on each split."""
    lm = load_language_model(source)
    return [float(np.mean(plain_losses(lm, rows))) for rows in splits]


def plain_losses(lm: LanguageModel, rows: Split) -> list[float]:
    at_once = max(1, TOKEN_BUDGET // len(rows[0]))
    losses = []
    with torch.inference_mode(), autocast():
        for start in range(0, len(rows), at_once):
            ids = torch.tensor(rows[start : start + at_once], device=lm.model.device)
            losses += [float(lm.model(ids, labels=ids).loss)] * len(ids)
    return losses


def alr(model: Energies, reference: Energies) -> float:
    return float(np.exp(model.means - reference.means).mean())


class Clock:
    """Seconds of wall and of processor time, added up over calls."""

    def __init__(self) -> None:
        self.wall = self.processor = 0.0

    def __call__(self, work: Callable[[Path, Sequence[Split]], list[T]], source: Path, splits: Sequence[Split]) -> list[T]:
        wall, processor = time.perf_counter(), time.process_time()
        found = work(source, splits)
        self.wall += time.perf_counter() - wall
        self.processor += time.process_time() - processor
        return found


def run_round(number: int, sources: Sequence[Path], splits: Sequence[Split]) -> tuple[Clock, Clock, float]:
    """The clocks of the table and of plain passes, and the largest difference of their mean energies."""
    table, plain = Clock(), Clock()
    reference: list[Energies] = []
    difference = 0.0
    for turn, source in enumerate(sources):
        plain_first = (turn + number) % 2 == 1
        losses = plain(by_plain_passes, source, splits) if plain_first else []
        found = table(by_table, source, splits)
        losses = losses or plain(by_plain_passes, source, splits)
        reference = reference or found
        alrs = [alr(*pair) for pair in zip(found, reference, strict=True)]
        assert np.isfinite(alrs).all(), alrs
        difference = max(difference, *(abs(one.means.mean() - loss) for one, loss in zip(found, losses, strict=True)))
    return table, plain, difference


def report_memory(kind: str, sources: Sequence[Path], splits: Sequence[Split]) -> None:
    """Do one thing in this process and print its high-water mark in MB."""
    if kind == "table":
        reference = by_table(sources[0], splits)
        for source in sources[1:]:
            print([alr(*pair) for pair in zip(by_table(source, splits), reference, strict=True)], file=sys.stderr)
    elif kind == "parts":
        lm, other = load_language_model(sources[1]), load_language_model(sources[0])
        plain_losses(lm, splits[0][: max(1, TOKEN_BUDGET // len(splits[0][0]))])
        assert other.model is not lm.model
    elif kind != "nothing":
        raise ValueError(kind)
    print(json.dumps(high_water()))


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, default in DEFAULTS.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--memory-of", nargs=2, metavar=("KIND", "DIRECTORY"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    splits = make_splits(options)
    if options.memory_of:
        kind, directory = options.memory_of
        report_memory(kind, sorted(Path(directory).iterdir()), splits)
        return
    with tempfile.TemporaryDirectory() as directory:
        sources = write_models(Path(directory), options)
        memory = {}
        for kind in ("nothing", "parts", "table"):
            command = [sys.executable, __file__, *sys.argv[1:], "--memory-of", kind, directory]
            memory[kind] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        rounds = [run_round(number, sources, splits) for number in range(options.rounds)]
    print(f"{options.models} models and a reference, {options.splits} splits of {options.rows} rows of {options.length} tokens")
    print(f"{'seconds':12}{'table':>10}{'plain':>10}{'ratio':>10}   medians of {options.rounds} rounds, lowest and highest ratio")
    for clock in ("wall", "processor"):
        times = [(getattr(table, clock), getattr(plain, clock)) for table, plain, _ in rounds]
        ratios = [table / plain for table, plain in times]
        middle = [median(one) for one in zip(*times, strict=True)]
        print(f"{clock:12}{middle[0]:10.2f}{middle[1]:10.2f}{median(ratios):10.3f}   {min(ratios):.3f} to {max(ratios):.3f}")
    print(f"largest difference of mean energies: {max(difference for *_, difference in rounds):.1e} nats a token")
    print(f"{'peak MB':12}{'table':>10}{'parts':>10}{'imports':>10}   parts: one model, one reference, one plain batch")
    print(f"{'VmHWM':12}{memory['table']:10.0f}{memory['parts']:10.0f}{memory['nothing']:10.0f}")


if __name__ == "__main__":
    main()
