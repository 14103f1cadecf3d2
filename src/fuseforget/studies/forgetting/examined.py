"""What a finished shortcut study gives the parts that ask and train further: clean texts, probes, and models to examine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuseforget import stopping
from fuseforget.data import Examples, ShortcutSettings, load_shortcut_data
from fuseforget.errors import InputError
from fuseforget.fuse import fuse
from fuseforget.knowledge import Probe
from fuseforget.methods import METHODS, Value
from fuseforget.records import Record, Run, read_run
from fuseforget.studies.forgetting.rephrased import without_tokens
from fuseforget.studies.shortcuts.data import probes_of
from fuseforget.train import TrainSettings

__all__ = [
    "CONTROL",
    "FUSIONS",
    "PAIR",
    "START",
    "Fusion",
    "ShortcutModels",
    "chosen_fusions",
    "fused_here",
    "read_shortcut_models",
]

PAIR = ("op", "tic")
CONTROL, START = "control", "start"


@dataclass(frozen=True)
class Fusion:
    """A way to fuse the models of a pair; weights are the method's default.

    Attributes:
        name: what records call it.
        method: a name in :data:`fuseforget.methods.METHODS`.
        parameters: of the method, where they are not its defaults.
    """

    name: str
    method: str
    parameters: Mapping[str, Value] = field(default_factory=dict)


FUSIONS = (
    Fusion("average", "average"),
    Fusion("average, shrunk to .7", "task_arithmetic", {"lambda": 0.7}),
    Fusion("spectral consensus", "spectral_consensus"),
)


def chosen_fusions(run: Run, rows: Sequence[str]) -> tuple[Fusion, ...]:
    """The settings that the run chose on validation data for some contenders (``chosen`` records), as fusions.

    Raises:
        InputError: a row for which the run has chosen nothing.
    """
    found = {row: run.find("chosen", row=row) for row in rows}
    lacking = [row for row, record in found.items() if record is None]
    if lacking:
        raise InputError("settings", expected="a choice on validation data", found=f"none for {', '.join(lacking)}")
    return tuple(Fusion(row, r["method"], r["parameters"]) for row, r in found.items() if r is not None)


@dataclass(frozen=True)
class ShortcutModels:
    """A finished shortcut study, as the parts need it.

    Attributes:
        name: what records call it.
        path: its directory.
        rules: those that are looked at.
        seed: of the study.
        train: how its specialists were trained.
        shortcut: how its texts were made, but for the rules.
        texts, validation: its training and validation texts without any token of a shortcut, with the labels of the task.
        probes: of the rules, and the task's last.
    """

    name: str
    path: Path
    rules: tuple[str, ...]
    seed: int
    train: TrainSettings
    shortcut: ShortcutSettings
    texts: Examples
    validation: Examples
    probes: tuple[Probe, ...]

    def model(self, name: str) -> Path:
        return self.path / "models" / name

    @property
    def start(self) -> Path:
        return self.model(START)

    def known(self) -> dict[str, Path]:
        """The models that were trained: the specialists of the rules, the control and the start."""
        return {name: self.model(name) for name in (*self.rules, CONTROL, START)}


def read_shortcut_models(path: Path, rules: Sequence[str] = PAIR, *, name: str | None = None) -> ShortcutModels:
    """Read what a finished shortcut study has of some rules.

    Args:
        name: what records call it; default: its directory's name.

    Raises:
        InputError: a run of something else, or one without a model that is needed.
    """
    begun = read_run(path)
    if begun["command"] != "study shortcuts":
        raise InputError(str(path), expected="a run of study shortcuts", found=f"a run of {begun['command']}")
    lacking = [model for model in (*rules, CONTROL, START) if not (path / "models" / model).is_dir()]
    if lacking:
        raise InputError(
            str(path), expected=f"a finished study of {', '.join(rules)}", found=f"no model {', '.join(lacking)}",
            action="Run it again to finish it.",
        )  # fmt: skip
    control = load_shortcut_data(path / "data" / CONTROL)
    settings = begun["settings"]
    return ShortcutModels(
        name or path.name, path, tuple(rules), settings["seed"], TrainSettings(**settings["train"]), control.settings,
        without_tokens(control.train, control.settings.tokens), without_tokens(control.original, control.settings.tokens),
        tuple(probes_of({rule: load_shortcut_data(path / "data" / rule) for rule in rules}, rules)),
    )  # fmt: skip


def fused_here(run: Run, part: str, source: ShortcutModels, models: Sequence[Path], fusions: Sequence[Fusion]) -> dict[str, Path]:
    """Fuse models in each of some ways into the run, where it does not have that yet; the paths by the fusions' names.

    Raises:
        InputError: the run has another fusion of the same name.
    """
    made = {}
    names = [model.name for model in models]
    for fusion in fusions:
        stopping.check("a fused model")
        _record_fusion(run, {"part": part, "source": source.name, "models": names, "name": fusion.name}, fusion)
        of = "-".join([fusion.method, *(f"{name}={value}" for name, value in sorted(fusion.parameters.items()))])
        made[fusion.name] = out = run.path / "models" / f"{part}-{source.name}-{'+'.join(names)}-{of}"
        if not out.is_dir():
            base = source.start if METHODS[fusion.method].base == "required" else None
            parameters: dict[str, Any] = dict(fusion.parameters)
            fuse(models, out, fusion.method, base=base, **parameters)
    return made


def _record_fusion(run: Run, where: Record, fusion: Fusion) -> None:
    """Record how models are fused, before they are."""
    if fusion.method not in METHODS:
        raise InputError(f"fusion {fusion.name}", expected=f"a method among {', '.join(METHODS)}", found=fusion.method)
    wanted = {"method": fusion.method, "parameters": dict(fusion.parameters)}
    known = run.find("fusion", **where)
    if known is None:
        run.add("fusion", **where, **wanted)
    elif any(known[field] != value for field, value in wanted.items()):
        before = f"{known['method']} {known['parameters']}"
        raise InputError(
            f"fusion {fusion.name}", expected=f"what the run calls so, {before}", found=f"{fusion.method} {fusion.parameters}",
            action="Give it another name.",
        )  # fmt: skip
