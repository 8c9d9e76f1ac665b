"""The share that the evidence allows, held to the e-process of the gates themselves."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.domain.moments import Moments
from control_plane.domain.plan import JudgePlan, RolloutPlan
from control_plane.domain.rollout import Phase, Stage
from control_plane.domain.verdict import Answer, Rule, Verdict
from control_plane.guardrails.evalue import log_e, z_of_t
from control_plane.guardrails.judge import judge
from control_plane.guardrails.replay import pack, replay
from control_plane.guardrails.safe_share import loss_bounds
from tests.guardrails.builders import START_MS, a_health, a_judged_plan, a_stage, empty_moments, simulated_moments

JUDGE = JudgePlan()
A_DAY_IN = 86_400_000


def an_adaptive_plan(**overrides: object) -> RolloutPlan:
    return a_judged_plan(adaptive=True, **overrides)


def moments(seed: int = 1, *, effect: float = 0.0, impressions: int = 2_000_000) -> Moments:
    return simulated_moments(np.random.default_rng(seed), effect=effect, impressions=impressions, shares_bp=(500,))


def early(*, next_share_bp: int = 2_500) -> Stage:
    """5 %, 25 % next."""
    return a_stage(step=0, share_bp=500, next_share_bp=next_share_bp)


def looked(found: Moments, plan: RolloutPlan | None = None, stage: Stage | None = None) -> Verdict:
    return judge(plan or an_adaptive_plan(), stage or early(), found, a_health())


@settings(max_examples=200, deadline=None)
@given(benefit=st.floats(-0.5, 0.5), se=st.floats(1e-4, 0.5), degrees=st.integers(29, 255))
def test_the_bound_is_the_margin_at_which_the_gate_just_passes(benefit: float, se: float, degrees: int) -> None:
    (bound,) = loss_bounds(np.array([benefit]), np.array([se]), np.array([float(degrees)]), JUDGE)

    def log_e_safe(margin: float) -> float:
        score = np.array([(benefit - math.log1p(-margin)) / se])
        z = z_of_t(score, np.array([float(degrees)]))
        return float(log_e(z, np.array([se]), JUDGE.taus, JUDGE.tau_weights)[0])

    assert bound > -math.expm1(benefit), "a bound lies beyond the estimate"
    if bound < 1 - 1e-9:
        assert log_e_safe(bound) == pytest.approx(math.log(20), abs=1e-6)


def test_the_share_times_the_bound_is_the_budget() -> None:
    verdict = looked(moments())
    surface = next(finding for finding in verdict.findings if finding.metric == "ctr" and finding.segment == "*")
    assert surface.effect is not None
    assert surface.standard_error is not None
    theta = np.array([math.log1p(surface.effect)])
    (bound,) = loss_bounds(theta, np.array([surface.standard_error]), np.array([255.0]), JUDGE)

    assert verdict.rule is Rule.NOT_SHOWN_SAFE
    assert verdict.safe_share_bp is not None
    assert 0 < verdict.safe_share_bp <= math.floor(JUDGE.loss_budget / bound * 10_000) < 2_500


def test_more_evidence_allows_more_and_a_loss_allows_less() -> None:
    little, much = (looked(moments(impressions=n)).safe_share_bp or 0 for n in (1_000_000, 4_000_000))
    worse = looked(moments(effect=-0.05, impressions=4_000_000)).safe_share_bp or 0

    assert 0 < little < much
    assert worse < much


def test_it_never_goes_beyond_the_plans_next_step() -> None:
    verdict = looked(moments(impressions=20_000_000, effect=0.05), stage=early(next_share_bp=800))

    assert verdict.safe_share_bp == 800


def test_a_gate_that_is_not_known_allows_nothing() -> None:
    assert looked(empty_moments()).safe_share_bp == 0
    assert looked(moments(impressions=20_000)).safe_share_bp == 0


def test_a_loss_that_may_be_beyond_the_largest_margin_allows_nothing_however_small_the_share() -> None:
    plan = an_adaptive_plan(judge={"max_stage_margin": 0.03}, guardrails=[{"metric": "ctr", "safe_margin": "2%"}])

    verdict = looked(moments(), plan)

    assert (verdict.rule, verdict.safe_share_bp) == (Rule.NOT_SHOWN_SAFE, 0)


def test_a_segment_puts_only_its_part_of_the_traffic_at_risk() -> None:
    """Both view types are gates, with half the traffic and about √2 times the surface's error each."""
    found = looked(moments())
    gates = [finding for finding in found.findings if finding.metric == "ctr" and finding.gates]

    assert len(gates) == 3
    assert (found.safe_share_bp or 0) >= math.floor(0.005 / 0.2 * 10_000)


def test_miscalibration_is_a_loss_like_any_other() -> None:
    """Engagement is plentiful and equal; scores are 6 % too high, within what this plan takes for sound."""
    wide = {"epsilon": 0.2, "band": 0.25, "view_type_epsilon": 0.2, "view_type_band": 0.25}
    plan = an_adaptive_plan(calibration=wide)
    rng = np.random.default_rng(1)
    skewed = simulated_moments(rng, impressions=20_000_000, shares_bp=(500,), prediction=1.06)

    verdict = looked(skewed, plan)

    calibration = next(finding for finding in verdict.findings if finding.metric == "calibration")
    assert (looked(moments(impressions=20_000_000), plan).safe_share_bp or 0) > 1_000
    assert calibration.upper is not None
    assert verdict.safe_share_bp == math.floor(0.005 / calibration.upper * 10_000)


def test_what_must_be_settled_first_allows_nothing() -> None:
    uneven = replace(moments(), cross_exposed_users=5_000)
    stale = replace(moments(), as_of_ms=START_MS + 40 * A_DAY_IN)
    few = replace(moments(), users_A=(10_000, 999), draws=())

    for found, rule in ((uneven, Rule.SAMPLE_RATIO), (stale, Rule.STALE), (few, Rule.INSUFFICIENT)):
        verdict = looked(found)
        assert (verdict.rule, verdict.safe_share_bp) == (rule, 0)


def test_a_gate_beyond_its_limit_or_without_an_answer_allows_nothing() -> None:
    plan = an_adaptive_plan(
        operational=[{"metric": "error_rate", "limit": 0.01, "role": "hold"}],
    )
    unanswered = looked(moments(), plan)

    assert any(finding.answer is not Answer.SAFE and finding.limit is not None for finding in unanswered.findings)
    assert unanswered.safe_share_bp == 0


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.RAMPING])
def test_only_a_ramp_asks(phase: Phase) -> None:
    assert looked(moments(), stage=a_stage(phase)).safe_share_bp is None


def test_a_plan_that_is_not_adaptive_asks_nothing_and_its_verdicts_are_the_bytes_they_were() -> None:
    verdict = looked(moments(), a_judged_plan())

    assert verdict.safe_share_bp is None
    assert "safe_share_bp" not in verdict.to_json()
    assert replace(looked(moments()), safe_share_bp=None).to_json() == verdict.to_json()


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), effect=st.floats(-0.2, 0.2))
def test_an_adaptive_verdict_replays_to_the_last_bit(seed: int, effect: float) -> None:
    inputs = an_adaptive_plan(), early(), moments(seed, effect=effect), a_health()

    verdict = judge(*inputs)

    assert verdict.safe_share_bp is not None
    assert replay(pack(*inputs)).to_json() == verdict.to_json()
    assert Verdict.from_json(verdict.to_json()).safe_share_bp == verdict.safe_share_bp
