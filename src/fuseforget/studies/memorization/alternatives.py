"""What practitioners do against memorization, beside fusing: stop early, decay weights, train with differential privacy."""

from __future__ import annotations

import json
from importlib.util import find_spec

from fuseforget.checkpoint import MANIFEST_NAME
from fuseforget.models import intra_op
from fuseforget.studies.memorization.models import full_name, training
from fuseforget.studies.memorization.workshop import Workshop
from fuseforget.studies.training import record_training
from fuseforget.train import PrivacySettings
from fuseforget.train.private import fine_tune_private

__all__ = ["decayed", "private", "train_alternatives"]


def decayed(full: str, decay: float) -> str:
    """What the records call the full model that was trained with weight decay."""
    return f"{full}, weight decay {decay:g}"


def private(full: str, epsilon: float) -> str:
    """What the records call the full model that was trained with differential privacy."""
    return f"{full}, epsilon {epsilon:g}"


def train_alternatives(shop: Workshop) -> None:
    """Train on the rows of the first models with each alternative, and ask each model after every epoch.

    Stopping early is the full model of the study itself, asked after every epoch.
    """
    full, rows = full_name(shop.few), shop.corpus.trained_on(shop.few)
    _record(shop, full, "early stopping")
    for decay in shop.settings.decays:
        name = decayed(full, decay)
        shop.train_watched(shop.job(name, rows, weight_decay=decay))
        shop.ask([name], shop.few_sets)
        _record(shop, name, "weight decay", decay=decay)
    if not shop.settings.masked:
        for epsilon in shop.settings.epsilons:
            _train_privately(shop, private(full, epsilon), epsilon)


def _train_privately(shop: Workshop, name: str, epsilon: float) -> None:
    path, rows = shop.path(name), shop.corpus.trained_on(shop.few)
    if not path.is_dir():
        if find_spec("opacus") is None:
            # The study goes on without the extra, and its page says what is missing.
            shop.say(f"{name}: not trained, opacus is not installed (pip install 'fuseforget[privacy]')")
            return
        budget, how = PrivacySettings(epsilon=epsilon), training(shop.settings, shop.settings.private_epochs)
        with intra_op(shop.trainers.threads):
            fine_tune_private(shop.corpus.base, rows.ids, path, how, budget, watch=shop.watch(name), say=shop.say)
    record_training(shop.run, name, len(rows), threads=shop.trainers.threads)
    shop.ask([name], shop.few_sets)
    made = json.loads((path / MANIFEST_NAME).read_text(encoding="utf-8"))
    _record(shop, name, "DP-SGD", epsilon=epsilon, spent=made["spent"])


def _record(shop: Workshop, name: str, family: str, **facts: object) -> None:
    if shop.run.find("alternative", model=name, family=family) is None:
        shop.run.add("alternative", model=name, family=family, **facts)
