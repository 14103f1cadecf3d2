"""The squares of each example's gradients, summed over examples: forward and backward once a batch, layer by layer.

A batch's log-probabilities are summed and differentiated once. Examples do not meet in that sum, so the gradient of a
layer's output still holds each example's own, and with the layer's input gives the example's gradient of the layer's
parameters. These are squared, added and dropped before the next layer's are made: memory is one copy of the parameters.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fuseforget.errors import FuseForgetError
from fuseforget.fisher.parts import Dense, Part, Use, add_squares, kind_of, parts_of
from fuseforget.models import Batch, evaluating

__all__ = ["Choose", "Differentiator", "gradients_kept", "squares_of"]

Tensor = torch.Tensor
Call = tuple[nn.Module, torch.Size | None, bool]
Choose = Callable[[Tensor, npt.NDArray[np.int64]], Tensor]
TOLERANCE = 1e-3  # of a tensor's largest value: far above rounding in float32, far below a use that was missed
ROUNDING = 1e-9  # of the largest value of all: gradients that are zero but for rounding are equal


class Differentiator:
    """A classifier that adds up squared per-example gradients, ``totals``, for the batches that it is given.

    Inside its block the model is in evaluation mode, computes in its own dtype, and its parameters take no gradient; all of
    this is put back. Which layers can be differentiated by their hooks is found out from two batches, and proved on two
    examples against ordinary backward passes; parameters of others (``slow``) are differentiated example by example: they
    belong to modules that are no leaves, are called in another way than one that keeps examples apart, or are shared by
    modules of different sorts.
    """

    def __init__(self, model: Any, probe: Batch) -> None:
        """Args: probe: one example, or better two of different lengths."""
        self._model, self._probe = model, probe
        self._parameters: dict[str, nn.Parameter] = dict(model.named_parameters())
        self._names = {id(p): name for name, p in self._parameters.items()}
        self._mode = "off"
        self._leaving = ExitStack()
        self._calls: list[Call] = []
        self._planned: Counter[nn.Module] = Counter()
        self._uses: Counter[str] = Counter()
        self.slow: set[str] = set()

    def __enter__(self) -> Differentiator:
        with ExitStack() as entering:
            entering.enter_context(gradients_kept(self._model))
            for module in self._model.modules():
                if any(p is not None for p in module._parameters.values()):
                    entering.callback(module.register_forward_hook(self._called, with_kwargs=True).remove)
            self._plan()
            self.reset()
            self._leaving = entering.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._leaving.close()

    def reset(self) -> None:
        """Begin again at zero, in tensors of their own."""
        self.totals = {name: torch.zeros_like(p, requires_grad=False) for name, p in self._parameters.items()}

    def add(self, batch: Batch, choose: Choose) -> None:
        """Add the squares for a batch.

        Args:
            choose: gives what each label's log-probability counts (examples x labels, float64) from the labels'
                probabilities and the rows that the examples are.
        """
        with torch.enable_grad(), self._recording("fast"):
            logits = self._forward(batch)
            self._require_planned()
            weights = choose(logits.detach().double().softmax(-1).cpu(), batch.rows)
            self._backward(list(_sums(logits, weights)) if logits.requires_grad else [])
        if self.slow:
            for row in range(len(batch.rows)):
                with self._ordinary(self.slow, 1):
                    sums = list(_sums(self._forward(_single(batch, row)), weights[row : row + 1]))
                    for number, total in enumerate(sums, 1):
                        total.backward(retain_graph=number < len(sums))  # type: ignore[no-untyped-call]

    def _forward(self, batch: Batch) -> Tensor:
        where, self._size = self._model.device, len(batch.rows)
        output = self._model(input_ids=batch.input_ids.to(where), attention_mask=batch.attention_mask.to(where))
        logits: Tensor = output.logits
        return logits

    def _backward(self, sums: Sequence[Tensor]) -> None:
        for number, total in enumerate(sums, 1):
            self._held: dict[str, list[Part]] = defaultdict(list)
            total.backward(retain_graph=number < len(sums))  # type: ignore[no-untyped-call]
            for name, parts in self._held.items():  # uses that the gradient did not reach have nothing to add
                add_squares(self.totals[name], parts)
            self._held = defaultdict(list)

    def _called(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """The hook: note a call, and have the gradient of what it returned brought to :meth:`_arrived`."""
        if self._mode == "off":
            return None
        is_tensor = isinstance(output, Tensor)
        self._calls.append((module, output.shape if is_tensor else None, output.is_floating_point() if is_tensor else False))
        if self._mode != "fast" or module not in self._planned:
            return None
        if not output.requires_grad:
            # Where gradients begin. A copy, since a model may change it in place, which a tensor made here must not be.
            output = output.detach().requires_grad_().clone()
        if len(output) != self._size:  # one for all examples (positions): from here on each has its own
            output = output.expand(self._size, *output.shape[1:]).clone()
            args = tuple(a.expand(self._size, *a.shape[1:]) if isinstance(a, Tensor) and len(a) == 1 else a for a in args)
        given = tuple(a.detach() if isinstance(a, Tensor) else a for a in args)
        named = {key: a.detach() if isinstance(a, Tensor) else a for key, a in kwargs.items()}
        output.register_hook(lambda gradient: self._arrived(Use(module, given, named, gradient)))
        return output

    def _arrived(self, use: Use) -> None:
        with torch.no_grad(), self._recording("off", keep=True):
            for local, part in parts_of(use).items():
                parameter = use.module._parameters[local]
                name = self._names[id(parameter)]
                if name in self.slow:
                    continue
                if self._uses[name] == 1:
                    add_squares(self.totals[name], [part])
                else:
                    self._held[name].append(part)

    def _require_planned(self) -> None:
        seen = Counter(module for module, _, _ in self._calls if module in self._planned)
        for module in self._planned:
            if seen[module] != self._planned[module]:
                name = next(n for n, m in self._model.named_modules() if m is module)
                raise FuseForgetError(
                    f"module {name}", expected=f"{self._planned[module]} calls, as on the first texts", found=str(seen[module])
                )

    def _plan(self) -> None:
        """Sort the parameters into those that hooks can differentiate and the slow rest."""
        first = _single(self._probe, 0)
        seen = []
        for copies in (2, 3):
            with torch.no_grad(), self._recording("watch"):
                self._forward(_repeated(first, copies))
                seen.append(list(self._calls))
        self._planned = _separable(*seen)
        self._uses = Counter()
        sorts: dict[str, set[type[Part]]] = defaultdict(set)
        for module, count in self._planned.items():
            for local, parameter in module._parameters.items():
                if parameter is not None:
                    name = self._names[id(parameter)]
                    self._uses[name] += count
                    sorts[name].add(kind_of(module) if local == "weight" else Dense)
        unplanned = {
            self._names[id(p)]
            for module in self._model.modules()
            if module not in self._planned
            for p in module._parameters.values()
            if p is not None
        }
        self.slow = unplanned | {name for name, kinds in sorts.items() if len(kinds) > 1}
        self.slow |= self._disagreeing()

    def _disagreeing(self) -> set[str]:
        """The parameters whose squares are not those of ordinary backward passes, on the probe's examples."""
        fast = set(self._parameters) - self.slow
        self.reset()
        with torch.enable_grad(), self._recording("fast"):
            logits = self._forward(self._probe)
            self._backward([_contrast(logits)] if logits.requires_grad else [])
        largest = {name: float(self.totals[name].abs().max()) if self.totals[name].numel() else 0.0 for name in fast}
        for row in range(len(self._probe.rows)):
            with self._ordinary(fast, -1):
                _contrast(self._forward(_single(self._probe, row))).backward()  # type: ignore[no-untyped-call]
        allowed = ROUNDING * max(largest.values(), default=0.0)
        # Written so that NaN disagrees.
        return {
            name
            for name in fast
            if self.totals[name].numel() and not float(self.totals[name].abs().max()) <= TOLERANCE * largest[name] + allowed
        }

    @contextmanager
    def _recording(self, mode: str, *, keep: bool = False) -> Iterator[None]:
        before, self._mode = self._mode, mode
        if not keep:
            self._calls = []
        try:
            yield
        finally:
            self._mode = before

    def _ordinary(self, names: set[str], sign: int) -> AbstractContextManager[None]:
        """Inside, backward passes add (or subtract) the squared gradients of these parameters."""
        return squares_of({name: self._parameters[name] for name in names}, self.totals, sign)


