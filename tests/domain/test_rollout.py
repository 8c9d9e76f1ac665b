from dataclasses import replace
from datetime import timedelta

import pytest

from control_plane.domain.errors import Forbidden, IllegalTransition, MissingReason
from control_plane.domain.model_version import VersionId
from control_plane.domain.rollout import (
    ACTIVE,
    FINISHED,
    RESTART,
    Command,
    Phase,
    apply,
    back_from_home,
    dequeued,
    restarted,
    stage_of,
    takes,
)
from tests.builders import NOON, a_plan, a_rollout

LATER = NOON + timedelta(hours=3)

# Every phase × command. A rollout ramps on the first of three steps; a held or expired one was in the shadow.
REFUSED = "refused"
TABLE = """
phase       start     advance      skip         hold      resume   approve    expire     roll_back    abort
queued      refused   refused      refused      refused   refused  refused    refused    rolled_back  rolled_back
pending     warming   refused      refused      refused   refused  refused    refused    rolled_back  rolled_back
warming     refused   shadow       shadow       held      refused  refused    refused    rolled_back  rolled_back
shadow      refused   ramping      ramping      held      refused  refused    expired    rolled_back  rolled_back
ramping     refused   ramping      ramping      held      refused  ramping    expired    rolled_back  rolled_back
watching    refused   done         done         held      refused  watching   expired    rolled_back  rolled_back
done        refused   refused      refused      refused   refused  refused    refused    rolled_back  refused
held        refused   refused      refused      held      shadow   held       expired    rolled_back  rolled_back
expired     refused   refused      refused      refused   shadow   refused    refused    rolled_back  rolled_back
rolled_back refused   refused      refused      refused   refused  refused    refused    rolled_back  rolled_back
"""
HEAD, *ROWS = [line.split() for line in TABLE.strip().splitlines()]
EXPECTED = {(phase, command): expected for phase, *row in ROWS for command, expected in zip(HEAD[1:], row, strict=True)}


@pytest.mark.parametrize("command", Command)
@pytest.mark.parametrize("phase", Phase)
def test_every_pair_of_phase_and_command_does_what_the_table_says(phase: Phase, command: Command) -> None:
    rollout, expected = a_rollout(phase), EXPECTED[phase, command]

    if expected == REFUSED:
        with pytest.raises(IllegalTransition, match=f"{phase} does not take {command}"):
            apply(rollout, command, now=NOON, by="ann", reason="so be it")
    else:
        assert apply(rollout, command, now=NOON, by="ann", reason="so be it").phase == expected


@pytest.mark.parametrize("phase", Phase)
def test_a_refusal_names_the_commands_that_this_phase_takes(phase: Phase) -> None:
    refused = [command for command in Command if EXPECTED[phase, command] == REFUSED]

    for command in refused:
        with pytest.raises(IllegalTransition) as refusal:
            apply(a_rollout(phase), command, now=NOON, by="ann", reason="so be it")
        for taken in refusal.value.takes:
            assert taken == RESTART or EXPECTED[phase, Command(taken)] != REFUSED
            assert taken.replace("_", " ") in str(refusal.value)
        assert ("roll_back" in refusal.value.takes) is (phase is not Phase.ROLLED_BACK)


def test_an_approval_that_is_refused_says_when_approvals_are_asked_for() -> None:
    plan = a_plan(steps=[{"share": "1%"}, {"share": "50%", "approvals": 2}, {"share": "100%"}])

    with pytest.raises(IllegalTransition, match=r"approvals are asked for at 50 % \(2\)"):
        apply(a_rollout(Phase.SHADOW, plan=plan), Command.APPROVE, now=NOON, by="ann")
    with pytest.raises(IllegalTransition, match="its plan asks for no approvals"):
        apply(a_rollout(Phase.SHADOW), Command.APPROVE, now=NOON, by="ann")


