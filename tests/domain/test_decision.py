from collections.abc import Collection
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from control_plane.domain.decision import Decision, Readiness, decide, expires_at, parts_to_quarantine
from control_plane.domain.model_version import Digest, Part
from control_plane.domain.rollout import Command, Phase, Rollout
from control_plane.domain.verdict import Answer, Blame, Finding, Outcome, Rule, Verdict
from tests.builders import NOON, a_plan, a_rollout, a_verdict, a_version

READY = Readiness(live_runtimes=2, loaded_runtimes=2, acknowledged_runtimes=2)
ADVANCE = a_verdict(Outcome.ADVANCE)
HOLD = a_verdict(Outcome.HOLD)
ROLL_BACK = a_verdict(Outcome.ROLL_BACK)


def decided(rollout: Rollout, verdict: Verdict | None, *, hours: float = 0, readiness: Readiness = READY) -> Decision:
    return decide(rollout, verdict, readiness=readiness, now=NOON + timedelta(hours=hours))


@pytest.mark.parametrize("phase", Phase)
def test_a_verdict_to_roll_back_is_never_delayed(phase: Phase) -> None:
    assert decided(a_rollout(phase), ROLL_BACK).command is Command.ROLL_BACK


@pytest.mark.parametrize("phase", [Phase.SHADOW, Phase.RAMPING, Phase.WATCHING])
@pytest.mark.parametrize("verdict", [None, HOLD])
def test_nothing_grows_without_a_passing_verdict(phase: Phase, verdict: Verdict | None) -> None:
    assert decided(a_rollout(phase), verdict, hours=48).command is None


def test_a_stage_bakes_even_when_its_evidence_suffices() -> None:
    early = decided(a_rollout(Phase.RAMPING, step=0), ADVANCE, hours=0.5)
    later = decided(a_rollout(Phase.RAMPING, step=0), ADVANCE, hours=1)

    assert (early.command, early.until) == (None, NOON + timedelta(hours=1))
    assert later.command is Command.ADVANCE


def test_full_traffic_waits_for_seven_full_days() -> None:
    last_gate = a_rollout(Phase.RAMPING, step=1)

    early = decided(last_gate, ADVANCE, hours=7 * 24 - 1)
    later = decided(last_gate, ADVANCE, hours=7 * 24)

    assert (early.command, early.until) == (None, NOON + timedelta(days=7))
    assert later.command is Command.ADVANCE


def test_time_at_home_counts_neither_for_the_seven_days_nor_for_the_longest_duration() -> None:
    last_gate = a_rollout(Phase.RAMPING, step=1, away_seconds=24 * 3_600.0)

    assert decided(last_gate, ADVANCE, hours=7 * 24).until == NOON + timedelta(days=8)
    assert decided(last_gate, ADVANCE, hours=8 * 24).command is Command.ADVANCE
    assert expires_at(replace(last_gate, entered_at=NOON + timedelta(days=20))) == NOON + timedelta(days=31)


def test_approvals_are_the_last_gate() -> None:
    steps = [{"share": "1%", "bake": "1h", "approvals": 1}, {"share": "50%"}, {"share": "100%"}]
    waiting = a_rollout(Phase.RAMPING, step=0, plan=a_plan(steps=steps))
    approved = a_rollout(Phase.RAMPING, step=0, plan=a_plan(steps=steps), approvals=frozenset({"ann"}))

    early, later = decided(waiting, ADVANCE, hours=0.5), decided(waiting, ADVANCE, hours=2)

    assert early.reason == "the evidence suffices; baking"
    assert (later.reason, later.until) == ("waiting for 1 approval", NOON + timedelta(days=14))
    assert decided(approved, ADVANCE, hours=2).command is Command.ADVANCE


def test_waiting_for_approvals_names_their_group() -> None:
    steps = [{"share": "1%", "bake": "1h", "approvals": 2, "approval_group": "leads"}, {"share": "100%"}]

    decision = decided(a_rollout(Phase.RAMPING, plan=a_plan(steps=steps, min_days_before_full=0)), ADVANCE, hours=2)

    assert decision.reason == "waiting for 2 approvals from leads"


