"""Batches in a few fixed shapes: rows and users rounded up, what is missing padded, and two flat buffers for all of it.

A captured graph replays on the shapes and addresses that it was captured with, so a batch is packed into buffers
that never move. Everything here is numpy.
Shapes: U users, N rows, I whole numbers and R numbers of a buffer.
"""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from model_runtime.batching import USER_FIELDS
from model_runtime.networks.features import FloatArray, IntArray, RowBatch

ROW_BUCKETS = (16, 32, 64, 128, 256, 512, 1_024)  # beyond the last, kernels are long enough to hide their launches
USER_BUCKETS = (1, 2, 4, 8, 16, 32)
ALIGNMENT = 16  # entries of a buffer: fields begin where wide loads may

CONTEXT = "context_N"  # the view type counted over all surfaces, beside the batch's own fields


@dataclass(frozen=True, slots=True, order=True)
class Shape:
    users: int
    rows: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a field lies in its buffer, and its shape there."""

    start: int
    shape: tuple[int, ...]

    @property
    def end(self) -> int:
        return self.start + int(np.prod(self.shape))


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Where each field of a batch of one shape lies; those without width lie nowhere."""

    shape: Shape
    whole: Mapping[str, Place]
    real: Mapping[str, Place]
    num_whole: int
    num_real: int


def shapes() -> tuple[Shape, ...]:
    """All that there are, the largest first: memory made for one then serves the smaller ones."""
    found = [Shape(users, rows) for rows in ROW_BUCKETS for users in USER_BUCKETS if users <= rows]
    return tuple(sorted(found, reverse=True))


def bucket_of(num_users: int, num_rows: int) -> Shape | None:
    """The smallest shape that holds them; None where none does."""
    rows = bisect_left(ROW_BUCKETS, num_rows)
    users = bisect_left(USER_BUCKETS, num_users)
    if rows == len(ROW_BUCKETS) or users == len(USER_BUCKETS) or not num_users or not num_rows:
        return None
    return Shape(USER_BUCKETS[users], max(ROW_BUCKETS[rows], USER_BUCKETS[users]))


def layout_of(widths: Mapping[str, int], shape: Shape) -> Layout:
    """By the second dimension of each field that has one, see `FeatureSpec.widths`."""
    columns: dict[str, int | None] = {"user_index_N": None, "view_type_N": None, CONTEXT: None, **widths}
    places: dict[bool, dict[str, Place]] = {False: {}, True: {}}
    ends = {False: 0, True: 0}
    for name, width in columns.items():
        if width == 0:
            continue
        size = shape.users if name in USER_FIELDS else shape.rows
        is_real = "_dense_" in name
        place = Place(start=ends[is_real], shape=(size,) if width is None else (size, width))
        places[is_real][name] = place
        ends[is_real] = -(-place.end // ALIGNMENT) * ALIGNMENT
    return Layout(shape=shape, whole=places[False], real=places[True], num_whole=ends[False], num_real=ends[True])


def pack(batch: RowBatch, context_N: IntArray, layout: Layout, whole_I: IntArray, real_R: FloatArray) -> None:
    """Write a checked batch into the buffers; padding is the unknown category, the number 0 and the last user."""
    for places, buffer in ((layout.whole, whole_I), (layout.real, real_R)):
        for name, place in places.items():
            found = context_N if name == CONTEXT else getattr(batch, name)
            room = buffer[place.start : place.end].reshape(place.shape)
            room[: len(found)] = found
            room[len(found) :] = layout.shape.users - 1 if name == "user_index_N" else 0
