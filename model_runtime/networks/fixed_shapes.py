"""The parts of the trunk whose shapes depend on what is in a batch, with shapes that depend on its size alone.

Nothing here asks the device for a number, so a CUDA graph can hold it. It computes more than the parts that it stands
for: users without history and padding are worked on too, and then not looked at. Scores are the same to 1e-6.

Shapes: U users, N candidate rows, L history entries, E embedding width, W sequence width, P places of a history,
D attention width, G groups, R rows of a group.
"""

import torch
from torch import Tensor, nn

from model_runtime.networks.attention import CandidateAttention, Groups, HistoryMemory
from model_runtime.networks.engagement import Trunk
from model_runtime.networks.sequence import EncodedHistory, UserSequence


def with_fixed_shapes(trunk: Trunk) -> Trunk:
    """A trunk over the same weights."""
    parts: dict[str, nn.Module] = {"sequence": FixedSequence(trunk.sequence)}
    if trunk.attention is not None:
        parts["attention"] = FixedAttention(trunk.attention)
    return trunk.with_parts(**parts)


class FixedSequence(UserSequence):
    """Every user in every place; one without history reads its padding, and what comes of it is not used."""

    def __init__(self, of: UserSequence) -> None:
        nn.Module.__init__(self)
        self.inward, self.position_LW, self.layers = of.inward, of.position_LW, of.layers
        self.norm, self.no_history_W = of.norm, of.no_history_W

    def encode(self, embedded_ULE: Tensor, is_entry_UL: Tensor) -> EncodedHistory:
        users_U = torch.arange(len(is_entry_UL), device=is_entry_UL.device)
        is_read_UL = is_entry_UL | ~is_entry_UL.any(1, keepdim=True)  # attention over nothing would be NaN
        hidden_ULW = self.inward(embedded_ULE) + self.position_LW
        for layer in self.layers:
            hidden_ULW = layer(hidden_ULW, is_read_UL)
        return EncodedHistory(users_U, hidden_ULW, is_entry_UL)

    def summarise(self, encoded: EncodedHistory, num_users: int) -> Tensor:
        weight_UL = encoded.is_entry_ML.to(encoded.hidden_MLW.dtype)
        count_U1 = weight_UL.sum(1, keepdim=True)
        weight_UL = weight_UL / count_U1.clamp(min=1.0)
        pooled_UW = self.norm((encoded.hidden_MLW * weight_UL[:, :, None]).sum(1))
        return torch.where(count_U1 > 0, pooled_UW, self.no_history_W.to(pooled_UW.dtype))


class FixedAttention(CandidateAttention):
    """As many groups as rows may ever need: two for each user, of the mean number of rows of a user."""

    def __init__(self, of: CandidateAttention) -> None:
        nn.Module.__init__(self)
        self.num_heads = of.num_heads
        self.norm, self.key_value, self.query, self.nothing_K = of.norm, of.key_value, of.query, of.nothing_K

    def remember(self, encoded: EncodedHistory, num_users: int) -> HistoryMemory:
        entry_ULK = self.key_value(self.norm(encoded.hidden_MLW))
        nothing_U1K = self.nothing_K.to(entry_ULK.dtype).expand(num_users, 1, -1)
        is_there_U1 = torch.ones(num_users, 1, dtype=torch.bool, device=entry_ULK.device)
        return HistoryMemory(
            torch.cat((nothing_U1K, entry_ULK), dim=1), torch.cat((is_there_U1, encoded.is_entry_ML), dim=1)
        )

    def group(self, user_index_N: Tensor, num_users: int) -> Groups:
        """Without sorting, which some devices do not let into a graph: users are few."""
        users_U = torch.arange(num_users, device=user_index_N.device)
        is_of_NU = user_index_N[:, None] == users_U
        rank_N = is_of_NU.cumsum(0).gather(1, user_index_N[:, None])[:, 0] - 1
        rows = -(-len(user_index_N) // num_users)
        groups_U = (is_of_NU.sum(0) + rows - 1) // rows
        end_U = groups_U.cumsum(0)
        group_G = torch.arange(2 * num_users, device=user_index_N.device)
        user_G = torch.searchsorted(end_U, group_G, right=True).clamp(max=num_users - 1)
        return Groups(user_G, (end_U - groups_U)[user_index_N] * rows + rank_N, rows)
