"""The study of forgetting from its sources to its results: the table of its parts, and who does them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fuseforget import stopping
from fuseforget.errors import InputError
from fuseforget.records import Record, Run
from fuseforget.studies.forgetting.ablations import do_ablations, lacking_ablations
from fuseforget.studies.forgetting.bias import do_bias
from fuseforget.studies.forgetting.contenders import LEFT_OUT, Contender
from fuseforget.studies.forgetting.disjoint import do_disjoint
from fuseforget.studies.forgetting.examined import PAIR
from fuseforget.studies.forgetting.lasting import do_lasting
from fuseforget.studies.forgetting.memorization import do_memorization
from fuseforget.studies.forgetting.numbers import do_numbers
from fuseforget.studies.forgetting.pairs import do_pairs
from fuseforget.studies.forgetting.partial import do_partial
from fuseforget.studies.forgetting.settings import RULE_TEXTS, ForgettingStudy
from fuseforget.studies.forgetting.shared import do_shared, lacking_shared
from fuseforget.studies.forgetting.sources import BIAS, MEMORIZATION, SHORTCUTS, Source, describe_source, is_still, open_sources
from fuseforget.workers import Here, Workers

__all__ = ["PARTS", "Part", "run_forgetting_study"]

COMMAND = "study forgetting"
Say = Callable[[str], None]
Do = Callable[[Run, Sequence[Source], ForgettingStudy, Workers, Say], None]


@dataclass(frozen=True)
class Part:
    """A part of the study.

    Attributes:
        do: adds its records to the run; of what the run has nothing is done again. It is given the sources that it needs
            alone, in their order.
        needs: the command of these.
        lacking: what it needs beside that these do not give, in words; None where they do.
    """

    do: Do
    needs: str
    lacking: Callable[[Sequence[Source]], str | None] = lambda sources: None


def lacking_pair(sources: Sequence[Source]) -> str | None:
    """What the parts about one pair of specialists need that a source does not have; None where all have it."""
    if all(source.has(rule) for source in sources for rule in PAIR):
        return None
    return f"shortcut studies with the specialists {' and '.join(PAIR)}"


# In the order in which they are done.
PARTS: Mapping[str, Part] = {
    "pairs": Part(do_pairs, SHORTCUTS),
    "numbers": Part(do_numbers, SHORTCUTS),
    "shared": Part(do_shared, SHORTCUTS, lacking_shared),
    "partial": Part(do_partial, SHORTCUTS, lacking_pair),
    "disjoint": Part(do_disjoint, SHORTCUTS, lacking_pair),
    "lasting": Part(do_lasting, SHORTCUTS, lacking_pair),
    "ablations": Part(do_ablations, SHORTCUTS, lacking_ablations),
    "bias": Part(do_bias, BIAS),
    "memorization": Part(do_memorization, MEMORIZATION),
}


def run_forgetting_study(
    settings: ForgettingStudy, out: Path, *, workers: Workers | None = None, say: Say = lambda line: None
) -> list[Record]:
    """Run or resume the study and return all its records.

    Records beside those of the parts: ``source``, ``contender`` (``only``: the one part that asks it), ``left_out`` (methods,
    with the reason), ``asked`` (parts), and ``done`` (a part, and the sources and contenders that it was done for).

    Args:
        workers: who measures; default: this process. The records are the same.

    Raises:
        InputError: sources that cannot be used, or a part that they do not allow; a run that had other sources or settings.
    """
    sources = open_sources(settings.sources)
    parts = _asked(settings.parts, sources)
    described = {
        "seed": settings.seed, "texts": settings.texts, "rule_texts": RULE_TEXTS, "allowance": settings.allowance
    }  # fmt: skip
    with Run(out, command=COMMAND, settings=described, say=say) as run:
        sources = _record_sources(run, sources)
        _record_contenders(run, [one for one in settings.contenders if one.only is None or not _lacking(one.only, sources)])
        new = [part for part in parts if run.find("asked", name=part) is None]
        for part in new:
            run.add("asked", name=part)
        for name in parts:
            _do(run, name, sources, settings, workers or Here(), say)
        return list(run.records)


def _do(run: Run, name: str, sources: Sequence[Source], settings: ForgettingStudy, workers: Workers, say: Say) -> None:
    stopping.check("a part")
    own = _of_part(name, sources)
    asked = settings.of_part(name)
    PARTS[name].do(run, own, asked, workers, say)
    over = {"part": name, "sources": [source.name for source in own], "contenders": [one.row for one in asked.contenders]}
    if run.find("done", **over) is None:
        run.add("done", **over)


def _of_part(name: str, sources: Sequence[Source]) -> list[Source]:
    return [source for source in sources if source.command == PARTS[name].needs]


def _asked(parts: Sequence[str], sources: Sequence[Source]) -> list[str]:
    """The parts that are asked for, or all that the sources allow, in the order in which they are done."""
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise InputError("part", expected=f"one of {', '.join(PARTS)}", found=", ".join(unknown))
    lacking = {part: _lacking(part, sources) for part in PARTS}
    for part in parts:
        if lacking[part] is not None:
            kinds = ", ".join(dict.fromkeys(source.command for source in sources))
            raise InputError(f"part {part}", expected=str(lacking[part]), found=kinds, action="Give one more --from RUN.")
    found = [part for part in PARTS if (part in parts if parts else lacking[part] is None)]
    if not found:
        raise InputError(
            "study forgetting", expected=f"sources for one of its parts, {', '.join(PARTS)}",
            found=", ".join(source.command for source in sources),
        )  # fmt: skip
    return found


def _lacking(name: str, sources: Sequence[Source]) -> str | None:
    own = _of_part(name, sources)
    return PARTS[name].lacking(own) if own else f"a run of {PARTS[name].needs}"


def _record_sources(run: Run, sources: Sequence[Source]) -> tuple[Source, ...]:
    """Record the sources, and return them in the order in which the run came to know them: its first one chooses.

    Raises:
        InputError: a source of the run that is not given any more, or was made anew.
    """
    given = {source.name: (source, describe_source(source)) for source in sources}
    known = [record for record in run.records if record["kind"] == "source"]
    for record in known:
        if record["name"] not in given:
            raise InputError(
                str(run.path), expected=f"the sources that it has, {record['path']} among them",
                found=", ".join(str(source.path) for source in sources), action="A run can be given more, not fewer.",
            )  # fmt: skip
        if not is_still(given[record["name"]][1], record):
            raise InputError(
                str(given[record["name"]][0].path), expected="the models that the run began with", found="others",
                action="Give another directory.",
            )  # fmt: skip
    names = [record["name"] for record in known]
    new = [name for name in given if name not in names]
    for name in new:
        run.add("source", **given[name][1])
    return tuple(given[name][0] for name in (*names, *new))


def _record_contenders(run: Run, contenders: Sequence[Contender]) -> None:
    """Record the methods and their settings, and why others are left out.

    Raises:
        InputError: other settings of a method than the run has: what was chosen among those would not be the best of these.
    """
    for one in contenders:
        about = {"method": one.method, "grid": [dict(point) for point in one.grid], "weight": one.weight, "base": one.takes_base}
        known = run.find("contender", row=one.row)
        if known is None:
            run.add("contender", row=one.row, **about, source=one.source, only=one.only)
        elif any(known[key] != value for key, value in about.items()):
            raise InputError(
                str(run.path), expected=f"the settings of {one.row} that the run began with", found="others",
                action="Give another directory.",
            )  # fmt: skip
    for method, reason in LEFT_OUT.items():
        if run.find("left_out", method=method) is None:
            run.add("left_out", method=method, reason=reason)