def test_approving_is_named_only_where_approvals_are_wanting() -> None:
    asking = a_plan(steps=[{"share": "1%", "approvals": 1}, {"share": "100%"}])

    assert "approve" in takes(a_rollout(Phase.RAMPING, plan=asking))
    assert "approve" not in takes(a_rollout(Phase.RAMPING))


def test_the_table_has_one_row_a_phase_and_one_column_a_command() -> None:
    assert set(EXPECTED) == {(phase.value, command.value) for phase in Phase for command in Command}


@pytest.mark.parametrize("phase", Phase)
def test_roll_back_takes_all_traffic_away_from_any_phase(phase: Phase) -> None:
    after = apply(a_rollout(phase), Command.ROLL_BACK, now=NOON, by="ann")

    assert after.phase is Phase.ROLLED_BACK
    assert after.candidate_bp == 0


def test_rolling_back_twice_is_the_same_as_once() -> None:
    once = apply(a_rollout(), Command.ROLL_BACK, now=NOON, by="ann")

    assert apply(once, Command.ROLL_BACK, now=NOON, by="bob") == once


def test_the_whole_way_up() -> None:
    rollout = a_rollout(Phase.PENDING, plan=a_plan())
    rollout = apply(rollout, Command.START, now=NOON, by="ann")
    way = []
    while rollout.phase is not Phase.DONE:
        rollout = apply(rollout, Command.ADVANCE, now=NOON, by="ann")
        way.append((rollout.phase, rollout.candidate_bp))

    assert way == [
        (Phase.SHADOW, 0),
        (Phase.RAMPING, 100),
        (Phase.RAMPING, 2_500),
        (Phase.WATCHING, 10_000),
        (Phase.DONE, 10_000),
    ]


@pytest.mark.parametrize("command", [Command.HOLD, Command.EXPIRE])
def test_a_paused_rollout_keeps_its_weight_and_goes_back_where_it_was(command: Command) -> None:
    ramping = a_rollout(Phase.RAMPING, step=1)

    paused = apply(ramping, command, now=NOON, by="ann")
    resumed = apply(paused, Command.RESUME, now=NOON, by="ann")

    assert paused.candidate_bp == ramping.candidate_bp == 2_500
    assert (resumed.phase, resumed.step) == (Phase.RAMPING, 1)


def test_a_held_rollout_that_expires_goes_back_to_the_phase_it_was_held_in() -> None:
    held = apply(a_rollout(Phase.RAMPING), Command.HOLD, now=NOON, by="ann")

    expired = apply(held, Command.EXPIRE, now=NOON, by="scheduler")

    assert expired.paused_phase is Phase.RAMPING


def test_approvals_count_people_once_and_belong_to_their_step() -> None:
    steps = [{"share": "1%", "approvals": 2}, {"share": "25%", "approvals": 1}, {"share": "100%"}]
    rollout = a_rollout(Phase.RAMPING, step=0, plan=a_plan(steps=steps))

    for by in ("ann", "ann", "bob"):
        assert rollout.approvals_needed > 0
        rollout = apply(rollout, Command.APPROVE, now=NOON, by=by)

    assert rollout.approvals_needed == 0
    assert apply(rollout, Command.ADVANCE, now=NOON, by="ann").approvals_needed == 1


def test_nobody_approves_a_rollout_of_their_own() -> None:
    steps = [{"share": "1%", "approvals": 1}, {"share": "100%"}]
    rollout = a_rollout(Phase.RAMPING, plan=a_plan(steps=steps), created_by="ann")

    with pytest.raises(Forbidden, match=r"ann may not approve a rollout .* somebody else does, or skip"):
        apply(rollout, Command.APPROVE, now=NOON, by="ann")

    assert apply(rollout, Command.APPROVE, now=NOON, by="bob").approvals_needed == 0


