"""Rows in groups of one user: every row has a slot of its own, and keys and values are never copied to rows."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.nn import functional

from model_runtime.networks.attention import AttentionConfig, CandidateAttention, HistoryMemory, group_by_user
from model_runtime.networks.sequence import EncodedHistory


def some_attention(*, num_users: int, places: int = 7) -> tuple[CandidateAttention, HistoryMemory]:
    torch.manual_seed(0)
    attention = CandidateAttention(9, 8, AttentionConfig(width=6, num_heads=2)).eval()
    torch.nn.init.normal_(attention.nothing_K)
    with_history_M = torch.arange(0, num_users, 2)
    hidden_MLW = torch.randn(len(with_history_M), places, 8)
    encoded = EncodedHistory(with_history_M, hidden_MLW, torch.rand(len(with_history_M), places) < 0.6)
    return attention, attention.remember(encoded, num_users)


def broadcast(
    attention: CandidateAttention, candidate_NX: torch.Tensor, memory: HistoryMemory, user_N: torch.Tensor
) -> torch.Tensor:
    """The plain way: each row gets its user's keys and values."""
    query_ND = attention.query(candidate_NX)
    key_value = memory.key_value_UPK[user_N].view(len(user_N), -1, 2, attention.num_heads, 3)
    key_NAPD, value_NAPD = key_value.permute(2, 0, 3, 1, 4)
    seen = functional.scaled_dot_product_attention(
        query_ND.view(len(user_N), 1, attention.num_heads, 3).transpose(1, 2),
        key_NAPD,
        value_NAPD,
        attn_mask=memory.is_seen_UP[user_N][:, None, None, :],
    )
    return seen.transpose(1, 2).reshape(query_ND.shape)


@settings(deadline=None)
@given(user_index=st.lists(st.integers(0, 11), min_size=1, max_size=80), is_sorted=st.booleans())
def test_every_row_has_a_slot_of_its_own_in_a_group_of_its_user(user_index: list[int], is_sorted: bool) -> None:
    user_N = torch.tensor(sorted(user_index) if is_sorted else user_index)

    groups = group_by_user(user_N, 12)

    assert len(set(groups.slot_N.tolist())) == len(user_index)
    assert torch.equal(groups.user_G[groups.slot_N // groups.rows], user_N)
    if groups.is_in_place:
        assert groups.slot_N.tolist() == list(range(len(user_index)))
        assert len(groups.user_G) * groups.rows == len(user_index)
    if groups.is_by_user:
        assert groups.user_G.tolist() == list(range(12))
    users = len(set(user_index))
    assert groups.rows == -(-len(user_index) // users)
    assert len(groups.user_G) <= 2 * users
    assert len(groups.user_G) * groups.rows <= 2 * (len(user_index) + users)


@settings(deadline=None)
@given(user_index=st.lists(st.integers(0, 5), min_size=1, max_size=40), is_sorted=st.booleans())
@example(user_index=[0, 1, 2, 3, 4, 5], is_sorted=True)
@example(user_index=[5, 3, 1], is_sorted=False)
@example(user_index=[user // 3 for user in range(18)], is_sorted=True)
@example(user_index=[1, 1, 4, 4], is_sorted=True)
@example(user_index=[0, 1, 1, 2, 3, 3, 4, 5], is_sorted=True)
def test_grouped_rows_see_what_rows_with_copies_of_the_history_see(user_index: list[int], is_sorted: bool) -> None:
    attention, memory = some_attention(num_users=6)
    user_N = torch.tensor(sorted(user_index) if is_sorted else user_index)
    candidate_NX = torch.randn(len(user_index), 9)

    with torch.inference_mode():
        grouped = attention(candidate_NX, memory, user_N)
        copied = broadcast(attention, candidate_NX, memory, user_N)

    torch.testing.assert_close(grouped, copied, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("user_index", "is_in_place", "is_by_user"),
    [
        ([0, 1, 2, 3], True, True),
        ([0, 0, 1, 1, 2, 2, 3, 3], True, True),
        ([0, 2, 3], True, False),
        ([1, 0, 3, 2], True, False),
        ([0, 0, 3, 3], True, False),
        ([0, 1, 0, 1, 2, 2, 3, 3], False, True),
        ([0, 0, 0, 1, 2, 3], False, False),
    ],
)
def test_nothing_is_moved_that_stands_right_already(user_index: list[int], is_in_place: bool, is_by_user: bool) -> None:
    groups = group_by_user(torch.tensor(user_index), 4)

    assert (groups.is_in_place, groups.is_by_user) == (is_in_place, is_by_user)


def test_what_is_remembered_of_users_is_the_same_beside_users_without_history() -> None:
    attention, _ = some_attention(num_users=2)
    hidden_MLW, is_entry_ML = torch.randn(3, 7, 8), torch.rand(3, 7) < 0.6

    with torch.inference_mode():
        alone = attention.remember(EncodedHistory(torch.arange(3), hidden_MLW, is_entry_ML), 3)
        beside = attention.remember(EncodedHistory(torch.tensor([0, 2, 3]), hidden_MLW, is_entry_ML), 5)

    for mine, its in zip(alone, beside, strict=True):
        torch.testing.assert_close(mine, its[torch.tensor([0, 2, 3])], atol=0, rtol=0)
    assert beside.is_seen_UP[1].tolist() == [True] + 7 * [False]


def test_a_user_without_history_attends_to_nothing_alone() -> None:
    attention, memory = some_attention(num_users=2)

    with torch.inference_mode():
        seen_ND = attention(torch.randn(4, 9), memory, torch.tensor([1, 1, 1, 1]))

    torch.testing.assert_close(seen_ND, attention.nothing_K[6:].expand(4, -1))
