"""What the simulated users of a split tell of it when they are first met under a larger weight.

Letters: N meetings, U users.
"""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from control_plane.domain.moments import Draw
from control_plane.domain.split import FULL_TRAFFIC_BP, Arm

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

Drawn = Counter[tuple[int, Arm]]  # users by what was known of their slot, and the arm in which they were met


class FirstMeetings:
    """What is known of each user's slot; the same as the log tells, see `evidence.users.Users.draws`."""

    def __init__(self, users: int) -> None:
        self._above_U = np.zeros(users, dtype=np.int64)
        self._is_open_U = np.ones(users, dtype=np.bool_)  # never seen in the candidate under a split

    def would_tell(self, candidate_bp: int) -> BoolArray:
        """Which users tell something once they are met under this weight."""
        if not 0 < candidate_bp < FULL_TRAFFIC_BP:
            return np.zeros_like(self._is_open_U)
        return self._is_open_U & (self._above_U < candidate_bp)

    def meet(self, user_N: IntArray, arm_N: IntArray, candidate_bp: int) -> Drawn:
        """Note who was met in which arm; a user may be met often, but in one arm."""
        drawn: Drawn = Counter()
        tells_N = self.would_tell(candidate_bp)[user_N]
        user_D, place_D = np.unique(user_N[tells_N], return_index=True)
        arm_D = arm_N[tells_N][place_D]
        for arm in Arm:
            counts = np.bincount(self._above_U[user_D[arm_D == arm]]).tolist()
            drawn.update({(above_bp, arm): users for above_bp, users in enumerate(counts) if users})
        self._above_U[user_D[arm_D == Arm.STABLE]] = candidate_bp
        self._is_open_U[user_D[arm_D == Arm.CANDIDATE]] = False
        return drawn


def draws_of(drawn: Counter[tuple[int, int, int, Arm]]) -> tuple[Draw, ...]:
    """Counts by generation, what was known, weight and arm, as the judge takes them."""
    return tuple(
        Draw(
            generation=generation,
            above_bp=above_bp,
            candidate_bp=candidate_bp,
            stable=drawn[generation, above_bp, candidate_bp, Arm.STABLE],
            candidate=drawn[generation, above_bp, candidate_bp, Arm.CANDIDATE],
        )
        for generation, above_bp, candidate_bp in sorted({key[:3] for key in drawn})
    )
