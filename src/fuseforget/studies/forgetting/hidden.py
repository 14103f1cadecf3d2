"""How well a linear probe on hidden states says a shortcut's label, also where the model's own head no longer does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fuseforget import stopping
from fuseforget.data.common import generator
from fuseforget.erasure import fit_head
from fuseforget.errors import InputError
from fuseforget.knowledge import Probe, bootstrap_mean
from fuseforget.models import features, load_classifier
from fuseforget.models.hidden_states import mean_states
from fuseforget.records import Run, encode_values
from fuseforget.studies.forgetting.examined import ShortcutModels

__all__ = ["POOLED", "cross_fitted", "decode"]

POOLED = "pooled"  # what the head reads; the other layers have numbers, 0 is the embeddings
# Of standardised features: hundreds of texts and as many dimensions. Chosen once, on specialists and start, for all models.
L2 = 10.0
Features = npt.NDArray[np.float32]
Say = Callable[[str], None]


def decode(run: Run, part: str, source: ShortcutModels, models: Mapping[str, Path], say: Say) -> None:
    """Record for each model, rule and layer how often a linear probe says the rule's label of texts that it was not fitted to.

    Records: ``decoded``, with the values of the examples, which are the rule's probe's.
    """
    for name, path in models.items():
        for probe in source.probes[:-1]:
            where = {"part": part, "source": source.name, "model": name, "rule": probe.name}
            if run.find("decoded", **where, layer=POOLED) is not None:  # which is the last one written
                continue
            stopping.check("a linear probe")
            for layer, states in _states(path, probe).items():
                if run.find("decoded", **where, layer=layer) is None:
                    right = cross_fitted(states, np.asarray(probe.labels), source.seed)
                    run.add("decoded", **where, layer=layer, **asdict(bootstrap_mean(right)), values=encode_values(right))
            found = run.find("decoded", **where, layer=POOLED)
            assert found is not None
            say(f"{name}: {probe.name} is read from its pooled states with accuracy {found['value']:.3f}")


def cross_fitted(states: Features, labels: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.float64]:
    """Whether a logistic regression fitted to the other half says each example's label: 1 where it does, else 0.

    Args:
        states: examples x dimensions; standardised by the half that is fitted to.
        labels: 0 or 1 an example.
        seed: of the division into halves.

    Raises:
        InputError: fewer than four examples, or a half without one of the labels.
    """
    if len(states) < 4:
        raise InputError("examples of a linear probe", expected="4 or more", found=str(len(states)))
    order = generator(seed, "halves").permutation(len(states))
    halves = order[: len(order) // 2], order[len(order) // 2 :]
    right = np.empty(len(states))
    for fitted, asked in (halves, halves[::-1]):
        centre, scale = states[fitted].mean(axis=0), states[fitted].std(axis=0)
        scaled = (states - centre) / np.where(scale > 0, scale, 1)
        head = fit_head(scaled[fitted], labels[fitted], l2=L2)
        right[asked] = head.predict(scaled[asked]) == labels[asked]
    return right


def _states(path: Path, probe: Probe) -> dict[str, Features]:
    """A text's mean state in each layer, and what the head reads, by the layer's name."""
    classifier = load_classifier(path)
    layers = {str(number): states for number, states in enumerate(mean_states(classifier, probe.texts))}
    return {**layers, POOLED: features(classifier, probe.texts)}
