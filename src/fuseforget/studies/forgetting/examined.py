"""What a finished shortcut study gives the parts that ask and train further: clean texts, probes, and models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fuseforget.data import Examples, ShortcutSettings, load_shortcut_data
from fuseforget.errors import InputError
from fuseforget.knowledge import Probe
from fuseforget.records import read_run
from fuseforget.studies.forgetting.rephrased import without_tokens
from fuseforget.studies.shortcuts.data import probes_of
from fuseforget.train import TrainSettings

__all__ = ["CONTROL", "PAIR", "START", "ShortcutModels", "read_shortcut_models"]

PAIR = ("op", "tic")
CONTROL, START = "control", "start"


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

    @property
    def train_second(self) -> TrainSettings:
        """How further models are trained that are held against each other: none for fewer epochs, whenever it knows its rule."""
        return replace(self.train, seed=self.seed + 1, min_epochs=self.train.max_epochs)

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
