"""Beyond the paper: the same specialists fused by other methods, and what is kept forecast before fusing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

import torch

from fuseforget import stopping
from fuseforget.checkpoint import Checkpoint, open_checkpoint
from fuseforget.data import Examples, ShortcutData
from fuseforget.fisher import diagonal_fisher
from fuseforget.records import Run
from fuseforget.studies.by_method import compare_methods
from fuseforget.studies.forecast import validate_forecast
from fuseforget.studies.shortcuts.settings import SHARED, TASK, ShortcutStudy
from fuseforget.sweep import Sweep

__all__ = ["forecast_pairs", "fuse_by_methods"]

FISHER_EXAMPLES = 200  # as many as the paper takes (appendix D)
Say = Callable[[str], None]


def fuse_by_methods(run: Run, settings: ShortcutStudy, sweep: Sweep, say: Say) -> None:
    """Fuse the specialists by every method that needs no data, beside models that fuse no weights."""
    mixed = all(run.find("training", name=name) is not None for name in SHARED)
    shared = {"models": tuple(SHARED), "shared": "tic", "unshared": ("op", "or")} if mixed else None
    compare_methods(
        run, start=_model(run, "start"), specialists={rule: _model(run, rule) for rule in settings.rules},
        resident=sweep.resident, probes=[*settings.rules, TASK], control="control", seed=settings.seed, shared=shared, say=say,
    )  # fmt: skip


def forecast_pairs(run: Run, settings: ShortcutStudy, data: Mapping[str, ShortcutData], sweep: Sweep, say: Say) -> None:
    """Forecast what the midpoint of every pair keeps, and judge the forecasts by what it kept."""

    @lru_cache(maxsize=len(settings.rules))  # each specialist's on its own probe is asked for again and again
    def kept(model: str) -> Mapping[str, torch.Tensor]:
        return fisher_of(model, model, own=False)

    def fisher_of(model: str, rule: str, own: bool = True) -> Mapping[str, torch.Tensor]:
        if own and model == rule:
            return kept(model)
        say(f"Fisher of {model} on {rule}")
        stopping.check("the forecasts so far")
        texts = _some(data[rule], settings.seed)
        return diagonal_fisher(run.path / "models" / model, texts.texts, texts.labels)

    validate_forecast(
        run, start=_model(run, "start"), specialists={rule: _model(run, rule) for rule in settings.rules},
        control=_model(run, "control"), sweep=sweep, task=TASK, fisher_of=fisher_of, seed=settings.seed, say=say,
    )  # fmt: skip


def _some(data: ShortcutData, seed: int) -> Examples:
    assert data.synthetic is not None  # a rule's data have such texts
    return data.synthetic.sample(min(FISHER_EXAMPLES, len(data.synthetic)), seed)


def _model(run: Run, name: str) -> Checkpoint:
    return open_checkpoint(run.path / "models" / name)
