"""All categorical features in one flat table: one look-up instead of one per feature.

Shapes: B rows, C categorical features, D dense features, E embedding width, F multi-hot features, M their values.
"""

from collections.abc import Sequence
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
        self.starts = tuple(accumulate(cardinalities, initial=0))[:-1]
        self.register_buffer("offsets", torch.tensor(self.starts, dtype=torch.int64), persistent=False)

    def forward(self, index_BC: Tensor, *, first: int) -> Tensor:
        """Look up features `first`, `first + 1`, …; shape (B, C, E)."""
        return functional.embedding(index_BC + self.offsets[first : first + index_BC.shape[1]], self.table)

    def look_up_one(self, index: Tensor, *, feature: int) -> Tensor:
        """Look up one feature for an index of any shape, which gains a last dimension E."""
        return functional.embedding(index + self.offsets[feature], self.table)

    def pool(self, index_BM: Tensor, bags: "MultiHotBags") -> Tensor:
        """The means of multi-hot features, shape (B, F × E)."""
        return bags(index_BM, self.table)  # type: ignore[no-any-return]  # torch's calls of modules are untyped


class MultiHotBags(nn.Module):
    """Several multi-hot features in one look-up: each is the mean over the values given, 0 where none is.

    It holds no weights: `starts` are the features' first rows of the flat table, `max_values` how many values each
    has in the input. Values are padded with 0, which counts nowhere.
    """

    row_M: Tensor
    begin_F: Tensor

    def __init__(self, starts: Sequence[int], max_values: Sequence[int]) -> None:
        super().__init__()
        rows = [start for start, values in zip(starts, max_values, strict=True) for _ in range(values)]
        begins = list(accumulate(max_values, initial=0))[:-1]
        self.starts, self.max_values = tuple(starts), tuple(max_values)
        self.padding_row = starts[0]  # of a feature's own 0, which no value stands for: all padding goes there
        self.register_buffer("row_M", torch.tensor(rows), persistent=False)
        self.register_buffer("begin_F", torch.tensor(begins), persistent=False)

    def forward(self, index_BM: Tensor, table: Tensor) -> Tensor:
        """Shape (B, F × E)."""
        size, values = index_BM.shape
        row_BM = torch.where(index_BM == 0, self.padding_row, index_BM + self.row_M)
        begin_BF = values * torch.arange(size, device=index_BM.device)[:, None] + self.begin_F
        pooled = functional.embedding_bag(
            row_BM.flatten(), table, begin_BF.flatten(), mode="mean", padding_idx=self.padding_row
        )
        return pooled.view(size, -1)


def squash_dense(value_BD: Tensor) -> Tensor:
    """Sign-preserving logarithm: whatever finite number a caller sends, the network stays finite."""
    return torch.sign(value_BD) * torch.log1p(value_BD.abs())
