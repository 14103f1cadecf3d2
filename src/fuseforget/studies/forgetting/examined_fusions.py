"""Which fusions of a pair the parts that ask and train further examine: those chosen on validation data, and no more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fuseforget import stopping
from fuseforget.errors import InputError
from fuseforget.fuse import fuse
from fuseforget.methods import METHODS
from fuseforget.records import Record, Run
from fuseforget.studies.forgetting.contenders import AVERAGE, SCALED
from fuseforget.studies.forgetting.examined import ShortcutModels
from fuseforget.studies.forgetting.fusions import Fusion
from fuseforget.studies.forgetting.pairs import choose_settings, chosen_record
from fuseforget.studies.forgetting.settings import ForgettingStudy
from fuseforget.studies.forgetting.sources import Source
from fuseforget.sweep import Point
from fuseforget.workers import Workers

__all__ = ["EXAMINED", "chosen_fusions", "fused_here", "fused_point", "record_fusion"]

# Rows of contenders. One more is examined, the best of the others: each costs trainings on every kind of data.
EXAMINED = (AVERAGE, SCALED, "spectral_consensus", "consensus")
Say = Callable[[str], None]


def chosen_fusions(
    run: Run, part: str, sources: Sequence[Source], settings: ForgettingStudy, workers: Workers, say: Say
) -> tuple[Fusion, ...]:  # fmt: skip
    """The contenders of :data:`EXAMINED` and the best of the others, each at its setting for pairs.

    What is not chosen yet is chosen first (:func:`fuseforget.studies.forgetting.pairs.choose_settings`). The best is the one
    with the least left of what is unshared among those that keep the task on validation data; where none does there is none.
    Records: ``examined``, with the rows, and which of them is the best of the others. More contenders may make it another.

    Raises:
        InputError: no specialist learned its rule.
    """
    chosen = choose_settings(run, sources, settings, workers, say)
    other = _best_other(run, sources, [row for row in chosen if row not in EXAMINED])
    rows = [*(row for row in EXAMINED if row in chosen), *([] if other is None else [other])]
    names = [source.name for source in sources]
    where = {"part": part, "sources": names, "contenders": list(chosen), "rows": rows, "other": other}
    if run.find("examined", **where) is None:
        run.add("examined", **where)
        say(f"{part}: {'; '.join(rows)} at the settings chosen on {', '.join(names)}")
    contenders = {one.row: one for one in settings.contenders}
    return tuple(Fusion.of(contenders[row], chosen[row]) for row in rows)


def _best_other(run: Run, sources: Sequence[Source], rows: Sequence[str]) -> str | None:
    found = [chosen_record(run, sources, row) for row in rows]
    sound = [record for record in found if record is not None and record["allowed"]]
    if not sound:
        return None
    return str(min(sound, key=lambda record: (record["value"], -record["task"]))["row"])


def fused_here(
    run: Run, part: str, source: ShortcutModels, models: Sequence[Path], fusions: Sequence[Fusion], seed: int
) -> dict[str, Path]:  # fmt: skip
    """Fuse models in each of some ways into the run, where it does not have that yet; the paths by the fusions' rows.

    Args:
        seed: of random methods.

    Raises:
        InputError: a method that there is not, or another fusion than the run has under that row.
    """
    made = {}
    for fusion in fusions:
        stopping.check("a fused model")
        names = record_fusion(run, part, source.name, models, fusion)
        of = fusion.label.replace(" ", "-")
        made[fusion.row] = out = run.path / "models" / f"{part}-{source.name}-{'+'.join(names)}-{of}"
        if not out.is_dir():
            parameters: dict[str, Any] = dict(fusion.parameters)
            base = source.start if fusion.takes_base else None
            fuse(models, out, fusion.method, fusion.weights(len(models)), base=base, seed=seed, **parameters)
    return made


def fused_point(
    run: Run, part: str, source: ShortcutModels, models: Sequence[Path], fusion: Fusion, where: Record, seed: int
) -> Point:  # fmt: skip
    """What is asked of a fusion of models, for all probes of the source; how they are fused is recorded first.

    Args:
        where: what the records of the answers call it.
        seed: of random methods.

    Raises:
        InputError: see :func:`record_fusion`.
    """
    record_fusion(run, part, source.name, models, fusion)
    return Point(
        where, tuple(map(str, models)), fusion.weights(len(models)), tuple(probe.name for probe in source.probes), fusion.method,
        str(source.start) if fusion.takes_base else None, seed, fusion.parameters,
    )  # fmt: skip


def record_fusion(run: Run, part: str, source: str, models: Sequence[Path], fusion: Fusion) -> list[str]:
    """Record how models are fused, before they are; their names.

    Raises:
        InputError: a method that there is not, or another fusion than the run has under that row.
    """
    if fusion.method not in METHODS:
        raise InputError(f"fusion {fusion.row}", expected=f"a method among {', '.join(METHODS)}", found=fusion.method)
    names = [model.name for model in models]
    where = {"part": part, "source": source, "models": names, "row": fusion.row}
    wanted: Record = {
        "method": fusion.method, "parameters": dict(fusion.parameters), "weight": fusion.weight, "base": fusion.takes_base,
    }  # fmt: skip
    known = run.find("fusion", **where)
    if known is None:
        run.add("fusion", **where, **wanted)
    elif any(known[field] != value for field, value in wanted.items()):
        before = f"{known['method']} {known['parameters']}"
        raise InputError(
            f"fusion {fusion.row}", expected=f"what the run calls so, {before}", found=f"{fusion.method} {fusion.parameters}",
            action="Give it another name, or another directory: a run that is given more sources chooses settings anew.",
        )  # fmt: skip
    return names
