"""Who was seen, in which arm, and where first: what no sum can tell.

Letters: N rows, U users, W words of 64 bits, A arms.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Self

import numpy as np

from control_plane.domain.split import Arm

if TYPE_CHECKING:
    from numpy.typing import NDArray

    IntArray = NDArray[np.int64]
    KeyArray = NDArray[np.uint64]

NEVER_MS = np.iinfo(np.int64).max  # first exposure of a user who never was in that arm
GENERATIONS_PER_WORD = 32  # two bits each: seen in stable, seen in candidate
STABLE_BITS = np.uint64(0x5555_5555_5555_5555)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class UserRows:
    """Each user's first exposure by generation and arm in one query's part of the log, in any order."""

    user_N: "KeyArray"
    generation_N: "IntArray"
    first_ms_NA: "IntArray"

    def to_arrays(self) -> "dict[str, NDArray[np.generic]]":
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: "Mapping[str, NDArray[np.generic]]") -> Self:
        return cls(**{field.name: np.asarray(arrays[field.name]) for field in fields(cls)})


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Users:
    """One row per user, however many days and generations they were seen in.

    Attributes:
        user_U: ascending.
        first_ms_U: of the first exposure.
        first_place_U: its generation × 2 + arm; ties go to the lower generation, then to stable.
        seen_UW: for generation `counted[i]`, bit 2i of the words says seen in stable, bit 2i + 1 in candidate.
        counted: generations, in the order in which they came.
        left_out: generations that were there, but do not count.
    """

    user_U: "KeyArray"
    first_ms_U: "IntArray"
    first_place_U: "IntArray"
    seen_UW: "KeyArray"
    counted: "IntArray"
    left_out: "IntArray"

    def to_arrays(self) -> "dict[str, NDArray[np.generic]]":
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: "Mapping[str, NDArray[np.generic]]") -> Self:
        return cls(**{field.name: np.asarray(arrays[field.name]) for field in fields(cls)})

    def agrees_with(self, generations: Collection[int]) -> bool:
        """Whether the same rows would be counted now that just these generations count."""
        return set(self.counted.tolist()) <= set(generations) and not set(self.left_out.tolist()) & set(generations)

    def seen_by_arm(self) -> tuple[int, int]:
        """Distinct users by arm."""
        stable, candidate = (np.any(self.seen_UW >> np.uint64(arm) & STABLE_BITS, axis=1).sum() for arm in Arm)
        return int(stable), int(candidate)

    def cross_exposed(self) -> int:
        """Users seen in both arms of one generation."""
        both_UW = self.seen_UW & self.seen_UW >> np.uint64(1) & STABLE_BITS
        return int(np.any(both_UW, axis=1).sum())

    def first_exposures(self, *, day_ms: int) -> Counter[tuple[int, int, int]]:
        """Users by day, generation and arm of their first exposure."""
        generation_U, arm_U = np.divmod(self.first_place_U, len(Arm))
        return Counter(zip((self.first_ms_U // day_ms).tolist(), generation_U.tolist(), arm_U.tolist(), strict=True))


def no_user_rows() -> UserRows:
    return UserRows(
        user_N=np.zeros(0, np.uint64), generation_N=np.zeros(0, np.int64), first_ms_NA=np.zeros((0, len(Arm)), np.int64)
    )


def no_users() -> Users:
    return Users(
        user_U=np.zeros(0, np.uint64),
        first_ms_U=np.zeros(0, np.int64),
        first_place_U=np.zeros(0, np.int64),
        seen_UW=np.zeros((0, 1), np.uint64),
        counted=np.zeros(0, np.int64),
        left_out=np.zeros(0, np.int64),
    )


def with_rows(users: Users, rows: UserRows, generations: Collection[int]) -> Users:
    """Count the rows of these generations too."""
    counts_N = np.isin(rows.generation_N, np.fromiter(generations, np.int64))
    left_out = np.union1d(users.left_out, rows.generation_N[~counts_N])
    user_N, generation_N, first_ms_NA = rows.user_N[counts_N], rows.generation_N[counts_N], rows.first_ms_NA[counts_N]
    fresh = np.setdiff1d(generation_N, users.counted)
    counted = np.concatenate([users.counted, fresh])
    words = max(1, -(-len(counted) // GENERATIONS_PER_WORD))
    wider_UW = np.pad(users.seen_UW, ((0, 0), (0, words - users.seen_UW.shape[1])))
    return _one_row_each(
        np.concatenate([users.user_U, user_N]),
        np.concatenate([users.first_ms_U, first_ms_NA.min(axis=1)]),
        np.concatenate([users.first_place_U, generation_N * len(Arm) + first_ms_NA.argmin(axis=1)]),
        np.concatenate([wider_UW, _seen(generation_N, first_ms_NA, counted, words)]),
        counted=counted,
        left_out=left_out,
    )


def _seen(generation_N: "IntArray", first_ms_NA: "IntArray", counted: "IntArray", words: int) -> "KeyArray":
    place_of = {generation: place for place, generation in enumerate(counted.tolist())}
    present, which_N = np.unique(generation_N, return_inverse=True)
    place_N = np.array([place_of[generation] for generation in present.tolist()], np.int64)[which_N]
    bits_N = (first_ms_NA < NEVER_MS) @ np.array([1, 2], np.uint64)
    seen_NW = np.zeros((len(generation_N), words), np.uint64)
    shift_N = (place_N % GENERATIONS_PER_WORD * 2).astype(np.uint64)
    seen_NW[np.arange(len(generation_N)), place_N // GENERATIONS_PER_WORD] = bits_N << shift_N
    return seen_NW


def _one_row_each(
    user_N: "KeyArray",
    first_ms_N: "IntArray",
    first_place_N: "IntArray",
    seen_NW: "KeyArray",
    *,
    counted: "IntArray",
    left_out: "IntArray",
) -> Users:
    order = np.argsort(user_N, kind="stable")  # the first run is sorted already
    user_N, first_ms_N = user_N[order], first_ms_N[order]
    starts_U = np.flatnonzero(np.r_[True, user_N[1:] != user_N[:-1]][: len(order)])
    if len(starts_U) == 0:
        return replace(no_users(), counted=counted, left_out=left_out)
    first_ms_U = np.minimum.reduceat(first_ms_N, starts_U)
    is_later_N = first_ms_N > np.repeat(first_ms_U, np.diff(starts_U, append=len(order)))
    return Users(
        user_U=user_N[starts_U],
        first_ms_U=first_ms_U,
        first_place_U=np.minimum.reduceat(np.where(is_later_N, NEVER_MS, first_place_N[order]), starts_U),
        seen_UW=np.bitwise_or.reduceat(seen_NW[order], starts_U, axis=0),
        counted=counted,
        left_out=left_out,
    )
