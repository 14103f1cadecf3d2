"""How a language model reads texts, known without its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuseforget.errors import InputError
from fuseforget.models.language import is_masked, tokenizer_sha256
from fuseforget.models.pretrained import positions

__all__ = ["TextReader", "read_text_reader"]

NO_LIMIT = 10**9  # tokenizers without a limit say a larger number


@dataclass(frozen=True)
class TextReader:
    """What making rows of texts needs of a model.

    Attributes:
        masked: whether the model is a masked language model.
        window: how many tokens it reads at once; None where neither its configuration nor its tokenizer says.
        vocabulary: how many tokens it predicts among; None without a configuration.
        sha256: of the tokenizer (:func:`fuseforget.models.tokenizer_sha256`).
    """

    tokenizer: Any
    masked: bool
    window: int | None
    vocabulary: int | None
    sha256: str

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids, with special tokens for a masked model alone."""
        ids = self.tokenizer(list(texts), add_special_tokens=self.masked, return_attention_mask=False, verbose=False)["input_ids"]
        return [list(one) for one in ids]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """The text of each row."""
        return [str(text) for text in self.tokenizer.batch_decode([list(row) for row in rows])]

    @property
    def separator(self) -> int | None:
        """What stands between packed documents."""
        return None if self.masked else self.tokenizer.eos_token_id

    @property
    def special(self) -> frozenset[int]:
        """The tokens that encoding adds; an unknown word's is none of them."""
        found = set(self.tokenizer.all_special_ids) - {self.tokenizer.unk_token_id}
        return frozenset(found) if self.masked else frozenset()


def read_text_reader(directory: Path, source: str) -> TextReader:
    """Read a directory's tokenizer and, where it has one, its model's configuration.

    Args:
        source: what messages call it.

    Raises:
        InputError: no tokenizer that transformers can load, a model that is no language model, or a masked one whose
            tokenizer has no mask.
    """
    from transformers import AutoConfig, AutoTokenizer

    described = (directory / "config.json").is_file()
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        config = AutoConfig.from_pretrained(directory, local_files_only=True) if described else None
    # A damaged tokenizer.json ends in whatever the libraries' code meets first, tokenizers' bare Exception too.
    except Exception as error:
        found = f"{type(error).__name__}: {' '.join(str(error).split()):.300}"
        raise InputError(source, expected="a tokenizer that transformers can load", found=found) from error
    named = config is not None and bool(config.architectures)
    masked = is_masked(directory) if named else tokenizer.mask_token_id is not None
    if masked and tokenizer.mask_token_id is None:
        raise InputError(
            f"the tokenizer of {source}", expected="a mask token, since the model predicts masked tokens", found="none"
        )
    known = (tokenizer.model_max_length, None if config is None else positions(config))
    window = min((int(length) for length in known if length), default=0)
    vocabulary = None if config is None else config.get_text_config().vocab_size
    return TextReader(tokenizer, masked, window if 0 < window < NO_LIMIT else None, vocabulary, tokenizer_sha256(tokenizer))