def test_a_step_with_a_group_takes_approvals_of_its_members_only() -> None:
    steps = [{"share": "1%", "approvals": 1, "approval_group": "leads"}, {"share": "100%"}]
    rollout = a_rollout(Phase.RAMPING, plan=a_plan(steps=steps))

    with pytest.raises(Forbidden, match="it takes members of leads"):
        apply(rollout, Command.APPROVE, now=NOON, by="bob", groups={"oncall"})

    assert apply(rollout, Command.APPROVE, now=NOON, by="bob", groups={"oncall", "leads"}).approvals == {"bob"}


def test_who_approves_a_step_that_nothing_monitors_says_why() -> None:
    steps = [{"share": "1%", "approvals": 1, "monitored": False}, {"share": "100%"}]
    rollout = a_rollout(Phase.RAMPING, plan=a_plan(steps=steps))

    with pytest.raises(MissingReason, match="to approve"):
        apply(rollout, Command.APPROVE, now=NOON, by="bob")

    assert apply(rollout, Command.APPROVE, now=NOON, by="bob", reason="seen in the dashboards").approvals == {"bob"}


@pytest.mark.parametrize("phase", [Phase.WARMING, Phase.SHADOW, Phase.RAMPING, Phase.WATCHING])
def test_a_skip_leads_where_an_advance_does_and_needs_a_reason(phase: Phase) -> None:
    rollout = a_rollout(phase, approvals=frozenset({"bob"}))

    for reason in ("", "  "):
        with pytest.raises(MissingReason, match="to skip, give a reason"):
            apply(rollout, Command.SKIP, now=LATER, by="ann", reason=reason)
    skipped = apply(rollout, Command.SKIP, now=LATER, by="ann", reason="the clicks come late today")

    assert skipped == apply(rollout, Command.ADVANCE, now=LATER, by="scheduler")
    assert skipped.approvals == frozenset()


@pytest.mark.parametrize("command", [Command.ADVANCE, Command.SKIP])
def test_the_next_stage_waits_to_be_acknowledged_anew(command: Command) -> None:
    after = apply(a_rollout(Phase.RAMPING), command, now=LATER, by="ann", reason="so be it")

    assert (after.acknowledged_at, after.stage_began_at) == (None, None)


def test_a_stage_begins_once_it_is_acknowledged_and_again_when_it_is_resumed() -> None:
    rollout = a_rollout(Phase.RAMPING, acknowledged_at=NOON + timedelta(minutes=2))
    held = apply(rollout, Command.HOLD, now=LATER, by="ann")

    resumed = apply(held, Command.RESUME, now=LATER + timedelta(hours=1), by="ann")

    assert rollout.stage_began_at == NOON + timedelta(minutes=2)
    assert resumed.stage_began_at == LATER + timedelta(hours=1)


@pytest.mark.parametrize("phase", sorted(ACTIVE - {Phase.PENDING, Phase.WARMING}))
def test_a_restart_begins_anew_in_the_shadow_under_the_new_plan(phase: Phase) -> None:
    rollout = a_rollout(phase, approvals=frozenset({"bob"}), away_seconds=60.0)
    plan = a_plan(name="wider")

    after = restarted(rollout, plan=plan, now=LATER)

    assert (after.phase, after.step, after.candidate_bp, after.plan) == (Phase.SHADOW, -1, 0, plan)
    assert (after.paused_phase, after.approvals, after.acknowledged_at) == (None, frozenset(), None)
    assert (after.started_at, after.counted_from, after.entered_at) == (LATER, LATER, LATER)


@pytest.mark.parametrize("phase", [Phase.QUEUED, Phase.PENDING, Phase.WARMING])
def test_a_restart_before_the_shadow_only_swaps_the_plan(phase: Phase) -> None:
    after = restarted(a_rollout(phase), plan=a_plan(name="wider"), now=LATER)

    assert (after.phase, after.plan.name) == (phase, "wider")


