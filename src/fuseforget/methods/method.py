"""Rows of the table of methods: what a method is called, takes and needs. No torch here."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from fuseforget.errors import InputError

__all__ = ["DIAGONAL_FISHER", "Method", "Parameter", "Surveyed", "Value"]

Value = float | int | bool
DIAGONAL_FISHER = "a diagonal Fisher"
LARGEST_KERNEL = 32  # of a convolution; a third dimension beyond it is another thing (experts side by side)


@dataclass(frozen=True)
class Parameter:
    """One setting of a method.

    Attributes:
        name: what ``--param NAME=VALUE`` and recipes call it.
        default: its value where none is given; its type is the parameter's type.
        low, high: the closed range of numbers.
        per_model: whether each fused model has a value of its own.
        summary: one line for the user.
    """

    name: str
    default: Value
    summary: str
    low: float = -math.inf
    high: float = math.inf
    per_model: bool = False

    @property
    def argument(self) -> str:
        """The name as a Python argument."""
        return "lambda_" if self.name == "lambda" else self.name

    @property
    def range(self) -> str:
        """The admissible values, for messages and help."""
        if isinstance(self.default, bool):
            return "true or false"
        kind = "a whole number" if isinstance(self.default, int) else "a number"
        bounds = (math.isfinite(self.low), math.isfinite(self.high))
        if bounds == (True, True):
            return f"{kind} from {self.low:g} to {self.high:g}"
        return f"{kind}, {self.low:g} or more" if bounds[0] else kind

    def check(self, value: Any, where: str = "") -> Value:
        """Return the value as the parameter's type, or raise InputError with the range."""
        thing = f"parameter {self.name}{f' of {where}' if where else ''}"
        if isinstance(self.default, bool):
            named = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}
            found = named.get(str(value).strip().lower())
            if found is None:
                raise InputError(thing, expected=self.range, found=repr(value))
            return found
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise InputError(thing, expected=self.range, found=repr(value)) from None
        whole = isinstance(self.default, int)
        if not math.isfinite(number) or not self.low <= number <= self.high or (whole and number != int(number)):
            raise InputError(thing, expected=self.range, found=repr(value))
        return int(number) if whole else number


class Surveyed(Protocol):
    """What a method found out about one tensor before it fuses any.

    Attributes:
        numbers: what is added up over all tensors.
        nbytes: of memory that it holds.
    """

    @property
    def numbers(self) -> tuple[float, ...]: ...

    @property
    def nbytes(self) -> int: ...

    def function(self, survey: Sequence[float]) -> Callable[[Any], Any]:
        """From the sums over all tensors, what fuses a block: so that nothing is computed again."""


