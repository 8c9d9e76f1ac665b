from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_runtime.batching import (
    ROW_FIELDS,
    USER_FIELDS,
    Joined,
    join,
    of_users,
    one_user_each,
    pieces,
    shape_of,
    user_digests,
)
from model_runtime.checkpoints import load_version
from model_runtime.networks.features import RowBatch
from tests.model_runtime.artifacts import Artifacts, sound_batch
from tests.networks.builders import a_batch

SAME = 1e-6  # the same row in another batch may differ by float rounding


def test_every_field_of_a_batch_is_a_users_or_a_rows() -> None:
    assert {*USER_FIELDS, *ROW_FIELDS} == {field.name for field in fields(RowBatch)}
    assert {name.rpartition("_")[2][0] for name in USER_FIELDS} == {"U"}
    assert {name.rpartition("_")[2][0] for name in ROW_FIELDS} == {"N"}


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


def joined(*batches: RowBatch) -> Joined:
    return join(batches, [user_digests(batch) for batch in batches])


@settings(max_examples=40, deadline=None)
@given(users=st.lists(st.integers(1, 12), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_joined_batches_keep_every_row_and_hold_each_user_once(users: list[int], seed: int) -> None:
    batches = [a_batch(num_users=count, num_rows=2 * count, seed=seed + index % 2) for index, count in enumerate(users)]

    found = joined(*batches)

    for batch, part in zip(batches, found.parts, strict=True):
        assert_same_rows(found.batch.take(np.arange(found.batch.num_rows)[part]), batch, np.arange(batch.num_rows))
    digests = user_digests(found.batch)
    assert len(set(digests)) == len(digests) == found.batch.num_users == sum(found.new_users)
    assert set(digests) == {digest for batch in batches for digest in user_digests(batch)}


def test_a_user_of_two_requests_is_encoded_once_unless_a_feature_differs() -> None:
    first, again, changed = (a_batch(num_users=4, num_rows=8) for _ in range(3))
    changed.history_UL[1, 0] += 1

    assert joined(first, again).new_users == (4, 0)
    assert joined(first, changed).new_users == (4, 1)


def test_scores_of_joined_batches_are_those_of_each_alone(artifacts: Artifacts) -> None:
    version = load_version(artifacts.stable.folder)
    batches = [sound_batch(num_users=8, num_rows=30, seed=seed) for seed in (1, 2, 1, 3)]

    found = joined(*batches)
    together_N = version.score(found.batch)["click"]

    assert found.batch.num_users == 24
    for batch, part in zip(batches, found.parts, strict=True):
        np.testing.assert_allclose(together_N[part], version.score(batch)["click"], atol=SAME, rtol=0)


def test_batches_of_other_widths_have_another_shape() -> None:
    batch = a_batch()

    assert shape_of(batch) == shape_of(a_batch(num_users=9, num_rows=20))
    assert shape_of(batch) != shape_of(replace(batch, history_UL=batch.history_UL[:, :4]))


def assert_same_rows(part: RowBatch, whole: RowBatch, row_M: "np.typing.NDArray[np.int64]") -> None:
    """Row m of the part says the same as row `row_M[m]` of the whole, its user included."""
    for name in ROW_FIELDS:
        if name != "user_index_N":
            np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[row_M])
    for name in USER_FIELDS:
        user_M = whole.user_index_N[row_M]
        np.testing.assert_array_equal(getattr(part, name)[part.user_index_N], getattr(whole, name)[user_M])
