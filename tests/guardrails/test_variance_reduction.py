"""What CUPED promises: the same effect, a smaller error, and the same numbers where there is nothing to win.

Letters of the shapes: R runs (each a hypothesis), U users, S strata, A arms, K buckets, J = K + 1 replicates.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from control_plane.domain.moments import Measure, Moments
from control_plane.domain.split import Arm
from control_plane.domain.verdict import Verdict
from control_plane.guardrails.estimate import divide, jackknife_se, leave_one_out
from control_plane.guardrails.evalue import log_e, z_of_t
from control_plane.guardrails.judge import judge
from control_plane.guardrails.variance_reduction import MIN_BUCKETS, Adjusted, adjusted
from tests.guardrails.builders import a_health, a_judged_plan, a_stage, simulated_moments

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

TAUS, WEIGHTS, ALPHA, MARGIN = (0.03, 0.1, 0.4), (0.4, 0.4, 0.2), 0.05, 0.01
BUCKETS = 256


@dataclass(frozen=True, kw_only=True)
class Period:
    """Log ratios of one period."""

    theta_RJ: FloatArray
    se_R: FloatArray
    has_data_RK: BoolArray


def period(clicks_RSAK: IntArray, shown_RSAK: IntArray) -> Period:
    clicks_RSAJ, shown_RSAJ = leave_one_out(clicks_RSAK), leave_one_out(shown_RSAK)
    stable_RSJ, candidate_RSJ = shown_RSAJ[:, :, Arm.STABLE], shown_RSAJ[:, :, Arm.CANDIDATE]
    total_RSJ = stable_RSJ + candidate_RSJ
    above_RJ = (clicks_RSAJ[:, :, Arm.CANDIDATE] * divide(stable_RSJ, total_RSJ)).sum(axis=1)
    below_RJ = (clicks_RSAJ[:, :, Arm.STABLE] * divide(candidate_RSJ, total_RSJ)).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        theta_RJ = np.log(above_RJ) - np.log(below_RJ)
    theta_RJ = np.where(np.isfinite(theta_RJ).all(axis=1, keepdims=True), theta_RJ, np.nan)
    has_data_RK = np.asarray((shown_RSAK > 0).any(axis=(1, 2)))
    return Period(theta_RJ=theta_RJ, se_R=jackknife_se(theta_RJ, has_data_RK), has_data_RK=has_data_RK)


def adjusted_by(now: Period, before: Period) -> Adjusted:
    return adjusted(now.theta_RJ, now.se_R, now.has_data_RK, before.theta_RJ, before.has_data_RK)


def two_periods(
    seed: int, *, runs: int = 1, buckets: int = 40, persistence: float = 1.0
) -> tuple[tuple[IntArray, IntArray], tuple[IntArray, IntArray]]:
    """Clicks and impressions of now and before, each (R, 1, A, K); buckets differ in taste, and keep it."""
    rng = np.random.default_rng(seed)
    lasting_RSAK = rng.gamma(20, 0.1 / 20, size=(runs, 1, 2, buckets))
    passing_RSAK = rng.gamma(20, 0.1 / 20, size=(runs, 1, 2, buckets))
    found = []
    for rate_RSAK in (lasting_RSAK, persistence * lasting_RSAK + (1 - persistence) * passing_RSAK):
        shown_RSAK = rng.integers(400, 600, size=rate_RSAK.shape)
        found.append((rng.binomial(shown_RSAK, np.minimum(rate_RSAK, 1)), shown_RSAK))
    return found[0], found[1]


def swapped(sums: tuple[IntArray, IntArray]) -> tuple[IntArray, IntArray]:
    return sums[0][:, :, ::-1], sums[1][:, :, ::-1]


def assert_untouched(found: Adjusted, now: Period) -> None:
    assert not found.is_adjusted_H.any()
    assert not found.beta_H.any()
    np.testing.assert_array_equal(found.theta_H, now.theta_RJ[:, 0])
    np.testing.assert_array_equal(found.se_H, now.se_R)


def test_the_adjusted_effect_is_the_intercept_of_a_regression_of_pseudo_values() -> None:
    sums_now, sums_before = two_periods(1)
    now, before = period(*sums_now), period(*sums_before)
    y_K, x_K = (40 * p.theta_RJ[0, 0] - 39 * p.theta_RJ[0, 1:] for p in (now, before))
    design = np.column_stack([np.ones(40), x_K - x_K.mean() + before.theta_RJ[0, 0]])
    (_, slope), residual, *_ = np.linalg.lstsq(design, y_K, rcond=None)
    covariance = residual[0] / 38 * np.linalg.inv(design.T @ design)

    found = adjusted_by(now, before)

    assert found.is_adjusted_H[0]
    assert found.beta_H[0] == pytest.approx(slope, rel=1e-9)
    assert found.theta_H[0] == pytest.approx(now.theta_RJ[0, 0] - slope * before.theta_RJ[0, 0], rel=1e-9)
    assert found.se_H[0] == pytest.approx(math.sqrt(covariance[0, 0]), rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), persistence=st.floats(0, 1))
def test_swapping_the_arms_flips_the_adjusted_effect_to_the_last_bit(seed: int, persistence: float) -> None:
    sums_now, sums_before = two_periods(seed, runs=3, persistence=persistence)

    found = adjusted_by(period(*sums_now), period(*sums_before))
    flipped = adjusted_by(period(*swapped(sums_now)), period(*swapped(sums_before)))

    np.testing.assert_array_equal(flipped.theta_H, -found.theta_H)
    np.testing.assert_array_equal(flipped.se_H, found.se_H)
    np.testing.assert_array_equal(flipped.beta_H, found.beta_H)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), persistence=st.floats(0, 1), buckets=st.integers(2, 80))
def test_no_error_ever_grows(seed: int, persistence: float, buckets: int) -> None:
    sums_now, sums_before = two_periods(seed, runs=3, buckets=buckets, persistence=persistence)
    now = period(*sums_now)

    found = adjusted_by(now, period(*sums_before))

    assert (found.se_H <= now.se_R).all()
    assert np.isfinite(found.theta_H).all()


def test_without_users_before_the_numbers_are_the_same_to_the_last_bit() -> None:
    sums_now, (clicks, shown) = two_periods(2)
    now = period(*sums_now)

    assert_untouched(adjusted_by(now, period(clicks * 0, shown * 0)), now)


def test_without_conversions_before_in_one_arm_nothing_is_adjusted() -> None:
    sums_now, (clicks, shown) = two_periods(3)
    clicks[:, :, Arm.CANDIDATE] = 0
    now = period(*sums_now)

    assert_untouched(adjusted_by(now, period(clicks, shown)), now)


def test_too_few_buckets_are_not_fitted_to() -> None:
    few, enough = (two_periods(4, buckets=buckets) for buckets in (MIN_BUCKETS - 1, MIN_BUCKETS))
    now = period(*few[0])

    assert_untouched(adjusted_by(now, period(*few[1])), now)
    assert adjusted_by(period(*enough[0]), period(*enough[1])).is_adjusted_H.all()


def test_buckets_that_agreed_to_the_bit_before_explain_nothing() -> None:
    sums_now, (clicks, shown) = two_periods(5)
    now = period(*sums_now)

    assert_untouched(adjusted_by(now, period(clicks * 0 + 37, shown * 0 + 333)), now)


def test_an_effect_that_is_not_a_number_stays_none_and_its_neighbour_is_adjusted() -> None:
    (clicks, shown), sums_before = two_periods(6, runs=2)
    clicks[0], shown[0] = 0, 0

    found = adjusted_by(period(clicks, shown), period(*sums_before))

    assert math.isnan(found.theta_H[0])
    assert found.is_adjusted_H.tolist() == [False, True]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), others=st.integers(1, 6))
def test_a_hypothesis_is_adjusted_the_same_whatever_stands_beside_it(seed: int, others: int) -> None:
    sums_now, sums_before = two_periods(seed, runs=1 + others)

    alone = adjusted_by(period(*(x[:1] for x in sums_now)), period(*(x[:1] for x in sums_before)))
    together = adjusted_by(period(*sums_now), period(*sums_before))

    assert together.theta_H[0] == alone.theta_H[0]
    assert together.se_H[0] == alone.se_H[0]


def test_users_who_came_only_before_or_only_now_are_counted_as_they_are() -> None:
    """Buckets without one of the periods say nothing of the slope, and widen no error by being there."""
    (clicks, shown), (clicks_before, shown_before) = two_periods(7, buckets=80)
    clicks[..., 70:], shown[..., 70:] = 0, 0
    clicks_before[..., :10], shown_before[..., :10] = 0, 0
    now = period(clicks, shown)

    found = adjusted_by(now, period(clicks_before, shown_before))

    assert found.is_adjusted_H[0]
    assert found.se_H[0] < 0.95 * now.se_R[0]


def with_the_past(moments: Moments, before_MGAK: IntArray) -> Verdict:
    return judge(a_judged_plan(), a_stage(), replace(moments, before_MGAK=before_MGAK), a_health())


def test_a_verdict_does_not_move_for_a_past_in_which_nobody_came() -> None:
    moments = simulated_moments(np.random.default_rng(8))
    nobody_MGAK = np.zeros((len(Measure), len(moments.segments), len(Arm), BUCKETS), np.int64)

    verdict = judge(a_judged_plan(), a_stage(), moments, a_health())

    assert with_the_past(moments, nobody_MGAK).to_json() == verdict.to_json()


def test_a_verdict_on_users_who_do_as_they_did_is_surer_than_one_without_their_past() -> None:
    moments = simulated_moments(np.random.default_rng(9))
    same_MGAK = np.stack([moments.sums_of(measure).sum(axis=1) for measure in Measure])

    without = judge(a_judged_plan(), a_stage(), moments, a_health()).findings[0]
    found = with_the_past(moments, same_MGAK).findings[0]

    assert without.standard_error is not None
    assert found.standard_error is not None
    assert found.effect == pytest.approx(0.0, abs=1e-6), "all that they do now was there before"
    assert found.standard_error < 0.01 * without.standard_error


class Crowd:
    """R runs side by side of users with lasting tastes, watched for a fortnight before the rollout."""

    def __init__(self, seed: int, *, runs: int, users: int = 4_096, ctr: float = 0.1, has_memory: bool = True) -> None:
        self.rng = np.random.default_rng(seed)
        self.ctr_RU = self._tastes(runs, users, ctr)
        self.slot_RU = self.rng.random((runs, users))
        ctr_before_RU = self.ctr_RU if has_memory else self._tastes(runs, users, ctr)
        self.shown_before_RU = self.rng.poisson(14.0, size=self.ctr_RU.shape)
        self.clicks_before_RU = self.rng.binomial(self.shown_before_RU, ctr_before_RU)
        self.shown_RU = np.zeros_like(self.shown_before_RU)
        self.clicks_RU = np.zeros_like(self.shown_before_RU)

    def _tastes(self, runs: int, users: int, ctr: float) -> FloatArray:
        return np.minimum(self.rng.gamma(1.0, ctr, size=(runs, users)), 0.9)

    def before(self, share: float) -> Period:
        clicks, shown = (self._by_bucket(x, share)[:, None] for x in (self.clicks_before_RU, self.shown_before_RU))
        return period(clicks, shown)

    def day(self, share: float, effect: float) -> tuple[IntArray, IntArray]:
        """Clicks and impressions, (R, A, K)."""
        ctr_RU = np.where(self.slot_RU < share, self.ctr_RU * (1 + effect), self.ctr_RU)
        shown_RU = self.rng.poisson(1.0, size=ctr_RU.shape)
        clicks_RU = self.rng.binomial(shown_RU, ctr_RU)
        self.shown_RU, self.clicks_RU = self.shown_RU + shown_RU, self.clicks_RU + clicks_RU
        return self._by_bucket(clicks_RU, share), self._by_bucket(shown_RU, share)

    def squared_correlation(self) -> float:
        """ρ² of what users clicked beyond the average, now and before: what could be explained."""
        over_U = self.clicks_RU - self.shown_RU * (self.clicks_RU.sum() / self.shown_RU.sum())
        over_before_U = self.clicks_before_RU - self.shown_before_RU * (
            self.clicks_before_RU.sum() / self.shown_before_RU.sum()
        )
        return float(np.corrcoef(over_U.ravel(), over_before_U.ravel())[0, 1] ** 2)

    def _by_bucket(self, count_RU: IntArray, share: float) -> IntArray:
        is_candidate_RU = self.slot_RU < share
        arms = [count_RU * ~is_candidate_RU, count_RU * is_candidate_RU]
        return np.stack([arm.reshape(len(arm), -1, BUCKETS).sum(axis=1) for arm in arms], axis=1)


@dataclass(kw_only=True)
class Watched:
    """A crowd's rollout, looked at every day with and without the adjustment."""

    now: Period
    found: Adjusted
    looks_to_alarm_R: FloatArray  # infinite where none came
    looks_to_adjusted_alarm_R: FloatArray


