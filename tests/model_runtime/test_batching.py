from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_runtime.batching import ROW_FIELDS, USER_FIELDS, of_users, one_user_each, pieces
from model_runtime.checkpoints import load_version
from model_runtime.networks.features import RowBatch
from tests.model_runtime.artifacts import Artifacts, sound_batch
from tests.networks.builders import a_batch

SAME = 1e-6  # the same row in another batch may differ by float rounding


def test_every_field_of_a_batch_is_a_users_or_a_rows() -> None:
    assert {*USER_FIELDS, *ROW_FIELDS} == {field.name for field in fields(RowBatch)}
    assert set(ROW_FIELDS) == {"user_index_N", "view_type_N", "candidate_categorical_NC", "candidate_dense_ND"}


@settings(max_examples=60, deadline=None)
@given(
    users=st.integers(1, 30),
    rows=st.integers(1, 80),
    max_users=st.integers(1, 40),
    max_rows=st.integers(1, 90),
    seed=st.integers(0, 99),
    is_sorted=st.booleans(),
)
def test_pieces_keep_their_bounds_and_cover_each_row_once(
    users: int, rows: int, max_users: int, max_rows: int, seed: int, is_sorted: bool
) -> None:
    batch = a_batch(num_users=users, num_rows=rows, seed=seed)
    if is_sorted:
        batch.user_index_N.sort()

    found = list(pieces(batch, max_users=max_users, max_rows=max_rows))

    assert sorted(np.concatenate([piece.row_M for piece in found])) == list(range(rows))
    for piece in found:
        assert piece.batch.num_users <= max_users
        assert piece.batch.num_rows <= max_rows
        assert_same_rows(piece.batch, batch, piece.row_M)


def test_a_batch_within_the_bounds_passes_as_it_is() -> None:
    batch = a_batch()

    (piece,) = pieces(batch, max_users=4, max_rows=12)

    assert piece.batch is batch


@pytest.mark.parametrize(("max_users", "max_rows"), [(1, 10_000), (7, 10_000), (10_000, 5), (3, 2)])
def test_scores_of_the_pieces_are_those_of_the_whole(artifacts: Artifacts, max_users: int, max_rows: int) -> None:
    version = load_version(artifacts.stable.folder)
    batch = sound_batch()
    whole_N = version.score(batch)["click"]

    cut_N = np.full_like(whole_N, np.nan)
    for piece in pieces(batch, max_users=max_users, max_rows=max_rows):
        cut_N[piece.row_M] = version.score(piece.batch)["click"]

    np.testing.assert_allclose(cut_N, whole_N, atol=SAME, rtol=0)


def test_wanted_users_keep_all_their_rows() -> None:
    batch = a_batch(num_users=6, num_rows=30)
    is_wanted_U = np.array([True, False, True, False, False, True])

    piece = of_users(batch, is_wanted_U)

    assert piece.batch.num_users == 3
    assert piece.row_M.tolist() == np.flatnonzero(is_wanted_U[batch.user_index_N]).tolist()
    assert_same_rows(piece.batch, batch, piece.row_M)


def test_one_user_each_gives_every_named_row_its_own_copy_of_its_user() -> None:
    batch = a_batch(num_users=3, num_rows=10)
    row_M = np.array([7, 2, 2, 9])

    alone = one_user_each(batch, row_M)

    assert alone.user_index_N.tolist() == [0, 1, 2, 3]
    assert_same_rows(alone, batch, row_M)


def assert_same_rows(part: RowBatch, whole: RowBatch, row_M: "np.typing.NDArray[np.int64]") -> None:
    """Row m of the part says the same as row `row_M[m]` of the whole, its user included."""
    for name in ROW_FIELDS:
        if name != "user_index_N":
            np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[row_M])
    for name in USER_FIELDS:
        user_M = whole.user_index_N[row_M]
        np.testing.assert_array_equal(getattr(part, name)[part.user_index_N], getattr(whole, name)[user_M])
