"""The settings that each fusion method is compared with, and where each comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from fuseforget.methods import METHODS, Value

__all__ = ["LEFT_OUT", "SETTINGS", "Setting"]

DEFAULTS = "its row in `fuseforget methods`"


@dataclass(frozen=True)
class Setting:
    """One row of the comparison.

    Attributes:
        row: what the row is called.
        method: a name in :data:`fuseforget.methods.METHODS`.
        source: where the setting comes from.
        parameters: of the method, where they are not its defaults.
        weight: of each model; None: the method's default (``mean``: one over their number; ``sum``: one).
        on: ``all`` specialists at once, one ``pair`` of them, or ``each`` alone beside the start.
        base: whether the start is given as the base where the method can do without one.
    """

    row: str
    method: str
    source: str
    parameters: Mapping[str, Value] = field(default_factory=dict)
    weight: float | None = None
    on: Literal["all", "pair", "each"] = "all"
    base: bool = False

    @property
    def takes_base(self) -> bool:
        return self.base or METHODS[self.method].base == "required"


# Weights of one over the number of models where a paper does not choose: so the sum of the changes is a mean of them, as in
# Eq. 1, and a row differs from `average` in nothing but the method. Where a paper adds changes, a second row adds them.
SETTINGS = (
    Setting("average", "average", "Zaman et al. 2023, Eq. 1 with equal weights: what the paper studies"),
    Setting("geometric_mean", "geometric_mean", "equal weights"),
    Setting("karcher", "karcher", f"equal weights; {DEFAULTS}"),
    Setting("multislerp", "multislerp", f"equal weights; {DEFAULTS}"),
    Setting("multislerp, base", "multislerp", "equal weights; of the changes, whose mean length it gives back", base=True),
    Setting("task_arithmetic", "task_arithmetic", "weights that sum to one: the average, written with a base"),
    Setting("task_arithmetic .3", "task_arithmetic",
            "adding tasks as Ilharco et al. 2023 do, with one scale below one for all: .3 each", weight=0.3),
    Setting("ties", "ties", "Yadav et al. 2023: without validation data density .2, lambda 1", {"density": 0.2}),
    Setting("ties, all kept", "ties", "election of signs alone: density 1"),
    Setting("dare_linear", "dare_linear", "Yu et al. 2024, a drop rate of .5", {"density": 0.5}),
    Setting("dare_linear .1", "dare_linear", "Yu et al. 2024, a drop rate of .9, which their models bear", {"density": 0.1}),
    Setting("dare_ties", "dare_ties", "Yu et al. 2024, a drop rate of .5, then the mean of TIES",
            {"density": 0.5, "normalize": True}),
    Setting("della", "della", f"Deep et al. 2024, a drop rate of .5; epsilon: {DEFAULTS}", {"density": 0.5}),
    Setting("della_linear", "della_linear", f"Deep et al. 2024, a drop rate of .5; epsilon: {DEFAULTS}", {"density": 0.5}),
    Setting("breadcrumbs", "breadcrumbs", "density .9, gamma .01: mergekit's advice after Davari and Belilovsky 2024",
            {"density": 0.9, "gamma": 0.01}),
    Setting("breadcrumbs .3", "breadcrumbs", "the same, changes added at .3 each, as in task arithmetic",
            {"density": 0.9, "gamma": 0.01}, weight=0.3),
    Setting("breadcrumbs_ties", "breadcrumbs_ties", "density .9, gamma .01, then the mean of TIES",
            {"density": 0.9, "gamma": 0.01, "normalize": True}),
    Setting("sce", "sce", f"every value takes part: {DEFAULTS}"),
    Setting("sce .1", "sce", "Wan et al. 2024: the tenth of the values that vary most", {"select_topk": 0.1}),
    Setting("model_stock", "model_stock", f"Jang et al. 2024 has no setting; {DEFAULTS}"),
    Setting("ram", "ram", f"arXiv 2601.13572 without the plus; {DEFAULTS}"),
    Setting("tsv_m", "tsv_m", "Gargiulo et al. 2025: the sum of the tasks, lambda 1"),
    Setting("iso_c", "iso_c", "Marczak et al. 2025: the sum of the tasks; lambda 1, as there are no validation data"),
    Setting("consensus", "consensus", f"what every model has at least; {DEFAULTS}"),
    Setting("spectral_consensus", "spectral_consensus", DEFAULTS),
    Setting("average, pair", "average", "equal weights; what the next rows are beside", on="pair"),
    Setting("slerp", "slerp", "half way", on="pair"),
    Setting("nuslerp", "nuslerp", f"half way, of the changes; {DEFAULTS}", on="pair", base=True),
    Setting("nearswap", "nearswap", f"one specialist and the start; {DEFAULTS}", on="each"),
    Setting("arcee_fusion", "arcee_fusion", "one specialist and the start; it has no setting", on="each"),
)  # fmt: skip

LEFT_OUT = {
    "fisher": "needs data: each model's Fisher information",
    "fisher_consensus": "needs data: the base's Fisher information about each model's texts",
    "regmean": "needs data: inner products of each layer's inputs",
    "negmerge": "is for unlearning: it takes from the base what all models learned, and so the task, which is to stay",
    "passthrough": "is one model as it is: the row `single specialist`",
}
