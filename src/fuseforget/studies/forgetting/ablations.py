"""The part ``ablations``: which choices of spectral consensus do the work, for understanding, told on validation data.

Every variant of :data:`fuseforget.studies.forgetting.ablated.VARIANTS`, at each setting of its knob, fuses some pairs of the
first source's specialists; beside them the plain average, the average lengthened to the method's norm, and other methods. All are
asked on the texts that settings are chosen on, so these numbers are for comparing choices with each other, not for what the
method does: that is told by the part ``pairs``, on test data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING

from fuseforget import stopping
from fuseforget.errors import InputError
from fuseforget.fuse import InPlace
from fuseforget.records import Record, Run
from fuseforget.studies.forgetting.ablated import BESIDE_THE_METHOD, DEFAULT, FORGET, VARIANTS, Variant, average_of, fuse_variant
from fuseforget.studies.forgetting.ablation_results import LENGTHENED, PART, Row, conclude_ablations
from fuseforget.studies.forgetting.agreement import record_agreement
from fuseforget.studies.forgetting.bench import CONTROL, START, Bench
from fuseforget.studies.forgetting.contenders import AVERAGE
from fuseforget.studies.forgetting.pairs import chosen_record
from fuseforget.studies.forgetting.probes import VALIDATION
from fuseforget.studies.forgetting.retained import Piece
from fuseforget.studies.forgetting.settings import ForgettingStudy
from fuseforget.studies.forgetting.sources import Source
from fuseforget.studies.forgetting.tensor_places import places_of
from fuseforget.workers import Workers

if TYPE_CHECKING:
    import torch

__all__ = ["MOST_PAIRS", "OTHER_METHODS", "do_ablations", "lacking_ablations", "spread"]

MOST_PAIRS = 6
OTHER_METHODS = ("ties", "tsv_m", "iso_c")  # rows of contenders, at their chosen settings
Case = tuple[str, ...]
Say = Callable[[str], None]
Tensors = Mapping[str, "torch.Tensor"]


def lacking_ablations(sources: Sequence[Source]) -> str | None:
    """What the part needs that the first source does not have; None where it has it."""
    try:
        places_of(sources[0].model(START))
    except InputError:
        return "models whose tensors' names say attention or MLP, as those of BERT, GPT-2, Llama and T5 do"
    return None


def do_ablations(
    run: Run, sources: Sequence[Source], settings: ForgettingStudy, workers: Workers, say: Say,
    *, variants: Sequence[Variant] = VARIANTS, pairs: int = MOST_PAIRS,
) -> None:  # fmt: skip
    """Fuse some pairs of the first source's specialists by every variant, on validation data, and record what each does.

    The models are fused, and asked, in this process. What the run has is not done again.

    Records: ``measurement`` (models alone), ``ablation_cases`` (the pairs), ``point`` (a fused model; with the norm of its
    update relative to the average's, and its cosine with the average's and with the method's update), ``ablation_result`` (a
    row's), ``update_relation`` (a row's), and ``agreement_spectrum``.

    Args:
        variants: the method's own choices among them.
        pairs: at most so many: those both of whose rules are known to one model alone.

    Raises:
        InputError: variants without the method itself, which the others are compared with.
    """
    if DEFAULT not in variants:
        raise InputError(
            "variants", expected=f"{DEFAULT.name} among them", found=", ".join(one.name for one in variants) or "none"
        )
    bench = Bench(run, sources[0], VALIDATION, settings, workers, say)
    bench.ask_alone((CONTROL, *bench.rules), bench.rules)
    cases = spread([case for case in combinations(bench.rules, 2) if _is_unshared(bench, case)], pairs)
    about = {"part": PART, "source": bench.source.name, "cases": [list(case) for case in cases]}
    if run.find("ablation_cases", **about) is None:
        run.add("ablation_cases", **about)
    rows = [*_variant_rows(variants), *_rows_beside(run, sources)]
    for case in cases:
        _ask(run, bench, case, rows, {one.name: one for one in variants}, settings.seed)
    if cases:
        conclude_ablations(run, bench, cases, rows, settings.allowance)
    record_agreement(run, sources, say)


def spread(cases: Sequence[Case], most: int) -> list[Case]:
    """At most so many of the cases, in their order, such that each rule is in about as many of them."""
    used: Counter[str] = Counter()
    rest, taken = list(cases), list[Case]()
    while rest and len(taken) < most:
        best = min(rest, key=lambda case: (max(used[rule] for rule in case), sum(used[rule] for rule in case)))
        rest.remove(best)
        taken.append(best)
        used.update(best)
    return [case for case in cases if case in taken]


def _is_unshared(bench: Bench, case: Case) -> bool:
    """Whether both specialists learned their rule, and the other one does not solve it as well."""
    control = {rule: bench.alone(CONTROL, rule) for rule in case}
    pieces = (
        Piece(bench.source.name, case, rule, control[rule], control[rule], bench.alone(rule, rule), control[rule],
              tuple(bench.alone(other, rule) for other in case if other != rule))
        for rule in case
    )  # fmt: skip
    return all(bench.knows(rule, rule) for rule in case) and all(piece.is_unshared for piece in pieces)


def _variant_rows(variants: Sequence[Variant]) -> list[Row]:
    """The variants, and the average at the method's norm."""
    rows = [Row(one.name, "ablated", one.changes, one.aspect, tuple({one.dial: at} for at in one.settings)) for one in variants]
    of_method = tuple({DEFAULT.dial: at} for at in DEFAULT.settings)
    return [*rows, Row(LENGTHENED, "average", "the average's change, as long as the method's", BESIDE_THE_METHOD, of_method)]


