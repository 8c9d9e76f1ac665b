"""What a user did before, read by a small Transformer, once per user that has a history.

Shapes: U users, M of them with a history, L history entries, E embedding width, W sequence width, A heads.
"""

from dataclasses import dataclass
from typing import NamedTuple

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


class EncodedHistory(NamedTuple):
    """Each entry of the M users that have one, padded to the longest of them."""

    user_M: Tensor
    hidden_MLW: Tensor
    is_entry_ML: Tensor


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
        return self.summarise(self.encode(embedded_ULE, is_entry_UL), len(is_entry_UL))

    def encode(self, embedded_ULE: Tensor, is_entry_UL: Tensor) -> EncodedHistory:
        """Every entry in the light of the others."""
        user_M = is_entry_UL.any(1).nonzero()[:, 0]
        if len(user_M) == 0:
            return EncodedHistory(
                user_M, self.position_LW.new_empty(0, 0, self.position_LW.shape[1]), is_entry_UL[:0, :0]
            )
        longest = int(is_entry_UL.any(0).nonzero().max()) + 1
        is_entry_ML, embedded_MLE = is_entry_UL[:, :longest], embedded_ULE[:, :longest]
        if len(user_M) < len(is_entry_UL):
            is_entry_ML, embedded_MLE = is_entry_ML[user_M], embedded_MLE[user_M]
        hidden_MLW = self.inward(embedded_MLE) + self.position_LW[:longest]
        for layer in self.layers:
            hidden_MLW = layer(hidden_MLW, is_entry_ML)
        return EncodedHistory(user_M, hidden_MLW, is_entry_ML)

    def summarise(self, encoded: EncodedHistory, num_users: int) -> Tensor:
        """The mean of each user's entries, shape (U, W)."""
        summary_UW = self.no_history_W.expand(num_users, -1)
        if len(encoded.user_M) == 0:
            return summary_UW
        weight_ML = encoded.is_entry_ML.to(encoded.hidden_MLW.dtype)
        weight_ML = weight_ML / weight_ML.sum(1, keepdim=True)
        pooled_MW: Tensor = self.norm((encoded.hidden_MLW * weight_ML[:, :, None]).sum(1))
        if len(pooled_MW) == num_users:
            return pooled_MW
        return summary_UW.to(pooled_MW.dtype).index_copy(0, encoded.user_M, pooled_MW)


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
