"""Small checkpoints and data sets that tests build for themselves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from patience import LONG

os.environ["HF_HUB_OFFLINE"] = "1"

WORDS = ["a", "b", "c", "good", "bad", "film", "the", "is", "not", "very", "plot", "dull", "moving", "synthetic", "synt"]
Tensors = dict[str, torch.Tensor]


def write_raw(directory: Path, tensors: Tensors, **config: object) -> Path:
    """A checkpoint of arbitrary tensors, with a minimal config."""
    directory.mkdir(parents=True)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["BertModel"], **config}))
    return directory


def random_tensors(seed: int, dtype: torch.dtype = torch.float32) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a.weight": (7, 5), "b.weight": (3, 4, 2), "b.bias": (11,), "scale": (), "empty": (0, 3)}
    tensors = {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}
    return {**tensors, "positions": torch.arange(6)}


@pytest.fixture
def raw(tmp_path: Path) -> Callable[..., Path]:
    """Write a checkpoint of random (or given) tensors under the test's directory."""

    def make(
        name: str, seed: int = 0, dtype: torch.dtype = torch.float32, tensors: Tensors | None = None, **config: object
    ) -> Path:
        return write_raw(tmp_path / name, random_tensors(seed, dtype) if tensors is None else tensors, **config)

    return make


def make_bert(directory: Path, seed: int = 0, labels: int = 2, hidden: int = 16) -> Path:
    """A tiny BERT classifier with a word-level tokenizer, saved as transformers does."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: i for i, word in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_max_length=40,
    )  # fmt: skip
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=hidden, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=40, num_labels=labels, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = BertForSequenceClassification(config)
    model.save_pretrained(directory)
    fast.save_pretrained(directory)
    return directory


@pytest.fixture
def bert(tmp_path: Path) -> Callable[..., Path]:
    """Write a tiny BERT classifier under the test's directory."""
    return lambda name, **options: make_bert(tmp_path / name, **options)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True
    ).returncode == 0  # fmt: skip
    if not mounted:
        pytest.skip("needs the right to mount a small tmpfs")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.fixture(scope="session")
def memorization_run(tmp_path_factory):
    """A finished study of memorization with all parts (:class:`memorization_runs.Finished`), not to be written to."""
    from memorization_runs import finish

    return finish(tmp_path_factory.mktemp("memorization"))


@pytest.fixture(scope="session")
def shortcut_models(tmp_path_factory):
    """A finished small shortcut study of OP and TiC (:func:`shortcut_models.finish`), not to be written to."""
    from shortcut_models import finish

    return finish(tmp_path_factory.mktemp("shortcut-models"))


def kill_when(until: Sequence[Path], code: str, *arguments: object) -> None:
    """Run Python code in a process of its own, and again, killed each time as soon as the next of these paths is there.

    Args:
        until: the paths, in the order in which the code makes them.
        code: may import from the tests; finds the arguments in ``sys.argv[1:]``.
    """
    setup = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    command = [sys.executable, "-c", setup + code, *map(str, arguments)]
    for path in until:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        deadline = time.monotonic() + LONG
        while not path.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        ended = process.poll()
        process.kill()
        _, said = process.communicate()
        assert ended is None, f"it ended before {path} was there: {said.decode()}"
        assert path.exists(), f"{path} was not there in time"
