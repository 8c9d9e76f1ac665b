from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.domain.adaptive import LEAST_RAISE, next_weight_bp
from control_plane.domain.decision import Decision, Readiness, decide
from control_plane.domain.errors import IllegalTransition
from control_plane.domain.rollout import Command, Phase, Rollout, apply, raised, stage_of
from control_plane.domain.verdict import Outcome, Rule, Verdict
from tests.builders import NOON, a_plan, a_rollout, a_verdict

PLAN = a_plan(adaptive=True)  # 1 %, 25 %, 100 %
READY = Readiness(live_runtimes=1, loaded_runtimes=1, acknowledged_runtimes=1)
BAKED = NOON + timedelta(hours=1)


def next_of(weight_bp: int, safe_share_bp: int | None, *, step: int = 0, is_shown_safe: bool = False) -> int:
    return next_weight_bp(
        PLAN, step=step, weight_bp=weight_bp, safe_share_bp=safe_share_bp, is_shown_safe=is_shown_safe
    )


@pytest.mark.parametrize(
    ("weight_bp", "safe_share_bp", "expected"),
    [
        (100, 700, 700),
        (100, 125, 125),
        (100, 124, 100),  # not worth a stage of its own
        (100, 50, 100),  # a raise that turns out too large is for the judge, not for this rule
        (100, 0, 100),
        (100, None, 100),
        (100, 9_000, 2_500),
        (2_100, 9_000, 2_100),  # the next step is too near to go there before it is shown safe
    ],
)
def test_a_raise_goes_as_far_as_the_budget_allows_and_not_beyond_the_next_step(
    weight_bp: int, safe_share_bp: int | None, expected: int
) -> None:
    assert next_of(weight_bp, safe_share_bp) == expected


def test_what_is_shown_safe_takes_the_plans_own_step() -> None:
    assert next_of(100, 0, is_shown_safe=True) == 2_500
    assert next_of(2_500, None, step=1, is_shown_safe=True) == 10_000
    assert next_of(10_000, None, step=2, is_shown_safe=True) == 10_000


def test_before_full_traffic_raises_end_where_both_arms_are_even() -> None:
    assert next_of(2_500, 9_900, step=1) == 5_000
    assert next_of(5_000, 9_900, step=1) == 5_000


def test_a_plan_that_is_not_adaptive_keeps_to_its_steps() -> None:
    assert next_weight_bp(a_plan(), step=0, weight_bp=100, safe_share_bp=2_000, is_shown_safe=False) == 100


@given(st.integers(0, 2), st.integers(1, 10_000), st.one_of(st.none(), st.integers(0, 10_000)), st.booleans())
def test_a_weight_stays_or_grows_by_a_quarter_and_never_passes_what_allows_it(
    step: int, weight_bp: int, safe_share_bp: int | None, is_shown_safe: bool
) -> None:
    following = [*[one.share_bp for one in PLAN.steps], 10_000][step + 1]
    weight_bp = min(weight_bp, following)

    found = next_of(weight_bp, safe_share_bp, step=step, is_shown_safe=is_shown_safe)

    if is_shown_safe:
        assert found == following
    else:
        assert found == weight_bp or (LEAST_RAISE * weight_bp <= found <= min(safe_share_bp or 0, following))


def an_open_verdict(safe_share_bp: int | None = 700) -> Verdict:
    return a_verdict(Outcome.HOLD, rule=Rule.NOT_SHOWN_SAFE, safe_share_bp=safe_share_bp)


def decided(rollout: Rollout, verdict: Verdict) -> Decision:
    return decide(rollout, verdict, readiness=READY, now=BAKED)


def test_an_open_gate_lets_an_adaptive_rollout_take_more_within_its_step() -> None:
    decision = decided(a_rollout(plan=PLAN), an_open_verdict())

    assert (decision.command, decision.weight_bp) == (Command.ADVANCE, 700)
    assert decision.reason == "up to 7 % of the traffic its loss surely stays within the budget of 0.5 %"


def test_nothing_is_raised_before_the_weight_has_baked() -> None:
    decision = decide(a_rollout(plan=PLAN), an_open_verdict(), readiness=READY, now=BAKED - timedelta(seconds=1))

    assert decision.command is None


def test_a_freeze_stops_a_raise() -> None:
    frozen = Readiness(live_runtimes=1, acknowledged_runtimes=1, frozen="ann: the sale")

    assert decide(a_rollout(plan=PLAN), an_open_verdict(), readiness=frozen, now=BAKED).command is None


def test_a_raise_waits_for_the_approvals_that_guard_the_next_step() -> None:
    steps = [{"share": "1%", "bake": "1h", "approvals": 1}, {"share": "100%", "bake": "1h"}]
    rollout = a_rollout(plan=a_plan(adaptive=True, steps=steps), created_by="ada")

    assert decided(rollout, an_open_verdict()).command is None
    assert decided(apply(rollout, Command.APPROVE, now=NOON, by="ben"), an_open_verdict()).weight_bp == 700


def test_a_verdict_for_a_person_or_against_the_candidate_raises_nothing() -> None:
    rollout = a_rollout(plan=PLAN)

    held = decided(rollout, a_verdict(Outcome.HOLD, rule=Rule.SAMPLE_RATIO, needs_person=True, safe_share_bp=0))
    back = decided(rollout, a_verdict(Outcome.ROLL_BACK, safe_share_bp=700))

    assert (held.command, back.command) == (Command.HOLD, Command.ROLL_BACK)
    assert held.weight_bp is back.weight_bp is None


def test_a_raise_is_a_stage_of_its_own_in_the_same_step() -> None:
    rollout = a_rollout(plan=PLAN, approvals=frozenset({"ben"}))

    after = raised(rollout, weight_bp=700, now=BAKED)

    assert (after.step, after.candidate_bp, after.next_share_bp) == (0, 700, 2_500)
    assert (after.entered_at, after.acknowledged_at) == (BAKED, None)
    assert after.approvals == {"ben"}
    assert stage_of(after, generation=3).share_bp == 700


@pytest.mark.parametrize("weight_bp", [0, 99, 100, 2_501])
def test_what_is_no_raise_or_beyond_the_next_step_is_refused(weight_bp: int) -> None:
    with pytest.raises(IllegalTransition):
        raised(a_rollout(plan=PLAN), weight_bp=weight_bp, now=NOON)


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.RAMPING])
def test_only_a_ramp_is_raised(phase: Phase) -> None:
    with pytest.raises(IllegalTransition):
        raised(a_rollout(phase, plan=PLAN), weight_bp=10_000, now=NOON)


def test_leaving_the_step_goes_on_with_the_plans_own_weights() -> None:
    after = apply(raised(a_rollout(plan=PLAN), weight_bp=700, now=NOON), Command.ADVANCE, now=BAKED, by="scheduler")

    assert (after.step, after.candidate_bp, after.weight_bp) == (1, 2_500, None)


def test_a_stored_verdict_of_before_is_read_without_a_safe_share() -> None:
    before = a_verdict().to_json()

    assert "safe_share_bp" not in before
    assert Verdict.from_json(before).safe_share_bp is None
    assert Verdict.from_json(an_open_verdict().to_json()).safe_share_bp == 700
