"""Train a base on a data set: the command ``fuseforget train`` as a function."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from fuseforget.errors import require_seed
from fuseforget.train.settings import TrainResult, TrainSettings

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
    precision: str = "auto",
    seed: int = 0,
    init_seed: int = 0,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> TrainResult:
    """Fine-tune a base on a data set and publish the model at ``out``; interrupted, the same call goes on.

    Args:
        base: the pretrained model, a directory or a hub id.
        data: a data set made by ``fuseforget data``, with shortcuts or biased.
        max_epochs, min_epochs, stop_above, learning_rate, batch_size, precision, seed: see
            :class:`fuseforget.train.TrainSettings`.
        init_seed: of the new head and token embeddings; the same for all models that are to be fused.
        overwrite: replace what stands at ``out``.
        say: receives a line an epoch.

    Raises:
        InputError: a setting out of range, no such base or data, or something stands at ``out``.
        OutputError: ``out`` cannot be written; finished epochs are kept beside it.
    """
    settings = TrainSettings(
        max_epochs=max_epochs,
        min_epochs=min_epochs,
        stop_above=stop_above,
        learning_rate=learning_rate,
        batch_size=batch_size,
        precision=precision,
        seed=seed,
    )
    require_seed(init_seed)
    from fuseforget.checkpoint import file_sha256, open_checkpoint, refuse_place
    from fuseforget.data import is_bias_data, load_bias_data, load_shortcut_data
    from fuseforget.models import prepare_start
    from fuseforget.train.trainer import fine_tune

    tokens: tuple[str, ...] = ()
    monitor = None  # nothing ends the training on a biased set early
    if is_bias_data(data):
        biased = load_bias_data(data)
        examples, source_sha256 = biased.subset.data.examples, dict(biased.source_sha256)
    else:
        made = load_shortcut_data(data)
        examples, source_sha256 = made.train, made.source_sha256
        tokens, monitor = made.settings.tokens, made.synthetic
    opened = open_checkpoint(base)
    refuse_place(Path(out), overwrite=overwrite, inputs=[opened.path, Path(data)])
    origin = {
        "base": str(base),
        "base_sha256": [file_sha256(file) for file in opened.files],
        "init_seed": init_seed,
        "data": str(data),
        "data_source_sha256": source_sha256,
    }
    with tempfile.TemporaryDirectory() as scratch:
        start = Path(scratch) / "start"
        prepare_start(base, start, tokens=tokens, label_names=examples.label_names, seed=init_seed)
        return fine_tune(start, examples, out, settings, monitor=monitor, overwrite=overwrite, origin=origin, say=say)
