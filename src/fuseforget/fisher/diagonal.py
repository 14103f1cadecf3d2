"""The diagonal of the Fisher information of a classifier: Eq. 9 of Zaman et al. 2023, exactly, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from fuseforget.errors import FuseForgetError, InputError, require_seed, some_names
from fuseforget.fisher.gradients import Choose, Differentiator
from fuseforget.models import Batch, Classifier, batch_tokens, describe_cut, load_classifier, max_tokens, tokenise

__all__ = ["LABELS_FROM", "Fisher", "Fishers", "diagonal_fisher", "require_finite"]

LABELS_FROM = ("given", "sampled", "expected")
TOKEN_BUDGET = 1024  # tokens in a batch: enough to keep the cores busy, few enough that its texts are of one length
Say = Callable[[str], None]
Fisher = dict[str, torch.Tensor]


def diagonal_fisher(
    model: Classifier | str | Path,
    texts: Sequence[str],
    labels: Sequence[int] | None = None,
    *,
    labels_from: str = "given",
    seed: int = 0,
    token_budget: int = TOKEN_BUDGET,
    say: Say = lambda line: None,
) -> Fisher:
    """Return the mean over texts of ``(d log p(y | x) / d theta)^2`` for each parameter (Zaman et al. 2023, Eq. 9).

    It is computed in float32 throughout (float64 for a model in float64) without dropout, from per-example gradients that
    are exact whatever the batches; memory is a copy of the parameters besides the model and a batch's activations.

    Args:
        model: a classifier, or a directory or hub id of one. It is left as it was.
        labels: the label of each text, by logit; for ``given`` alone.
        labels_from: ``given`` (the empirical Fisher), ``sampled`` (y drawn from the model's own p(y | x) by ``seed``) or
            ``expected`` (the sum over y of p(y | x) times the square: the true Fisher's diagonal, without sampling).
        token_budget: tokens in a batch, padding included.

    Returns:
        A tensor for each of the model's parameters, by name and in its shape; a parameter that several modules share is
        there once.

    Raises:
        InputError: no texts, labels that are missing, too many or no logit's, or a model that gives no probabilities.
        FuseForgetError: a gradient that is not finite, by the tensor's name.
    """
    classifier = model if isinstance(model, Classifier) else load_classifier(model)
    with Fishers(classifier, texts, labels, labels_from=labels_from, seed=seed, token_budget=token_budget, say=say) as fishers:
        return fishers.of(range(len(texts)))


class Fishers:
    """Fishers of one classifier over parts of the same texts; see :func:`diagonal_fisher` for the arguments."""

    def __init__(
        self, classifier: Classifier, texts: Sequence[str], labels: Sequence[int] | None = None, *,
        labels_from: str = "given", seed: int = 0, token_budget: int = TOKEN_BUDGET, say: Say = lambda line: None,
    ) -> None:  # fmt: skip
        _check(classifier, texts, labels, labels_from)
        require_seed(seed)
        self._classifier, self._texts, self._budget, self._say = classifier, list(texts), token_budget, say
        self._choose = _chooser(labels, labels_from, seed, int(classifier.model.config.num_labels))

    def __enter__(self) -> Fishers:
        self._ids, self._cut = tokenise(self._classifier, self._texts)
        note = describe_cut(len(self._cut), len(self._ids), max_tokens(self._classifier))
        if note:
            self._say(note)
        self._differentiator = Differentiator(self._classifier.model, self._probe())
        self._differentiator.__enter__()
        slow = self.slow
        if slow:
            self._say(
                f"one backward pass an example for {len(slow)} tensors that layers share or use freely: {', '.join(slow[:4])}"
            )
        return self

    def __exit__(self, *error: object) -> None:
        self._differentiator.__exit__(None, None, None)

    @property
    def slow(self) -> tuple[str, ...]:
        """The parameters that take a backward pass an example, since several layers share or use them freely."""
        return tuple(sorted(self._differentiator.slow))

    def of(self, rows: Sequence[int]) -> Fisher:
        """The Fisher over the texts at these rows."""
        if len(rows) == 0:
            raise InputError("texts", expected="at least one", found="none")
        self._differentiator.reset()
        taken = np.asarray(rows, dtype=np.int64)
        for batch in self._batches(rows, self._budget):
            whole = Batch(taken[batch.rows], batch.input_ids, batch.attention_mask, batch.cut)
            self._differentiator.add(whole, self._choose)
        fisher = self._differentiator.totals
        self._differentiator.totals = {}
        require_finite(fisher, self._classifier.source)
        for values in fisher.values():
            values /= len(rows)
        return fisher

    def _probe(self) -> Batch:
        """Two texts of different lengths, to try the model on: the shortest and the median one."""
        order = np.argsort([len(ids) for ids in self._ids], kind="stable")
        picked = dict.fromkeys([int(order[0]), int(order[len(order) // 2])])
        return self._batches(list(picked), 2**40)[0]

    def _batches(self, rows: Sequence[int], token_budget: int) -> list[Batch]:
        cut = {place for place, row in enumerate(rows) if row in self._cut}
        return batch_tokens(self._classifier, [self._ids[row] for row in rows], cut, token_budget=token_budget)


def require_finite(fisher: Fisher, source: str) -> None:
    """Raise FuseForgetError where a model's gradients were no numbers, naming the tensors."""
    broken = [name for name, values in fisher.items() if not bool(values.isfinite().all())]
    if broken:
        raise FuseForgetError(
            f"gradients of {source}", expected="finite numbers",
            found=f"NaN or infinity in {some_names(broken)}",
        )  # fmt: skip


def _check(classifier: Classifier, texts: Sequence[str], labels: Sequence[int] | None, labels_from: str) -> None:
    if labels_from not in LABELS_FROM:
        raise InputError("labels", expected=f"one of {', '.join(LABELS_FROM)}", found=repr(labels_from))
    if len(texts) == 0:
        raise InputError("texts", expected="at least one", found="none")
    config = classifier.model.config
    count = int(config.num_labels)
    problem = getattr(config, "problem_type", None)
    if count < 2 or problem not in (None, "single_label_classification"):
        raise InputError(
            classifier.source, expected="a classifier with one of several labels a text",
            found=f"{count} label{'s' if count > 1 else ''}, {problem or 'a regression'}",
        )  # fmt: skip
    if labels_from != "given":
        return
    if labels is None or len(labels) != len(texts):
        raise InputError(
            "labels", expected=f"one for each of {len(texts)} texts", found="none" if labels is None else str(len(labels))
        )
    odd = [label for label in labels if not 0 <= int(label) < count]
    if odd:
        raise InputError("labels", expected=f"0 to {count - 1}, the model's", found=str(odd[0]))


def _chooser(labels: Sequence[int] | None, labels_from: str, seed: int, count: int) -> Choose:
    """What each label of each example counts, from the model's probabilities and the examples' rows."""

    def given(p: torch.Tensor, rows: npt.NDArray[np.int64]) -> torch.Tensor:
        assert labels is not None
        return _one_hot([int(labels[row]) for row in rows], count)

    def sampled(p: torch.Tensor, rows: npt.NDArray[np.int64]) -> torch.Tensor:
        # A stream an example, so that a label does not depend on the batches.
        draws = [np.random.default_rng([seed, 0xF15, int(row)]).random() for row in rows]
        below = p.cumsum(-1).numpy()
        return _one_hot([min(int((below[i] <= draw).sum()), count - 1) for i, draw in enumerate(draws)], count)

    return {"given": given, "sampled": sampled, "expected": lambda p, rows: p}[labels_from]


def _one_hot(labels: Sequence[int], count: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(labels), count).double()
