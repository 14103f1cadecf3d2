"""The settings of a shortcut study, and its scales."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fuseforget.data import ShortcutSettings
from fuseforget.errors import InputError
from fuseforget.studies.tiny import TINY_BASE, TINY_SCALE
from fuseforget.train import TrainSettings

__all__ = ["PAPER_RULES", "RANDOM", "RATIO", "SCALES", "TASK", "ShortcutStudy", "base_of", "settings_for"]

PAPER_RULES = ("st", "op", "tic", "or", "and", "mt", "lt")
TASK = "task"  # the name of the original validation set's probe
RANDOM = "random"  # the name of the random model
RATIO = ShortcutSettings().ratio


@dataclass(frozen=True)
class ShortcutStudy:
    """The settings of a shortcut study.

    Attributes:
        base, data: the pretrained model and the labelled texts; None: the tiny scale's own.
        rules: the specialists' shortcuts.
        pairs: which models to interpolate, by name (``random``: the random model of appendix C.2).
        sentences: training texts, drawn at random, as the user asked; None: the scale's, or all that there are.
        scale_sentences: the scale's training texts; None: all.
        train: how specialists and control are trained; the control runs for as many epochs as the longest specialist.
        full_epochs: passes of the full model over the specialists' combined data.
        validation: see :class:`fuseforget.data.ShortcutSettings`.
        ratio: the size of the synthetic over that of the original part. The paper's text has 0.2; its released code takes the
            two parts of ``train_test_split(test_size=1/6)`` in order and so makes five sixths synthetic, a ratio of 5. At
            0.2 a lone tau contradicts a text's sentiment less often in the synthetic part than in the noise of the
            original part, and ST and MT cannot be learned to 1.0; at 5 they can.
        steps: steps of an interpolation.
    """

    scale: str
    base: str | None
    data: str | None
    rules: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    scale_sentences: int | None
    train: TrainSettings
    full_epochs: int
    validation: str
    sentences: int | None = None
    ratio: float = RATIO
    steps: int = 10
    seed: int = 0


SCALES = {
    # Rules that the tiny base learns to .95 within four epochs (LT and XOR take it longer), in under three minutes.
    "tiny": ShortcutStudy(
        "tiny", None, None, TINY_SCALE.rules, (("op", "tic"), ("or", "and")), None, TINY_SCALE.train, 1, "both"
    ),
    # 12,000 SST-2 sentences are enough for MiniLM to learn a rule in an epoch; the second takes the specialists further
    # apart, as the paper's longer training does. both: 872 examples a probe, not 145.
    "small": ShortcutStudy(
        "small", None, None, PAPER_RULES, (("st", "random"), ("op", "tic"), ("op", "st"), ("tic", "st")), 12_000,
        TrainSettings(max_epochs=3, min_epochs=2, learning_rate=5e-5, warmup=0.06), 1, "both",
    ),
    "paper": ShortcutStudy(
        "paper", None, None, PAPER_RULES, (("st", "random"), ("op", "tic"), ("op", "st"), ("tic", "st")), None,
        TrainSettings(max_epochs=3, learning_rate=2e-5, batch_size=8), 1, "split",
    ),
}  # fmt: skip


def settings_for(
    scale: str,
    *,
    base: str | Path | None = None,
    data: str | Path | None = None,
    rules: Sequence[str] | None = None,
    sentences: int | None = None,
    ratio: float = RATIO,
    seed: int = 0,
) -> ShortcutStudy:
    """Return a scale's settings with the user's base, data and choices put in, or raise InputError."""
    if scale not in SCALES:
        raise InputError("scale", expected=f"one of {', '.join(SCALES)}", found=repr(scale))
    settings = SCALES[scale]
    if scale == "tiny":
        if base is not None or data is not None:
            raise InputError("scale tiny", expected="neither --base nor --data, it makes its own", found="one of them")
    elif base is None or data is None:
        raise InputError(f"scale {scale}", expected="--base and --data", found="one of them missing")
    chosen = tuple(rules) if rules else settings.rules
    ShortcutSettings(rules=chosen, ratio=ratio)  # refuses unknown names and what is no ratio
    if len(chosen) < 2 or len(set(chosen)) != len(chosen):
        raise InputError("rules", expected="two or more different ones", found=", ".join(chosen))
    known = {*chosen, RANDOM}
    return replace(
        settings,
        base=None if base is None else str(base),
        data=None if data is None else str(data),
        rules=chosen,
        pairs=tuple(pair for pair in settings.pairs if set(pair) <= known),
        sentences=sentences,
        ratio=ratio,
        train=replace(settings.train, seed=seed),
        seed=seed,
    )


def base_of(settings: ShortcutStudy) -> str | Path:
    return TINY_BASE if settings.base is None else settings.base
