"""The one room that touches transformers models: load, prepare, set weights in place, predict.

Everything here is about sequence classifiers of any architecture that transformers knows.
"""

from __future__ import annotations

import contextlib
import platform
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fuseforget.checkpoint import Checkpoint, atomic_directory, open_checkpoint
from fuseforget.errors import InputError, require_seed

__all__ = [
    "Batch",
    "Classifier",
    "add_word_tokens",
    "batch_tokens",
    "compute_dtype",
    "describe_cut",
    "device",
    "encode_batches",
    "label_names",
    "load_classifier",
    "max_tokens",
    "predict",
    "prepare_start",
    "random_like",
    "save_classifier",
    "set_weights",
    "tokenise",
    "weight_slots",
]

TOKEN_BUDGET = 4096  # tokens in a prediction batch, padding included
MAX_LENGTH = 512


@dataclass(frozen=True)
class Classifier:
    """A model with its tokenizer."""

    model: Any
    tokenizer: Any
    source: str


@dataclass(frozen=True)
class Batch:
    """Examples of similar length, padded once.

    Attributes:
        rows: which examples these are.
        input_ids, attention_mask: examples x tokens.
        cut: how many of the texts were longer than the model can read.
    """

    rows: npt.NDArray[np.int64]
    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    cut: int = 0


def load_classifier(source: str | Path) -> Classifier:
    """Load a sequence classifier and its tokenizer from a directory or the hub, in float32.

    Raises:
        InputError: no checkpoint, pickled weights, no tokenizer, or a tensor of the classifier that the checkpoint lacks.
    """
    checkpoint = open_checkpoint(source)
    architectures = checkpoint.config.get("architectures") or ["no architecture in its config.json"]
    if not str(architectures[0]).endswith("ForSequenceClassification"):
        raise InputError(str(source), expected="a sequence classifier", found=str(architectures[0]))
    classifier, missing = _load(checkpoint, seed=0, labels=None)
    if missing:
        raise InputError(
            str(source),
            expected="all tensors of a sequence classifier",
            found=f"no {_some(missing)}",
            action="Train it first: what is missing would be drawn at random.",
        )
    return classifier


def prepare_start(
    base: str | Path,
    out: Path,
    *,
    tokens: Sequence[str],
    label_names: Sequence[str],
    seed: int,
    overwrite: bool = False,
) -> None:
    """Write the checkpoint that every fine-tuning starts from: the base, the new tokens' embeddings and a new head.

    The new parameters come from ``seed`` alone, so that any two calls give the same start, to the bit.
    """
    require_seed(seed)
    opened = open_checkpoint(base)
    classifier, _ = _load(opened, seed=seed, labels=label_names)
    add_word_tokens(classifier, tokens, seed=seed)
    with atomic_directory(out, overwrite=overwrite, inputs=[opened.path]) as partial:
        save_classifier(classifier, partial)


def add_word_tokens(classifier: Classifier, tokens: Sequence[str], *, seed: int) -> None:
    """Add tokens that match whole words only ("synt" leaves "synthetic" alone), with embeddings from ``seed``."""
    from tokenizers import AddedToken

    model, tokenizer = classifier.model, classifier.tokenizer
    # lstrip: a byte-level tokenizer would leave the space before the word as a token of its own.
    added = [AddedToken(token, single_word=True, lstrip=True, normalized=False) for token in tokens]
    tokenizer.add_tokens(added)
    for token in tokens:
        ids = tokenizer(f"a {token} b", add_special_tokens=False)["input_ids"]
        if tokenizer.convert_tokens_to_ids(token) not in ids:
            raise InputError(f"token {token!r}", expected="one token of its own", found=str(ids), action="Choose another word.")
    size = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > size:
        with seeded(seed):
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)


def save_classifier(classifier: Classifier, directory: Path) -> None:
    """Save model and tokenizer as transformers does, in safetensors."""
    with quiet():
        classifier.model.save_pretrained(directory)
        classifier.tokenizer.save_pretrained(directory)
    # safetensors makes its files for their owner alone; whoever may read the directory may read the model.
    for file in directory.iterdir():
        if file.is_file():
            file.chmod(directory.stat().st_mode & 0o666)


