"""What a user did before, read by a small Transformer, once per user that has a history.

Shapes: U users, M of them with a history, L history entries, E embedding width, W sequence width, A heads.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from control_plane.domain.errors import InvalidField


@dataclass(frozen=True, kw_only=True, slots=True)
class SequenceConfig:
    width: int = 32
    num_heads: int = 2
    num_layers: int = 1

    def __post_init__(self) -> None:
        if self.width % self.num_heads:
            raise InvalidField("sequence.num_heads", f"must divide the width {self.width}, not {self.num_heads}")


class UserSequence(nn.Module):
    """Pre-norm Transformer over the history, averaged over its entries; padding counts nowhere."""

    def __init__(self, embedding_width: int, history_length: int, config: SequenceConfig) -> None:
        super().__init__()
        self.inward = nn.Linear(embedding_width, config.width)
        self.position_LW = nn.Parameter(torch.zeros(history_length, config.width))
        self.layers = nn.ModuleList(SequenceLayer(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.width)
        self.no_history_W = nn.Parameter(torch.zeros(config.width))

    def forward(self, embedded_ULE: Tensor, is_entry_UL: Tensor) -> Tensor:
        """Shape (U, W); users without a single entry get the learned `no_history_W`."""
        user_M = is_entry_UL.any(1).nonzero()[:, 0]
        summary_UW = self.no_history_W.expand(len(is_entry_UL), -1)
        if len(user_M) == 0:
            return summary_UW
        longest = int(is_entry_UL.any(0).nonzero().max()) + 1
        encoded_MW = self._encode(embedded_ULE[user_M, :longest], is_entry_UL[user_M, :longest])
        return summary_UW.index_copy(0, user_M, encoded_MW)

    def _encode(self, embedded_MLE: Tensor, is_entry_ML: Tensor) -> Tensor:
        hidden_MLW = self.inward(embedded_MLE) + self.position_LW[: embedded_MLE.shape[1]]
        for layer in self.layers:
            hidden_MLW = layer(hidden_MLW, is_entry_ML)
        weight_ML = is_entry_ML.to(hidden_MLW.dtype)
        weight_ML = weight_ML / weight_ML.sum(1, keepdim=True)
        pooled_MW: Tensor = self.norm((hidden_MLW * weight_ML[:, :, None]).sum(1))
        return pooled_MW


class SequenceLayer(nn.Module):
    """Self-attention and a feed-forward pair, each added to its input."""

    def __init__(self, config: SequenceConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.attention_norm = nn.LayerNorm(config.width)
        self.query_key_value = nn.Linear(config.width, 3 * config.width)
        self.attention_out = nn.Linear(config.width, config.width)
        self.feed_forward_norm = nn.LayerNorm(config.width)
        self.feed_forward = nn.Sequential(
            nn.Linear(config.width, 2 * config.width), nn.ReLU(), nn.Linear(2 * config.width, config.width)
        )

    def forward(self, hidden_MLW: Tensor, is_entry_ML: Tensor) -> Tensor:
        hidden_MLW = hidden_MLW + self._attend(self.attention_norm(hidden_MLW), is_entry_ML)
        after_MLW: Tensor = hidden_MLW + self.feed_forward(self.feed_forward_norm(hidden_MLW))
        return after_MLW

    def _attend(self, hidden_MLW: Tensor, is_entry_ML: Tensor) -> Tensor:
        heads = (*hidden_MLW.shape[:2], 3, self.num_heads, -1)
        query_MALW, key_MALW, value_MALW = self.query_key_value(hidden_MLW).view(heads).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(
            query_MALW, key_MALW, value_MALW, attn_mask=is_entry_ML[:, None, None, :]
        )
        attended_MLW: Tensor = self.attention_out(seen.transpose(1, 2).reshape(hidden_MLW.shape))
        return attended_MLW
