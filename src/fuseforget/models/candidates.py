"""How likely a decoder finds each of many continuations of one beginning, such as all the secrets that a canary could hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from fuseforget.errors import InputError
from fuseforget.models.language import LanguageModel
from fuseforget.models.logits import LOGIT_BUDGET, TOKEN_BUDGET, Reading, require_finite, require_rows, visit_logits

__all__ = ["candidate_log_probs"]

Prefix = tuple[int, ...]


def candidate_log_probs(
    lm: LanguageModel,
    prefix: Sequence[int],
    candidates: Sequence[Sequence[int]],
    *,
    exact: bool = False,
    token_budget: int = TOKEN_BUDGET,
    logit_budget: int = LOGIT_BUDGET,
) -> npt.NDArray[np.float64]:
    """Return the sum of log p of each candidate's tokens after the prefix, in nats.

    What several candidates begin with is read once: 10,000 candidates of four tokens, ten sorts each, cost 1,000 rows.

    Args:
        prefix: at least one token, since a row's first token is predicted by nothing.
        candidates: token ids, at least one each; they may differ in length, and be equal.

    Raises:
        InputError: a masked model; no prefix, or an empty candidate; too many tokens, or ids that the model does not know.
    """
    _require(lm, prefix, candidates)
    steps = {tuple(candidate[:k]) for candidate in candidates for k in range(1, len(candidate) + 1)}
    children = _children(steps)
    readings = _readings(tuple(prefix), set(children))
    # A place is the context that ends there: its logits give all its children.
    contexts = [tuple(reading.row[len(prefix) : place + 1]) for reading in readings for place in reading.places]
    log_p: dict[Prefix, float] = {}

    def take(numbers: npt.NDArray[np.int64], logits: torch.Tensor) -> None:
        kept = [(k, context, token) for k, n in enumerate(numbers) for context in [contexts[n]] for token in children[context]]
        where, tokens = (torch.tensor([one[i] for one in kept], device=logits.device) for i in (0, 2))
        found = logits.log_softmax(dim=1)[where, tokens].double().cpu()
        log_p.update(((*context, token), float(value)) for (_, context, token), value in zip(kept, found, strict=True))

    visit_logits(lm, readings, take, exact=exact, token_budget=token_budget, logit_budget=logit_budget)
    sums = np.array([sum(log_p[tuple(one[:k])] for k in range(1, len(one) + 1)) for one in candidates], dtype=np.float64)
    require_finite(lm, sums, np.arange(len(sums)))
    return sums


def _require(lm: LanguageModel, prefix: Sequence[int], candidates: Sequence[Sequence[int]]) -> None:
    if lm.masked:
        raise InputError(lm.source, expected="a decoder", found="a masked language model")
    if not len(prefix):
        raise InputError("prefix", expected="at least one token", found="none", action="Begin with the token that begins a text.")
    require_rows(lm, candidates, least=1, why="as a candidate")
    longest = max(candidates, key=len, default=())
    require_rows(lm, [[*prefix, *longest]], least=1, why="as prefix and candidate")


def _children(steps: Iterable[Prefix]) -> dict[Prefix, list[int]]:
    """The tokens that follow each context, which is what a candidate begins with."""
    found: dict[Prefix, list[int]] = {}
    for step in sorted(steps):
        found.setdefault(step[:-1], []).append(step[-1])
    return found


def _readings(prefix: Prefix, contexts: set[Prefix]) -> list[Reading]:
    """Rows in which every context ends in one place, each once; a context that another goes on from needs no row of its own."""
    beginnings = {context[:k] for context in contexts for k in range(len(context))}
    readings, seen = [], set[Prefix]()
    for context in sorted(contexts - beginnings):
        fresh = [k for k in range(len(context) + 1) if context[:k] not in seen]
        seen.update(context[:k] for k in fresh)
        readings.append(Reading((*prefix, *context), [len(prefix) - 1 + k for k in fresh]))
    return readings
