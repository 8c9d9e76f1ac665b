"""The users of a simulated surface: when each is first met, by which arm, and how fast they all come from then on.

Each user's impressions are a Poisson process on the calendar's clock. What it tells before the first impression is
one exponential; from then on the users of a cell (same arm, bucket and type) add up to one Poisson process. So
cells are drawn instead of users, and the law is still that of every single user. Who would tell something of the split
when met under a new weight is met anew there: a Poisson process has no memory.

Letters: U users, F users first met, W waves (0 is stable, the others joined the candidate together), K buckets,
J types of user.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from control_plane.domain.split import NUM_BUCKETS, Arm, bucket_of, slot_of
from control_plane.rehearsal.audience import Audience, Faults
from control_plane.rehearsal.first_meetings import Drawn, FirstMeetings

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

NEVER = np.inf  # on the clock


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Met:
    """Who was met in one span of the clock."""

    rate_WKJ: FloatArray  # of further impressions, beyond the first one of each user in `cell_F`
    cell_F: IntArray  # flat index into W, K, J of those who had their first impression in their arm, or anew
    drawn: Drawn


class Crowd:
    def __init__(
        self,
        rng: np.random.Generator,
        audience: Audience,
        faults: Faults,
        *,
        days: int,
        type_share_J: FloatArray,
        has_waves: bool,
    ) -> None:
        """`days` of the clock is how long new users go on coming."""
        self._rng, self._has_waves = rng, has_waves
        newcomers = round(audience.users * audience.new_users_per_day * days)
        size = audience.users + newcomers
        self.num_types = type_share_J.size
        keys = rng.integers(0, 2**64, size=size, dtype=np.uint64)
        self.bucket_U = bucket_of(keys).astype(np.int64)
        self.slot_U = slot_of(keys, f"rehearsal/{int(rng.integers(2**32))}").astype(np.int64)
        self.type_U = rng.choice(self.num_types, p=type_share_J, size=size)
        self.activity_U = gamma(rng, audience.activity_spread, size) * audience.impressions_per_day
        self.entry_U = np.zeros(size)
        self.entry_U[audience.users :] = rng.uniform(0.0, days, size=newcomers)
        self._due_U = self.entry_U + self._waits(np.arange(size))  # first impression in the present arm
        self._is_lost_U = rng.random(size) < faults.lost_users
        self._met_UA = np.zeros((size, len(Arm)), dtype=np.bool_)
        self._first_meetings = FirstMeetings(size)
        self._wave_U = np.zeros(size, dtype=np.int64)
        self.joined_ms: list[int] = [0]  # when each wave came to be; stable always was
        self.assign(0, clock=0.0, at_ms=0)

    @property
    def users_A(self) -> tuple[int, int]:
        """Distinct users met in each arm."""
        return int(self._met_UA[:, 0].sum()), int(self._met_UA[:, 1].sum())

    def assign(self, candidate_bp: int, *, clock: float, at_ms: int) -> None:
        """Give the candidate the slots below its weight; who changes arms, or will tell of the split, is met anew."""
        wants = self.slot_U < candidate_bp
        joins, leaves = wants & (self._wave_U == 0), ~wants & (self._wave_U > 0)
        if joins.any() and (self._has_waves or len(self.joined_ms) == 1):
            self.joined_ms.append(at_ms)
        self._wave_U[joins] = len(self.joined_ms) - 1
        self._wave_U[leaves] = 0
        is_met = self._met_UA[np.arange(self._wave_U.size), np.minimum(self._wave_U, 1)]
        is_met &= ~self._first_meetings.would_tell(candidate_bp)
        moved = np.flatnonzero((joins | leaves | ~is_met) & ~np.isinf(self._due_U) & (self._due_U < clock))
        self._due_U[moved] = clock + self._waits(moved)
        self._candidate_bp = candidate_bp
        self._is_away_U = self._is_lost_U & (self._wave_U > 0)
        self._cell_U = (self._wave_U * NUM_BUCKETS + self.bucket_U) * self.num_types + self.type_U
        is_here = ~self._is_away_U
        self._rate_C = self._summed(np.flatnonzero(is_here & is_met))
        waiting = np.flatnonzero(is_here & ~is_met)
        order = np.argsort(self._due_U[waiting])
        self._waiting, self._due = waiting[order], self._due_U[waiting][order]
        self._next = 0

    def meet(self, start: float, end: float) -> Met:
        """Who comes between two moments of the clock."""
        stop = int(np.searchsorted(self._due, end, side="left"))
        user_F = self._waiting[self._next : stop]
        due_F = np.maximum(self._due[self._next : stop], start)
        self._next = stop
        arm_F = np.minimum(self._wave_U[user_F], 1)
        self._met_UA[user_F, arm_F] = True
        rate_C = self._rate_C * (end - start) + self._summed(user_F, end - due_F)
        self._rate_C = self._rate_C + self._summed(user_F)
        return Met(
            rate_WKJ=rate_C.reshape(len(self.joined_ms), NUM_BUCKETS, self.num_types),
            cell_F=self._cell_U[user_F],
            drawn=self._first_meetings.meet(user_F, arm_F, self._candidate_bp),
        )

    def _waits(self, users: IntArray) -> FloatArray:
        with np.errstate(divide="ignore"):
            return np.asarray(self._rng.exponential(size=users.size) / self.activity_U[users])

    def _summed(self, users: IntArray, weight: FloatArray | float = 1.0) -> FloatArray:
        cells = len(self.joined_ms) * NUM_BUCKETS * self.num_types
        rates = np.bincount(self._cell_U[users], weights=self.activity_U[users] * weight, minlength=cells)
        return rates.astype(np.float64, copy=False)


def gamma(rng: np.random.Generator, spread: float, size: int) -> FloatArray:
    """Positive factors of mean 1 and the given coefficient of variation."""
    if spread == 0:
        return np.ones(size)
    shape = spread**-2
    return np.asarray(rng.gamma(shape, 1 / shape, size=size))
