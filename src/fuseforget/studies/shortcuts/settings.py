"""The settings of a shortcut study, and its scales."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fuseforget.data import ShortcutSettings
from fuseforget.errors import InputError
from fuseforget.knowledge.ranks import FEWEST
from fuseforget.studies.tiny import TINY_BASE, TINY_SCALE
from fuseforget.train import TrainSettings

__all__ = [
    "PARTS", "RANDOM", "RATIO", "SCALES", "SHARED", "TASK", "TRIANGLE", "ShortcutStudy", "base_of", "left_out", "settings_for",
]  # fmt: skip

PAPER_RULES = ("st", "op", "tic", "or", "and", "mt", "lt")
TASK = "task"  # the name of the original validation set's probe
RANDOM = "random"  # the name of the random model
RATIO = ShortcutSettings().ratio
SHARED = {"tic+op": ("tic", "op"), "tic+or": ("tic", "or")}  # Fig. 3: models of two rules each, one of them in both
TRIANGLE = ("st", "op", "or")  # Fig. 7 and 8
# The parts of a study, in the order in which they are done, and the rules that each needs.
PARTS: dict[str, tuple[str, ...]] = {
    "pairs": (), "shared": ("tic", "op", "or"), "triangle": TRIANGLE, "growth": (), "forecast": (), "methods": (),
}  # fmt: skip
USUAL_PARTS = tuple(part for part in PARTS if part != "methods")  # which takes as long as all the others
# Specialists: with two there is one number of fused models; pairs of fewer than four have no ranks to compare.
LEAST = {"growth": 3, "forecast": FEWEST}
PAPER_PAIRS = (
    ("st", "random"), ("op", "tic"), ("op", "st"), ("tic", "st"),  # Fig. 2
    ("op", "random"), ("tic", "random"), ("or", "random"), ("tic", "or"), ("st", "or"), ("op", "or"),  # Fig. 6
)  # fmt: skip


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
        steps: steps of an edge, of a line and of the triangle.
        parts: what is done besides the fused model, names in :data:`PARTS`. They and the pairs do not make a run another: a
            finished run can be asked for more.
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
    parts: tuple[str, ...] = USUAL_PARTS


SCALES = {
    # Rules that the tiny base learns to .95 within four epochs (LT and XOR take it longer), in under three minutes.
    "tiny": ShortcutStudy(
        "tiny", None, None, TINY_SCALE.rules, (("op", "tic"), ("or", "and")), None, TINY_SCALE.train, 1, "both",
        parts=("pairs",),
    ),
    # 12,000 SST-2 sentences are enough for MiniLM to learn a rule in an epoch; the second takes the specialists further
    # apart, as the paper's longer training does. both: 872 examples a probe, not 145.
    "small": ShortcutStudy(
        "small", None, None, PAPER_RULES, PAPER_PAIRS, 12_000,
        TrainSettings(max_epochs=3, min_epochs=2, learning_rate=5e-5, warmup=0.06), 1, "both",
    ),
    "paper": ShortcutStudy(
        "paper", None, None, PAPER_RULES, PAPER_PAIRS, None,
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
    parts: Sequence[str] | None = None,
) -> ShortcutStudy:
    """Return a scale's settings with the user's base, data and choices put in, or raise InputError.

    Of the scale's own parts those are left out that the chosen rules do not allow (:func:`left_out` names them); one that is
    asked for by name is refused then.
    """
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
    asked = _parts(parts, chosen) if parts else tuple(part for part in settings.parts if _lacking(part, chosen) is None)
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
        parts=asked,
    )


def left_out(settings: ShortcutStudy) -> list[str]:
    """The scale's parts that the rules do not allow, and why, a line each."""
    found = {part: _lacking(part, settings.rules) for part in SCALES[settings.scale].parts}
    return [f"no {part}: it needs {lacking}" for part, lacking in found.items() if lacking]


def _parts(parts: Sequence[str], rules: Sequence[str]) -> tuple[str, ...]:
    """The parts asked for, in the order in which they are done."""
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise InputError("part", expected=f"one of {', '.join(PARTS)}", found=", ".join(unknown))
    for part in parts:
        lacking = _lacking(part, rules)
        if lacking:
            raise InputError(f"part {part}", expected=lacking, found=", ".join(rules))
    return tuple(part for part in PARTS if part in parts)


def _lacking(part: str, rules: Sequence[str]) -> str | None:
    """What a part needs that the rules do not give; None where they do."""
    if not set(PARTS[part]) <= set(rules):
        return f"the rules {', '.join(PARTS[part])}"
    least = LEAST.get(part, 0)
    if len(rules) < least:
        return f"{least} rules or more"
    return None


def base_of(settings: ShortcutStudy) -> str | Path:
    return TINY_BASE if settings.base is None else settings.base