def watched(crowd: Crowd, *, shares: list[float], looks_per_share: int, effect: float) -> Watched:
    strata: list[tuple[IntArray, IntArray]] = []
    first: dict[str, FloatArray] = {name: np.full(len(crowd.ctr_RU), math.inf) for name in ("raw", "adjusted")}
    for index, share in enumerate(shares):
        before = crowd.before(share)
        strata.append(crowd.day(share, effect))
        for look in range(looks_per_share):
            if look:
                strata[-1] = (strata[-1][0] + (day := crowd.day(share, effect))[0], strata[-1][1] + day[1])
            now = period(np.stack([s[0] for s in strata], axis=1), np.stack([s[1] for s in strata], axis=1))
            found = adjusted_by(now, before)
            number = index * looks_per_share + look + 1
            _note(first["raw"], now.theta_RJ[:, 0], now.se_R, np.zeros_like(found.is_adjusted_H), number)
            _note(first["adjusted"], found.theta_H, found.se_H, found.is_adjusted_H, number)
    return Watched(now=now, found=found, looks_to_alarm_R=first["raw"], looks_to_adjusted_alarm_R=first["adjusted"])


def _note(first_R: FloatArray, theta_R: FloatArray, se_R: FloatArray, is_adjusted_R: BoolArray, look: int) -> None:
    degrees_R = np.where(is_adjusted_R, BUCKETS - 2.0, BUCKETS - 1.0)
    z_R = z_of_t((math.log1p(-MARGIN) - theta_R) / se_R, degrees_R)
    has_crossed_R = log_e(z_R, se_R, TAUS, WEIGHTS) >= -math.log(ALPHA)
    first_R[has_crossed_R] = np.minimum(first_R[has_crossed_R], look)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shares", "looks_per_share"),
    [("half and half", [0.5], 100), ("a twentieth", [0.05], 100), ("a ramp", [0.05, 0.1, 0.25, 0.5], 25)],
)
def test_at_the_edge_of_harm_adjusted_effects_are_unbiased_and_alarm_no_more_than_promised(
    name: str, shares: list[float], looks_per_share: int
) -> None:
    runs = 300

    seen = watched(Crowd(1, runs=runs), shares=shares, looks_per_share=looks_per_share, effect=-MARGIN)

    error_R = seen.found.theta_H - math.log1p(-MARGIN)
    bias, noise = error_R.mean(), error_R.std(ddof=1) / math.sqrt(runs)
    alarms = int(np.isfinite(seen.looks_to_adjusted_alarm_R).sum())
    upper = float(stats.beta.ppf(0.95, alarms + 1, runs - alarms))
    print(
        f"{name}: bias {bias:+.5f} ± {noise:.5f}, "
        f"error {error_R.std(ddof=1):.5f} promised {seen.found.se_H.mean():.5f}; "
        f"{alarms} false alarms in {runs} runs × 100 looks, 95 % upper bound {upper:.3f} "
        f"(unadjusted: {np.isfinite(seen.looks_to_alarm_R).sum()}); "
        f"variance × {np.mean((seen.found.se_H / seen.now.se_R) ** 2):.3f}"
    )
    assert abs(bias) <= 3 * noise
    assert error_R.std(ddof=1) == pytest.approx(seen.found.se_H.mean(), rel=0.15)
    assert upper <= 0.05


