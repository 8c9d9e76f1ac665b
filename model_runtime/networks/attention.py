"""Candidates look into their user's history: what is kept of it, keys and values, is made once per user.

Rows are laid out in groups of one user each, so that keys and values are read where they lie: they are never copied
to rows, which would cost as many copies of a history as a user has candidates.

Shapes: U users, N candidate rows, P places of a history (one more than its entries: the first stands for nothing),
W sequence width, D attention width, A heads, G groups, R rows of a group.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from control_plane.domain.errors import InvalidField
from model_runtime.networks.sequence import EncodedHistory


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionConfig:
    width: int = 16
    num_heads: int = 2

    def __post_init__(self) -> None:
        if self.width % self.num_heads:
            raise InvalidField("attention.num_heads", f"must divide the width {self.width}, not {self.num_heads}")


class HistoryMemory(NamedTuple):
    """Keys and values, side by side in the last dimension, and which places hold something."""

    key_value_UPK: Tensor
    is_seen_UP: Tensor

    @classmethod
    def cat(cls, parts: list["HistoryMemory"]) -> "HistoryMemory":
        """Those of more users, whose histories may be padded to other lengths."""
        longest = max(part.is_seen_UP.shape[1] for part in parts)
        grown = [(part, longest - part.is_seen_UP.shape[1]) for part in parts]
        return cls(
            torch.cat([functional.pad(part.key_value_UPK, (0, 0, 0, more)) for part, more in grown]),
            torch.cat([functional.pad(part.is_seen_UP, (0, more)) for part, more in grown]),
        )


class Groups(NamedTuple):
    """Where each row stands when those of one user stand together: `slot_N` counts through groups of `rows` slots.

    Nothing needs to be moved where rows stand so already, `is_in_place`; nor where the groups are the users in their
    order, `is_by_user`.
    """

    user_G: Tensor
    slot_N: Tensor
    rows: int
    is_in_place: bool = False
    is_by_user: bool = False


class CandidateAttention(nn.Module):
    """Multi-head attention of candidates over their user's encoded history.

    A learned place that stands for nothing is always there: a user without history attends to it alone.
    """

    def __init__(self, candidate_width: int, sequence_width: int, config: AttentionConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.norm = nn.LayerNorm(sequence_width)
        self.key_value = nn.Linear(sequence_width, 2 * config.width)
        self.query = nn.Linear(candidate_width, config.width)
        self.nothing_K = nn.Parameter(torch.zeros(2 * config.width))

    def remember(self, encoded: EncodedHistory, num_users: int) -> HistoryMemory:
        """Once per user; users without history remember nothing."""
        entry_MLK = self.key_value(self.norm(encoded.hidden_MLW))
        places = 1 + entry_MLK.shape[1]
        nothing_UPK = self.nothing_K.to(entry_MLK.dtype).expand(num_users, places, -1)
        memory = HistoryMemory(
            torch.cat((nothing_UPK[: len(entry_MLK), :1], entry_MLK), dim=1),
            functional.pad(encoded.is_entry_ML, (1, 0), value=True),
        )
        if len(entry_MLK) == num_users:
            return memory
        is_seen_UP = torch.zeros(num_users, places, dtype=torch.bool, device=entry_MLK.device)
        is_seen_UP[:, 0] = True
        return HistoryMemory(
            nothing_UPK.index_copy(0, encoded.user_M, memory.key_value_UPK),
            is_seen_UP.index_copy(0, encoded.user_M, memory.is_seen_UP),
        )

    def forward(self, candidate_NX: Tensor, memory: HistoryMemory, user_index_N: Tensor) -> Tensor:
        """What each row's user did that bears on it, shape (N, D)."""
        query_ND = self.query(candidate_NX)
        num_users = len(memory.is_seen_UP)
        if num_users == 1:
            return self._attend(query_ND[None], memory)[0]
        groups = self.group(user_index_N, num_users)
        if not groups.is_by_user:
            memory = HistoryMemory(*(each.index_select(0, groups.user_G) for each in memory))
        if groups.is_in_place:
            return self._attend(query_ND.view(len(groups.user_G), groups.rows, -1), memory).flatten(0, 1)
        query_SD = query_ND.new_zeros(groups.rows * len(groups.user_G), query_ND.shape[1])
        query_SD = query_SD.index_copy(0, groups.slot_N, query_ND)
        seen_GRD = self._attend(query_SD.view(len(groups.user_G), groups.rows, -1), memory)
        return seen_GRD.flatten(0, 1).index_select(0, groups.slot_N)

    def group(self, user_index_N: Tensor, num_users: int) -> Groups:
        return group_by_user(user_index_N, num_users)

    def _attend(self, query_GRD: Tensor, memory: HistoryMemory) -> Tensor:
        heads = (*memory.is_seen_UP.shape, 2, self.num_heads, -1)
        key_GAPD, value_GAPD = memory.key_value_UPK.view(heads).permute(2, 0, 3, 1, 4)
        query_GARD = query_GRD.view(*query_GRD.shape[:2], self.num_heads, -1).transpose(1, 2)
        seen_GARD = functional.scaled_dot_product_attention(
            query_GARD, key_GAPD, value_GAPD, attn_mask=memory.is_seen_UP[:, None, None, :]
        )
        return seen_GARD.transpose(1, 2).reshape(query_GRD.shape)


def group_by_user(user_index_N: Tensor, num_users: int) -> Groups:
    """Cut each user's rows into groups of the mean number of rows that a user has.

    There are at most twice as many groups as users with rows, so at most twice as many slots as rows and users with
    rows together, however unevenly the rows fall on the users.
    """
    count_U = torch.bincount(user_index_N, minlength=num_users)
    rows = max(1, -(-len(user_index_N) // max(1, int((count_U > 0).sum()))))
    place_N, users_U = (torch.arange(size, device=user_index_N.device) for size in (len(user_index_N), num_users))
    if rows == 1:  # one for each user: every row is a group
        return Groups(user_index_N, place_N, 1, is_in_place=True, is_by_user=torch.equal(user_index_N, users_U))
    groups_U = (count_U + rows - 1) // rows
    user_G = users_U.repeat_interleave(groups_U)
    slot_N = _slots(user_index_N, count_U, groups_U * rows, place_N)
    is_in_place = len(user_G) * rows == len(place_N) and torch.equal(slot_N, place_N)
    return Groups(user_G, slot_N, rows, is_in_place=is_in_place, is_by_user=torch.equal(user_G, users_U))


def _slots(user_index_N: Tensor, count_U: Tensor, slots_U: Tensor, place_N: Tensor) -> Tensor:
    """Those of each user after those of the users before, its rows in their order; free slots come last."""
    free_before_U = (slots_U - count_U).cumsum(0) - (slots_U - count_U)
    if bool((user_index_N[1:] >= user_index_N[:-1]).all()):
        return place_N + free_before_U[user_index_N]
    sorted_N, order_N = user_index_N.sort(stable=True)
    return torch.empty_like(place_N).index_copy(0, order_N, place_N + free_before_U[sorted_N])