@contextmanager
def gradients_kept(model: nn.Module) -> Iterator[None]:
    """Inside, a model is in evaluation mode and its parameters take and have no gradient; afterwards all is as it was."""
    before = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    for parameter, _, _ in before:
        parameter.requires_grad_(False)
        parameter.grad = None
    try:
        with evaluating(model):
            yield
    finally:
        for parameter, required, gradient in before:
            parameter.requires_grad_(required)
            parameter.grad = gradient


@contextmanager
def squares_of(parameters: Mapping[str, nn.Parameter], totals: Mapping[str, Tensor], sign: int = 1) -> Iterator[None]:
    """Inside, backward passes add (or subtract) the squared gradients of parameters to totals, each as soon as it is there.

    So no more than one gradient is held beside the totals. Afterwards these parameters take no gradient.
    """
    handles = []

    def square(name: str) -> Callable[[Tensor], None]:
        def take(parameter: Tensor) -> None:
            assert parameter.grad is not None
            gradient = parameter.grad.to(totals[name].dtype)
            totals[name].addcmul_(gradient, gradient, value=sign)
            parameter.grad = None

        return take

    with torch.enable_grad():
        for name, parameter in parameters.items():
            parameter.requires_grad_(True)
            hooked: Any = parameter
            handles.append(hooked.register_post_accumulate_grad_hook(square(name)))
        try:
            yield
        finally:
            for parameter, handle in zip(parameters.values(), handles, strict=True):
                handle.remove()
                parameter.requires_grad_(False)


