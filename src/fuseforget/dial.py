"""One knob from the average of models to what they strictly have in common, and the probes at each of its settings.

Methods with a parameter called ``forget`` have the knob: 0 is the average, and the nearer it is to 1, the more of what the
models do not have in common is left out. How strongly, goes with the odds ``b = forget / (1 - forget)``: a part of the change
that is common to a share c of the models' changes is kept to ``c / (c + b (1 - c))``, half of it at ``forget = c``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fuseforget.checkpoint import Checkpoint, compare, open_checkpoint
from fuseforget.errors import InputError
from fuseforget.fuse import make_recipe, plan_recipe, require_no_statistics
from fuseforget.methods import METHODS, Method, get_method
from fuseforget.records import Record

if TYPE_CHECKING:  # what loads torch is imported where it is used: the package binds the function below
    from fuseforget.knowledge import Probe
    from fuseforget.sweep import Point
    from fuseforget.workers import Workers

__all__ = ["KNOB", "dial", "dial_settings", "with_knob"]

KNOB = "forget"
FARTHEST = 0.999
KNEE = 0.1  # the odds up to which settings are about evenly spaced, and from which on even in log-odds


def dial_settings(steps: int) -> tuple[float, ...]:
    """The ``steps + 1`` settings of the knob, from 0, the average, to .999, next to nothing but what is common.

    Even spacing would have all but one of them where little is forgotten: how much is goes with the odds b, which double from
    .98 to .99. So ``1 + 10 b`` grows by the same factor from each setting to the next; ten steps go by 0, .131, .347, .597,
    .795, .908, .962, .984, .994, .997, .999. Rounded to what a user types, three decimals, more where two would be the same.

    Raises:
        InputError: fewer than one step.
    """
    if steps < 1:
        raise InputError("steps", expected="1 or more", found=str(steps))
    whole = 1 + FARTHEST / (1 - FARTHEST) / KNEE
    odds = [KNEE * (whole ** (step / steps) - 1) for step in range(steps + 1)]
    digits = 3
    while len({round(b / (1 + b), digits) for b in odds}) < len(odds):
        digits += 1
    return tuple(round(b / (1 + b), digits) for b in odds)


def with_knob() -> list[str]:
    """The methods that have the knob, and need nothing but the models and their base."""
    return [name for name, row in METHODS.items() if not row.statistics and any(p.name == KNOB for p in row.parameters)]


def dial(
    models: Sequence[str | Path],
    probes: str | Path | Sequence[Probe],
    out: str | Path | None = None,
    *,
    base: str | Path | None = None,
    steps: int = 10,
    method: str = "spectral_consensus",
    weights: Sequence[float] | None = None,
    exact: bool = False,
    compiled: bool = False,
    workers: Workers | None = None,
    say: Callable[[str], None] = lambda line: None,
    **parameters: Any,
) -> list[Record]:
    """Measure every probe at every setting of the knob, and on each model and the base alone.

    A setting's model is what ``fuse`` would write as float32, to the bit; nothing is written. A base that is no whole model
    of the models' kind (without a classifier's head, say) is fused against and not asked; ``say`` is told.

    Args:
        models: two or more classifiers of one architecture and tokenizer, fine-tuned from the base.
        probes: a probes file, or probes.
        out: a run to keep the measurements in; run again, it resumes where it stopped.
        base: the pretrained model.
        steps: between settings (see :func:`dial_settings`).
        method: a name in :data:`fuseforget.methods.METHODS` of a method with a parameter ``forget``.
        weights: one a model, the same at all settings; default: the method's.
        exact: compute in float32 throughout.
        compiled: have torch compile the forward pass (see :class:`fuseforget.sweep.Sweep`).
        workers: who measures (see :func:`fuseforget.workers.open_workers`); default: this process. The records are the same.
        parameters: of the method, as ``fuse`` takes them, without ``forget``.

    Returns:
        A record a measurement, with ``forget``, or with the name of a ``model``.

    Raises:
        InputError: models, a base, a method, weights or parameters that cannot be used; before anything is measured.
    """
    from fuseforget.sweep import as_probes, describe_inputs, describe_models, describe_sources, record_points, require_aligned

    row = _check_method(method, len(models), base is not None, parameters)
    turned = dial_settings(steps)
    asked = as_probes(probes)
    checkpoints = [open_checkpoint(model) for model in models]
    require_aligned(checkpoints)
    origin = open_checkpoint(str(base))
    _check_plan(models, method, weights, {**parameters, KNOB: turned[-1]}, base)
    alone = _asked_alone(checkpoints, origin, say)
    settings = {
        **describe_inputs(checkpoints, asked), "base": describe_models([origin]), "alone": [one.source for one in alone],
        "steps": steps, KNOB: list(turned), "method": method, "parameters": parameters, "exact": exact,
        **({"weights": list(weights)} if weights is not None else {}), **({"compiled": True} if compiled else {}),
    }  # fmt: skip
    names = tuple(probe.name for probe in asked)
    visited = [
        *_points(checkpoints, origin, turned, names, method=method, weights=weights, parameters=parameters),
        *_points_alone(alone, names),
    ]
    return record_points(
        out, visited, asked, command="dial", settings=settings, template=models[0], exact=exact, compiled=compiled,
        about={**describe_sources(probes), "default": row.parameter(KNOB).default}, workers=workers, say=say,
    )  # fmt: skip


def _check_method(method: str, models: int, base: bool, parameters: Record) -> Method:
    """Raise InputError for a method without the knob, or whose inputs are not those given."""
    row = get_method(method)
    require_no_statistics(method)
    if method not in with_knob():
        known = ", ".join(with_knob()) or "none yet"
        raise InputError(
            f"dial of {method}", expected=f"a method with a parameter {KNOB} ({known})", found="one without it",
            action="Models between others, by any method that takes weights, are measured by `fuseforget path`.",
        )  # fmt: skip
    if models < 2:
        raise InputError("dial", expected="two or more models, which have something in common", found=str(models))
    row.check_models(models)
    row.check_base(base)
    for name, value in parameters.items():
        if row.parameter(name.partition(":")[0]).name == KNOB:
            raise InputError(
                f"parameter {KNOB}", expected="none, since it is what the dial turns", found=str(value),
                action=f"Fuse at one setting with `fuseforget fuse ... --param {KNOB}=VALUE`.",
            )  # fmt: skip
    return row


def _check_plan(
    models: Sequence[str | Path], method: str, weights: Sequence[float] | None, parameters: Record, base: str | Path | None
) -> None:
    """Raise InputError for what cannot be fused, from the headers alone: at all settings it is planned alike."""
    recipe = make_recipe(models, method, weights, parameters, base=None if base is None else str(base), dtype="float32")
    with plan_recipe(recipe).files:  # opens every file, and closes them here
        pass


def _asked_alone(models: Sequence[Checkpoint], base: Checkpoint, say: Callable[[str], None]) -> list[Checkpoint]:
    """The models, each once, and the base where it is a whole model of their kind."""
    different = [str(one) for one in compare([models[0], base]) if one.blocks]
    if base.infos.keys() != models[0].infos.keys():
        different.append("it stores tied copies that the models do not, or the other way round")
    if different:
        say(f"note: the base {base.source} is not asked by itself: {different[0]}")
    return [*{one.source: one for one in [*([] if different else [base]), *models]}.values()]


def _points(
    models: Sequence[Checkpoint], base: Checkpoint, turned: Sequence[float], probes: tuple[str, ...], *, method: str,
    weights: Sequence[float] | None, parameters: Record,
) -> list[Point]:  # fmt: skip
    """The fusions at the knob's settings."""
    from fuseforget.sweep import Point

    paths, given = tuple(str(one.path) for one in models), None if weights is None else tuple(weights)
    return [Point({KNOB: at}, paths, given, probes, method, str(base.path), parameters={**parameters, KNOB: at}) for at in turned]


def _points_alone(models: Sequence[Checkpoint], probes: tuple[str, ...]) -> list[Point]:
    """Models as they are, by the first model's tokenizer, as at the other points."""
    from fuseforget.sweep import Point

    return [Point({"model": one.source}, (str(one.path),), None, probes) for one in models]
