"""The filter of tables of tokens and positions: each row of the mean change is kept as far as the models agree on it.

A row is what a model learned of one token, and tokens that only one model read are in one model's rows alone. So of each row
with mean change d and scatter n around it, the filter ``argmin |w d - d|^2 + b n w^2`` keeps ``w = |d|^2 / (|d|^2 + b n)``.
Rows are not mixed with one another, and a table of any size needs two numbers a row.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fuseforget.methods.group import Block, FuseBlock, Group, weighted_sum
from fuseforget.methods.lengths import Lengths, restoring
from fuseforget.methods.scatter import contrast_rows, contrasts_of, mean_change, odds_of, require_finite

if TYPE_CHECKING:
    import torch

__all__ = ["FilteredTable", "filter_tokens", "is_table"]

# Names of tables that have a row a token or a position: BERT's and Llama's, GPT-2's, T5's, heads that are as large.
TABLES = re.compile(r"(?:^|[._])(?:embed|emb[._]|word_emb|tok_emb|wte\b|wpe\b|lm_head\b|shared\.weight|predictions\.decoder)")
# Followed by one of these it is no table, but a matrix beside it: from embeddings to hidden states (ALBERT, ELECTRA), of images.
PROJECTIONS = ("project", "_proj.", "hidden_mapping")


def is_table(name: str) -> bool:
    """Whether a name is that of a table with a row a token or a position."""
    name = name.lower()
    return any(not any(word in name[found.end() :] for word in PROJECTIONS) for found in TABLES.finditer(name))


@dataclass(frozen=True, eq=False)
class FilteredTable:
    """The mean change of a table, its rows filtered.

    Attributes:
        numbers: squared lengths.
        kept: of each stored row's mean change, a share.
        transposed: whether blocks have the stored rows for columns.
    """

    numbers: Lengths
    weight: tuple[float, ...]
    lambda_: float
    kept: torch.Tensor
    transposed: bool

    @property
    def nbytes(self) -> int:
        return self.kept.nbytes

    def function(self, survey: Sequence[float]) -> FuseBlock:
        shares = self.kept * (self.lambda_ * restoring(survey))

        def fused(block: Block) -> torch.Tensor:
            change = weighted_sum(block.deltas, self.weight).view(-1, block.row_length)
            own = shares if self.transposed else shares[_rows(block)][:, None]
            return block.origin.add(change.mul_(own.to(change.dtype)).view(-1))

        return fused


def filter_tokens(group: Group, weight: tuple[float, ...], forget: float, lambda_: float) -> FilteredTable:
    """The filter of a table's stored rows, from sums of squares in float64."""
    import torch

    high, wide = group.shape
    count = wide if group.transposed else high
    means, scatters = (torch.zeros(count, dtype=torch.float64, device=group.device) for _ in range(2))
    contrasts, along = contrasts_of(weight), 0 if group.transposed else 1
    for block in group.blocks():
        part = slice(None) if group.transposed else _rows(block)
        means[part] += mean_change(block, weight, torch.float64).square_().sum(along)
        for contrast in contrasts:
            scatters[part] += contrast_rows(block, contrast, torch.float64).square_().sum(along)
    require_finite(float(means.sum() + scatters.sum()), group)
    kept = torch.where(scatters == 0, 1.0, means / (means + odds_of(forget) * scatters))
    of_mean, of_scatter, of_fused = (float(part.sum()) for part in (means, scatters, kept.square() * means))
    return FilteredTable(Lengths.of(of_mean, of_scatter, of_fused, weight, forget), weight, lambda_, kept, group.transposed)


def _rows(block: Block) -> slice:
    return slice(block.start // block.row_length, (block.start + block.origin.numel()) // block.row_length)
