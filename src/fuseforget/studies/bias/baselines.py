"""What fusing is compared with: an attribute erased from a biased model's features, and its head fitted again (INLP, LEACE)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fuseforget import stopping
from fuseforget.data import AttributedExamples
from fuseforget.erasure import Eraser, Inlp, fit_head, fit_inlp, fit_leace, readable
from fuseforget.knowledge.fairness import Grouped, fairness
from fuseforget.models import encode_batches, features, load_classifier
from fuseforget.records import Run
from fuseforget.studies.bias.answers import encode_answers, grouped
from fuseforget.studies.bias.data import Subsets
from fuseforget.studies.bias.models import model_path
from fuseforget.studies.bias.settings import BiasStudy

__all__ = ["METHODS", "erase_attributes"]

METHODS = ("refitted", "inlp", "inlp-chosen", "leace", "inlp-both", "leace-both")
COUNTS = (1, 2, 5, 10, 20, 50, 100, 200)  # of classifiers, among which one is chosen
LOST = 0.02  # of accuracy on validation data, that a choice of classifiers may cost
Say = Callable[[str], None]
Features = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Seen:
    """A biased model's features of three sets: what erasers and heads are fitted to, chosen by, and judged on."""

    train: Features
    validation: Features
    test: Features


@dataclass(frozen=True)
class Erased:
    """How a method changes features (None: not at all), and facts of what it took away."""

    eraser: Eraser | None
    facts: dict[str, Any] = field(default_factory=dict)

    def apply(self, given: Features) -> Features:
        return given if self.eraser is None else self.eraser.apply(given)


def erase_attributes(
    run: Run, settings: BiasStudy, subsets: Subsets, splits: Mapping[str, AttributedExamples], seed: int, say: Say
) -> None:
    """Record what each biased model of a seed answers on the test set once its own attribute, or both, are erased.

    Features are computed in float32: what INLP and LEACE take for rounding is float32's. The eraser is fitted on those of
    the model's own training set, a logistic head is fitted to what it leaves of them, and what it leaves of the test set's
    features is predicted. As published, the test set's features are left as they are.

    ``refitted`` erases nothing: what the new head alone does. ``inlp`` has the paper's 200 classifiers. Where label and
    attribute go together these take the label as well, so ``inlp-chosen`` has the number that validation data speak for
    (:meth:`_Erasers._choose_count`); ``-both`` is of both attributes jointly, INLP then with a chosen number too.
    """
    for attribute in settings.pair:
        lacking = [m for m in METHODS if run.find("answers", seed=seed, model=f"{attribute}-{m}", set="test") is None]
        if not lacking:
            continue
        stopping.check("a baseline")
        sets = {"train": subsets(attribute, settings.ratio, seed), **{name: splits[name] for name in ("validation", "test")}}
        classifier = load_classifier(model_path(run, seed, attribute))
        batches = {name: encode_batches(classifier, part.examples.texts) for name, part in sets.items()}
        seen = Seen(**{name: features(classifier, part, exact=True) for name, part in batches.items()})
        cut = sum(batch.cut for batch in batches["test"])
        erasers = _Erasers(settings, sets, seen)
        for method in lacking:
            erased = erasers.make(method, attribute)
            kept, asked = erased.apply(seen.train), seen.test if settings.as_published else erased.apply(seen.test)
            head = fit_head(kept, sets["train"].examples.labels)
            if run.find("erasure", seed=seed, attribute=attribute, method=method) is None:
                left = readable(kept, sets["train"].codes(attribute), held_out=(asked, sets["test"].codes(attribute)))
                run.add("erasure", seed=seed, attribute=attribute, method=method, **erased.facts, readable=asdict(left))
            run.add(
                "answers", seed=seed, model=f"{attribute}-{method}", set="test", **encode_answers(head.logits(asked)), cut=cut
            )
            say(f"seed {seed}, {attribute}-{method}: accuracy on test {head.accuracy(asked, sets['test'].examples.labels):.3f}")


class _Erasers:
    """The erasers of one biased model; INLP is fitted once for each choice of attributes."""

    def __init__(self, settings: BiasStudy, sets: Mapping[str, AttributedExamples], seen: Seen) -> None:
        self._settings, self._sets, self._seen = settings, sets, seen
        self._inlp: dict[tuple[str, ...], Inlp] = {}

    def make(self, method: str, attribute: str) -> Erased:
        names = self._settings.pair if method.endswith("-both") else (attribute,)
        if method == "refitted":
            return Erased(None, {"rank": 0})
        if method.startswith("leace"):
            eraser = fit_leace(self._seen.train, self._concepts(names))
            return Erased(eraser, {"rank": eraser.rank})
        if names not in self._inlp:
            concepts = self._concepts(names)
            self._inlp[names] = fit_inlp(self._seen.train, concepts, classifiers=self._settings.classifiers)
        inlp = self._inlp[names]
        count, tried = (len(inlp.steps), []) if method == "inlp" else self._choose_count(inlp, names)
        eraser = inlp.first(count)
        return Erased(eraser, {"rank": eraser.rank, "classifiers": count, "ended": inlp.ended, "tried": tried})

    def _concepts(self, names: Sequence[str]) -> dict[str, npt.NDArray[np.int64]]:
        return {name: self._sets["train"].codes(name) for name in names}

    def _choose_count(self, inlp: Inlp, names: Sequence[str]) -> tuple[int, list[dict[str, float]]]:
        """The number of classifiers with the least mean demographic parity on validation data.

        Among those that keep accuracy there within :data:`LOST` of a head on unchanged features; of none, the number with
        the most accuracy. Returned with what each number does.
        """
        validation = self._sets["validation"]
        groups = [grouped(validation, name) for name in names]
        tried = [self._try(inlp.first(count), count, groups) for count in sorted({min(c, len(inlp.steps)) for c in COUNTS})]
        least = self._try(None, 0, groups)["accuracy"] - LOST
        sound = [one for one in tried if one["accuracy"] >= least]
        best = min(sound, key=lambda one: one["bias"]) if sound else max(tried, key=lambda one: one["accuracy"])
        return int(best["classifiers"]), tried

    def _try(self, eraser: Eraser | None, count: int, groups: Sequence[Grouped]) -> dict[str, float]:
        erased = Erased(eraser)
        head = fit_head(erased.apply(self._seen.train), self._sets["train"].examples.labels)
        asked = self._seen.validation
        predicted = head.predict(asked if self._settings.as_published else erased.apply(asked))
        bias = [fairness("demographic_parity", of, predicted).value for of in groups]
        accuracy = float(np.mean(predicted == groups[0].labels))
        return {"classifiers": count, "accuracy": accuracy, "bias": float(np.mean(bias))}