UNMONITORED = [{"share": "1%", "bake": "1h", "approvals": 1, "monitored": False}, {"share": "50%"}, {"share": "100%"}]


@pytest.mark.parametrize("verdict", [None, HOLD, ADVANCE])
def test_an_unmonitored_step_bakes_and_is_left_with_its_approvals_alone(verdict: Verdict | None) -> None:
    waiting = a_rollout(Phase.RAMPING, plan=a_plan(steps=UNMONITORED))
    approved = replace(waiting, approvals=frozenset({"bob"}))

    assert decided(approved, verdict, hours=0.5).reason == "an unmonitored step; baking"
    assert decided(waiting, verdict, hours=2).reason == "waiting for 1 approval of this unmonitored step"
    assert decided(approved, verdict, hours=2) == Decision(
        command=Command.ADVANCE, reason="an unmonitored step, let go on by bob"
    )


def test_an_unmonitored_step_is_rolled_back_and_held_like_any_other() -> None:
    rollout = a_rollout(Phase.RAMPING, plan=a_plan(steps=UNMONITORED), approvals=frozenset({"bob"}))

    assert decided(rollout, ROLL_BACK, hours=2).command is Command.ROLL_BACK
    assert decided(rollout, replace(HOLD, needs_person=True), hours=2).command is Command.HOLD


@pytest.mark.parametrize(
    ("acknowledged", "live", "is_enough"),
    [(0, 0, False), (0, 1, False), (1, 1, True), (3, 5, False), (18, 20, False), (19, 20, True), (20, 20, True)],
)
def test_a_stage_is_acknowledged_by_95_percent_of_the_live_runtimes(
    acknowledged: int, live: int, is_enough: bool
) -> None:
    assert Readiness(live_runtimes=live, acknowledged_runtimes=acknowledged).is_acknowledged is is_enough


@pytest.mark.parametrize("phase", [Phase.SHADOW, Phase.RAMPING, Phase.WATCHING])
def test_a_stage_that_is_not_acknowledged_says_how_many_runtimes_serve_it(phase: Phase) -> None:
    rollout = a_rollout(phase, acknowledged_at=None, stage_generation=12)

    some = decided(rollout, ADVANCE, hours=48, readiness=Readiness(live_runtimes=5, acknowledged_runtimes=3))
    none = decided(rollout, ADVANCE, hours=48, readiness=Readiness())

    assert some.command is None
    assert some.reason == "3 of 5 runtimes serve generation 12; the stage begins with 95%"
    assert none.reason == "waiting for a runtime: none has reported lately"


def test_a_stage_bakes_from_when_it_was_acknowledged() -> None:
    rollout = a_rollout(Phase.RAMPING, acknowledged_at=NOON + timedelta(minutes=30))

    assert decided(rollout, ADVANCE, hours=1).until == NOON + timedelta(hours=1.5)
    assert decided(rollout, ADVANCE, hours=1.5).command is Command.ADVANCE


FROZEN = replace(READY, frozen="carol: the holidays", frozen_until=NOON + timedelta(days=9))


@pytest.mark.parametrize("phase", [Phase.PENDING, Phase.WARMING, Phase.SHADOW, Phase.RAMPING, Phase.WATCHING])
def test_in_a_freeze_what_would_grow_waits_until_it_ends(phase: Phase) -> None:
    thawed, frozen = (decided(a_rollout(phase), ADVANCE, hours=48, readiness=ready) for ready in (READY, FROZEN))

    assert thawed.command is not None
    assert frozen == Decision(command=None, reason="frozen by carol: the holidays", until=NOON + timedelta(days=9))


def test_a_freeze_stops_no_roll_back_no_hold_and_no_expiry() -> None:
    rollout = a_rollout(Phase.RAMPING)

    assert decided(rollout, ROLL_BACK, readiness=FROZEN).command is Command.ROLL_BACK
    assert decided(rollout, replace(HOLD, needs_person=True), readiness=FROZEN).command is Command.HOLD
    assert decided(a_rollout(Phase.SHADOW), HOLD, hours=14 * 24, readiness=FROZEN).command is Command.EXPIRE


