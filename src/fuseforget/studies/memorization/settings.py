"""The settings of a study of memorization, and its scales."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import gcd
from pathlib import Path
from string import ascii_uppercase

from fuseforget.errors import InputError, require_seed
from fuseforget.train import TrainSettings

__all__ = ["PARTS", "RECIPES", "SCALES", "MemorizationStudy", "settings_for"]

# The parts of a study besides single, full and fused models, in the order in which they are done.
PARTS = ("epochs", "fixed", "methods", "alternatives")
RECIPES = ("split-train-fuse",)
LEAST_MODELS, MOST_MODELS = 2, 8
LEAST_HELD_OUT = 10  # rows: two a fold of the blind baseline


@dataclass(frozen=True)
class MemorizationStudy:
    """The settings of a study of memorization.

    Attributes:
        base: the pretrained model, a decoder or a masked language model; None: the study pretrains a small one.
        masked: whether a base of the study's own is a masked language model.
        data: the articles; None: the tiny scale's own. Of a base of the study's own, half of them are what it is pretrained on,
            and the other half the private ones.
        pretrain: further files that a base of the study's own is pretrained on.
        text, split: the column of the articles and the split that is read.
        models: how many models are trained, each on rows of its own and the shared ones.
        rows: training rows a model, shared ones included.
        shared: rows that all models are trained on.
        total: rows of all models together where that is fixed (Fig. 11, 12), shared ones included.
        control: rows that no model is trained on: the non-members of attacks.
        validation: rows for perplexity, and for the threshold of MIA recall.
        block: tokens a row of a decoder; at most what the base reads. Masked language models read one article a row.
        train: how every model is trained.
        epochs: other numbers of epochs, of the part ``epochs`` (Table 6).
        decays, epsilons: weight decay and privacy budgets of the part ``alternatives``; private_epochs: of private training,
            which learns little after the first and is slow.
        canaries: how many canaries go to each model's own rows, to the shared rows, and to none, for each number of repeats.
        repeats: how often a canary is inserted.
        near_duplicates: keep articles that are near-duplicates of each other on one side of every split.
        recipe: None, or ``split-train-fuse``: all articles are split among the models, and training on everything once is what
            the fused model is compared with. Of a recipe, rows of 0 are as many as the articles give.
        parts: what is done besides, names in :data:`PARTS`. They do not make a run another: it can be asked for more.
        seed: of splits, canaries and the order of training.
    """

    scale: str
    base: str | None
    data: str | None
    rows: int
    shared: int
    total: int
    control: int
    validation: int
    block: int
    train: TrainSettings
    masked: bool = False
    pretrain: tuple[str, ...] = ()
    text: str | None = None
    split: str = "train"
    models: int = 4
    epochs: tuple[int, ...] = (5, 15, 20)
    decays: tuple[float, ...] = (1.0, 10.0)
    epsilons: tuple[float, ...] = (8.0,)
    private_epochs: int = 3
    canaries: int = 4
    repeats: tuple[int, ...] = (1, 4, 16)
    near_duplicates: bool = True
    recipe: str | None = None
    parts: tuple[str, ...] = PARTS
    seed: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The models, and the rows that each has of its own: A, B, C, ..."""
        return tuple(ascii_uppercase[: self.models])

    @property
    def few(self) -> tuple[str, ...]:
        """The models of the parts beside the main one: the paper's tables have three."""
        return self.names[:3]

    @property
    def own(self) -> int:
        """Rows that one model alone is trained on."""
        return self.rows - self.shared

    @property
    def numbers(self) -> range:
        """The numbers of models that are fused."""
        return range(2, self.models + 1)

    @property
    def atom(self) -> int:
        """The rows of the smallest part that the articles are split in.

        Every training set is a union of such parts and the shared one, with articles of their own each, so that the same rows
        can be divided among two models and among three.
        """
        if not self.divisible:
            return self.own
        return gcd(self.own, *((self.total - self.shared) // n for n in self.numbers))

    @property
    def atoms(self) -> int:
        """How many of these there are."""
        return max(self.models * self.own, self.total - self.shared if self.divisible else 0) // self.atom

    @property
    def divisible(self) -> bool:
        """Whether the fixed total can be divided among every number of models."""
        return self.recipe is None and all((self.total - self.shared) % n == 0 for n in self.numbers)


def _rate(rate: float, epochs: int, warmup: float = 0.0) -> TrainSettings:
    return TrainSettings(max_epochs=epochs, min_epochs=epochs, learning_rate=rate, batch_size=16, warmup=warmup)


SCALES = {
    False: {
        "tiny": MemorizationStudy(
            "tiny", None, None, 56, 24, 120, 400, 30, 96, _rate(3e-3, 10), models=3, epochs=(3,), decays=(1.0,),
            canaries=3, repeats=(1, 4), parts=("alternatives",),
        ),
        "small": MemorizationStudy("small", None, None, 240, 80, 560, 1000, 200, 128, _rate(1e-3, 10)),
        "paper": MemorizationStudy("paper", None, None, 3000, 1000, 10_000, 2000, 1000, 1024, _rate(1e-3, 10)),
    },
    True: {
        "small": MemorizationStudy("small", None, None, 240, 80, 560, 400, 200, 128, _rate(3e-4, 20), masked=True, parts=()),
        "paper": MemorizationStudy("paper", None, None, 3000, 1000, 10_000, 2000, 1000, 512, _rate(3e-4, 20), True, parts=()),
    },
}  # fmt: skip


def settings_for(
    scale: str, *, data: str | Path | None = None, base: str | Path | None = None, masked: bool = False,
    pretrain: Sequence[str | Path] = (), text: str | None = None, split: str | None = None, models: int | None = None,
    rows: int | None = None, shared: int | None = None, recipe: str | None = None, shards: int | None = None,
    control: int | None = None, validation: int | None = None, epochs: int | None = None, learning_rate: float | None = None,
    parts: Sequence[str] | None = None, seed: int = 0,
) -> MemorizationStudy:  # fmt: skip
    """Return a scale's settings with the user's choices put in, or raise InputError.

    Args:
        masked: whether the base is a masked language model; the caller has looked, where one is given.
    """
    if scale not in SCALES[masked]:
        raise InputError("scale", expected=f"one of {', '.join(SCALES[masked])}", found=repr(scale))
    own = {"--base": base, "--data": data, "--pretrain": pretrain, "--text": text, "--split": split}
    given = [option for option, value in own.items() if value]
    if scale == "tiny" and given:
        raise InputError("scale tiny", expected="its own base and articles", found=", ".join(given))
    if scale != "tiny" and data is None:
        raise InputError("study memorization", expected="--data, the articles", found="none")
    if base is not None and pretrain:
        raise InputError("--pretrain", expected="no --base beside it: it is for a base of the study's own", found=str(base))
    if base is None and scale == "paper":
        raise InputError("scale paper", expected="--base, a pretrained model (gpt2, bert-base-cased)", found="none")
    settings = SCALES[masked][scale]
    settings = replace(
        settings, base=None if base is None else str(base), data=None if data is None else str(data),
        pretrain=tuple(map(str, pretrain)), text=text,
        split=split or "train", seed=seed,
    )  # fmt: skip
    require_seed(seed)
    settings = _held_out(settings, control, validation)
    settings = replace(settings, train=_trained(settings.train, epochs, learning_rate))
    if recipe is None and shards is not None:
        raise InputError("--shards", expected="--recipe split-train-fuse beside it", found="none")
    if recipe is not None:
        _refuse_of_study(recipe, {"--models": models, "--shared": shared, "--part": parts})
        return _of_recipe(settings, shards, rows)
    return _of_study(settings, models, rows, shared, parts)


def _held_out(settings: MemorizationStudy, control: int | None, validation: int | None) -> MemorizationStudy:
    """The settings with the user's numbers of rows that nothing is trained on."""
    for option, value in (("--control", control), ("--validation", validation)):
        if value is not None and value < LEAST_HELD_OUT:
            raise InputError(option, expected=f"{LEAST_HELD_OUT} or more", found=str(value))
    return replace(
        settings, control=settings.control if control is None else control,
        validation=settings.validation if validation is None else validation,
    )  # fmt: skip


def _trained(train: TrainSettings, epochs: int | None, learning_rate: float | None) -> TrainSettings:
    passes = train.max_epochs if epochs is None else epochs
    rate = train.learning_rate if learning_rate is None else learning_rate
    return replace(train, max_epochs=passes, min_epochs=passes, learning_rate=rate)


def _of_recipe(settings: MemorizationStudy, shards: int | None, rows: int | None) -> MemorizationStudy:
    """All articles in as many parts, nothing shared; as many rows as there are unless the user says how many."""
    count = settings.models if shards is None else shards
    _require_between("--shards", count, LEAST_MODELS, MOST_MODELS)
    if rows is not None and rows < 1:
        raise InputError("--rows", expected="1 or more", found=str(rows))
    return replace(settings, recipe=RECIPES[0], models=count, rows=rows or 0, shared=0, total=0, parts=())


def _of_study(
    settings: MemorizationStudy, models: int | None, rows: int | None, shared: int | None, parts: Sequence[str] | None
) -> MemorizationStudy:
    count = settings.models if models is None else models
    _require_between("--models", count, LEAST_MODELS, MOST_MODELS)
    a_model, all_have = settings.rows if rows is None else rows, settings.shared if shared is None else shared
    if not 0 < all_have < a_model:
        raise InputError("--rows and --shared", expected="more rows a model than shared ones, and some of these",
                         found=f"{a_model} and {all_have}")  # fmt: skip
    # The scale's own total where its sizes are; else what three models have together, as at the small scale.
    own_sizes = (a_model, all_have) == (settings.rows, settings.shared)
    total = settings.total if own_sizes else 3 * (a_model - all_have) + all_have
    chosen = settings.parts if parts is None else tuple(part for part in PARTS if part in parts)
    unknown = [part for part in parts or () if part not in PARTS]
    if unknown:
        raise InputError("part", expected=f"one of {', '.join(PARTS)}", found=", ".join(unknown))
    made = replace(settings, models=count, rows=a_model, shared=all_have, total=total, parts=chosen)
    if "fixed" in chosen and not made.divisible:
        expected = f"rows that can be divided among {', '.join(map(str, made.numbers))} models"
        raise InputError("part fixed", expected=expected, found=f"{total - all_have} that are not shared",
                         action="Choose --rows and --shared otherwise, or leave the part out.")  # fmt: skip
    return made


def _refuse_of_study(recipe: str, given: dict[str, object]) -> None:
    """Raise for an unknown recipe, and for options that a recipe has no use for."""
    if recipe not in RECIPES:
        raise InputError("recipe", expected=f"one of {', '.join(RECIPES)}", found=repr(recipe))
    idle = [name for name, value in given.items() if value not in (None, ())]
    if idle:
        raise InputError(", ".join(idle), expected="a study without --recipe (a recipe has --shards)", found=recipe)


def _require_between(option: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise InputError(option, expected=f"{least} to {most}", found=str(value))
