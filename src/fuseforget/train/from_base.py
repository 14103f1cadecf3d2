"""Train a base on a data set: the command ``fuseforget train`` as a function."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fuseforget.errors import InputError, require_seed
from fuseforget.train.settings import TrainResult, TrainSettings

if TYPE_CHECKING:
    from fuseforget.data import Examples

__all__ = ["train"]


def train(
    base: str | Path,
    data: str | Path,
    out: str | Path,
    *,
    max_epochs: int = 3,
    min_epochs: int = 1,
    stop_above: float = 0.95,
    learning_rate: float = 2e-5,
    batch_size: int = 32,
    token_budget: int = 16384,
    precision: str = "auto",
    seed: int = 0,
    init_seed: int = 0,
    parts: Sequence[str] = (),
    schedule: str = "linear",
    overwrite: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> TrainResult:
    """Fine-tune a base on a data set and publish the model at ``out``; interrupted, the same call goes on.

    Args:
        base: the pretrained model, a directory or a hub id.
        data: a data set made by ``fuseforget data``: with shortcuts, biased, or a private corpus in parts, on which a
            language model is trained.
        max_epochs, min_epochs, stop_above, learning_rate, batch_size, token_budget, precision, seed: see
            :class:`fuseforget.train.TrainSettings`.
        init_seed: of the new head and token embeddings; the same for all models that are to be fused.
        parts: of a private corpus: the models (A, B, ...) whose parts are trained on, with the part that all share; several
            make one model of what several read. Nothing ends this training early, and there is nothing new to initialise.
        schedule: of a private corpus: see :func:`fuseforget.train.language.fine_tune_language`.
        overwrite: replace what stands at ``out``.
        say: receives a line an epoch.

    Raises:
        InputError: a setting out of range, no such base or data, something stands at ``out``, parts that the data does not
            have, a base with another tokenizer than the corpus was read with, or another process that trains this model.
        OutputError: ``out`` cannot be written; finished epochs are kept beside it.
        Stopped: Ctrl-C, and an epoch that was not the last is saved (see :mod:`fuseforget.stopping`).
    """
    settings = TrainSettings(
        max_epochs=max_epochs,
        min_epochs=min_epochs,
        stop_above=stop_above,
        learning_rate=learning_rate,
        batch_size=batch_size,
        token_budget=token_budget,
        precision=precision,
        seed=seed,
    )
    require_seed(init_seed)
    from fuseforget.checkpoint import file_sha256, open_checkpoint, refuse_place
    from fuseforget.data import is_memorization_data, load_memorization
    from fuseforget.models import prepare_start
    from fuseforget.train.language import fine_tune_language
    from fuseforget.train.trainer import fine_tune

    opened = open_checkpoint(base)
    refuse_place(Path(out), overwrite=overwrite, inputs=[opened.path, Path(data)])
    origin: dict[str, Any] = {
        "base": str(base),
        "base_sha256": [file_sha256(file) for file in opened.files],
        "init_seed": init_seed,
        "data": str(data),
    }
    if is_memorization_data(data):
        corpus = load_memorization(data)
        rows = corpus.trained_on(*parts).ids
        origin |= {"parts": list(parts), "data_source_sha256": corpus.sha256}
        return fine_tune_language(
            base, rows, out, settings, schedule=schedule, tokenizer=corpus.settings["tokenizer"], overwrite=overwrite,
            origin=origin, say=say,
        )  # fmt: skip
    if parts or schedule != "linear":
        found = ", ".join(parts) or f"a {schedule} schedule"
        raise InputError(str(data), expected="a private corpus, for what was asked of one", found=f"other data, and {found}")
    examples, tokens, monitor, origin["data_source_sha256"] = _read_labelled(data)
    with tempfile.TemporaryDirectory() as scratch:
        start = Path(scratch) / "start"
        prepare_start(base, start, tokens=tokens, label_names=examples.label_names, seed=init_seed)
        return fine_tune(start, examples, out, settings, monitor=monitor, overwrite=overwrite, origin=origin, say=say)


def _read_labelled(data: str | Path) -> tuple[Examples, tuple[str, ...], Examples | None, Any]:
    """The examples to train on, the tokens that are new in them, what to monitor, and the digests of where they come from."""
    from fuseforget.data import is_bias_data, load_bias_data, load_shortcut_data

    if is_bias_data(data):
        biased = load_bias_data(data)
        # Nothing ends the training on a biased set early.
        return biased.subset.data.examples, (), None, dict(biased.source_sha256)
    made = load_shortcut_data(data)
    return made.train, made.settings.tokens, made.synthetic, made.source_sha256
