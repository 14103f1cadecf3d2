"""What is left of knowledge in fused models: means over rules, cases and sources, with intervals over all of these.

A case is a set of models that are fused. Two retentions of a rule are told apart: of all that the rule's specialist knows more
than the control, and of what it knows more than the control *and* the other models of the case. Rules of the paper overlap (who
knows MT solves most of LT's probe), and what another model of the case knows as well is no unshared knowledge that a method
could be asked to forget.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from fuseforget.errors import InputError
from fuseforget.knowledge import Interval
from fuseforget.knowledge.resampling import RESAMPLES
from fuseforget.knowledge.statistics import percentiles, resampled_means
from fuseforget.records import Record

__all__ = ["LEAST_GAP", "Fused", "Piece", "mean_of_cases", "point_values", "without_own"]

LEAST_GAP = 0.1  # by which a specialist is above the floor where there is something unshared to forget
Values = npt.NDArray[np.float64]
Case = tuple[str, ...]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Piece:
    """One model's knowledge of one rule in one fused model: what is right on the rule's texts, a value a text.

    Attributes:
        source, case, rule: which one it is.
        fused, reference: of the fused model, and of the plain average of the same models.
        specialist: of the model that knows it.
        control: of the model that learned no rule.
        others: of the case's other models.
        share: what the piece counts: of a mixture of fused models each is a piece of its own, and their shares sum to one. So
            what is cut at zero is cut in each, and a mixture is on the straight line between what it mixes.
        texts: a name of what the texts were made from, the same for sources whose i-th texts are of one original; default:
            the source's own.
    """

    source: str
    case: Case
    rule: str
    fused: Values
    reference: Values
    specialist: Values
    control: Values
    others: tuple[Values, ...]
    share: float = 1.0
    texts: str = ""

    @property
    def drawn(self) -> tuple[str, str]:
        """The same for pieces whose examples are resampled together."""
        return self.texts or self.source, self.rule

    @property
    def floor(self) -> Values:
        """Of whichever is right most often without the specialist's own knowledge."""
        return max((self.control, *self.others), key=lambda values: float(values.mean()))

    @property
    def is_unshared(self) -> bool:
        """Whether the specialist knows enough that no other model of the case does."""
        return float(self.specialist.mean() - self.floor.mean()) >= LEAST_GAP


@dataclass(frozen=True)
class Fused:
    """A fused model on the task's texts: what it gets right, and what the plain average of the same models does.

    Attributes:
        texts: as of a :class:`Piece`.
    """

    source: str
    case: Case
    fused: Values
    reference: Values
    texts: str = ""

    @property
    def drawn(self) -> str:
        return self.texts or self.source


def point_values(pieces: Sequence[Piece], tasks: Sequence[Fused]) -> dict[str, float | None]:
    """The values of :func:`mean_of_cases` that are no differences, without intervals; None where undefined."""
    points = {name: rows[0] for name, rows in _quantities(pieces, tasks, resamples=0).items()}
    return {name: _mean(table) for name, table in points.items() if not name.endswith("_difference")}


def mean_of_cases(pieces: Sequence[Piece], tasks: Sequence[Fused], *, seed: int = 0) -> Record:
    """The fields of a result: means over a case's rules, then over cases and sources.

    The 95 % intervals are of a bootstrap over examples, cases and sources together: the same drawn examples for all models of
    a source, and for all sources of the same texts, and crossed draws of cases and of sources; where there is one of these it
    stays. They cover which pairs and which trainings were at hand as far as so many of them can tell.

    Returns:
        retention, unshared: value, low, high, n (cases that it is over); None where no case has any. Less is forgotten better.
        retention_clipped, unshared_clipped: the mean of what is above zero, so that a rule that is solved less often than by
            who never knew it makes up for no other.
        retention_difference, unshared_difference: the value less the average's.
        retention_clipped_difference, unshared_clipped_difference: the same of what is above zero.
        task, task_difference: accuracy, and less the average's.
        by_source: by source, the values of retention, unshared and task.
        by_rule: by rule, the values of retention and unshared.
        cases, pieces, unshared_pieces: how many there are, over all sources; a mixture is one.
    """
    found = _quantities(pieces, tasks, resamples=RESAMPLES, seed=seed)
    sources = list(dict.fromkeys(one.source for one in tasks))
    rules = list(dict.fromkeys(one.rule for one in pieces))
    by_source: Record = {
        source: point_values([p for p in pieces if p.source == source], [t for t in tasks if t.source == source])
        for source in sources
    }
    by_rule: Record = {rule: point_values([p for p in pieces if p.rule == rule], []) for rule in rules}
    return {
        **{name: _interval(points, draws, seed) for name, (points, draws) in found.items()},
        "by_source": by_source,
        "by_rule": {rule: {name: of[name] for name in ("retention", "unshared")} for rule, of in by_rule.items()},
        "cases": len(tasks), "pieces": _count(pieces), "unshared_pieces": _count([one for one in pieces if one.is_unshared]),
    }  # fmt: skip


def without_own(pieces: Sequence[Piece]) -> list[tuple[str, Case, str]]:
    """Which pieces have nothing unshared in their case: source, case and rule of each."""
    return [(one.source, one.case, one.rule) for one in pieces if not one.is_unshared]


def _count(pieces: Sequence[Piece]) -> int:
    return round(sum(one.share for one in pieces))