@pytest.mark.slow
def test_lasting_tastes_take_their_squared_correlation_off_the_variance_and_harm_is_found_sooner() -> None:
    crowd = Crowd(2, runs=100, users=8_192)

    seen = watched(crowd, shares=[0.5], looks_per_share=60, effect=-0.08)

    left = float(np.mean((seen.found.se_H / seen.now.se_R) ** 2))
    spread = float(seen.found.theta_H.var() / seen.now.theta_RJ[:, 0].var())
    sooner, later = np.median(seen.looks_to_adjusted_alarm_R), np.median(seen.looks_to_alarm_R)
    print(
        f"ρ² {crowd.squared_correlation():.3f}: variance × {left:.3f} by the standard error, × {spread:.3f} over runs; "
        f"-8 % found after {sooner:.0f} looks, unadjusted {later:.0f}"
    )
    assert left == pytest.approx(1 - crowd.squared_correlation(), abs=0.03)
    assert spread == pytest.approx(left, abs=0.2)
    assert sooner < later


@pytest.mark.slow
def test_tastes_that_did_not_last_win_and_lose_nothing() -> None:
    seen = watched(Crowd(3, runs=300, has_memory=False), shares=[0.5], looks_per_share=20, effect=-MARGIN)

    narrower = 1 - float(np.mean(seen.found.se_H / seen.now.se_R))
    print(f"adjusted by nothing: {seen.found.is_adjusted_H.mean():.1%} of runs, errors narrower by {narrower:.3%}")
    assert narrower < 0.001
    assert seen.found.is_adjusted_H.mean() < 0.01