def test_a_start_waits_until_what_was_rolled_back_has_cooled_down() -> None:
    cooling = replace(READY, cools_until=NOON + timedelta(hours=6))

    early = decided(a_rollout(Phase.PENDING), None, readiness=cooling)

    assert (early.command, early.until) == (None, NOON + timedelta(hours=6))
    assert early.reason == "cooling down: something of the candidate was rolled back lately"
    assert decided(a_rollout(Phase.PENDING), None, hours=6, readiness=cooling).command is Command.START


def test_a_queued_rollout_waits_for_its_surface() -> None:
    assert decided(a_rollout(Phase.QUEUED), None).reason == "queued; waiting for the surface to be free"


def test_a_step_may_have_a_longest_duration_of_its_own() -> None:
    steps = [{"share": "1%", "max": "2d"}, {"share": "50%"}, {"share": "100%", "max": "5d"}]
    first, watch = (a_rollout(phase, plan=a_plan(steps=steps)) for phase in (Phase.RAMPING, Phase.WATCHING))
    harmless = a_verdict(Outcome.HOLD, findings=(a_finding(-0.05),))

    assert decided(first, harmless, hours=47).command is None
    assert decided(first, harmless, hours=48).command is Command.EXPIRE
    assert decided(watch, harmless, hours=5 * 24).command is Command.EXPIRE


def test_a_watch_without_a_longest_duration_does_not_expire() -> None:
    assert expires_at(a_rollout(Phase.WATCHING)) is None
    assert decided(a_rollout(Phase.WATCHING), HOLD, hours=100 * 24).command is None


def test_what_is_held_waits_for_a_person_until_it_expires() -> None:
    held = a_rollout(Phase.HELD, paused_phase=Phase.RAMPING, step=0)

    decision = decided(held, HOLD)

    assert (decision.reason, decision.until) == ("held; waiting for a person", NOON + timedelta(days=14))


def test_a_broken_sample_ratio_holds_until_a_person_resumes() -> None:
    verdict = replace(a_verdict(Outcome.HOLD, rule=Rule.SAMPLE_RATIO), needs_person=True)

    assert decided(a_rollout(), verdict).command is Command.HOLD
    assert decided(a_rollout(Phase.HELD, paused_phase=Phase.RAMPING, step=0), verdict).command is None


def test_waiting_says_until_when() -> None:
    soon = decided(a_rollout(Phase.RAMPING), a_verdict(Outcome.HOLD, seconds_to_resolve=7_200.0))
    unknown = decided(a_rollout(Phase.RAMPING), HOLD)

    assert soon.until == NOON + timedelta(hours=2)
    assert unknown.until is None


def test_an_estimate_beyond_all_time_is_no_crash() -> None:
    assert decided(a_rollout(Phase.RAMPING), a_verdict(Outcome.HOLD, seconds_to_resolve=1e300)).until is not None


def test_pending_waits_for_the_surface_graph() -> None:
    blocked = Readiness(may_start=False, blocked_by="home_feed to reach 25 %")

    assert decided(a_rollout(Phase.PENDING), None).command is Command.START
    assert decided(a_rollout(Phase.PENDING), None, readiness=blocked).reason == "waiting for home_feed to reach 25 %"


@pytest.mark.parametrize(
    ("readiness", "command"),
    [
        (Readiness(live_runtimes=0), None),
        (Readiness(live_runtimes=2, loaded_runtimes=1), None),
        (Readiness(live_runtimes=2, loaded_runtimes=2), Command.ADVANCE),
    ],
)
def test_warming_waits_for_every_live_runtime(readiness: Readiness, command: Command | None) -> None:
    assert decided(a_rollout(Phase.WARMING), None, readiness=readiness).command is command


def a_finding(lower: float | None) -> Finding:
    return Finding(metric="ctr", segment="*", answer=Answer.UNDECIDED, gates=True, lower=lower)