def test_a_restart_of_a_rollout_held_while_it_warmed_warms_again() -> None:
    held = a_rollout(Phase.HELD, paused_phase=Phase.WARMING)

    assert restarted(held, plan=held.plan, now=LATER).phase is Phase.WARMING


@pytest.mark.parametrize("phase", sorted(FINISHED))
def test_what_is_finished_is_not_restarted(phase: Phase) -> None:
    with pytest.raises(IllegalTransition, match="does not take restart"):
        restarted(a_rollout(phase), plan=a_plan(), now=LATER)


def test_a_queued_rollout_becomes_pending_over_what_is_stable_by_then() -> None:
    after = dequeued(a_rollout(Phase.QUEUED), stable=VersionId("c" * 16), now=LATER)

    assert (after.phase, after.stable, after.entered_at, after.candidate_bp) == (Phase.PENDING, "c" * 16, LATER, 0)


def test_a_weight_of_its_own_holds_until_the_step_is_left() -> None:
    rollout = a_rollout(Phase.RAMPING, step=1, weight_bp=1_200)

    assert rollout.candidate_bp == 1_200
    assert apply(rollout, Command.ADVANCE, now=LATER, by="scheduler").candidate_bp == 10_000


def test_the_shadow_scores_only_while_the_rollout_is_in_shadow() -> None:
    samples = {phase: a_rollout(phase).shadow_sample_bp for phase in Phase if phase not in (Phase.HELD, Phase.EXPIRED)}

    assert {phase for phase, sample_bp in samples.items() if sample_bp} == {Phase.SHADOW}
    assert a_rollout(Phase.HELD, paused_phase=Phase.SHADOW).shadow_sample_bp == 10_000


def test_phases_are_queued_active_or_finished() -> None:
    assert set(Phase) == ACTIVE | FINISHED | {Phase.QUEUED}
    assert not ACTIVE & FINISHED


def test_a_stage_tells_the_judge_when_it_began() -> None:
    acknowledged_at = NOON + timedelta(minutes=2)

    stage = stage_of(a_rollout(Phase.RAMPING, acknowledged_at=acknowledged_at), generation=7)

    assert stage.entered_at_ms == round(acknowledged_at.timestamp() * 1_000)


def test_a_stage_tells_the_judge_how_far_full_traffic_is() -> None:
    stage = stage_of(a_rollout(Phase.RAMPING, step=0), generation=7)

    assert (stage.share_bp, stage.next_share_bp, stage.advances_left, stage.generation) == (100, 2_500, 2, 7)
    assert stage.entered_at_ms == round(NOON.timestamp() * 1_000)


def test_time_at_home_is_no_time_at_the_step() -> None:
    rollout = a_rollout(Phase.RAMPING)
    went_home, came_back = rollout.entered_at + timedelta(hours=2), rollout.entered_at + timedelta(hours=5)

    after = back_from_home(rollout, home_since=went_home, now=came_back)

    assert came_back - after.entered_at == timedelta(hours=2)
    assert after.stage_began_at == after.entered_at
    assert after.counted_from == rollout.counted_from + timedelta(hours=3)
    assert replace(after, entered_at=NOON, acknowledged_at=NOON, away_seconds=0.0) == rollout


def test_every_time_at_home_is_added_up() -> None:
    rollout = a_rollout(Phase.RAMPING)
    for days in (1, 3):
        went_home = NOON + timedelta(days=days)
        rollout = back_from_home(rollout, home_since=went_home, now=went_home + timedelta(hours=5))

    assert rollout.counted_from == NOON + timedelta(hours=10)
    assert rollout.started_at == NOON, "the evidence of before stays"


def test_a_step_entered_while_the_candidate_was_at_home_begins_when_it_comes_back() -> None:
    rollout = a_rollout(Phase.RAMPING)

    after = back_from_home(rollout, home_since=rollout.entered_at - timedelta(hours=2), now=NOON + timedelta(days=1))

    assert after.entered_at == NOON + timedelta(days=1)
