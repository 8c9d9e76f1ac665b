from collections.abc import Collection
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from control_plane.domain.decision import Decision, Readiness, decide, parts_to_quarantine
from control_plane.domain.model_version import Digest, Part
from control_plane.domain.rollout import Command, Phase, Rollout
from control_plane.domain.verdict import Answer, Blame, Finding, Outcome, Rule, Verdict
from tests.builders import NOON, a_plan, a_rollout, a_verdict, a_version

READY = Readiness(live_runtimes=2, loaded_runtimes=2)
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


def test_approvals_are_the_last_gate() -> None:
    steps = [{"share": "1%", "bake": "1h", "approvals": 1}, {"share": "50%"}, {"share": "100%"}]
    waiting = a_rollout(Phase.RAMPING, step=0, plan=a_plan(steps=steps))
    approved = a_rollout(Phase.RAMPING, step=0, plan=a_plan(steps=steps), approvals=frozenset({"ann"}))

    assert decided(waiting, ADVANCE, hours=2).reason == "waiting for 1 approval(s)"
    assert decided(approved, ADVANCE, hours=2).command is Command.ADVANCE


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
