"""Studies: each repeats a section of the paper on a base and data of the user's, and returns records for the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fuseforget.errors import InputError
from fuseforget.records import Record

if TYPE_CHECKING:
    from fuseforget.workers import Workers

__all__ = ["STUDIES", "study"]

STUDIES = ("shortcuts", "bias", "memorization", "fisher", "forgetting")
# The options that each study takes besides the seed, and what the command line calls them.
OPTIONS = {
    "shortcuts": ("base", "data", "scale", "sentences", "ratio", "parts", "rules", "methods"),
    "bias": (
        "base",
        "data",
        "scale",
        "sentences",
        "ratio",
        "parts",
        "names",
        "attributes",
        "unit",
        "seeds",
        "as_published",
        "texts",
        "skip_damaged",
    ),
    "memorization": (
        "base",
        "data",
        "scale",
        "parts",
        "text",
        "split",
        "pretrain",
        "masked",
        "models",
        "rows",
        "shared",
        "control",
        "validation",
        "epochs",
        "learning_rate",
        "recipe",
        "shards",
    ),
    "fisher": ("source",),
    "forgetting": ("source", "parts", "validation"),
}
FLAGS = {
    "parts": "--part",
    "rules": "--rule",
    "attributes": "--attribute",
    "as_published": "--as-published",
    "source": "--from",
    "skip_damaged": "--skip-damaged",
    "learning_rate": "--learning-rate",
}


def study(
    name: str,
    out: str | Path,
    *,
    base: str | Path | None = None,
    data: str | Path | None = None,
    scale: str | None = None,
    rules: tuple[str, ...] | None = None,
    sentences: int | None = None,
    ratio: float | None = None,
    seed: int = 0,
    source: str | Path | Sequence[str | Path] | None = None,
    parts: tuple[str, ...] | None = None,
    methods: bool = False,
    names: str | Path | None = None,
    attributes: tuple[str, ...] | None = None,
    unit: str | None = None,
    seeds: int | None = None,
    as_published: bool = False,
    texts: str | Path | None = None,
    skip_damaged: bool = False,
    text: str | None = None,
    split: str | None = None,
    pretrain: tuple[str, ...] | None = None,
    masked: bool = False,
    models: int | None = None,
    rows: int | None = None,
    shared: int | None = None,
    control: int | None = None,
    validation: int | None = None,
    epochs: int | None = None,
    learning_rate: float | None = None,
    recipe: str | None = None,
    shards: int | None = None,
    workers: Workers | None = None,
    threads: int = 1,
    say: Callable[[str], None] = lambda line: None,
) -> list[Record]:
    """Run a study, or resume one, and return its records.

    Args:
        name: ``shortcuts`` (section 4 of the paper), ``bias`` (section 5), ``memorization`` (section 6), ``fisher``
            (appendix D), or ``forgetting`` (fusion methods against each other, on the models of the others).
        out: the run's directory.
        base: the pretrained model; the tiny scale makes its own, and so does memorization at the small scale without one.
        data: labelled texts with a training and a validation split; the tiny scale makes its own. Of bias: with columns of
            the protected attributes, or a corpus in PAN16's format, or any texts, which ``names`` then sign. Of memorization:
            articles (:func:`fuseforget.data.read_documents`).
        scale: ``tiny`` (the demo), ``small`` (a few thousand texts; the default) or ``paper`` (all texts, the paper's settings).
        rules: of shortcuts: which; default: the scale's.
        sentences: how many training texts (of bias: a model); default: the scale's, or all where there are fewer.
        ratio: of shortcuts: the size of the synthetic over the original part (the paper's text, and the default: 0.2; its code
            splits the other way: 5). Of bias: the share of the favoured value within each label (the paper's, the default: 0.8).
        seed: of everything random.
        source: of fisher: the finished shortcut study whose specialists are compared; it takes base, data, scale and rules
            from there. Of forgetting: one or more finished studies whose models are fused.
        parts: what to do besides; default: the scale's. Of shortcuts: ``pairs``, ``shared``, ``triangle``, ``growth``,
            ``forecast``, ``methods``; of bias: ``baselines``, ``ratios``, ``triangle``; of memorization: ``epochs``, ``fixed``,
            ``methods``, ``alternatives``; of forgetting: ``pairs``, ``numbers``, ``shared``, ``partial``,
            ``disjoint``, ``lasting``, ``ablations``, ``bias``, ``memorization``. A run may be asked for more later.
        methods: of shortcuts: add the part ``methods``: the specialists fused by every method that needs no data.
        names: of bias: a table of first names (name, sex, decade, births) that sign the texts.
        attributes: of bias: the protected attributes; default: gender and age (and frequency, a third one of signatures).
        unit: of bias: the column that says which rows are one author's.
        seeds: of bias: how many times the models are trained, from ``seed`` on; default: the scale's.
        as_published: of bias: the choices of the authors' released code (:class:`fuseforget.studies.bias.BiasStudy`).
        texts, skip_damaged: of bias, of a corpus in PAN16's format: a table of the tweets' texts by id, and whether to go on
            without authors that are missing or damaged.
        text, split: of memorization: the column of the articles, and the split that is read (train).
        pretrain: of memorization without a base: further files that its own base is pretrained on.
        masked: of memorization without a base: whether its own is a masked language model.
        models, rows, shared: of memorization: how many models, the rows that each is trained on, and how many of these are all
            models'.
        control: of memorization: rows that no model is trained on, the non-members of attacks.
        validation: of memorization: rows for perplexity and thresholds. Of forgetting: how many texts settings are chosen on
            (500), of those that no model of a shortcut study was trained on; fewer where there are fewer.
        epochs, learning_rate: of memorization: how each model is trained; default: the scale's.
        recipe: of memorization: ``split-train-fuse``: all articles split among models that are then fused, against training on
            everything once.
        shards: of the recipe: how many models.
        workers: who trains and measures (see :func:`fuseforget.workers.open_workers`); default: this process. The records are
            the same, but for times.
        threads: that each training computes with; its last bits depend on them.

    Raises:
        InputError: an unknown study, or options that it does not take or cannot use.
    """
    if name not in STUDIES:
        raise InputError("study", expected=f"one of {', '.join(STUDIES)}", found=repr(name))
    options = {
        "base": base, "data": data, "scale": scale, "sentences": sentences, "ratio": ratio, "parts": parts, "rules": rules,
        "methods": methods or None, "names": names, "attributes": attributes, "unit": unit, "seeds": seeds,
        "as_published": as_published or None, "texts": texts, "skip_damaged": skip_damaged or None, "source": source,
        "text": text, "split": split, "pretrain": pretrain, "masked": masked or None, "models": models, "rows": rows,
        "shared": shared, "control": control, "validation": validation, "epochs": epochs, "learning_rate": learning_rate,
        "recipe": recipe, "shards": shards,
    }  # fmt: skip
    given: dict[str, Any] = {option: value for option, value in options.items() if value is not None}
    _refuse_foreign(name, given)
    sources = _paths(source)
    if name == "fisher":
        from fuseforget.studies.fisher import FisherStudy, run_fisher_study

        if len(sources) != 1:
            raise InputError("study fisher", expected="one shortcut study (--from RUN)", found=f"{len(sources)} runs")
        return run_fisher_study(FisherStudy(sources[0], seed=seed), Path(out), workers=workers, say=say)
    if name == "forgetting":
        from fuseforget.studies.forgetting import ForgettingStudy, run_forgetting_study
        from fuseforget.studies.forgetting.settings import TEXTS

        count = TEXTS if validation is None else validation
        wanted = ForgettingStudy(sources, parts=tuple(parts or ()), seed=seed, texts=count, threads=threads)
        return run_forgetting_study(wanted, Path(out), workers=workers, say=say)
    if name == "bias":
        from fuseforget.studies import bias

        chosen = bias.settings_for(
            scale or "small", base=base, data=data, names=names, unit=unit, attributes=attributes, rows=sentences, ratio=ratio,
            seed=seed, seeds=seeds, parts=parts, as_published=as_published, texts=texts, skip_damaged=skip_damaged,
        )  # fmt: skip
        return bias.run_bias_study(chosen, Path(out), workers=workers, threads=threads, say=say)
    if name == "memorization":
        from fuseforget.studies import memorization

        if base is not None:
            if masked:
                raise InputError("--masked", expected="no --base beside it: a base is what it is", found=str(base))
            from fuseforget.models import is_masked

            masked = is_masked(base)
        own = {option: value for option, value in given.items() if option not in ("scale", "masked")}
        asked = memorization.settings_for(scale or "small", masked=masked, seed=seed, **own)
        return memorization.run_memorization_study(asked, Path(out), workers=workers, threads=threads, say=say)
    from fuseforget.studies.shortcuts import run_shortcut_study, settings_for
    from fuseforget.studies.shortcuts.settings import RATIO

    settings = settings_for(
        scale or "small", base=base, data=data, rules=rules, sentences=sentences, ratio=RATIO if ratio is None else ratio,
        seed=seed, parts=parts,
    )  # fmt: skip
    if methods and "methods" not in settings.parts:
        settings = replace(settings, parts=(*settings.parts, "methods"))
    return run_shortcut_study(settings, Path(out), workers=workers, threads=threads, say=say)


def _paths(source: str | Path | Sequence[str | Path] | None) -> tuple[str, ...]:
    """The runs that a study starts from."""
    if source is None:
        return ()
    return tuple(str(one) for one in ([source] if isinstance(source, str | Path) else source))


def _refuse_foreign(name: str, given: Mapping[str, object]) -> None:
    """Raise InputError for an option of another study, and for a study that has no run to start from and needs one."""
    foreign = [FLAGS.get(option, f"--{option}") for option in given if option not in OPTIONS[name]]
    if name == "fisher" and (foreign or "source" not in given):
        expected = "a finished shortcut study, which all else is taken from (--from RUN)"
        found = f"{', '.join(foreign)} beside it" if "source" in given else "none"
        raise InputError("study fisher", expected=expected, found=found)
    if "source" in given and "source" not in OPTIONS[name]:
        raise InputError(f"study {name}", expected="no run to start from", found=str(given["source"]))
    if foreign:
        known = ", ".join(FLAGS.get(option, f"--{option}") for option in OPTIONS[name])
        raise InputError(f"study {name}", expected=f"options among {known}", found=", ".join(foreign))
