"""Estimates of when a gate opens, against when it does."""

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from numpy.typing import NDArray

from control_plane.domain.moments import Measure, Moments, Stratum
from control_plane.domain.rollout import Stage
from control_plane.domain.split import NUM_BUCKETS, Arm
from control_plane.domain.verdict import Answer, Outcome, Verdict
from control_plane.guardrails.judge import judge
from control_plane.guardrails.look import Look
from control_plane.guardrails.waiting import seconds_until
from tests.guardrails.builders import (
    DAY_MS,
    FIRST_DAY,
    START_MS,
    a_health,
    a_judged_plan,
    a_stage,
    draws_of,
    empty_moments,
    simulated_moments,
    sums_of,
    with_sums,
)
from tests.guardrails.test_judge import finding

HOUR_MS = 3_600_000
LAST_HOUR = 96
SHARE = 0.25
MATURED = (Measure.MATURED_CLICK, Measure.MATURED_GOOD_CLICK, Measure.MATURED_HIDE, Measure.MATURED_REVENUE)


@lru_cache(maxsize=4)
def hours_of(seed: int, rate: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Impressions and labels by hour, arm and bucket."""
    rng = np.random.default_rng(seed)
    mean_A1 = 20_000 / NUM_BUCKETS * np.array([1 - SHARE, SHARE])[:, None]
    shown_TAK = rng.poisson(mean_A1, size=(LAST_HOUR, len(Arm), NUM_BUCKETS))
    return shown_TAK, rng.binomial(shown_TAK, rate)


def seen_at(hour: int, *, seed: int, window_hours: int, rate: float = 0.1) -> Moments:
    """A steady feed as of `hour`, its labels matured after `window_hours`."""
    shown_TAK, label_TAK = hours_of(seed, rate)
    strata = tuple(
        Stratum(day=FIRST_DAY + day, generation=1, candidate_bp=2_500) for day in range(math.ceil(hour / 24))
    )
    moments = empty_moments(strata=strata, view_types=("only",))
    sums = sums_of(moments)
    for day in range(len(strata)):
        hours = slice(24 * day, min(24 * (day + 1), hour))
        matured = slice(24 * day, max(24 * day, min(24 * (day + 1), hour - window_hours)))
        sums[:, day, :, :, Measure.IMPRESSIONS] = shown_TAK[hours].sum(axis=0)
        for measure in MATURED:
            sums[:, day, :, :, measure] = shown_TAK[matured].sum(axis=0)
        for measure in (Measure.CLICK, Measure.HIDE):
            sums[:, day, :, :, measure] = label_TAK[matured].sum(axis=0)
    sums[..., Measure.SCORE] = sums[..., Measure.CLICK] * 1_000_000
    users_SA = sums[0, :, :, :, Measure.IMPRESSIONS].sum(axis=2) // 5
    now_ms = START_MS + hour * HOUR_MS
    return replace(
        with_sums(moments, sums),
        draws=draws_of(moments.strata, users_SA),
        users_A=(int(users_SA[:, 0].sum()), int(users_SA[:, 1].sum())),
        as_of_ms=now_ms,
        newest_event_ms=now_ms - 1,
        candidate_newest_ms=now_ms - 1,
    )


def judged(moments: Moments, *, metric: str, window_hours: int, stage: Stage | None = None) -> Verdict:
    plan = a_judged_plan(
        guardrails=[{"metric": metric, "window": f"{window_hours}h"}],
        calibration={"role": "monitor"},
        judge={"loss_budget": 0.02},
    )
    return judge(plan, stage or a_stage(), moments, a_health())


@pytest.mark.parametrize(("metric", "window_hours", "look"), [("ctr", 1, 6), ("hide_rate", 24, 27)])
def test_the_estimated_wait_is_right_within_a_factor_of_two_and_a_half_in_the_median(
    metric: str, window_hours: int, look: int
) -> None:
    ratios = []
    for seed in range(24):
        verdict = judged(seen_at(look, seed=seed, window_hours=window_hours), metric=metric, window_hours=window_hours)
        if verdict.outcome is Outcome.ADVANCE:
            continue
        said = verdict.seconds_to_resolve
        taken = next(
            hour - look
            for hour in range(look + 1, LAST_HOUR)
            if finding(
                judged(seen_at(hour, seed=seed, window_hours=window_hours), metric=metric, window_hours=window_hours),
                metric,
            ).answer
            is Answer.SAFE
        )
        ratios.append(math.inf if said is None else said / 3_600 / taken)

    print(f"{metric}: said / taken {np.quantile(ratios, [0.1, 0.5, 0.9]).round(2)} in {len(ratios)} rollouts")
    assert len(ratios) >= 10
    assert 0.4 <= np.median(ratios) <= 2.5


def test_time_in_which_no_label_could_mature_is_no_time_of_the_pace() -> None:
    look = Look(plan=a_judged_plan(), stage=a_stage(), moments=seen_at(26, seed=1, window_hours=1))

    (wait,) = seconds_until(lambda se_HW: 0.01 - se_HW, np.array([0.02]), np.array([look.pace(1.0)]))

    assert wait == pytest.approx(3 * 25 * 3_600, rel=0.01)  # four times the information, of an hour less than the stage


def test_before_any_label_can_have_matured_nothing_is_forecast() -> None:
    look = Look(plan=a_judged_plan(), stage=a_stage(), moments=seen_at(1, seed=1, window_hours=1))

    assert look.pace(1.0) == 0.0
    assert seconds_until(lambda se_HW: 0.01 - se_HW, np.array([0.02]), np.zeros(1)) == [None]
    assert look.seconds_until_count(10, 10, 100) is None


def test_a_stage_that_was_held_and_resumed_keeps_its_pace() -> None:
    moments = simulated_moments(np.random.default_rng(3), impressions=100_000, shares_bp=(2_500,) * 5, effect=0.05)
    strata = tuple(replace(stratum, generation=1) for stratum in moments.strata)
    moments = replace(moments, strata=strata, draws=())
    resumed = a_stage(entered_at_ms=moments.as_of_ms - 600_000)

    through, anew = (
        finding(judged(moments, metric="ctr", window_hours=1, stage=stage), "ctr").seconds_to_resolve
        for stage in (a_stage(), resumed)
    )

    assert through is not None
    assert anew == pytest.approx(through, rel=0.15)


def test_thin_traffic_that_missed_the_candidate_since_a_resume_stops_nobody() -> None:
    moments = simulated_moments(np.random.default_rng(3), impressions=6_000, shares_bp=(100,) * 5)
    strata = tuple(replace(stratum, generation=1) for stratum in moments.strata)
    quiet = replace(moments, strata=strata, draws=(), candidate_newest_ms=moments.as_of_ms - DAY_MS // 24)
    resumed = a_stage(share_bp=100, entered_at_ms=quiet.as_of_ms - 900_000)
    plan = a_judged_plan(check_every="5m", unwatched="15m")

    verdict = judge(plan, resumed, quiet, a_health())

    assert verdict.outcome is Outcome.HOLD, verdict.reason
