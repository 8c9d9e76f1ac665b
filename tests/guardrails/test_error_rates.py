"""The promised error rates, delays and biases, on the benchmark's crowd with fewer runs; each prints what it measured.

Beside each claim stands a rule, or a look at the data, that fails the same check: the simulation can tell them apart.
`python -m benchmarks.guardrails` measures the same with as many runs as the claims need.
"""

import math

import pytest

from benchmarks.guardrail_bars import calibration, crowd, delays, false_alarms, family, ramp_bias, split_alarms
from benchmarks.guardrail_bars.false_alarms import EVERY, OURS
from benchmarks.guardrail_bars.outcome import lower_bound, quantile, quantile_interval, upper_bound
from benchmarks.guardrail_bars.rules import ALPHA, MARGIN
from benchmarks.guardrail_bars.scenarios import SCENARIOS
from control_plane.guardrails.estimate import FloatArray

pytestmark = pytest.mark.slow


def test_at_the_edge_of_harm_one_hypothesis_raises_few_false_alarms_over_all_looks_together() -> None:
    runs = 300

    found = false_alarms.newcomers(runs=runs, looks=200)

    shares = {name: found[name, EVERY[0]].share for name in false_alarms.NAMES}
    print({name: f"{share:.1%}" for name, share in shares.items()})
    assert shares[OURS] <= ALPHA
    assert shares[OURS] <= shares["msprt"]
    for naive in ("z_impressions", "z_users", "msprt"):
        assert lower_bound(found[naive, EVERY[0]].count, runs) > ALPHA


def test_the_first_looks_at_very_little_data_raise_no_more() -> None:
    runs = 300

    found = false_alarms.newcomers(runs=runs, looks=300, per_look=false_alarms.FEW_NEWCOMERS)

    alarms, naive = found[OURS, EVERY[0]], found["z_users", EVERY[0]]
    print(f"{alarms.share:.1%}, z test with variance by user {naive.share:.0%}")
    assert upper_bound(alarms.count, runs) <= ALPHA
    assert lower_bound(naive.count, runs) > ALPHA


@pytest.mark.parametrize("name", SCENARIOS)
def test_returning_users_late_starters_small_candidates_and_ramps_raise_no_more(name: str) -> None:
    runs = 100

    found = false_alarms.watched(name, SCENARIOS[name], runs=runs, looks=280)

    alarms, naive = found[OURS], found["z_users"]
    print(f"{name}: {alarms.share:.1%}, z test with variance by user {naive.share:.0%}")
    assert alarms.share <= ALPHA
    assert lower_bound(naive.count, runs) > ALPHA


def test_a_family_of_hypotheses_rolls_back_no_oftener_than_one() -> None:
    runs = 60

    ours, naive = family.family(runs=runs, looks=50)

    print(f"{ours.share:.1%}, any of 36 z tests {naive.share:.0%}")
    assert ours.share <= ALPHA
    assert lower_bound(naive.count, runs) > ALPHA


@pytest.mark.parametrize(("claim", "runs"), [(delays.CLAIMS[1], 100), (delays.CLAIMS[2], 300)])
def test_harm_is_found_in_about_the_time_that_a_test_with_one_look_would_take(claim: delays.Claim, runs: int) -> None:
    horizon = crowd.fixed_horizon(claim.effect, MARGIN)

    users_of = delays.delays(claim.effect, runs=runs)

    medians = {name: quantile(users_R, 0.5) / horizon for name, users_R in users_of.items()}
    print(claim.name, {name: f"{median:.2f}" for name, median in medians.items()})
    assert (
        surely_above(users_of[OURS] / horizon, 0.5)
        <= claim.median
        < surely_above(users_of["z_bonferroni"] / horizon, 0.5)
    )
    assert surely_above(users_of[OURS] / horizon, 0.9) <= claim.q90
    if claim.name == "5pct":
        assert medians[OURS] < medians["gbstats"]


def test_a_candidate_that_halves_clicks_is_found_within_a_few_hundred_users() -> None:
    users_of = delays.delays(delays.DISASTER.effect, runs=400, chunk=200)

    users_R, naive_R = (users_of[name] * crowd.SEEN_SHARE for name in (OURS, "z_bonferroni"))
    print(f"-50 %: {quantile(users_R, 0.5):.0f} users per arm, 90th percentile {quantile(users_R, 0.9):.0f}")
    assert surely_above(users_R, 0.5) <= delays.DISASTER.median < surely_above(naive_R, 0.5)
    assert surely_above(users_R, 0.9) <= delays.DISASTER.q90 < surely_above(naive_R, 0.9)


def test_a_perfect_model_is_left_alone_however_often_its_calibration_is_looked_at() -> None:
    runs = 150

    found = calibration.false_alarms(runs=runs)

    print({calibration.TITLES[name]: f"{alarms.share:.1%}" for name, alarms in found.items()})
    assert found[""].share <= ALPHA
    assert found["_blind"].share <= ALPHA
    assert found["_dead_band"].count == 0
    assert lower_bound(found["_band"].count, runs) > ALPHA


def test_promises_that_are_five_per_cent_too_high_are_found_soon() -> None:
    delay_R = calibration.delays(runs=300, knows_tastes=True)

    print(f"median {quantile(delay_R, 0.5):.2f}, q90 {quantile(delay_R, 0.9):.2f} fixed horizons")
    assert surely_above(delay_R, 0.5) <= calibration.MEDIAN_LIMIT
    assert surely_above(delay_R, 0.9) <= calibration.Q90_LIMIT


def test_a_ramp_with_busy_weekends_leaves_no_bias_but_in_the_pooled_ratio() -> None:
    runs = 100

    for day, readings in ramp_bias.ramp(runs=runs).items():
        bias, pooled = (100 * float(value_R.mean()) for value_R in (readings.theta_R, readings.pooled_R))
        allowed = ramp_bias.LIMIT_POINTS + 2 * 100 * float(readings.theta_R.std(ddof=1)) / math.sqrt(runs)
        print(f"day {day}: {bias:+.2f} points, pooled {pooled:+.1f}; allowed with this few runs {allowed:.2f}")
        assert abs(bias) <= allowed
        assert abs(pooled) > allowed


@pytest.mark.parametrize("share_bp", split_alarms.SHARES_BP)
def test_a_split_that_keeps_its_promise_is_believed_at_a_thousand_looks(share_bp: int) -> None:
    runs = 5_000

    alarms, chi_square = split_alarms.false_alarms(share_bp, runs=runs, looks=1_000)

    print(f"{share_bp} bp: {alarms / runs:.2%}, chi-square {chi_square / runs:.1%}")
    assert upper_bound(alarms, runs) <= split_alarms.LIMIT
    assert lower_bound(chi_square, runs) > split_alarms.LIMIT


def test_a_split_off_by_one_in_fifty_is_found() -> None:
    median = quantile(split_alarms.users_until_found(runs=1_000), 0.5)

    print(f"49/51 found at {median:.0f} users, median")
    assert median <= split_alarms.USERS_LIMIT


def surely_above(value_R: FloatArray, probability: float) -> float:
    """What the quantile exceeds for all that this few runs can tell: the lower end of its 95 % interval."""
    return quantile_interval(value_R, probability)[0]
