"""A simulated crowd on an ads surface: users with habits and tastes of their own, who come once or come back.

Given activity λ and taste p, a user clicks Poisson(λp) times and passes by Poisson(λ(1−p)) times. Users of one arm
and bucket sum to Poisson of their summed rates, so a cell is drawn at once, exactly as if user by user.

Letters of the shapes: R runs side by side, U users, A arms (2), K buckets, S strata, Q user-level sums (6).
"""

import math
from dataclasses import dataclass

import numpy as np

from control_plane.domain.split import NUM_BUCKETS, Arm
from control_plane.guardrails.estimate import BoolArray, FloatArray, IntArray

CTR = 0.02
IMPRESSIONS = 20.0  # of one user, on average
DESIGN_EFFECT = 2.0  # variance of a CTR over that of as many independent impressions
ACTIVITY_SHAPE = 1.0  # of a gamma with mean 1: impressions per user are geometric
TASTE_SHAPE = IMPRESSIONS * (1 + 1 / ACTIVITY_SHAPE) * CTR / ((1 - CTR) * (DESIGN_EFFECT - 1))  # gamma, mean CTR
MAX_TASTE = 0.5  # click probability; about 1 user in 10⁹ is cut
SEEN_SHARE = 1 - (1 + IMPRESSIONS / ACTIVITY_SHAPE) ** -ACTIVITY_SHAPE  # of users, with an impression or more
POWER_Z = 1.959964 + 0.841621  # two-sided 5 %, power 80 %


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Users:
    """R crowds of U users; activity has mean 1, taste is a click probability."""

    activity_RU: FloatArray
    taste_RU: FloatArray

    def click_rate_RU(self, is_candidate_RU: BoolArray, effect: float) -> FloatArray:
        """Clicks per unit of exposure, the candidate's users' changed by `effect`."""
        return self.activity_RU * self.taste_RU * np.where(is_candidate_RU, 1.0 + effect, 1.0)


def draw_users(rng: np.random.Generator, runs: int, users: int) -> Users:
    activity_RU = rng.standard_gamma(ACTIVITY_SHAPE, (runs, users)) / ACTIVITY_SHAPE
    taste_RU = rng.standard_gamma(TASTE_SHAPE, (runs, users)) * (CTR / TASTE_SHAPE)
    return Users(activity_RU=activity_RU, taste_RU=np.minimum(taste_RU, MAX_TASTE))


def draw_cells(rng: np.random.Generator, is_candidate_RU: BoolArray) -> IntArray:
    """Each user's cell, run × arm × bucket as one number; the bucket is independent of the arm."""
    runs = len(is_candidate_RU)
    bucket_RU = rng.integers(NUM_BUCKETS, size=is_candidate_RU.shape)
    run_R1 = np.arange(runs)[:, None]
    return np.asarray((run_R1 * len(Arm) + is_candidate_RU) * NUM_BUCKETS + bucket_RU)


def by_cell(cell_RU: IntArray, value_RU: FloatArray | IntArray) -> FloatArray:
    """Sums over users, (R, A, K)."""
    runs = len(cell_RU)
    sums: FloatArray = np.bincount(
        cell_RU.ravel(), weights=value_RU.ravel(), minlength=runs * len(Arm) * NUM_BUCKETS
    ).astype(np.float64)
    return sums.reshape(runs, len(Arm), NUM_BUCKETS)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Visit:
    """Newcomers who show all their impressions at once, user by user."""

    clicks_RU: IntArray
    shown_RU: IntArray
    taste_RU: FloatArray
    is_candidate_RU: BoolArray
    cell_RU: IntArray

    def clicks_RAK(self) -> IntArray:
        return by_cell(self.cell_RU, self.clicks_RU).astype(np.int64)

    def shown_RAK(self) -> IntArray:
        return by_cell(self.cell_RU, self.shown_RU).astype(np.int64)

    def user_sums_RAQ(self) -> FloatArray:
        """Σ1, Σy, Σn, Σy², Σn², Σyn over users who were seen; y clicks, n impressions."""
        clicks_RU, shown_RU = self.clicks_RU.astype(np.float64), self.shown_RU.astype(np.float64)
        columns = []
        for weight_RU in ((~self.is_candidate_RU).astype(np.float64), self.is_candidate_RU.astype(np.float64)):
            clicks, shown = clicks_RU * weight_RU, shown_RU * weight_RU
            sums = [
                (shown > 0).sum(axis=1).astype(np.float64),
                clicks.sum(axis=1),
                shown.sum(axis=1),
                np.einsum("ru,ru->r", clicks, clicks_RU),
                np.einsum("ru,ru->r", shown, shown_RU),
                np.einsum("ru,ru->r", clicks, shown_RU),
            ]
            columns.append(np.stack(sums, axis=-1))
        return np.stack(columns, axis=1)