def random_like(start: Checkpoint, specialists: Sequence[Checkpoint], template: str | Path, out: Path, *, seed: int) -> None:
    """Write a model of random weights as far from the start as the specialists are on average (paper, C.2).

    For each tensor: a freshly initialised one is normalised, scaled to the specialists' mean distance from the start, and
    added to the start's tensor.
    """
    with seeded(seed), quiet():
        from transformers import AutoModelForSequenceClassification

        classifier = load_classifier(template)
        fresh = AutoModelForSequenceClassification.from_config(classifier.model.config).state_dict()
    target = classifier.model.state_dict()
    for name in start:
        if not start.infos[name].floating:
            continue
        base = start[name].double()
        distance = sum(float((s[name].double() - base).norm()) for s in specialists) / len(specialists)
        noise = fresh[name].double()
        # Layer norms and biases are initialised to constants, whose direction is as arbitrary as any other.
        norm = float(noise.norm())
        step = noise * (distance / norm) if norm > 0 else torch.zeros_like(noise)
        target[name].copy_(base + step)
    with atomic_directory(out) as partial:
        save_classifier(classifier, partial)


def weight_slots(model: Any, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """Return a resident model's parameters and buffers, its own storage, by a checkpoint's names.

    Names from before transformers renamed them are understood, and what the model does not have (position ids that it
    makes itself, a head of another task) is left out, as transformers does on loading.

    Raises:
        InputError: a parameter or a buffer of the model that none of the names is for.
    """
    state = model.state_dict()  # views of the model's own storage
    slots = {name: state[current] for name in names if (current := _current_name(name, state)) in state}
    covered = {slot.data_ptr() for slot in slots.values()}  # tied weights are one storage under several names
    unset = sorted(name for name, value in state.items() if value.numel() and value.data_ptr() not in covered)
    if unset:
        raise InputError("weights", expected="all tensors of the resident model", found=f"no {_some(unset)}")
    return slots


def set_weights(model: Any, weights: Mapping[str, torch.Tensor]) -> None:
    """Copy tensors into a resident model's :func:`weight_slots`, in place."""
    slots = weight_slots(model, weights)
    with torch.no_grad():
        for name, slot in slots.items():
            slot.copy_(weights[name])


def _current_name(name: str, state: Mapping[str, torch.Tensor]) -> str:
    """The name in use for a tensor that the first BERT checkpoints called by another."""
    renamed = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
    return renamed if name not in state and renamed in state else name


def label_names(model: Any) -> tuple[str, ...]:
    """A model's names of its labels, by logit; none where it has no names of its own, only LABEL_0, LABEL_1, ...

    Raises:
        InputError: its configuration names other labels than it has logits.
    """
    names = {int(number): str(name) for number, name in model.config.id2label.items()}
    if sorted(names) != list(range(model.config.num_labels)) or len(set(names.values())) < len(names):
        raise InputError("id2label in config.json", expected="a name for each label from 0", found=f"{names!r:.200}")
    ordered = tuple(names[number] for number in sorted(names))
    return () if ordered == tuple(f"LABEL_{i}" for i in range(len(ordered))) else ordered


def encode_batches(classifier: Classifier, texts: Sequence[str], *, token_budget: int = TOKEN_BUDGET) -> list[Batch]:
    """Tokenise once and group by length: each batch holds at most ``token_budget`` tokens, padding included."""
    return batch_tokens(classifier, *tokenise(classifier, texts), token_budget=token_budget)


def batch_tokens(classifier: Classifier, ids: Sequence[list[int]], cut: set[int], *, token_budget: int) -> list[Batch]:
    """The same of texts that :func:`tokenise` has taken apart."""
    pad = classifier.tokenizer.pad_token_id
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    groups: list[list[int]] = [[]]
    for i in order:  # ascending, so the newest is the longest of its batch
        if groups[-1] and (len(groups[-1]) + 1) * len(ids[i]) > token_budget:
            groups.append([])
        groups[-1].append(i)
    return [_pad([ids[i] for i in group], group, pad, len(cut.intersection(group))) for group in groups if group]


def tokenise(classifier: Classifier, texts: Sequence[str]) -> tuple[list[list[int]], set[int]]:
    """Token ids of each text, cut to what the model can read, and the rows of the texts that were cut."""
    whole = classifier.tokenizer(list(texts), return_attention_mask=False, verbose=False)["input_ids"]
    ids = [list(one) for one in whole]
    limit = max_tokens(classifier)
    cut = [row for row, one in enumerate(ids) if len(one) > limit]
    if cut:
        # Again, and not sliced: the tokenizer keeps the special token that ends a text.
        long = [texts[row] for row in cut]
        shortened = classifier.tokenizer(long, truncation=True, max_length=limit, return_attention_mask=False)["input_ids"]
        for row, one in zip(cut, shortened, strict=True):
            ids[row] = list(one)
    return ids, set(cut)


def max_tokens(classifier: Classifier) -> int:
    """How many tokens of a text the model reads."""
    return min(MAX_LENGTH, int(classifier.tokenizer.model_max_length), _positions(classifier.model.config))


def describe_cut(cut: int, texts: int, limit: int) -> str:
    """What to say where texts were cut; nothing where none was."""
    return f"{cut} of {texts} texts cut to the {limit} tokens that the model reads" if cut else ""


def predict(model: Any, batches: Sequence[Batch], *, exact: bool = False) -> npt.NDArray[np.float32]:
    """Return float32 logits (examples x labels) in the order of the texts.

    Args:
        exact: compute in float32 even where the hardware multiplies faster in bfloat16.
    """
    model.eval()
    n = sum(len(batch.rows) for batch in batches)
    logits = np.empty((n, model.config.num_labels), dtype=np.float32)
    with torch.inference_mode(), autocast(exact=exact):
        for batch in batches:
            where = model.device
            output = model(input_ids=batch.input_ids.to(where), attention_mask=batch.attention_mask.to(where))
            logits[batch.rows] = output.logits.float().cpu().numpy()
    return logits


def compute_dtype() -> torch.dtype:
    """bfloat16 where the hardware multiplies it natively (a recent GPU; AVX512-BF16 or AMX on a CPU), else float32."""
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    flags = _cpu_flags()
    return torch.bfloat16 if flags & {"amx_bf16", "avx512_bf16", "bf16"} else torch.float32


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(*, exact: bool = False) -> contextlib.AbstractContextManager[Any]:
    dtype = compute_dtype()
    return torch.autocast(device().type, dtype=dtype, enabled=not exact and dtype != torch.float32)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from ``seed`` inside the block, and leave the caller's random state as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' reports of missing heads and its bars off the terminal: both are expected here."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _load(checkpoint: Checkpoint, *, seed: int, labels: Sequence[str] | None) -> tuple[Classifier, list[str]]:
    """The classifier, and the names of its tensors that the checkpoint lacks: they are drawn from the seed."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    options: dict[str, Any] = {}
    if labels is not None:
        options = {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
    try:
        with seeded(seed), quiet():
            model, loading = AutoModelForSequenceClassification.from_pretrained(
                checkpoint.path, dtype=torch.float32, local_files_only=True, output_loading_info=True, **options
            )
            tokenizer = AutoTokenizer.from_pretrained(checkpoint.path, local_files_only=True)
    # A damaged config.json or tokenizer.json ends in whatever the libraries' code meets first, tokenizers' bare Exception too.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise InputError(
            checkpoint.source,
            expected="a model and tokenizer that transformers can load",
            found=f"{type(error).__name__}: {reason:.300}",
        ) from error
    if tokenizer.pad_token_id is None:  # decoders: the model finds the last token by the padding that follows it
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise InputError(checkpoint.source, expected="a padding or an end token", found="neither in its tokenizer")
    model.config.pad_token_id = tokenizer.pad_token_id
    return Classifier(model.to(device()), tokenizer, checkpoint.source), sorted(loading["missing_keys"])


def _some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + rest


def _positions(config: Any) -> int:
    limit = getattr(config, "max_position_embeddings", None) or MAX_LENGTH
    # RoBERTa counts positions from past its padding token.
    offset = (config.pad_token_id or 0) + 1 if "roberta" in config.model_type else 0
    return int(limit) - offset


def _pad(ids: Sequence[Sequence[int]], rows: Sequence[int], pad: int, cut: int) -> Batch:
    width = max(max(map(len, ids)), 1)
    input_ids = torch.full((len(ids), width), pad, dtype=torch.long)
    mask = torch.zeros((len(ids), width), dtype=torch.long)
    for i, sequence in enumerate(ids):
        input_ids[i, : len(sequence)] = torch.tensor(sequence, dtype=torch.long)
        mask[i, : len(sequence)] = 1
    return Batch(np.asarray(rows), input_ids, mask, cut)


def _cpu_flags() -> set[str]:
    """The processor's features as Linux names them; none where that is not known."""
    cpuinfo = Path("/proc/cpuinfo")
    if platform.system() != "Linux" or not cpuinfo.is_file():
        return set()
    for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith(("flags", "Features")):
            return set(line.partition(":")[2].split())
    return set()
