"""The flat embedding as it serves: its rows stored as a profile says, looked up by the kernel chosen at load.

Shapes: B rows, C categorical features, F multi-hot features, M their values, E embedding width.
"""

import torch
from torch import Tensor, nn

from model_runtime.kernels.choice import EmbeddingKernel, bags_of
from model_runtime.kernels.reference import Bags
from model_runtime.kernels.rows import Rows
from model_runtime.networks.embeddings import FusedEmbedding, MultiHotBags


class ServedEmbedding(FusedEmbedding):
    """Stands where the trained embedding stood; `rows` may be its own table, which is then not copied."""

    affine: Tensor | None

    def __init__(self, of: FusedEmbedding, rows: Rows, kernel: EmbeddingKernel) -> None:
        nn.Module.__init__(self)  # not the base's own: there is nothing to draw
        self.starts = of.starts
        self.table = nn.Parameter(rows.value_RE, requires_grad=False)
        self.register_buffer("affine", rows.affine_R2)
        self.register_buffer("offsets", of.offsets, persistent=False)
        self.kernel = kernel
        self._bags: dict[tuple[tuple[int, ...], tuple[int, ...]], Bags] = {}

    @property
    def rows(self) -> Rows:
        return Rows(self.table, self.affine)

    def forward(self, index_BC: Tensor, *, first: int) -> Tensor:
        return self.kernel.look_up(self.rows, index_BC, self.offsets[first : first + index_BC.shape[1]])

    def look_up_one(self, index: Tensor, *, feature: int) -> Tensor:
        found = self.kernel.look_up(self.rows, index.reshape(-1, 1), self.offsets[feature : feature + 1])
        return found.view(*index.shape, -1)

    def pool(self, index_BM: Tensor, bags: MultiHotBags) -> Tensor:
        return self.kernel.look_up_bags(self.rows, index_BM, self._layout(bags, index_BM.device)).flatten(1)

    def _layout(self, bags: MultiHotBags, device: torch.device) -> Bags:
        """Made at the first look-up, which is the golden check's."""
        key = (bags.starts, bags.max_values)
        if key not in self._bags:
            self._bags[key] = bags_of(*key, device=device)
        return self._bags[key]