def _rows_beside(run: Run, sources: Sequence[Source]) -> list[Row]:
    """The average and other methods, at the settings that the run chose on pairs, or at their defaults."""
    found = {row: chosen_record(run, sources, row) for row in OTHER_METHODS}
    said = {
        row: "the setting chosen on pairs" if chosen else "its defaults: the run has chosen none" for row, chosen in found.items()
    }
    return [
        Row(AVERAGE, "average", "nothing is filtered", BESIDE_THE_METHOD, ({},)),
        *(Row(row, row, f"another method, at {said[row]}", BESIDE_THE_METHOD, (chosen["parameters"] if chosen else {},))
          for row, chosen in found.items()),
    ]  # fmt: skip


@dataclass
class _Pair:
    """The weights of a case, read and fused when they are first needed."""

    source: Source
    case: Case

    def __post_init__(self) -> None:
        self._own: tuple[float, dict[str, torch.Tensor]] | None = None

    @cached_property
    def start(self) -> Tensors:
        return self.source.model(START)

    @cached_property
    def models(self) -> list[Tensors]:
        return [self.source.model(name) for name in self.case]

    @cached_property
    def average(self) -> dict[str, torch.Tensor]:
        return average_of(self.start, self.models)

    def own(self, forget: float) -> dict[str, torch.Tensor]:
        """The method's; the last one is kept."""
        if self._own is None or self._own[0] != forget:
            self._own = forget, fuse_variant(DEFAULT, self.start, self.models, forget)
        return self._own[1]

    def by_method(self, row: Row, seed: int) -> dict[str, torch.Tensor]:
        import torch

        paths = [self.source.model(name).path for name in self.case]
        made = {name: torch.empty(tensor.shape, dtype=tensor.dtype) for name, tensor in self.start.items()}
        base = self.source.model(START).path
        InPlace(paths, row.method, base=base, seed=seed, parameters=row.settings[0]).into(made)
        return made

    def lengthened(self, forget: float) -> dict[str, torch.Tensor]:
        """The average with a change as long as the method's."""
        factor = self.relation(self.own(forget), forget)["norm"]
        return {
            name: (start.double() + factor * (self.average[name].double() - start.double())).to(start.dtype)
            if start.is_floating_point() else start
            for name, start in self.start.items()
        }  # fmt: skip

    def relation(self, tensors: Tensors, forget: float) -> dict[str, float]:
        """A change from the start beside the average's and the method's: its length relative to the former, and two cosines."""
        own, products = self.own(forget), Counter[str]()
        for name, start in self.start.items():
            if start.is_floating_point():
                change, average, method = (one[name].double() - start.double() for one in (tensors, self.average, own))
                pairs = {"own": (change, change), "average": (change, average), "method": (change, method),
                         "of average": (average, average), "of method": (method, method)}  # fmt: skip
                products.update({of: float((first * second).sum()) for of, (first, second) in pairs.items()})
        length, of_average, of_method = (products[of] ** 0.5 for of in ("own", "of average", "of method"))
        return {
            "norm": length / of_average if of_average else 0.0,
            "cosine_average": products["average"] / (length * of_average) if length * of_average else 0.0,
            "cosine_method": products["method"] / (length * of_method) if length * of_method else 0.0,
        }


def _ask(run: Run, bench: Bench, case: Case, rows: Sequence[Row], variants: Mapping[str, Variant], seed: int) -> None:
    """Record what the run does not have of a case's points."""
    pair = _Pair(bench.source, case)
    for row, parameters in sorted(_all(rows), key=lambda one: -_forget_of(one[1])):
        where = bench.place(PART, row.name, row.method, parameters, case)
        if run.find("point", **where) is None:
            stopping.check("a fused model")
            forget = _forget_of(parameters)
            tensors = _made(pair, row, parameters, variants, seed)
            bench.ask_weights(where, tensors, case, **pair.relation(tensors, forget))


def _all(rows: Sequence[Row]) -> Iterator[tuple[Row, Record]]:
    yield from ((row, dict(parameters)) for row in rows for parameters in row.settings)


def _forget_of(parameters: Record) -> float:
    """The method's setting that a point is compared with."""
    return float(parameters.get("forget", FORGET))


def _made(
    pair: _Pair, row: Row, parameters: Record, variants: Mapping[str, Variant], seed: int
) -> Mapping[str, torch.Tensor]:  # fmt: skip
    if row.name == AVERAGE:
        return pair.average
    if row.name == LENGTHENED:
        return pair.lengthened(parameters["forget"])
    if row.name == DEFAULT.name:
        return pair.own(parameters["forget"])
    if row.name in variants:
        (setting,) = parameters.values()
        return fuse_variant(variants[row.name], pair.start, pair.models, setting)
    return pair.by_method(row, seed)