def draw_visit(rng: np.random.Generator, runs: int, users: int, *, share: float = 0.5, effect: float = 0.0) -> Visit:
    """`users` newcomers, each to the candidate with probability `share`."""
    crowd = draw_users(rng, runs, users)
    is_candidate_RU = np.asarray(rng.random((runs, users)) < share)
    click_rate_RU = IMPRESSIONS * crowd.click_rate_RU(is_candidate_RU, effect)
    clicks_RU = rng.poisson(click_rate_RU)
    passed_RU = rng.poisson(IMPRESSIONS * crowd.activity_RU - click_rate_RU)
    return Visit(
        clicks_RU=clicks_RU,
        shown_RU=clicks_RU + passed_RU,
        taste_RU=crowd.taste_RU,
        is_candidate_RU=is_candidate_RU,
        cell_RU=draw_cells(rng, is_candidate_RU),
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CellRates:
    """Clicks and impressions without a click per unit of exposure, summed over each cell's users."""

    click_RAK: FloatArray
    pass_RAK: FloatArray

    def draw(self, rng: np.random.Generator, exposure: float, *, lift: float = 1.0) -> tuple[IntArray, IntArray]:
        """Clicks and impressions of one look, `exposure` impressions to a user on average.

        `lift` is how much likelier all clicks are just now, at a weekend for example.
        """
        clicks_RAK = rng.poisson(self.click_RAK * (exposure * lift))
        passed_RAK = rng.poisson((self.pass_RAK + self.click_RAK * (1 - lift)) * exposure)
        return clicks_RAK, clicks_RAK + passed_RAK

    def faded(self, factor: float) -> "CellRates":
        return CellRates(click_RAK=self.click_RAK * factor, pass_RAK=self.pass_RAK * factor)

    def joined_by(self, other: "CellRates") -> "CellRates":
        return CellRates(click_RAK=self.click_RAK + other.click_RAK, pass_RAK=self.pass_RAK + other.pass_RAK)


def cell_rates(users: Users, is_candidate_RU: BoolArray, cell_RU: IntArray, *, effect: float) -> CellRates:
    click_rate_RU = users.click_rate_RU(is_candidate_RU, effect)
    return CellRates(
        click_RAK=by_cell(cell_RU, click_rate_RU), pass_RAK=by_cell(cell_RU, users.activity_RU - click_rate_RU)
    )


def newcomer_rates(
    rng: np.random.Generator, runs: int, users: int, *, share: float = 0.5, effect: float = 0.0
) -> CellRates:
    is_candidate_RU = np.asarray(rng.random((runs, users)) < share)
    crowd = draw_users(rng, runs, users)
    return cell_rates(crowd, is_candidate_RU, draw_cells(rng, is_candidate_RU), effect=effect)


class Ramp:
    """Users who come back every day and are moved from stable to the candidate as its share grows.

    Both the traffic and the click probability are a quarter higher on the two days of the weekend.
    """

    def __init__(self, rng: np.random.Generator, runs: int, users: int, *, effect: float = 0.0) -> None:
        self._users = draw_users(rng, runs, users)
        self._slot_RU = rng.random((runs, users))
        self._bucket_cell_RU = draw_cells(rng, np.zeros((runs, users), dtype=np.bool_))
        self._effect = effect

    def rates(self, share: float) -> CellRates:
        is_candidate_RU = np.asarray(self._slot_RU < share)
        cell_RU = self._bucket_cell_RU + NUM_BUCKETS * is_candidate_RU
        return cell_rates(self._users, is_candidate_RU, cell_RU, effect=self._effect)


WEEKEND_LIFT = 1.25  # of traffic and of click probability
# by day, from a Monday on; chosen such that the pooled ratio of two equal arms reads about +7 % after each week
RAMP_SHARES = (0.01,) * 3 + (0.05,) * 2 + (0.10,) * 4 + (0.25,) * 3 + (0.50,) * 2
DAYS = len(RAMP_SHARES)


def lift_on(day: int) -> float:
    return WEEKEND_LIFT if day % 7 >= 5 else 1.0


def user_variance(factor: float = 1.0) -> float:
    """Of log CTR as measured on one user: impressions' share, and that of tastes; `factor` multiplies the CTR."""
    ctr = CTR * factor
    return (1 - ctr) / (IMPRESSIONS * ctr) + (1 + 1 / ACTIVITY_SHAPE) / TASTE_SHAPE


def fixed_horizon(effect: float, margin: float) -> float:
    """Users per arm of the ordinary test of H0 θ = log(1 − margin): two-sided 5 %, power 80 %, variance by user."""
    distance = math.log1p(effect) - math.log1p(-margin)
    return POWER_Z**2 * (user_variance() + user_variance(1 + effect)) / distance**2
