"""Rounding sizes up to shapes, and packing batches into buffers of them."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.domain.model_version import Surface
from model_runtime.batching import USER_FIELDS
from model_runtime.buckets import CONTEXT, ROW_BUCKETS, USER_BUCKETS, Shape, bucket_of, layout_of, pack, shapes
from tests.networks.builders import HOME_FEED, SEARCH, a_rich_batch, a_rich_spec


@given(users=st.integers(1, USER_BUCKETS[-1]), rows=st.integers(1, ROW_BUCKETS[-1]))
def test_the_shape_of_a_batch_holds_it_and_no_smaller_one_does(users: int, rows: int) -> None:
    found = bucket_of(users, rows)

    assert found in shapes()
    assert found.users >= users
    assert found.rows >= rows
    holding = [each for each in shapes() if each.users >= users and each.rows >= rows]
    assert found == min(holding, key=lambda each: (each.users, each.rows))


@pytest.mark.parametrize(("users", "rows"), [(33, 100), (1, 1_025), (0, 5), (3, 0)])
def test_what_no_shape_holds_has_none(users: int, rows: int) -> None:
    assert bucket_of(users, rows) is None


def test_padding_at_most_doubles_a_batch_of_more_than_the_least_rows() -> None:
    for rows in range(ROW_BUCKETS[0], ROW_BUCKETS[-1] + 1):
        shape = bucket_of(1, rows)
        assert shape is not None
        assert shape.rows < 2 * rows


def test_the_largest_shape_comes_first() -> None:
    assert shapes()[0] == Shape(USER_BUCKETS[-1], ROW_BUCKETS[-1])
    assert all(shape.users <= shape.rows for shape in shapes())


@pytest.mark.parametrize("surface", [HOME_FEED, SEARCH])
def test_a_packed_batch_is_read_back_with_its_padding(surface: Surface) -> None:
    batch = a_rich_batch(surface, num_users=3, num_rows=11)
    layout = layout_of(a_rich_spec().widths(surface), Shape(4, 16))
    whole_I, real_R = np.full(layout.num_whole, 99, np.int64), np.full(layout.num_real, 9.0, np.float32)

    pack(batch, batch.view_type_N + 2, layout, whole_I, real_R)

    for places, buffer in ((layout.whole, whole_I), (layout.real, real_R)):
        for name, place in places.items():
            found = buffer[place.start : place.end].reshape(place.shape)
            size = 3 if name in USER_FIELDS else 11
            given = batch.view_type_N + 2 if name == CONTEXT else getattr(batch, name)
            np.testing.assert_array_equal(found[:size], given)
            assert (found[size:] == (3 if name == "user_index_N" else 0)).all()


def test_fields_do_not_overlap_and_those_without_width_have_no_place() -> None:
    layout = layout_of(a_rich_spec().widths(HOME_FEED), Shape(4, 16))

    assert "surface_categorical_NS" not in layout.whole
    for places, size in ((layout.whole, layout.num_whole), (layout.real, layout.num_real)):
        ordered = sorted(places.values(), key=lambda place: place.start)
        assert all(before.end <= after.start for before, after in pairwise(ordered))
        assert ordered[-1].end <= size
