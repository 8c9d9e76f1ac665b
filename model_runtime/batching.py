"""Cutting batches to what one forward may hold, and joining small ones; pure.

The user part of the network runs once per unique user of a forward, so the number of users bounds its memory.
Shapes: U users, N rows of a batch, M rows of a part of it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from model_runtime.networks.features import RowBatch

USER_FIELDS = tuple(field.name for field in fields(RowBatch) if field.name.rpartition("_")[2].startswith("U"))
ROW_FIELDS = tuple(field.name for field in fields(RowBatch) if field.name not in USER_FIELDS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """A part of a batch, and which rows of the whole its rows are."""

    batch: RowBatch
    row_M: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Joined:
    """Several batches as one, each user once: `parts` says which rows are whose.

    `new_users` counts, by part, the users that no part before it brought.
    """

    batch: RowBatch
    parts: tuple[slice, ...]
    new_users: tuple[int, ...]


def pieces(batch: RowBatch, *, max_users: int, max_rows: int) -> Iterator[Piece]:
    """Cut a batch into pieces of at most `max_users` users and `max_rows` rows; each row is in one of them.

    A user with more rows than fit appears in several pieces. Users without rows appear in none, unless the
    batch passes whole.
    """
    if batch.num_users <= max_users and batch.num_rows <= max_rows:
        yield Piece(batch=batch, row_M=np.arange(batch.num_rows))
        return
    order_N = _by_user(batch.user_index_N)
    user_N = batch.user_index_N[order_N]
    start = 0
    while start < batch.num_rows:
        first_user = user_N[start]
        end = min(start + max_rows, int(np.searchsorted(user_N, first_user + max_users)))
        user_slice = slice(int(first_user), int(user_N[end - 1]) + 1)
        yield _piece(batch, order_N[start:end], user_slice)
        start = end


def shape_of(batch: RowBatch) -> tuple[tuple[object, ...], ...]:
    """What two batches must have in common to be joined: types and widths of all their fields."""
    arrays = [getattr(batch, name) for name in (*USER_FIELDS, *ROW_FIELDS)]
    return tuple((array.dtype.str, *array.shape[1:]) for array in arrays)


def user_digests(batch: RowBatch) -> list[bytes]:
    """By user, everything that the network reads of them: equal digests are equal users, without collisions."""
    columns = [np.ascontiguousarray(getattr(batch, name)) for name in USER_FIELDS]
    flat = [each.view(np.uint8).reshape(batch.num_users, -1) for each in columns if each.size]
    content, width = np.concatenate(flat, axis=1).tobytes(), sum(each.shape[1] for each in flat)
    return [content[start : start + width] for start in range(0, len(content), width)]


def join(batches: Sequence[RowBatch], digests: Sequence[Sequence[bytes]]) -> Joined:
    """One batch of all rows in order, in which users of equal digests are one; all batches have one shape."""
    index_of: dict[bytes, int] = {}
    users: list[NDArray[np.int64]] = []
    new: list[list[int]] = []  # by batch, the places of users that come for the first time
    for of_batch in digests:
        new.append([])
        for place, digest in enumerate(of_batch):
            if digest not in index_of:
                index_of[digest] = len(index_of)
                new[-1].append(place)
        users.append(np.array([index_of[digest] for digest in of_batch], np.int64))
    bringing = [(batch, places) for batch, places in zip(batches, new, strict=True) if places]
    fields_of = {
        name: np.concatenate([getattr(batch, name)[places] for batch, places in bringing]) for name in USER_FIELDS
    }
    fields_of |= {name: np.concatenate([getattr(batch, name) for batch in batches]) for name in ROW_FIELDS}
    indexes = [user_U[batch.user_index_N] for user_U, batch in zip(users, batches, strict=True)]
    fields_of["user_index_N"] = np.concatenate(indexes)
    ends = np.cumsum([batch.num_rows for batch in batches]).tolist()
    starts = [0, *ends[:-1]]
    return Joined(
        batch=RowBatch(**fields_of),
        parts=tuple(slice(start, end) for start, end in zip(starts, ends, strict=True)),
        new_users=tuple(map(len, new)),
    )


def of_users(batch: RowBatch, is_wanted_U: NDArray[np.bool_]) -> Piece:
    """The wanted users alone, with all their rows, in the order they had."""
    new_index_U = np.cumsum(is_wanted_U) - 1
    row_M = np.flatnonzero(is_wanted_U[batch.user_index_N])
    part = {name: getattr(batch, name)[is_wanted_U] for name in USER_FIELDS}
    part |= {name: getattr(batch, name)[row_M] for name in ROW_FIELDS}
    part["user_index_N"] = new_index_U[part["user_index_N"]]
    return Piece(batch=RowBatch(**part), row_M=row_M)


def one_user_each(batch: RowBatch, row_M: NDArray[np.int64]) -> RowBatch:
    """The named rows, each with its user to itself, in the named order."""
    user_M = batch.user_index_N[row_M]
    part = {name: getattr(batch, name)[user_M] for name in USER_FIELDS}
    part |= {name: getattr(batch, name)[row_M] for name in ROW_FIELDS}
    part["user_index_N"] = np.arange(len(row_M))
    return RowBatch(**part)


def _by_user(user_index_N: NDArray[np.int64]) -> NDArray[np.int64]:
    if np.all(user_index_N[1:] >= user_index_N[:-1]):
        return np.arange(len(user_index_N))
    return np.argsort(user_index_N, kind="stable")


def _piece(batch: RowBatch, row_M: NDArray[np.int64], user_slice: slice) -> Piece:
    part = {name: getattr(batch, name)[user_slice] for name in USER_FIELDS}
    part |= {name: getattr(batch, name)[row_M] for name in ROW_FIELDS}
    part["user_index_N"] = part["user_index_N"] - user_slice.start
    return Piece(batch=RowBatch(**part), row_M=row_M)