class _Table:
    """Sums over the pieces of each source and case, at the point and in resamples of the examples; in the end their means.

    Args:
        resamples: none: the point alone.
    """

    def __init__(self, sources: Sequence[str], cases: Sequence[Case], resamples: int) -> None:
        self._sources, self._cases = list(sources), list(cases)
        shape = (len(sources), len(cases))
        self._count, self._points, self._draws = np.zeros(shape), np.zeros(shape), np.zeros((resamples, *shape))

    def add(self, source: str, case: Case, point: float, draws: Values, share: float = 1.0) -> None:
        place = self._sources.index(source), self._cases.index(case)
        self._count[place] += share
        self._points[place] += share * point
        self._draws[(slice(None), *place)] += share * draws

    def means(self) -> tuple[Values, Values]:
        """Sources x cases, and resamples x sources x cases; NaN where there is nothing."""
        count = np.where(self._count > 0, self._count, np.nan)
        return self._points / count, self._draws / count


def _quantities(
    pieces: Sequence[Piece], tasks: Sequence[Fused], *, resamples: int, seed: int = 0
) -> dict[str, tuple[Values, Values]]:
    """Tables of each quantity: at the point, and in resamples."""
    everything = [*((one.source, one.case) for one in pieces), *((one.source, one.case) for one in tasks)]
    sources, cases = (list(dict.fromkeys(column)) for column in zip(*everything, strict=True)) if everything else ([], [])
    kinds = ("", "_difference", "_clipped", "_clipped_difference")
    names = (*(f"{name}{kind}" for name in ("retention", "unshared") for kind in kinds), "task", "task_difference")
    tables = {name: _Table(sources, cases, resamples) for name in names}
    # Another stream for each set of texts: their examples are resampled independently.
    for number, group in enumerate(_groups(pieces, lambda one: one.drawn)):
        means = _Means([row for one in group for row in _rows(one)], resamples, seed + number)
        for one in group:
            _add(tables, one, means, "retention", one.control)
            if one.is_unshared:
                _add(tables, one, means, "unshared", one.floor)
    for number, alike in enumerate(_groups(tasks, lambda one: one.drawn)):
        means = _Means([row for task in alike for row in (task.fused, task.reference)], resamples, seed + number)
        for task in alike:
            fused, reference = means.of(task.fused), means.of(task.reference)
            tables["task"].add(task.source, task.case, *fused)
            tables["task_difference"].add(task.source, task.case, fused[0] - reference[0], fused[1] - reference[1])
    return {name: table.means() for name, table in tables.items()}


def _rows(piece: Piece) -> list[Values]:
    return [piece.fused, piece.reference, piece.specialist, piece.control, *piece.others]


def _add(tables: dict[str, _Table], piece: Piece, means: _Means, name: str, floor: Values) -> None:
    """Add what is left of a piece above a floor, and that less what the average leaves of it."""
    of = [means.of(values) for values in (piece.fused, piece.reference, piece.specialist, floor)]
    point, average = ((of[row][0] - of[3][0]) / (of[2][0] - of[3][0]) for row in (0, 1))
    gap = of[2][1] - of[3][1]
    # The few resamples in which a specialist is not above the floor have no retention.
    above = np.where(gap > 0, gap, np.nan)
    draws, drawn_average = ((of[row][1] - of[3][1]) / above for row in (0, 1))
    clipped, clipped_average = (max(value, 0.0) for value in (point, average))
    drawn_clipped, drawn_clipped_average = (np.maximum(value, 0.0) for value in (draws, drawn_average))
    for kind, value, drawn in (
        ("", point, draws),
        ("_difference", point - average, draws - drawn_average),
        ("_clipped", clipped, drawn_clipped),
        ("_clipped_difference", clipped - clipped_average, drawn_clipped - drawn_clipped_average),
    ):
        tables[f"{name}{kind}"].add(piece.source, piece.case, value, drawn, piece.share)


class _Means:
    """Means of arrays of values on the same examples, and the same resamples of these for all of them."""

    def __init__(self, rows: Sequence[Values], resamples: int, seed: int) -> None:
        different = {id(row): row for row in rows}
        lengths = {len(row) for row in different.values()}
        if len(lengths) != 1:
            raise InputError("models on the same examples", expected="equally many values", found=str(sorted(lengths)))
        stacked = np.stack(list(different.values()))
        drawn = resampled_means(stacked, seed=seed, resamples=resamples) if resamples else np.empty((0, len(stacked)))
        self._of = {key: (float(stacked[i].mean()), drawn[:, i]) for i, key in enumerate(different)}

    def of(self, row: Values) -> tuple[float, Values]:
        return self._of[id(row)]


def _groups(items: Sequence[Item], key: Callable[[Item], Hashable]) -> list[list[Item]]:
    groups: dict[Hashable, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())


def _mean(table: Values) -> float | None:
    return None if np.isnan(table).all() else float(np.nanmean(table))


def _interval(points: Values, draws: Values, seed: int) -> Record | None:
    """The mean of a table with its interval, over resamples of examples, of cases and of sources."""
    value = _mean(points)
    if value is None:
        return None
    sources, cases = points.shape
    rng = np.random.default_rng([seed, sources, cases])
    drawn_sources = rng.integers(sources, size=(len(draws), sources))
    drawn_cases = rng.integers(cases, size=(len(draws), cases))
    rows = np.arange(len(draws))[:, None, None]
    mixed = draws[rows, drawn_sources[:, :, None], drawn_cases[:, None, :]].reshape(len(draws), -1)
    defined = ~np.isnan(mixed)
    # A resample may draw nothing but cases in which nothing is defined: it has no mean.
    some = defined.any(axis=1)
    low, high = percentiles(np.nansum(mixed[some], axis=1) / defined[some].sum(axis=1))
    return asdict(Interval(value, low, high, int((~np.isnan(points)).sum())))
