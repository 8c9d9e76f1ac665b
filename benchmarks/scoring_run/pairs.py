"""Two ways to the same scores, timed in turn.

What counts is CPU time of this process: the machine may be busy with other work, which takes turns from both sides
but is no part of either. Wall time stands beside it.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

TOLERANCE = 1e-5  # between the two sides' results


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """`plain` is what one would do without this project's way, `ours`; `figure` names how many times faster ours is."""

    figure: str
    what: str
    plain: Callable[[], ArrayLike]
    ours: Callable[[], ArrayLike]


class Seconds(NamedTuple):
    """Of one call."""

    cpu: float
    wall: float


class Pair(NamedTuple):
    plain: Seconds
    ours: Seconds

    @property
    def ratio(self) -> float:
        return self.plain.cpu / self.ours.cpu

    @property
    def wall_ratio(self) -> float:
        return self.plain.wall / self.ours.wall


def in_turn(comparison: Comparison, *, rounds: int, seconds: float) -> list[Pair]:
    """Time both sides `rounds` times, each for about `seconds` of CPU time, now one first and now the other.

    Raises:
        AssertionError: the two do not give the same.
    """
    check_equal(comparison)
    plain, ours = (calls_within(seconds, side) for side in (comparison.plain, comparison.ours))
    pairs = []
    for number in range(rounds):
        if number % 2 == 0:
            first = timed(comparison.plain, plain)
            pairs.append(Pair(first, timed(comparison.ours, ours)))
        else:
            first = timed(comparison.ours, ours)
            pairs.append(Pair(timed(comparison.plain, plain), first))
    return pairs


def check_equal(comparison: Comparison) -> None:
    plain, ours = (np.asarray(side()) for side in (comparison.plain, comparison.ours))
    assert plain.shape == ours.shape, f"{comparison.figure}: {plain.shape} is not {ours.shape}"
    worst = float(np.abs(plain - ours).max())
    assert worst <= TOLERANCE, f"{comparison.figure}: the two sides differ by {worst:.2g}"


def calls_within(seconds: float, call: Callable[[], object]) -> int:
    """How many calls take about `seconds` of CPU time, at least one."""
    return max(1, math.ceil(seconds / timed(call, 1).cpu))


def timed(call: Callable[[], object], calls: int) -> Seconds:
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(calls):
        call()
    return Seconds((time.process_time() - cpu) / calls, (time.perf_counter() - wall) / calls)
