"""Small language models that the study of memorization pretrains itself: a GPT-2-shaped decoder, or a BERT-shaped one."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fuseforget.checkpoint import file_sha256, refuse_place
from fuseforget.data import Rows, one_each, pack
from fuseforget.errors import InputError, OutputError, require_seed
from fuseforget.train import TrainResult, TrainSettings

__all__ = ["BaseSettings", "cached_base", "pretrain_base"]

Say = Callable[[str], None]
RECIPE = 1  # to be raised whenever the same texts and settings make another base
BYTES = 256  # every byte is a token: no text has an unknown one
END = "<|endoftext|>"
MASKED_TOKENS = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}


@dataclass(frozen=True)
class BaseSettings:
    """What a base is and how it is pretrained; the defaults make 5.3 million parameters.

    Attributes:
        masked: a masked language model, on one text a row, or on the pieces of a long one; else a decoder, on packed blocks.
        vocabulary: the most tokens that the tokenizer may have, the 256 bytes and special ones included.
        layers, width, heads: of the transformer; its inner layers are four times as wide.
        block: tokens that it reads at once.
        epochs, learning_rate, batch, warmup, weight_decay: of AdamW with a linear schedule; warmup is a share of all steps.
        seed: of the random start and of the order of the data.
    """

    masked: bool = False
    vocabulary: int = 8192
    layers: int = 4
    width: int = 256
    heads: int = 4
    block: int = 128
    epochs: int = 4
    learning_rate: float = 1.5e-3
    batch: int = 16
    warmup: float = 0.03
    weight_decay: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("layers", "width", "heads", "epochs", "batch"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} of a base", expected="1 or more", found=str(getattr(self, name)))
        if self.width % self.heads:
            raise InputError("width of a base", expected=f"a multiple of its {self.heads} heads", found=str(self.width))
        least = BYTES + (len(MASKED_TOKENS) if self.masked else 1)
        if self.vocabulary < least:
            raise InputError("vocabulary of a base", expected=f"{least} or more", found=str(self.vocabulary))
        require_seed(self.seed)

    @property
    def train(self) -> TrainSettings:
        """How it is trained."""
        return TrainSettings(
            max_epochs=self.epochs, learning_rate=self.learning_rate, batch_size=self.batch, warmup=self.warmup,
            weight_decay=self.weight_decay, seed=self.seed,
        )  # fmt: skip


def pretrain_base(
    texts: Sequence[str],
    out: str | Path,
    *,
    settings: BaseSettings | None = None,
    overwrite: bool = False,
    say: Say = lambda line: None,
) -> TrainResult:
    """Pretrain a language model from random weights on texts, with a tokenizer of their own, and publish it at ``out``.

    The tokenizer is a byte-level BPE in which every digit is a token by itself. There is no dropout. An interrupted
    pretraining goes on from its last finished epoch (:func:`fuseforget.train.language.fine_tune_language`).

    Raises:
        InputError: fewer tokens than one block, or something stands at ``out``.
        OutputError: ``out`` cannot be written.
    """
    from fuseforget.models import encode, load_language_model
    from fuseforget.train.language import fine_tune_language

    settings, out = settings or BaseSettings(), Path(out)
    refuse_place(out, overwrite=overwrite)
    with tempfile.TemporaryDirectory() as scratch:
        start = Path(scratch) / "start"
        _write_start(texts, start, settings)
        lm = load_language_model(start)
        rows = _rows(encode(lm, texts), lm.tokenizer, settings)
        size = f"{sum(p.numel() for p in lm.model.parameters()) / 1e6:.1f} million parameters"
        say(f"{out.name}: {size}, {len(rows)} rows of {rows.tokens} tokens from {len(texts)} texts")
        origin = {"pretrained": asdict(settings), "texts_sha256": _digest(texts)}
        return fine_tune_language(start, rows.ids, out, settings.train, overwrite=overwrite, origin=origin, say=say)


def cached_base(
    texts: Sequence[str], settings: BaseSettings | None = None, *, cache: str | Path | None = None, say: Say = lambda line: None
) -> Path:
    """Return a base pretrained on these texts with these settings, made once and kept.

    It is kept under a digest of texts and settings in ``fuseforget/bases`` of the user's cache directory
    (``$XDG_CACHE_HOME``, else ``~/.cache``), with digests of its files beside it: a damaged one is made again. Of two processes
    that want the same base, one makes it and the other waits; what an interrupted one has done is gone on from.

    Args:
        cache: another directory to keep bases in.

    Raises:
        InputError: see :func:`pretrain_base`.
        OutputError: the cache cannot be written.
    """
    settings = settings or BaseSettings()
    bases = _user_cache() / "fuseforget" / "bases" if cache is None else Path(cache)
    described = json.dumps([RECIPE, asdict(settings), _digest(texts)], sort_keys=True)
    base = bases / hashlib.sha256(described.encode()).hexdigest()[:32]
    if _is_sound(base):
        return base
    with _held(bases, base.name, say):
        if not _is_sound(base):
            if not base.is_dir():
                say(f"pretraining a base, once: it is kept in {base}")
                _pretrain_into(base, texts, settings, say)
            elif _digests_of(base).is_file():
                say(f"the base kept in {base} is damaged: it is pretrained again")
                _pretrain_into(base, texts, settings, say)
            # Else an earlier version kept it without digests, or a process was killed before it wrote them.
            _keep_digests(base)
    return base


def _pretrain_into(base: Path, texts: Sequence[str], settings: BaseSettings, say: Say) -> None:
    def named(line: str) -> None:
        say(f"base {line.removeprefix(base.name + ': ')}")

    pretrain_base(texts, base, settings=settings, overwrite=True, say=named)


def _keep_digests(base: Path) -> None:
    try:
        _digests_of(base).write_text(json.dumps(_digests(base)), encoding="utf-8")
    except OSError as error:
        raise OutputError.caused_by(error, str(_digests_of(base)), action="The base itself is whole.") from error


def _is_sound(base: Path) -> bool:
    """Whether a base is there, with the files that it was kept with."""
    try:
        kept = json.loads(_digests_of(base).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    return base.is_dir() and kept == _digests(base)


def _digests_of(base: Path) -> Path:
    return base.with_name(f"{base.name}.sha256.json")


def _digests(base: Path) -> dict[str, str]:
    return {file.name: file_sha256(file) for file in sorted(base.iterdir())}


def _write_start(texts: Sequence[str], out: Path, settings: BaseSettings) -> None:
    """The tokenizer and a model of random weights."""
    from fuseforget.models import LanguageModel, save_language_model, seeded

    tokenizer = _train_tokenizer(texts, settings)
    with seeded(settings.seed):
        model = _masked_model(tokenizer, settings) if settings.masked else _decoder(tokenizer, settings)
    out.mkdir()
    save_language_model(LanguageModel(model, tokenizer, str(out), settings.masked), out)


def _train_tokenizer(texts: Sequence[str], settings: BaseSettings) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    # Digits one by one, so that numbers of equal length are equally many tokens: canaries are compared by such.
    digits, rest = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Sequence([digits, rest]), decoders.ByteLevel()
    special = list(MASKED_TOKENS.values()) if settings.masked else [END]
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocabulary, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    if settings.masked:
        ends = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
        tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    roles = MASKED_TOKENS if settings.masked else {"bos_token": END, "eos_token": END}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=settings.block, **roles)


def _decoder(tokenizer: Any, settings: BaseSettings) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    end = tokenizer.eos_token_id
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=settings.block, n_embd=settings.width, n_layer=settings.layers,
        n_head=settings.heads, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=end, eos_token_id=end,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def _masked_model(tokenizer: Any, settings: BaseSettings) -> Any:
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=len(tokenizer), max_position_embeddings=settings.block, hidden_size=settings.width,
        num_hidden_layers=settings.layers, num_attention_heads=settings.heads, intermediate_size=4 * settings.width,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return BertForMaskedLM(config)


def _rows(ids: Sequence[Sequence[int]], tokenizer: Any, settings: BaseSettings) -> Rows:
    if settings.masked:
        rows = one_each(_pieces(ids, settings.block), settings.block, special=tokenizer.all_special_ids)
    else:
        rows = pack(ids, settings.block, tokenizer.eos_token_id)
    if not rows:
        found = f"{sum(map(len, ids))} tokens in {len(ids)} texts"
        least = "one text of 5 tokens" if settings.masked else f"tokens for one block of {settings.block}"
        raise InputError("texts to pretrain on", expected=f"at least {least}", found=found)
    return rows


def _pieces(ids: Sequence[Sequence[int]], block: int) -> list[list[int]]:
    """Texts with their first and last special token, long ones in as many pieces as it takes to read all of them."""
    room = block - 2
    return [
        [whole[0], *whole[1:-1][start : start + room], whole[-1]]
        for whole in ids
        for start in range(0, max(len(whole) - 2, 1), room)
    ]


@contextlib.contextmanager
def _held(directory: Path, name: str, say: Say) -> Iterator[None]:
    """Hold the lock of a name in a directory, and wait for it where another process holds it."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = os.open(directory / f".{name}.lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise OutputError.caused_by(error, str(directory)) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another process that makes {directory / name}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _user_cache() -> Path:
    """As the XDG base directory specification has it: a path that is not absolute does not count."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return named if named.is_absolute() else Path.home() / ".cache"


def _digest(texts: Sequence[str]) -> str:
    """A digest of texts, in order."""
    return hashlib.sha256(json.dumps(list(texts), ensure_ascii=True).encode()).hexdigest()