@pytest.mark.parametrize(
    ("lower", "command"),
    [(-0.05, Command.EXPIRE), (-0.20, Command.ROLL_BACK), (-0.5, Command.ROLL_BACK), (None, Command.ROLL_BACK)],
)
def test_a_stage_out_of_time_stays_only_if_no_large_loss_is_possible(lower: float | None, command: Command) -> None:
    verdict = a_verdict(Outcome.HOLD, findings=(a_finding(lower),))

    assert decided(a_rollout(Phase.RAMPING), verdict, hours=14 * 24).command is command


def test_out_of_time_many_fewer_hides_are_no_loss_and_many_more_are() -> None:
    fewer = Finding(metric="hide_rate", segment="*", answer=Answer.UNDECIDED, gates=True, lower=-0.5, upper=0.1)
    more = Finding(metric="hide_rate", segment="*", answer=Answer.UNDECIDED, gates=True, lower=-0.1, upper=0.5)

    stays, leaves = (
        decided(a_rollout(Phase.RAMPING), a_verdict(Outcome.HOLD, findings=(finding,)), hours=14 * 24)
        for finding in (fewer, more)
    )

    assert stays.command is Command.EXPIRE
    assert leaves.command is Command.ROLL_BACK


@pytest.mark.parametrize(("policy", "command"), [("extend", Command.ROLL_BACK), ("ignore", Command.EXPIRE)])
def test_out_of_time_a_gate_that_knows_nothing_holds_every_loss_possible(policy: str, command: Command) -> None:
    unknown = Finding(metric="hide_rate", segment="*", answer=Answer.INSUFFICIENT, gates=True, policy=policy)
    verdict = a_verdict(Outcome.HOLD, findings=(a_finding(-0.05), unknown))

    assert decided(a_rollout(Phase.RAMPING), verdict, hours=14 * 24).command is command


def test_out_of_time_a_wide_calibration_interval_is_no_loss_of_engagement() -> None:
    calibration = Finding(metric="calibration", segment="*", answer=Answer.UNDECIDED, gates=True, lower=-0.5, upper=0.5)
    verdict = a_verdict(Outcome.HOLD, findings=(a_finding(-0.05), calibration))

    assert decided(a_rollout(Phase.RAMPING), verdict, hours=14 * 24).command is Command.EXPIRE


def test_a_shadow_out_of_time_expires_for_nobody_is_at_risk() -> None:
    assert decided(a_rollout(Phase.SHADOW), HOLD, hours=14 * 24).command is Command.EXPIRE


def test_a_rollout_out_of_time_never_ships_even_on_a_passing_verdict() -> None:
    assert decided(a_rollout(Phase.RAMPING), ADVANCE, hours=31 * 24).command is not Command.ADVANCE


@pytest.mark.parametrize("phase", [Phase.EXPIRED, Phase.DONE, Phase.ROLLED_BACK])
def test_what_waits_for_a_person_or_is_over_is_left_alone(phase: Phase) -> None:
    assert decided(a_rollout(phase), ADVANCE, hours=100 * 24).command is None


def blamed(blame: Blame, rule: Rule = Rule.HARM, proven: Collection[Digest] = (), **candidate: Any) -> tuple[Part, ...]:
    verdict = a_verdict(Outcome.ROLL_BACK, blame=blame, rule=rule)
    return parts_to_quarantine(verdict, candidate=a_version("b", **candidate), stable=a_version("a"), proven=proven)


def test_a_model_that_harms_has_its_trunk_quarantined_if_the_trunk_is_new() -> None:
    assert blamed(Blame.MODEL, trunk="other") == (Part.TRUNK,)
    assert blamed(Blame.MODEL) == (Part.SURFACE_EXPORT,)


def test_a_trunk_that_another_surface_proved_is_not_to_blame() -> None:
    proven = [a_version("b", trunk="other").trunk]

    assert blamed(Blame.MODEL, trunk="other", proven=proven) == (Part.SURFACE_EXPORT,)


def test_a_calibrator_that_harms_is_quarantined_alone() -> None:
    assert blamed(Blame.CALIBRATOR, trunk="other") == (Part.CALIBRATOR,)


def test_missing_evidence_blames_no_part() -> None:
    assert blamed(Blame.MODEL, rule=Rule.MISSING_EVIDENCE, trunk="other") == ()
    assert blamed(Blame.NONE, trunk="other") == ()
