"""The diagonal of the Fisher information of a language model about the texts that are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from fuseforget.errors import InputError
from fuseforget.fisher.diagonal import Fisher, require_finite
from fuseforget.fisher.gradients import gradients_kept, squares_of
from fuseforget.models import LanguageModel, Masks, load_language_model
from fuseforget.models.energies import readings_of
from fuseforget.models.logits import Reading, seen

__all__ = ["language_fisher"]

SAID_EVERY = 50  # rows
Say = Callable[[str], None]


def language_fisher(
    model: LanguageModel | str | Path, rows: Sequence[Sequence[int]], *, masks: Masks | None = None,
    say: Say = lambda line: None,
) -> Fisher:  # fmt: skip
    """Return the sum over rows of ``(d E(row) / d theta)^2`` for each parameter: the empirical Fisher information.

    ``E(row)`` is the row's energy in nats (paper, Eq. 15 of a decoder, Eq. 16 of a masked model). Rows are added up and
    not averaged, so that a row adds the same to the information of every model that read it, whatever else that model read. It
    is computed in the model's type without dropout, a row at a time, and added up in float32 or wider; memory is a copy of the
    parameters beside the model, a gradient and a row's activations.

    Args:
        model: a decoder or a masked model, or a directory or hub id of one. It is left as it was, with the gradients it had.
        rows: token ids.
        masks: for a masked model, and only for one: :func:`fuseforget.models.draw_masks` of the same rows.

    Returns:
        A tensor for each of the model's parameters, by name and in its shape, in squared nats per squared unit of the parameter;
        one that several modules share is there once, with what all its uses ask of it.

    Raises:
        InputError: no rows, or rows and masks that :func:`fuseforget.models.energies` refuses.
        FuseForgetError: a gradient that is not finite, by the tensor's name.
    """
    lm = model if isinstance(model, LanguageModel) else load_language_model(model)
    if len(rows) == 0:
        raise InputError("rows", expected="at least one", found="none")
    readings = readings_of(lm, rows, masks)
    of_row = len(readings) // len(rows)
    parameters = dict(lm.model.named_parameters())
    totals = {name: _zeros_for_sums(parameter) for name, parameter in parameters.items()}
    with gradients_kept(lm.model), squares_of(parameters, totals):
        for number in range(len(rows)):
            _energy(lm, readings[number * of_row : (number + 1) * of_row]).backward()  # type: ignore[no-untyped-call]
            if number % SAID_EVERY == SAID_EVERY - 1 and number + 1 < len(rows):
                say(f"{lm.source}: Fisher of {number + 1} of {len(rows)} rows")
    require_finite(totals, lm.source)
    return totals


def _zeros_for_sums(parameter: torch.Tensor) -> torch.Tensor:
    """In 16 bits a sum would soon take no more of what is added, and small squares would vanish."""
    wide = torch.promote_types(parameter.dtype, torch.float32)
    return torch.zeros(parameter.shape, dtype=wide, device=parameter.device)


def _energy(lm: LanguageModel, readings: Sequence[Reading]) -> torch.Tensor:
    """The energy of the row that these are the readings of: their mean."""
    ids, shown, places, positions = seen(lm, readings)
    logits = lm.model(input_ids=ids, attention_mask=shown).logits[places, positions]
    tokens = torch.cat([torch.from_numpy(reading.tokens) for reading in readings]).to(logits.device)
    return torch.nn.functional.cross_entropy(logits, tokens, reduction="sum") / len(readings)
