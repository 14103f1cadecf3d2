"""Where in a model a tensor is, by its name: attention or MLP, and in which half of the layers."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from fuseforget.errors import InputError
from fuseforget.fuse.settings import Depth, layer_of

__all__ = ["ATTENTION", "MLP", "OTHER", "TABLE", "Place", "is_table", "places_of"]

ATTENTION, MLP, TABLE, OTHER = "attention", "MLP", "table", "other"
# Words of a name below its layer, lower case. BERT's ``attention.output.dense`` is attention, its ``output.dense`` is not.
WORDS_OF_ATTENTION = frozenset({"attention", "attn", "self_attn", "selfattention", "encdecattention", "crossattention"})
WORDS_OF_MLP = frozenset({"intermediate", "output", "mlp", "ffn", "densereludense"})
WORDS_OF_NORMS = re.compile(r"norm|^ln_")
# After the start of a name, a dot or an underscore; the method leaves the same names out.
TABLES = re.compile(
    r"(?<![^._])(?:embed|(?:word|tok)_emb|emb(?=[._])|(?:wte|wpe|lm_head)(?!\w)|shared\.weight|predictions\.decoder)"
    r"(?!.*(?:project|_proj\.|hidden_mapping))"
)


@dataclass(frozen=True)
class Place:
    """Where a tensor is.

    Attributes:
        kind: :data:`ATTENTION`, :data:`MLP`, :data:`TABLE` (a row a token or a position) or :data:`OTHER`: norms, and what is
            beside the layers, such as poolers and heads.
        is_upper: whether its layer is in the upper half of its stack, whose lower half has the middle one of an odd number;
            None: of no layer.
    """

    kind: str
    is_upper: bool | None = None


def places_of(names: Collection[str]) -> dict[str, Place]:
    """Tell where tensors are by names such as BERT's, GPT-2's, Llama's and T5's.

    Args:
        names: of all of a model's tensors: how many layers there are is taken from them.

    Raises:
        InputError: the name of a tensor of a layer says neither attention nor MLP nor a norm.
    """
    depths = Depth.of(names).layers
    places = {}
    for name in names:
        found = layer_of(name)
        if found is None:
            places[name] = Place(TABLE if is_table(name) else OTHER)
        else:
            stack, number = found
            below = name.removeprefix(stack).partition(".")[2]
            places[name] = Place(_kind(name, below), 2 * number >= depths[stack])
    return places


def is_table(name: str) -> bool:
    """Whether a name is of a table with a row a token or a position."""
    return TABLES.search(name.lower()) is not None


def _kind(name: str, below: str) -> str:
    """What a tensor of a layer belongs to."""
    words = below.lower().split(".")
    if any(WORDS_OF_NORMS.search(word) for word in words):
        return OTHER
    if WORDS_OF_ATTENTION & set(words):
        return ATTENTION
    if WORDS_OF_MLP & set(words):
        return MLP
    raise InputError(
        f"tensor {name}", expected="a name that says attention or MLP, as those of BERT, GPT-2, Llama and T5 do", found=below
    )