def _separable(two: Sequence[Call], three: Sequence[Call]) -> Counter[nn.Module]:
    """How often each module is called whose every call keeps examples apart, seen from batches of two and of three.

    The first dimension of what it returns counts the examples, or it is one and stands for all of them alike.
    """
    if [call[0] for call in two] != [call[0] for call in three]:
        return Counter()
    counts: Counter[nn.Module] = Counter()
    mixing = set()
    for (module, of_two, floating), (_, of_three, _) in zip(two, three, strict=True):
        counts[module] += 1
        if of_two is None or of_three is None or not floating or not of_two or any(True for _ in module.children()):
            mixing.add(module)
            continue
        apart = (of_two[0], of_three[0]) == (2, 3)
        shared = (of_two[0], of_three[0]) == (1, 1) and _can_be_repeated(module)
        if of_two[1:] != of_three[1:] or not (apart or shared):
            mixing.add(module)
    return Counter({module: count for module, count in counts.items() if module not in mixing})


def _can_be_repeated(module: nn.Module) -> bool:
    return kind_of(module) is not Dense or type(module).forward is nn.LayerNorm.forward


def _sums(logits: Tensor, weights: Tensor) -> Iterator[Tensor]:
    """Scalars whose squared gradients add up, over labels, to those of the log-probabilities times their weights."""
    # In float64: in float32 the gradient of a sure prediction, 1 - p, is lost to cancellation.
    log_p = logits.double().log_softmax(-1)
    roots = weights.to(logits.device).double().sqrt()
    if bool(((roots != 0).sum(-1) <= 1).all()):  # a label an example: one pass, since examples do not meet
        yield (roots * log_p).sum()
        return
    for label in range(logits.shape[-1]):
        if bool(roots[:, label].any()):
            yield (roots[:, label] * log_p[:, label]).sum()


def _contrast(logits: Tensor) -> Tensor:
    """A sum over examples whose gradient does not vanish where the model is sure."""
    return (logits[:, 0] - logits[:, -1]).sum()


def _single(batch: Batch, row: int) -> Batch:
    """One example of a batch without its padding."""
    used = batch.attention_mask[row].bool()
    return Batch(batch.rows[row : row + 1], batch.input_ids[row][used].unsqueeze(0), batch.attention_mask[row][used].unsqueeze(0))


def _repeated(batch: Batch, copies: int) -> Batch:
    return Batch(batch.rows.repeat(copies), batch.input_ids.repeat(copies, 1), batch.attention_mask.repeat(copies, 1))
