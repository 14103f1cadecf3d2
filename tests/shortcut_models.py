"""A small finished shortcut study of two rules, for the tests of what examines its models."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from fuseforget.data import Examples, ShortcutSettings, make_shortcut_data, save_shortcut_data
from fuseforget.data.demo_text import sentences
from fuseforget.models import prepare_start
from fuseforget.records import Run
from fuseforget.studies.tiny import TINY_BASE
from fuseforget.train import TrainSettings
from fuseforget.train.trainer import fine_tune

# A ratio of 2: most texts have the shortcut, so that few of them teach it.
TRAIN = TrainSettings(max_epochs=3, stop_above=0.95, learning_rate=1e-3, warmup=0.1)
MIXTURE = ShortcutSettings(ratio=2.0, validation="both")


def finish(home: Path) -> Path:
    """The specialists of OP and TiC and the control, with the shipped tiny base; not to be written to."""
    train, validation = (_texts(count, seed) for count, seed in ((3000, 1), (160, 2)))
    with Run(home / "shortcuts", command="study shortcuts", settings={"seed": 0, "train": asdict(TRAIN)}) as run:
        start = run.path / "models" / "start"
        prepare_start(TINY_BASE, start, tokens=MIXTURE.tokens, label_names=train.label_names, seed=0)
        for name, rules in {"op": ("op",), "tic": ("tic",), "control": ()}.items():
            settings = ShortcutSettings(rules=rules, ratio=MIXTURE.ratio, validation=MIXTURE.validation)
            data = make_shortcut_data(train, validation, settings)
            (run.path / "data" / name).mkdir(parents=True)
            save_shortcut_data(data, run.path / "data" / name)
            once = TrainSettings(max_epochs=1, learning_rate=TRAIN.learning_rate, warmup=TRAIN.warmup)
            fine_tune(start, data.train, run.path / "models" / name, TRAIN if rules else once, monitor=data.synthetic)
        return run.path


def _texts(count: int, seed: int) -> Examples:
    rows = sentences(count, seed)
    return Examples(tuple(text for text, _ in rows), tuple(label for _, label in rows), ("negative", "positive"))
