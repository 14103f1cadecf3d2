"""Two to all of a shortcut study's specialists, fused by every method at the setting that was chosen on pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fuseforget.records import Run
from fuseforget.studies.forgetting.bench import Bench
from fuseforget.studies.forgetting.comparing import Case, Entry, compare
from fuseforget.studies.forgetting.pairs import choose_settings
from fuseforget.studies.forgetting.probes import TEST
from fuseforget.studies.forgetting.settings import ForgettingStudy
from fuseforget.studies.forgetting.sources import Source
from fuseforget.workers import Workers

__all__ = ["PART", "do_numbers", "subsets"]

PART = "numbers"
Say = Callable[[str], None]


def do_numbers(run: Run, sources: Sequence[Source], settings: ForgettingStudy, workers: Workers, say: Say) -> None:
    """Record what each method leaves of the rules, and the task, by the number of models.

    Records: ``point``, and a ``forgetting_result`` for each method and number (``models``). A method that does not take so
    many models has none.
    """
    chosen = choose_settings(run, sources, settings, workers, say)
    benches = [Bench(run, source, TEST, settings, workers, say) for source in sources]
    entries = Entry.of(chosen, settings.contenders)
    rules = benches[0].rules
    for count in range(2, len(rules) + 1):
        compare(run, PART, benches, entries, subsets(rules, count, settings.seed), models=count)


def subsets(rules: Sequence[str], count: int, seed: int) -> list[Case]:
    """The first rules, and where there are more, another subset of as many, drawn from the seed."""
    first = tuple(rules[:count])
    if count == len(rules):
        return [first]
    rng = np.random.default_rng([seed, count])
    while True:
        other = tuple(rules[i] for i in sorted(rng.permutation(len(rules))[:count]))
        if other != first:
            return [first, other]
