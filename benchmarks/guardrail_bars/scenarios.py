"""Traffic of a candidate exactly as bad as its margin allows, look by look: who comes when, and to which arm.

Letters of the shapes: R runs, S strata, A arms, K buckets.
"""

from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.guardrail_bars import crowd
from benchmarks.guardrail_bars.rules import MARGIN
from control_plane.domain.split import NUM_BUCKETS, Arm
from control_plane.guardrails.estimate import IntArray

Traffic = Iterator[tuple[IntArray, IntArray]]  # clicks and impressions so far, (R, S, A, K), look by look
Scenario = Callable[[np.random.Generator, int, int], Traffic]  # of runs and looks

CROWD = 8_192  # users who are there from the first look on
NEWCOMERS = 128  # per look, both arms
STAY = 0.97  # what is left of newcomers' traffic after a look
RAMP_CROWD = 16_384


def returning(rng: np.random.Generator, runs: int, looks: int) -> Traffic:
    """The same users at every look, 100 impressions each in the end: they weigh ever more than their number."""
    rates = crowd.newcomer_rates(rng, runs, CROWD, effect=-MARGIN)
    return _accumulated((rates.draw(rng, 5 * crowd.IMPRESSIONS / looks) for _ in range(looks)), runs)


def staggered(rng: np.random.Generator, runs: int, looks: int, *, share: float = 0.5) -> Traffic:
    """Newcomers at every look, who then come less and less: 3 % less at each."""

    def visits() -> Traffic:
        rates = crowd.newcomer_rates(rng, runs, 0)
        for _ in range(looks):
            arriving = crowd.newcomer_rates(rng, runs, NEWCOMERS, share=share, effect=-MARGIN)
            rates = rates.faded(STAY).joined_by(arriving)
            yield rates.draw(rng, crowd.IMPRESSIONS * (1 - STAY))

    return _accumulated(visits(), runs)


def one_in_twenty(rng: np.random.Generator, runs: int, looks: int) -> Traffic:
    return staggered(rng, runs, looks, share=0.05)


def ramp(rng: np.random.Generator, runs: int, looks: int) -> Traffic:
    """Two weeks from 1 to 50 % with busier weekends; users are moved to the candidate as its share grows."""
    ramp = crowd.Ramp(rng, runs, RAMP_CROWD, effect=-MARGIN)
    per_day = looks // crowd.DAYS
    shape = (runs, crowd.DAYS, len(Arm), NUM_BUCKETS)
    clicks_RSAK, shown_RSAK = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    for day, share in enumerate(crowd.RAMP_SHARES):
        rates, lift = ramp.rates(share), crowd.lift_on(day)
        for _ in range(per_day):
            clicks_RAK, shown_RAK = rates.draw(rng, crowd.IMPRESSIONS / crowd.DAYS / per_day * lift, lift=lift)
            clicks_RSAK[:, day] += clicks_RAK
            shown_RSAK[:, day] += shown_RAK
            yield clicks_RSAK[:, : day + 1], shown_RSAK[:, : day + 1]


def _accumulated(visits: Iterator[tuple[IntArray, IntArray]], runs: int) -> Traffic:
    clicks_RSAK, shown_RSAK = nothing(runs), nothing(runs)
    for clicks_RAK, shown_RAK in visits:
        clicks_RSAK[:, 0] += clicks_RAK
        shown_RSAK[:, 0] += shown_RAK
        yield clicks_RSAK, shown_RSAK


def nothing(runs: int) -> IntArray:
    return np.zeros((runs, 1, len(Arm), NUM_BUCKETS), dtype=np.int64)


SCENARIOS: dict[str, Scenario] = {
    "returning_users": returning,
    "staggered_entry": staggered,
    "split_5_95": one_in_twenty,
    "ramp_with_switchers": ramp,
}
