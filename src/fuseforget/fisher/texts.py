"""The Fisher information of a language model about the texts that another was trained on: ``fuseforget fisher`` as a function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fuseforget.checkpoint import open_checkpoint, refuse_place
from fuseforget.data import Rows, is_memorization_data, load_memorization, one_each, read_documents
from fuseforget.errors import InputError, require_seed
from fuseforget.fisher.files import save_fisher
from fuseforget.fisher.language import language_fisher
from fuseforget.models import LanguageModel, TextReader, draw_masks, load_language_model, max_positions, read_text_reader

__all__ = ["fisher_of_texts", "save_fisher_of_rows"]

Say = Callable[[str], None]


def fisher_of_texts(
    model: str | Path, data: str | Path, out: str | Path, *, parts: Sequence[str] = (), split: str | None = None,
    text: str | None = None, seed: int = 0, overwrite: bool = False, say: Say = lambda line: None,
) -> dict[str, Any]:  # fmt: skip
    """Write a language model's Fisher information about texts as a checkpoint, for methods that take one of each model.

    For ``fisher_consensus`` the model is the base, and the texts are those that one fine-tuned model was trained on.

    Args:
        model: a decoder or a masked model, a directory or a hub id.
        data: a private corpus made by ``fuseforget data memorization``, or documents (:func:`fuseforget.data.read_documents`),
            each a row, cut where it is longer than the model reads; texts that are too short to say anything are left out.
        parts: of a private corpus: the models (A, B, ...) whose parts are read, with the part that all share.
        split, text: of documents: the split (default: train) and the column.
        seed: of the masks of a masked model.

    Returns:
        ``path``, ``model``, ``rows``, ``tokens``, ``cut`` (how many rows were) and ``short`` (how many texts were left out).

    Raises:
        InputError: a model or texts that cannot be read, a corpus that another tokenizer made, parts that the data does not
            have, a split or column of a corpus, or something at ``out``.
    """
    require_seed(seed)
    opened = open_checkpoint(model)
    refuse_place(Path(out), overwrite=overwrite, inputs=[opened.path, Path(data)])
    reader = read_text_reader(opened.path, str(model))
    made = _of_corpus(reader, data, parts, split, text) if is_memorization_data(data) else None
    lm = load_language_model(model)
    rows = _documents(lm, reader, data, parts, split, text) if made is None else made
    for count, what in ((rows.cut, "longer than {} reads, and were cut"), (rows.short, "too short, and were left out")):
        if count:
            say(f"{count} of {len(rows) + rows.short} texts are {what.format(model)}")
    counts = {"rows": len(rows), "tokens": sum(map(len, rows.ids)), "cut": rows.cut, "short": rows.short}
    about = {"data": str(data), "parts": list(parts), "rows_sha256": rows.sha256, **counts}
    save_fisher_of_rows(lm, rows, reader, out, seed=seed, about=about, overwrite=overwrite, say=say)
    return {"path": str(out), "model": str(model), **counts}


def save_fisher_of_rows(
    lm: LanguageModel, rows: Rows, reader: TextReader, out: str | Path, *, seed: int, about: Mapping[str, Any],
    overwrite: bool = False, say: Say = lambda line: None,
) -> None:  # fmt: skip
    """Write a language model's Fisher information about rows, which its reader made, as a checkpoint.

    Args:
        seed: of the masks of a masked model; the manifest has it.
        about: what else the manifest says.
    """
    masks = draw_masks(rows.ids, special=reader.special, seed=seed) if lm.masked else None
    fisher = language_fisher(lm, rows.ids, masks=masks, say=say)
    save_fisher(fisher, lm, out, about={**about, "seed": seed}, overwrite=overwrite)


def _of_corpus(
    reader: TextReader, data: str | Path, parts: Sequence[str], split: str | None, text: str | None
) -> Rows:  # fmt: skip
    corpus = load_memorization(data)
    for given, what in ((split, "split"), (text, "column of texts")):
        if given is not None:
            raise InputError(str(data), expected=f"no {what}, since a private corpus has none", found=given)
    if corpus.settings["tokenizer"] != reader.sha256:
        raise InputError(
            str(data), expected="a corpus read by the model's tokenizer", found="one of another",
            action="Make it again with --tokenizer MODEL.",
        )  # fmt: skip
    if not parts:
        raise InputError(
            str(data), expected=f"the model whose part is read: {', '.join(corpus.models)}", found="none", action="Pass --part."
        )
    return corpus.trained_on(*parts)


def _documents(
    lm: LanguageModel, reader: TextReader, data: str | Path, parts: Sequence[str], split: str | None, text: str | None
) -> Rows:  # fmt: skip
    """Each document as a row, whole or its beginning."""
    if parts:
        raise InputError(str(data), expected="a private corpus, which has parts", found="documents")
    texts = list(read_documents(data, split=split or "train", text=text))
    rows = one_each(reader.encode(texts), max_positions(lm), special=reader.special)
    if not len(rows):
        raise InputError(str(data), expected="texts that are long enough to be read", found=f"none among {len(texts)}")
    return rows
