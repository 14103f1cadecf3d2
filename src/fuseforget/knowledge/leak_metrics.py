"""What an entry of kind ``memorization`` can ask for, by name: ``alr``, ``perplexity``, ``auc.reference``, ``tpr@0.01.min_k``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches

from fuseforget.errors import InputError
from fuseforget.knowledge.attacks import ATTACKS

__all__ = ["RATES", "LeakMetric", "default_metrics", "leak_metric"]

RATES = (0.01, 0.001)  # false positive rates that a default audit reports true positives at
PLAIN = ("alr", "perplexity", "mia_recall", "extraction")
OF_TOKENS = {"tokens", "reference_tokens"}


@dataclass(frozen=True)
class LeakMetric:
    """One metric.

    Attributes:
        measure: ``alr``, ``perplexity``, ``mia_recall``, ``extraction``; of attacks ``auc`` or ``tpr``.
        attack: a name in :data:`fuseforget.knowledge.attacks.ATTACKS`; empty where the metric is of none.
        rate: the false positive rate of a ``tpr``.
    """

    name: str
    measure: str
    attack: str = ""
    rate: float = 0.0

    @property
    def of_reference(self) -> bool:
        """Whether it needs the pretrained model."""
        return self.measure in ("alr", "mia_recall") or bool({"reference", "reference_tokens"} & self._needs)

    @property
    def of_non_members(self) -> bool:
        """Whether it needs rows that no model was trained on."""
        return self.measure == "mia_recall" or bool(self.attack)

    @property
    def of_tokens(self) -> bool:
        """Whether it needs what a decoder says of each token."""
        return self.measure == "extraction" or bool(OF_TOKENS & self._needs)

    @property
    def of_reference_tokens(self) -> bool:
        """Whether it needs what the pretrained model says of each token."""
        return "reference_tokens" in self._needs

    @property
    def _needs(self) -> set[str]:
        return set(ATTACKS[self.attack].needs) if self.attack else set()


def leak_metric(where: str, name: str) -> LeakMetric:
    """The metric of a name.

    Raises:
        InputError: none has this name, or a false positive rate outside ]0, 1[.
    """
    if name in PLAIN:
        return LeakMetric(name, name)
    kind, _, attack = name.partition(".")
    if kind == "auc" and attack in ATTACKS:
        return LeakMetric(name, kind, attack)
    rated = re.fullmatch(r"tpr@(\d*\.?\d+)\.([a-z_]+)", name)
    if rated and rated[2] in ATTACKS:
        rate = float(rated[1])
        if not 0 < rate < 1:
            raise InputError(f"{where}, {name}", expected="a false positive rate between 0 and 1", found=rated[1])
        return LeakMetric(name, "tpr", rated[2], rate)
    known = [*PLAIN, *(f"{measure}.{one}" for measure in ("auc", *(f"tpr@{rate:g}" for rate in RATES)) for one in ATTACKS)]
    near = get_close_matches(name, known, n=3)
    raise InputError(
        where,
        expected=f"a metric among {', '.join(PLAIN)}, auc.ATTACK, tpr@RATE.ATTACK with an attack among {', '.join(ATTACKS)}",
        found=name,
        action=f"Did you mean {' or '.join(near)}?" if near else "",
    )


def default_metrics(*, reference: bool, non_members: bool, decoder: bool, extraction: bool) -> tuple[str, ...]:
    """All that can be measured.

    Args:
        reference, non_members: whether there are any.
        decoder: whether the models say something of each token.
        extraction: whether rows are long enough for a prefix and a suffix.
    """
    measures = ("auc", *(f"tpr@{rate:g}" for rate in RATES))
    known = [leak_metric("", name) for name in (*PLAIN, *(f"{measure}.{attack}" for attack in ATTACKS for measure in measures))]
    return tuple(
        one.name
        for one in known
        if (reference or not one.of_reference)
        and (non_members or not one.of_non_members)
        and (decoder or not one.of_tokens)
        and (extraction or one.measure != "extraction")
    )
