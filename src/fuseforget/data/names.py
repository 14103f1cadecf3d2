"""First names that say something of an author: sex, birth cohort, and how common the name is.

A name counts for a sex where this sex has at least 2.5 times the other's births, and for a cohort where the births of this
sex in the cohort's decades are at least 2.5 times those in the other's. Names are drawn in proportion to births in the cohort.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from fuseforget.data.tables import read_table
from fuseforget.errors import InputError

__all__ = ["ATTRIBUTES", "NameTable", "read_names", "split_names"]

ATTRIBUTES = {"gender": ("female", "male"), "age": ("old", "young"), "frequency": ("common", "rare")}
SEXES = {"F": "female", "M": "male"}
COHORTS = {"old": ("1930s", "1940s", "1950s"), "young": ("1990s", "2000s", "2010s")}
OUTNUMBERS = 2.5  # how many times the other's births one sex or cohort must have
COLUMNS = ("name", "sex", "decade", "births")

Cell = tuple[str, ...]  # a value for each of the attributes that are asked for, in their order


@dataclass(frozen=True)
class NameTable:
    """Names by (gender, age) with their births in the cohort, the most frequent first.

    Raises:
        InputError: a gender and age without names.
    """

    births: Mapping[tuple[str, str], Mapping[str, int]]

    def __post_init__(self) -> None:
        ordered = {}
        for cell in product(ATTRIBUTES["gender"], ATTRIBUTES["age"]):
            names = self.births.get(cell, {})
            if not names:
                raise InputError("names", expected="a name that counts for each gender and age", found=f"none for {_say(cell)}")
            ordered[cell] = dict(sorted(names.items(), key=lambda item: (-item[1], item[0])))
        object.__setattr__(self, "births", ordered)

    def cells(self, attributes: Sequence[str]) -> dict[Cell, dict[str, int]]:
        """The names, with births, for each combination of the attributes' values.

        With ``frequency``, common names are the most frequent ones of a gender and age that have half of its births together,
        and rare ones the less frequent half of its names, common ones apart; names between count for neither.

        Raises:
            InputError: another attribute than these three, one twice, none, or a cell without a rare name.
        """
        if not attributes or len(set(attributes)) != len(attributes) or not set(attributes) <= set(ATTRIBUTES):
            found = ", ".join(attributes) or "none"
            raise InputError("attributes of a name", expected=f"some of {', '.join(ATTRIBUTES)}, each once", found=found)
        found_names: dict[Cell, dict[str, int]] = {cell: {} for cell in product(*(ATTRIBUTES[name] for name in attributes))}
        for (gender, age), names in self.births.items():
            for frequency, part in _by_frequency(names).items() if "frequency" in attributes else [("", names)]:
                values = {"gender": gender, "age": age, "frequency": frequency}
                found_names[tuple(values[name] for name in attributes)].update(part)
                if not part:
                    raise InputError(
                        "names", expected=f"a {frequency} name for {gender}, {age}", found=f"only {', '.join(names)}"
                    )
        return found_names


def read_names(path: str | Path) -> NameTable:
    """Read a table of births with the columns name, sex (F or M), decade (1930s, ...) and births.

    Raises:
        InputError: unreadable, a column absent, a sex that is neither, births that are no whole number above 0, or a gender
            and age for which no name counts.
    """
    source = Path(path)
    table = read_table(source, "train")
    absent = [name for name in COLUMNS if name not in table]
    if absent:
        raise InputError(str(path), expected=f"the columns {', '.join(COLUMNS)}", found=f"columns {', '.join(table) or 'none'}")
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for row, values in enumerate(zip(*(table[column] for column in COLUMNS), strict=True), 1):
        name, sex, decade, births = (str(value).strip() for value in values)
        if not name or sex not in SEXES or not births.isdecimal() or int(births) < 1:
            raise InputError(f"{path}, row {row}", expected="a name, F or M, a decade, and births", found=repr(values))
        decades = counts.setdefault(name, {"female": {}, "male": {}})[SEXES[sex]]
        decades[decade] = decades.get(decade, 0) + int(births)
    return _table_of(counts)


def split_names(cells: Mapping[Cell, Mapping[str, int]], rng: np.random.Generator) -> tuple[dict[Cell, dict[str, int]], ...]:
    """Divide the names of each cell in two halves at random: what is in one is in no cell of the other.

    Raises:
        InputError: a cell with one name.
    """
    halves: tuple[dict[Cell, dict[str, int]], ...] = ({}, {})
    for cell, names in cells.items():
        if len(names) < 2:
            raise InputError("names", expected=f"two names or more for {_say(cell)}, to hold some out", found=", ".join(names))
        order = rng.permutation(list(names)).tolist()
        for half, part in zip(halves, (order[: len(order) // 2], order[len(order) // 2 :]), strict=True):
            half[cell] = {name: births for name, births in names.items() if name in set(part)}
    return halves


def _table_of(counts: Mapping[str, Mapping[str, Mapping[str, int]]]) -> NameTable:
    """The names that count for a sex and a cohort, from births by name, sex and decade."""
    births: dict[tuple[str, str], dict[str, int]] = {cell: {} for cell in product(ATTRIBUTES["gender"], ATTRIBUTES["age"])}
    for name, sexes in counts.items():
        for gender, other in (("female", "male"), ("male", "female")):
            own, others = sum(sexes[gender].values()), sum(sexes[other].values())
            if not own or own < OUTNUMBERS * others:
                continue
            of = {age: sum(sexes[gender].get(decade, 0) for decade in decades) for age, decades in COHORTS.items()}
            for age, counterpart in (("old", "young"), ("young", "old")):
                if of[age] and of[age] >= OUTNUMBERS * of[counterpart]:
                    births[gender, age][name] = of[age]
    return NameTable(births)


def _by_frequency(names: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Common and rare names among names with births, the most frequent first."""
    before = np.cumsum([0, *names.values()])[:-1]  # the births of all names that are more frequent
    common = int((2 * before < sum(names.values())).sum())
    rare_from = max(common, len(names) // 2)
    ranked = list(names.items())
    return {"common": dict(ranked[:common]), "rare": dict(ranked[rare_from:])}


def _say(cell: Cell) -> str:
    return ", ".join(cell)
