"""Who was seen, under which generation and in which arm: what no sum can tell.

Letters: N rows, U users, W words of 64 bits, A arms.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Self

import numpy as np

from control_plane.domain.split import FULL_TRAFFIC_BP, Arm

if TYPE_CHECKING:
    from numpy.typing import NDArray

    BoolArray = NDArray[np.bool_]
    IntArray = NDArray[np.int64]
    KeyArray = NDArray[np.uint64]

GENERATIONS_PER_WORD = 32  # two bits each: seen in stable, seen in candidate
STABLE_BITS = np.uint64(0x5555_5555_5555_5555)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class UserRows:
    """In which arms each user was seen by generation in one query's part of the log, in any order."""

    user_N: "KeyArray"
    generation_N: "IntArray"
    seen_N: "KeyArray"  # bit 0 says seen in stable, bit 1 in candidate

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
        seen_UW: for generation `counted[i]`, bit 2i of the words says seen in stable, bit 2i + 1 in candidate.
        counted: generations, in the order in which they came.
        left_out: generations that were there, but do not count.
    """

    user_U: "KeyArray"
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
        return int(self._is_crossed().sum())

    def draws(self, shares: Mapping[int, int]) -> Counter[tuple[int, int, Arm]]:
        """Users by the generation that told something new of their slot, what was known before, and the arm.

        Generations count in ascending order. Who was seen on stable has a slot at or above its weight; who was
        seen in the candidate tells nothing more. Users of both arms of one generation count nowhere.

        Args:
            shares: the candidate's basis points under each of `counted`.
        """
        drawn: Counter[tuple[int, int, Arm]] = Counter()
        above_U = np.zeros(len(self.user_U), np.int64)
        is_open_U = ~self._is_crossed()
        for generation in sorted(self.counted.tolist()):
            share = shares[generation]
            if not 0 < share < FULL_TRAFFIC_BP:
                continue
            for arm in Arm:
                is_drawn_U = is_open_U & self._is_seen(generation, arm) & (above_U < share)
                for above, users in enumerate(np.bincount(above_U[is_drawn_U]).tolist()):
                    if users:
                        drawn[generation, above, arm] = users
            is_open_U &= ~self._is_seen(generation, Arm.CANDIDATE)
            above_U[self._is_seen(generation, Arm.STABLE) & (above_U < share)] = share
        return drawn

    def _is_crossed(self) -> "BoolArray":
        both_UW = self.seen_UW & self.seen_UW >> np.uint64(1) & STABLE_BITS
        return np.asarray(np.any(both_UW, axis=1))

    def _is_seen(self, generation: int, arm: Arm) -> "BoolArray":
        word, place = divmod(int(np.flatnonzero(self.counted == generation)[0]), GENERATIONS_PER_WORD)
        return (self.seen_UW[:, word] >> np.uint64(2 * place + arm) & np.uint64(1)).astype(np.bool_)


def no_user_rows() -> UserRows:
    return UserRows(user_N=np.zeros(0, np.uint64), generation_N=np.zeros(0, np.int64), seen_N=np.zeros(0, np.uint64))


def no_users() -> Users:
    return Users(
        user_U=np.zeros(0, np.uint64),
        seen_UW=np.zeros((0, 1), np.uint64),
        counted=np.zeros(0, np.int64),
        left_out=np.zeros(0, np.int64),
    )


def with_rows(users: Users, rows: UserRows, generations: Collection[int]) -> Users:
    """Count the rows of these generations too."""
    counts_N = np.isin(rows.generation_N, np.fromiter(generations, np.int64))
    left_out = np.union1d(users.left_out, rows.generation_N[~counts_N])
    user_N, generation_N, seen_N = rows.user_N[counts_N], rows.generation_N[counts_N], rows.seen_N[counts_N]
    fresh = np.setdiff1d(generation_N, users.counted)
    counted = np.concatenate([users.counted, fresh])
    words = max(1, -(-len(counted) // GENERATIONS_PER_WORD))
    wider_UW = np.pad(users.seen_UW, ((0, 0), (0, words - users.seen_UW.shape[1])))
    return _one_row_each(
        np.concatenate([users.user_U, user_N]),
        np.concatenate([wider_UW, _seen(generation_N, seen_N, counted, words)]),
        counted=counted,
        left_out=left_out,
    )


def _seen(generation_N: "IntArray", seen_N: "KeyArray", counted: "IntArray", words: int) -> "KeyArray":
    place_of = {generation: place for place, generation in enumerate(counted.tolist())}
    present, which_N = np.unique(generation_N, return_inverse=True)
    place_N = np.array([place_of[generation] for generation in present.tolist()], np.int64)[which_N]
    seen_NW = np.zeros((len(generation_N), words), np.uint64)
    shift_N = (place_N % GENERATIONS_PER_WORD * 2).astype(np.uint64)
    seen_NW[np.arange(len(generation_N)), place_N // GENERATIONS_PER_WORD] = seen_N << shift_N
    return seen_NW


def _one_row_each(user_N: "KeyArray", seen_NW: "KeyArray", *, counted: "IntArray", left_out: "IntArray") -> Users:
    order = np.argsort(user_N, kind="stable")  # the first run is sorted already
    user_N = user_N[order]
    starts_U = np.flatnonzero(np.r_[True, user_N[1:] != user_N[:-1]][: len(order)])
    if len(starts_U) == 0:
        return replace(no_users(), counted=counted, left_out=left_out)
    return Users(
        user_U=user_N[starts_U],
        seen_UW=np.bitwise_or.reduceat(seen_NW[order], starts_U, axis=0),
        counted=counted,
        left_out=left_out,
    )
