"""The methods that are compared, each with a grid of its own parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from fuseforget.methods import METHODS, Value
from fuseforget.studies.method_settings import LEFT_OUT as NEEDS_MORE

__all__ = ["AVERAGE", "CONTENDERS", "DIAL", "LEFT_OUT", "MOST_SETTINGS", "OF_TEXT", "SCALED", "Contender"]

MOST_SETTINGS = 8  # of a method: with more, one would win on validation data by chance
AVERAGE, SCALED = "average", "average, scaled"
TEXT_PART = "memorization"
Grid = tuple[Mapping[str, Value], ...]


@dataclass(frozen=True)
class Contender:
    """A method and the settings among which one is chosen.

    Attributes:
        row: what tables call it.
        method: a name in :data:`fuseforget.methods.METHODS`.
        grid: settings of its parameters, where they are not its defaults.
        weight: of each model; None: the method's default (``mean``: one over their number; ``sum``: one).
        source: where the settings come from.
        base: whether the start is given as the base where the method can do without one.
        only: the one part of the study that asks it; None: all do.
    """

    row: str
    method: str
    grid: Grid = ({},)
    weight: float | None = None
    source: str = "it has no parameters"
    base: bool = False
    only: str | None = None

    @property
    def takes_base(self) -> bool:
        return self.base or METHODS[self.method].base == "required"

    def takes(self, count: int) -> bool:
        """Whether it fuses so many models beside the base."""
        least, most = METHODS[self.method].models
        return least <= count and (most is None or count <= most)


def _grid(**values: Sequence[Value]) -> Grid:
    """All combinations of values of parameters; ``lambda_`` is the parameter lambda."""
    names = [name.rstrip("_") for name in values]
    return tuple(dict(zip(names, point, strict=True)) for point in product(*values.values()))


LAMBDAS = (0.4, 0.6, 0.8, 0.9, 1.1, 1.25, 1.5, 2.0)
DROPPED = "density from little to most, at the scale of the average's change, at less and at more of it"
ELECTED = _grid(density=(0.2, 0.5), lambda_=(0.6, 1.0, 1.5)) + _grid(density=(1.0,), lambda_=(0.5, 1.0))
DARE = _grid(density=(0.2, 0.5), lambda_=(0.5, 0.7, 1.0, 1.3))
DARE_TIES: Grid = tuple({**point, "normalize": True} for point in DARE)
DELLA = _grid(density=(0.3, 0.6), lambda_=(0.5, 0.7, 1.0, 1.3))
CRUMBS = _grid(density=(0.5, 0.9), gamma=(0.01, 0.1), lambda_=(0.8, 1.4))
CRUMBS_TIES: Grid = tuple({**point, "normalize": True} for point in CRUMBS)
# Tasks are summed by default, as their papers do: half of the sum is the average's scale for two. All singular values made equal
# are smaller than the largest were, so that Iso-C wants more.
SUMMED = _grid(lambda_=(0.2, 0.35, 0.5, 0.7, 1.0, 1.5, 2.0))
ISOTROPIC = _grid(lambda_=(1.0, 1.5, 2.0, 3.0, 4.5, 6.0, 8.0, 10.0))
# The first mixes in proportion; the second's strictness is forget / (1 - forget), whose useful range is near one.
COMMON = _grid(forget=(0.7, 1.0), lambda_=(0.8, 1.0, 1.25, 1.5))
# From gentle, for models that have little in common, to strict; the first two for models that changed much, whose shortcuts are
# in tables of tokens as well, and which do better at less than the method's length.
SPECTRAL = (
    tuple({**point, "embeddings": True} for point in _grid(forget=(0.5, 0.8), lambda_=(0.8,)))
    + _grid(forget=(0.8, 0.9, 0.97), lambda_=(1.0,)) + _grid(forget=(0.95, 0.97), lambda_=(1.2,))
    + _grid(forget=(0.97,), lambda_=(1.5,))
)  # fmt: skip
TURNED = (0.0, 0.5, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999, 1.0)
CONTENDERS = (
    Contender(AVERAGE, "average"),
    Contender(SCALED, "task_arithmetic", _grid(lambda_=LAMBDAS),
              source="the average's change from the start times a number: what any other gain is to be held against"),
    Contender("geometric_mean", "geometric_mean"),
    Contender("slerp", "slerp"),
    Contender("nuslerp", "nuslerp", base=True),
    Contender("multislerp", "multislerp"),
    Contender("multislerp, base", "multislerp", base=True),
    Contender("karcher", "karcher"),
    Contender("ties", "ties", ELECTED, source=f"Yadav et al. 2023: density .2 or chosen on validation data; {DROPPED}"),
    Contender("dare_linear", "dare_linear", DARE, source=f"Yu et al. 2024: drop rates of .5 and .8; {DROPPED}"),
    Contender("dare_ties", "dare_ties", DARE_TIES, source=f"the same, then the mean of TIES; {DROPPED}"),
    Contender("della", "della", DELLA, source=f"Deep et al. 2024; {DROPPED}"),
    Contender("della_linear", "della_linear", DELLA, source=f"Deep et al. 2024; {DROPPED}"),
    Contender("breadcrumbs", "breadcrumbs", CRUMBS, source=f"Davari and Belilovsky 2024; {DROPPED}"),
    Contender("breadcrumbs_ties", "breadcrumbs_ties", CRUMBS_TIES, source=f"the same, then the mean of TIES; {DROPPED}"),
    Contender("sce", "sce", _grid(select_topk=(0.1, 0.25, 0.5, 1.0)), source="Wan et al. 2024: a tenth of the values, to all"),
    Contender("model_stock", "model_stock", _grid(filter_wise=(False, True)), source="Jang et al. 2024"),
    Contender("ram", "ram", _grid(epsilon=(1e-5, 1e-4, 1e-3)), source="arXiv 2601.13572 without the plus"),
    Contender("tsv_m", "tsv_m", SUMMED, source="Gargiulo et al. 2025: lambda chosen on validation data"),
    Contender("iso_c", "iso_c", ISOTROPIC, source="Marczak et al. 2025: lambda chosen on validation data"),
    Contender("consensus", "consensus", COMMON, source="near to strictly common and all of it, at less and more than its scale"),
    Contender("spectral_consensus", "spectral_consensus", SPECTRAL,
              source="the strictness up to its default, at its length, at less and at more; gentle ones with tables too"),
)  # fmt: skip
# Who memorised text has it in the tables of tokens too, and is broken by changes as long as its own.
OF_TEXT = (
    Contender("spectral_consensus, short", "spectral_consensus", _grid(forget=(0.8, 0.9, 0.97, 0.99), lambda_=(0.5, 0.65)),
              source="at about half of its length", only=TEXT_PART),
    Contender("spectral_consensus, tables", "spectral_consensus",
              tuple({**point, "embeddings": True} for point in _grid(forget=(0.5, 0.8, 0.9, 0.97), lambda_=(0.8, 1.0))),
              source="gentler, with tables of tokens and positions filtered too", only=TEXT_PART),
    Contender("fisher_consensus", "fisher_consensus", _grid(forget=(0.8, 0.9, 0.95, 0.97), lambda_=(0.8, 1.0)),
              source="the same strictness, its tables filtered by the base's information about each model's rows",
              only=TEXT_PART),
)  # fmt: skip
DIAL = Contender("dial", "spectral_consensus", _grid(forget=TURNED), source="from end to end")

LEFT_OUT = {
    **NEEDS_MORE,
    "fisher_consensus": f"{NEEDS_MORE['fisher_consensus']}; it is asked of memorised text alone",
    "nearswap": "takes one model and the start: it fuses no two",
    "arcee_fusion": "takes one model and the start: it fuses no two",
}
