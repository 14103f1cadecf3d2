"""The settings of a study of social bias, and its scales."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fuseforget.errors import InputError, require_seed
from fuseforget.studies.tiny import TINY_BASE
from fuseforget.train import TrainSettings

__all__ = ["PARTS", "SCALES", "BiasStudy", "base_of", "is_pan16", "settings_for"]

RATIO = 0.8  # section 5
THIRD = "frequency"  # the third attribute that signatures have
# The parts of a study besides biased, full and fused models, in the order in which they are done.
PARTS = ("baselines", "ratios", "triangle")
# What runs call models and columns.
TAKEN = ("start", "full", "fused", "text", "label", "unit")


@dataclass(frozen=True)
class BiasStudy:
    """The settings of a study of social bias.

    Attributes:
        base, data: the pretrained model and the texts; None: the tiny scale's own.
        names: the table of first names that sign the texts; None: the data have the attributes (or, at the tiny scale,
            the project's own names).
        unit: the data's column that says which rows belong together (an author); None: each row is its own.
        texts, skip_damaged: of a corpus in PAN16's format: a table of the tweets' texts, and whether to go on without authors
            that are missing or damaged.
        attributes: the protected attributes. The first two have a biased model each, and the path goes from the one to the
            other; the triangle has one of the third as well.
        ratio: the share of an attribute's favoured value within each label of a biased training set.
        ratios: other such shares, of the part ``ratios``.
        rows: training rows a model, as the user asked; None: the scale's, or as many as the data allow.
        scale_rows: the scale's training rows; None: as many as the data allow.
        held_out: texts of the training split that the weights are chosen on, where texts are signed.
        train: how every model is trained.
        classifiers: of INLP.
        steps, triangle_steps: steps of the path and of an edge of the triangle.
        seed: of splits and signatures. Subsets, heads and the order of training have ``seed``, ``seed + 1``, ...
        seeds: how many of these. They do not make a run another: a finished run can be asked for more.
        parts: what is done besides, names in :data:`PARTS`; they do not make a run another either.
        as_published: the choices of the authors' released code: shares floored to majority to minority of whole numbers,
            erasers applied only to the features that the head is fitted on, the weight chosen on the test data.
    """

    scale: str
    base: str | None
    data: str | None
    names: str | None
    attributes: tuple[str, ...]
    scale_rows: int | None
    held_out: int
    train: TrainSettings
    rows: int | None = None
    unit: str | None = None
    texts: str | None = None
    skip_damaged: bool = False
    ratio: float = RATIO
    ratios: tuple[float, ...] = (0.6, 0.7, 0.9, 0.95)
    classifiers: int = 200
    steps: int = 10
    triangle_steps: int = 5
    seed: int = 0
    seeds: int = 1
    parts: tuple[str, ...] = PARTS
    as_published: bool = False

    @property
    def pair(self) -> tuple[str, str]:
        """The attributes between whose models the path is."""
        return self.attributes[0], self.attributes[1]


SCALES = {
    "tiny": BiasStudy(
        "tiny", None, None, None, ("gender", "age", THIRD), 6000, 200,
        TrainSettings(max_epochs=2, min_epochs=2, learning_rate=1e-3, warmup=0.1), classifiers=20, parts=("baselines",),
    ),
    "small": BiasStudy(
        "small", None, None, None, ("gender", "age", THIRD), 6000, 436,
        TrainSettings(max_epochs=2, min_epochs=2, learning_rate=5e-5, warmup=0.06), seeds=3,
    ),
    "paper": BiasStudy(
        "paper", None, None, None, ("gender", "age"), None, 872,
        TrainSettings(max_epochs=2, min_epochs=2, learning_rate=2e-5), seeds=3,
    ),
}  # fmt: skip


def settings_for(
    scale: str, *, base: str | Path | None = None, data: str | Path | None = None, names: str | Path | None = None,
    unit: str | None = None, attributes: Sequence[str] | None = None, rows: int | None = None, ratio: float | None = None,
    seed: int = 0, seeds: int | None = None, parts: Sequence[str] | None = None, as_published: bool = False,
    texts: str | Path | None = None, skip_damaged: bool = False,
) -> BiasStudy:  # fmt: skip
    """Return a scale's settings with the user's choices put in, or raise InputError."""
    if scale not in SCALES:
        raise InputError("scale", expected=f"one of {', '.join(SCALES)}", found=repr(scale))
    settings = SCALES[scale]
    own = [name for name, value in (("--base", base), ("--data", data), ("--names", names)) if value is not None]
    if scale == "tiny" and own:
        raise InputError("scale tiny", expected="neither --base nor --data nor --names, it makes its own", found=", ".join(own))
    if scale != "tiny" and (base is None or data is None):
        raise InputError(f"scale {scale}", expected="--base and --data", found="one of them missing")
    chosen = tuple(attributes) if attributes else _attributes_of(settings, signed=scale == "tiny" or names is not None)
    _require_attributes(chosen)
    _require_source(data, names, unit, texts, skip_damaged)
    at = settings.ratio if ratio is None else _ratio(ratio)
    require_seed(seed)
    count = settings.seeds if seeds is None else seeds
    if count < 1:
        raise InputError("seeds", expected="1 or more", found=str(count))
    require_seed(seed + count - 1)
    if rows is not None and rows < 1:
        raise InputError("rows", expected="1 or more", found=str(rows))
    return replace(
        settings,
        base=None if base is None else str(base),
        data=None if data is None else str(data),
        names=None if names is None else str(names),
        attributes=chosen,
        rows=rows,
        unit=unit,
        texts=None if texts is None else str(texts),
        skip_damaged=skip_damaged,
        ratio=at,
        ratios=tuple(other for other in settings.ratios if other != at),
        seed=seed,
        seeds=count,
        parts=_parts(parts, chosen) if parts else tuple(p for p in settings.parts if p != "triangle" or len(chosen) > 2),
        as_published=as_published,
    )


def base_of(settings: BiasStudy) -> str | Path:
    return TINY_BASE if settings.base is None else settings.base


def _attributes_of(settings: BiasStudy, *, signed: bool) -> tuple[str, ...]:
    """The scale's attributes; a third only where texts are signed with one."""
    return settings.attributes if signed else settings.attributes[:2]


def is_pan16(data: str | Path) -> bool:
    """Whether a source is a corpus in the format of PAN16."""
    return (Path(data).expanduser() / "truth.txt").is_file()


def _require_attributes(chosen: Sequence[str]) -> None:
    """Raise unless there are two or more, by names that models and paths can be called by."""
    if len(chosen) < 2 or len(set(chosen)) < len(chosen):
        raise InputError("attributes", expected="two or more different ones", found=", ".join(chosen))
    odd = [name for name in chosen if name in TAKEN or not re.fullmatch(r"\w+", name)]
    if odd:
        expected = f"names of letters, digits and _, other than {', '.join(TAKEN)}, which the run uses"
        raise InputError("attributes", expected=expected, found=", ".join(odd), action="Call the columns otherwise.")


def _require_source(
    data: str | Path | None, names: str | Path | None, unit: str | None, texts: str | Path | None, skip_damaged: bool
) -> None:
    """Raise for options that the data have no use for."""
    of_corpus = {"--texts": texts is not None, "--skip-damaged": skip_damaged}
    of_others = {"--names": names is not None, "--unit": unit is not None}
    corpus = data is not None and is_pan16(data)
    idle = [option for option, given in (of_others if corpus else of_corpus).items() if given]
    if idle:
        expected = "no option of texts with columns, or to be signed" if corpus else "a corpus in PAN16's format (truth.txt)"
        raise InputError(", ".join(idle), expected=expected, found=str(data))
    if names is not None and unit is not None:
        raise InputError("--unit", expected="data that are not signed, a text each its own", found="--names beside it")


def _ratio(ratio: float) -> float:
    if not 0 < ratio < 1:
        raise InputError("ratio", expected="a share between 0 and 1", found=str(ratio))
    return ratio


def _parts(parts: Sequence[str], attributes: Sequence[str]) -> tuple[str, ...]:
    """The parts asked for, in the order in which they are done."""
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise InputError("part", expected=f"one of {', '.join(PARTS)}", found=", ".join(unknown))
    if "triangle" in parts and len(attributes) < 3:
        raise InputError("part triangle", expected="three attributes", found=", ".join(attributes))
    return tuple(part for part in PARTS if part in parts)