@dataclass(frozen=True)
class Method:
    """A row of the table of methods.

    Attributes:
        name: what ``--method`` takes.
        function: ``(group, *, weight, **parameters) -> (block -> fused values)``; see :mod:`fuseforget.methods.group`.
        summary: one line for the user.
        paper: where it comes from.
        models: the least and the largest number of models beside the base (None: no limit).
        base: whether the pretrained base is ``required``, ``optional``, or not taken (``no``).
        weights: ``convex`` (not negative, summing to one), ``free`` (any finite numbers) or ``no`` (all models alike).
        default_weight: ``mean`` (one over the number of models) or ``sum`` (one each).
        parameters: its settings beside the weights.
        statistics: what each model's statistics checkpoint holds, or empty where none is needed. Of a diagonal Fisher
            (:data:`DIAGONAL_FISHER`) a tensor has the shape of the model's.
        whole: which side of a matrix it holds the inner products of (``shorter``, ``inputs``), so that memory grows with its
            square; empty for methods that hold blocks alone.
        squares: how many matrices of that side it holds at once, in float64, work space of decompositions included.
        kernels: whether a convolution is a matrix to it too, of outputs x (inputs x kernel).
        surveys: whether it has to know of all tensors before it fuses the first: its function then returns a
            :class:`Surveyed`, which is given the sums of all tensors' numbers.
        remarks: what the user should know, from these sums.
        rows: whether whole rows (output units) must be held at once.
        random: whether a seed changes the result.
    """

    name: str
    function: Callable[..., Any]
    summary: str
    paper: str
    models: tuple[int, int | None] = (1, None)
    base: Literal["required", "optional", "no"] = "no"
    weights: Literal["convex", "free", "no"] = "free"
    default_weight: Literal["mean", "sum"] = "mean"
    parameters: tuple[Parameter, ...] = ()
    statistics: str = ""
    whole: Literal["", "shorter", "inputs"] = ""
    squares: int = 0
    kernels: bool = False
    surveys: bool = False
    remarks: Callable[[Sequence[float]], tuple[str, ...]] | None = None
    rows: bool = False
    random: bool = False

    @property
    def counts(self) -> str:
        """How many models it takes, in words."""
        least, most = self.models
        return f"{least}" if least == most else f"{least} or more" if most is None else f"{least} to {most}"

    def check_models(self, count: int) -> None:
        """Raise InputError unless the method takes this many models beside the base."""
        least, most = self.models
        if count < least or (most is not None and count > most):
            beside = " beside the base" if self.base == "required" else ""
            raise InputError(f"method {self.name}", expected=f"{self.counts} models{beside}", found=str(count))

    def check_base(self, given: bool) -> None:
        """Raise InputError where a base is needed and absent, or given and of no use."""
        if self.base == "required" and not given:
            raise InputError(
                f"method {self.name}",
                expected="the pretrained model that the others come from, since it works on their differences from it",
                found="no base",
                action="Pass --base MODEL.",
            )
        if self.base == "no" and given:
            raise InputError(f"method {self.name}", expected="no base", found="one", action="Leave --base out.")

    def in_panels(self, shape: Sequence[int]) -> bool:
        """Whether a tensor is fused in panels: by products of matrices, in one thread that uses all cores."""
        return bool(self.whole) and len(self.matrix_shape(shape)) == 2 and math.prod(shape) > 0

    def matrix_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape that a tensor has to it: a convolution's first dimension is that of the outputs."""
        is_kernel = self.kernels and len(shape) > 2 and max(shape[2:]) <= LARGEST_KERNEL
        return (shape[0], math.prod(shape[1:])) if is_kernel else tuple(shape)

    def transposes(self, shape: Sequence[int], arguments: Mapping[str, Any]) -> bool:
        """Whether it is given a matrix transposed, so that the columns are the side whose inner products it holds."""
        if not self.in_panels(shape):
            return False
        rows, columns = self.matrix_shape(shape)
        return bool(arguments["input_first"]) if self.whole == "inputs" else rows < columns

    def parameter(self, name: str) -> Parameter:
        """Return a parameter by name, or raise InputError with the nearest one."""
        table = {p.name: p for p in self.parameters}
        if name in table:
            return table[name]
        near = difflib.get_close_matches(name, table, n=1)
        hint = f"Did you mean {near[0]}?" if near else ""
        expected = f"one of {', '.join(table)}" if table else "no parameter"
        raise InputError(f"parameter of method {self.name}", expected=expected, found=repr(name), action=hint)

    def arguments(self, values: Mapping[str, Any], models: int) -> dict[str, Any]:
        """Return the keyword arguments of :attr:`function` for these values, checked, with defaults filled in.

        A value of a per-model parameter is one for all models or a sequence with one each.
        """
        for name in values:
            self.parameter(name)
        found: dict[str, Any] = {}
        for p in self.parameters:
            value = values.get(p.name, p.default)
            if not p.per_model:
                found[p.argument] = p.check(value, self.name)
                continue
            each = list(value) if isinstance(value, list | tuple) else [value] * models
            if len(each) != models:
                thing = f"parameter {p.name} of {self.name}"
                raise InputError(thing, expected=f"one value, or one for each of {models} models", found=str(len(each)))
            found[p.argument] = tuple(p.check(v, self.name) for v in each)
        return found
