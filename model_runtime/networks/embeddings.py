"""All categorical features in one flat table: one look-up instead of one per feature.

Shapes: B rows, C categorical features, D dense features, E embedding width.
"""

from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional

INITIAL_BOUND = 0.1  # small, so that an untrained category hardly moves a score


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingConfig:
    width: int = 16


class FusedEmbedding(nn.Module):
    """Feature c's category i is row `offsets[c] + i` of the table."""

    offsets: Tensor

    def __init__(self, cardinalities: tuple[int, ...], config: EmbeddingConfig) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(sum(cardinalities), config.width))
        nn.init.uniform_(self.table, -INITIAL_BOUND, INITIAL_BOUND)  # a normal imports a compiler on meta tensors
        starts = list(accumulate(cardinalities, initial=0))[:-1]
        self.register_buffer("offsets", torch.tensor(starts), persistent=False)

    def forward(self, index_BC: Tensor, *, first: int) -> Tensor:
        """Look up features `first`, `first + 1`, …; shape (B, C, E)."""
        return functional.embedding(index_BC + self.offsets[first : first + index_BC.shape[1]], self.table)

    def look_up_one(self, index: Tensor, *, feature: int) -> Tensor:
        """Look up one feature for an index of any shape, which gains a last dimension E."""
        return functional.embedding(index + self.offsets[feature], self.table)


def squash_dense(value_BD: Tensor) -> Tensor:
    """Sign-preserving logarithm: whatever finite number a caller sends, the network stays finite."""
    return torch.sign(value_BD) * torch.log1p(value_BD.abs())
