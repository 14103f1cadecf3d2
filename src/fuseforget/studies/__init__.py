"""Studies: each repeats a section of the paper on a base and data of the user's, and returns records for the report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from fuseforget.errors import InputError
from fuseforget.records import Record

__all__ = ["STUDIES", "study"]

STUDIES = ("shortcuts", "fisher")


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
    source: str | Path | None = None,
    parts: tuple[str, ...] | None = None,
    methods: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> list[Record]:
    """Run a study, or resume one, and return its records.

    Args:
        name: ``shortcuts`` (section 4 of the paper) or ``fisher`` (appendix D).
        out: the run's directory.
        base: the pretrained model; the tiny scale makes its own.
        data: labelled texts with a training and a validation split; the tiny scale makes its own.
        scale: ``tiny`` (the demo), ``small`` (a few thousand texts; the default) or ``paper`` (all texts, the paper's settings).
        rules: which shortcuts; default: the scale's.
        sentences: how many training texts; default: the scale's, or all where there are fewer.
        ratio: the size of the synthetic over the original part (the paper's text, and the default: 0.2; its code splits the other
            way: 5).
        seed: of everything random.
        source: the finished shortcut study whose specialists the Fisher study compares; it takes base, data, scale and rules
            from there.
        parts: what to do besides the fused model: ``pairs``, ``shared``, ``triangle``, ``growth``, ``forecast``, ``methods``;
            default: the scale's. A run may be asked for more of them later.
        methods: add the part ``methods``: the specialists fused by every method that needs no data.
    """
    if name not in STUDIES:
        raise InputError("study", expected=f"one of {', '.join(STUDIES)}", found=repr(name))
    if name == "fisher":
        beside = {
            "base": base,
            "data": data,
            "scale": scale,
            "rule": rules,
            "sentences": sentences,
            "ratio": ratio,
            "part": parts,
        }
        given = [f"--{option}" for option, value in beside.items() if value is not None] + ["--methods"] * methods
        if source is None or given:
            expected = "a finished shortcut study, which all else is taken from (--from RUN)"
            found = f"{', '.join(given)} beside it" if source is not None else "none"
            raise InputError("study fisher", expected=expected, found=found)
        from fuseforget.studies.fisher import FisherStudy, run_fisher_study

        return run_fisher_study(FisherStudy(str(source), seed=seed), Path(out), say=say)
    if source is not None:
        raise InputError(f"study {name}", expected="no run to start from", found=str(source))
    from fuseforget.studies.shortcuts import run_shortcut_study, settings_for
    from fuseforget.studies.shortcuts.settings import RATIO

    settings = settings_for(
        scale or "small", base=base, data=data, rules=rules, sentences=sentences, ratio=RATIO if ratio is None else ratio,
        seed=seed, parts=parts,
    )  # fmt: skip
    if methods and "methods" not in settings.parts:
        settings = replace(settings, parts=(*settings.parts, "methods"))
    return run_shortcut_study(settings, Path(out), say=say)
