"""The tiny scale: text that the project makes itself, and a small BERT pretrained on such text, shipped with the package.

``python -m fuseforget.studies.tiny`` (``make tiny-base``) pretrains the shipped base again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fuseforget.checkpoint import atomic_directory
from fuseforget.data import Examples
from fuseforget.data.demo_text import review_pairs, sentences, vocabulary
from fuseforget.models import compute_dtype, quiet, seeded
from fuseforget.train import TrainSettings

__all__ = ["TINY_BASE", "TINY_SCALE", "TinyScale", "make_tiny_base", "make_tiny_text"]

TINY_BASE = Path(__file__).parent / "tiny_base"

WORD_SCALE = 0.08  # of a coordinate of a word vector
NEXT_SENTENCE = 2.0  # weight of the next sentence's loss
MOST_FOLLOWING = 32  # words of the next sentence that are predicted
IGNORED = -100  # the collator's label of what is not masked
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True)
class TinyScale:
    """Sizes of the tiny scale, chosen together: a base good enough that its fine-tunes stay connected by a line."""

    rules: tuple[str, ...] = ("op", "tic", "or", "and")
    train_sentences: int = 20_000
    validation_sentences: int = 1000
    hidden: int = 128
    layers: int = 2
    pretraining_reviews: int = 60_000
    pretraining_epochs: int = 4
    pretraining_batch: int = 32
    pretraining_rate: float = 1e-3
    train: TrainSettings = field(
        default_factory=lambda: TrainSettings(max_epochs=4, min_epochs=2, learning_rate=1e-3, batch_size=32, warmup=0.1)
    )


TINY_SCALE = TinyScale()


def make_tiny_text(seed: int, size: TinyScale = TINY_SCALE) -> dict[str, Examples]:
    """Labelled one-line reviews for training and validation, no sentence in both."""
    names = ("negative", "positive")
    held_out = sentences(size.validation_sentences, seed=[seed, 1])
    rows = sentences(size.train_sentences, seed=[seed, 2], exclude={text for text, _ in held_out})
    parts = {"train": rows, "validation": held_out}
    return {name: Examples(tuple(t for t, _ in part), tuple(y for _, y in part), names) for name, part in parts.items()}


def make_tiny_base(out: Path, *, seed: int = 0, size: TinyScale = TINY_SCALE, overwrite: bool = False) -> None:
    """Pretrain a small BERT by masked language modelling on unlabelled reviews and write it to ``out``."""
    from transformers import BertConfig, BertForMaskedLM

    tokenizer = _tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=4,
        intermediate_size=2 * size.hidden,
        max_position_embeddings=80,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.06,  # about 1/sqrt(hidden): BERT's .02 is made for 768
        pad_token_id=tokenizer.pad_token_id,
    )
    pairs = review_pairs(size.pretraining_reviews, seed=[seed, 3])
    first, second = (tokenizer(list(texts), truncation=True)["input_ids"] for texts in zip(*pairs, strict=True))
    with seeded(seed):
        model = BertForMaskedLM(config)
        vectors = word_vectors([a + b for a, b in zip(first, second, strict=True)], len(tokenizer), size.hidden)
        with torch.no_grad():
            model.bert.embeddings.word_embeddings.weight[len(SPECIAL_TOKENS) :] = torch.from_numpy(vectors)[len(SPECIAL_TOKENS) :]
        _pretrain(model, tokenizer, first, second, seed, size)
    with atomic_directory(out, overwrite=overwrite) as partial, quiet():
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate([*SPECIAL_TOKENS, *vocabulary()])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(token, words[token]) for token in ("[CLS]", "[SEP]")]
    )
    roles = {f"{token[1:-1].lower()}_token": token for token in SPECIAL_TOKENS}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=80, **roles)


def word_vectors(reviews: Sequence[Sequence[int]], vocabulary: int, width: int) -> npt.NDArray[np.float32]:
    """Return vectors of words from which of them share a review, to start pretraining from.

    Eigenvectors of the pointwise mutual information between words, scaled by the roots of their eigenvalues (Levy and
    Goldberg 2014); each vector has length one on ``WORD_SCALE`` a coordinate.
    """
    present = np.zeros((len(reviews), vocabulary), dtype=np.float32)  # reviews x words
    for row, ids in enumerate(reviews):
        present[row, list(ids)] = 1
    together = present.T @ present + 1
    often = np.diag(together)
    information = np.clip(np.log(together * len(reviews) / np.outer(often, often)), -2, 2).astype(np.float64)
    np.fill_diagonal(information, 0)
    values, vectors = np.linalg.eigh(information)
    strongest = np.argsort(-np.abs(values))[:width]
    scaled = vectors[:, strongest] * np.sqrt(np.abs(values[strongest]))
    # A random rotation spreads the strong directions over all coordinates, and so over all attention heads.
    rotation, _ = np.linalg.qr(torch.randn(width, width, dtype=torch.float64).numpy())
    unit = scaled / (np.linalg.norm(scaled, axis=1, keepdims=True) + 1e-9) @ rotation
    result: npt.NDArray[np.float32] = (unit * WORD_SCALE * np.sqrt(width)).astype(np.float32)
    return result


def _pretrain(model: Any, tokenizer: Any, first: list[list[int]], second: list[list[int]], seed: int, size: TinyScale) -> None:
    """Two losses, each in nats a word: masked words, and the words of a review's next sentence from the first token.

    The second (a bag-of-words form of skip-thought, Kiros et al. 2015) gives the first token, which classification reads,
    something to say: what a review goes on with depends on its opinion.
    """
    from datasets import Dataset
    from transformers import DataCollatorForLanguageModeling, PrinterCallback, Trainer, TrainingArguments

    class Pretrainer(Trainer):  # type: ignore[misc]
        """Adds the loss of the next sentence to that of the masked words."""

        def compute_loss(self, model: Any, inputs: dict[str, Any], **kwargs: Any) -> torch.Tensor:
            following = inputs.pop("following")
            labels = inputs.pop("labels")
            hidden = model.bert(**inputs).last_hidden_state  # texts x tokens x hidden
            masked = labels != IGNORED
            masked_words = torch.nn.functional.cross_entropy(model.cls(hidden[masked]).float(), labels[masked])
            predicted = model.cls(hidden[:, 0]).float().log_softmax(-1).gather(1, following)  # texts x next words
            real = following != pad
            total: torch.Tensor = masked_words - NEXT_SENTENCE * predicted[real].mean()
            return total

    pad = tokenizer.pad_token_id
    words = [ids[1:-1][:MOST_FOLLOWING] for ids in second]  # without [CLS] and [SEP]
    following = [ids + [pad] * (MOST_FOLLOWING - len(ids)) for ids in words]
    rows = Dataset.from_dict({"input_ids": first, "following": following, "length": [len(ids) for ids in first]})
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            output_dir=scratch,
            num_train_epochs=size.pretraining_epochs,
            learning_rate=size.pretraining_rate,
            warmup_steps=50,
            per_device_train_batch_size=size.pretraining_batch,
            train_sampling_strategy="group_by_length",
            remove_unused_columns=False,
            bf16=compute_dtype() == torch.bfloat16,
            use_cpu=not torch.cuda.is_available(),
            seed=seed,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            logging_strategy="epoch",
            dataloader_pin_memory=torch.cuda.is_available(),
        )
        masks = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.2, seed=seed)

        def collate(batch: list[dict[str, Any]]) -> dict[str, Any]:
            inputs = masks([{"input_ids": row["input_ids"]} for row in batch])
            return {**inputs, "following": torch.tensor([row["following"] for row in batch])}

        trainer = Pretrainer(model=model, args=arguments, train_dataset=rows, data_collator=collate)
        trainer.remove_callback(PrinterCallback)
        with quiet():
            trainer.train()


if __name__ == "__main__":
    make_tiny_base(TINY_BASE, overwrite=True)
