from dataclasses import replace
from datetime import timedelta

import pytest

from control_plane.domain.errors import IllegalTransition
from control_plane.domain.rollout import ACTIVE, FINISHED, Command, Phase, apply, back_from_home, stage_of
from tests.builders import NOON, a_plan, a_rollout

# (phase, command) -> phase; whatever is missing here is illegal. A step counts up within ramping.
LEGAL: dict[tuple[Phase, Command], Phase] = {
    (Phase.PENDING, Command.START): Phase.WARMING,
    (Phase.WARMING, Command.ADVANCE): Phase.SHADOW,
    (Phase.SHADOW, Command.ADVANCE): Phase.RAMPING,
    (Phase.RAMPING, Command.ADVANCE): Phase.RAMPING,
    (Phase.WATCHING, Command.ADVANCE): Phase.DONE,
    (Phase.WARMING, Command.HOLD): Phase.HELD,
    (Phase.SHADOW, Command.HOLD): Phase.HELD,
    (Phase.RAMPING, Command.HOLD): Phase.HELD,
    (Phase.WATCHING, Command.HOLD): Phase.HELD,
    (Phase.HELD, Command.HOLD): Phase.HELD,
    (Phase.SHADOW, Command.EXPIRE): Phase.EXPIRED,
    (Phase.RAMPING, Command.EXPIRE): Phase.EXPIRED,
    (Phase.HELD, Command.EXPIRE): Phase.EXPIRED,
    (Phase.HELD, Command.RESUME): Phase.SHADOW,
    (Phase.EXPIRED, Command.RESUME): Phase.SHADOW,
    (Phase.RAMPING, Command.APPROVE): Phase.RAMPING,
    (Phase.HELD, Command.APPROVE): Phase.HELD,
    **{(phase, Command.ROLL_BACK): Phase.ROLLED_BACK for phase in Phase},
    **{(phase, Command.ABORT): Phase.ROLLED_BACK for phase in Phase if phase is not Phase.DONE},
}


@pytest.mark.parametrize("command", Command)
@pytest.mark.parametrize("phase", Phase)
def test_every_pair_of_phase_and_command_does_what_the_table_says(phase: Phase, command: Command) -> None:
    rollout = a_rollout(phase)

    if (phase, command) in LEGAL:
        assert apply(rollout, command, now=NOON, by="ann").phase is LEGAL[phase, command]
    else:
        with pytest.raises(IllegalTransition, match=f"{phase} does not take {command}"):
            apply(rollout, command, now=NOON, by="ann")


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


def test_the_shadow_scores_only_while_the_rollout_is_in_shadow() -> None:
    samples = {phase: a_rollout(phase).shadow_sample_bp for phase in Phase if phase not in (Phase.HELD, Phase.EXPIRED)}

    assert {phase for phase, sample_bp in samples.items() if sample_bp} == {Phase.SHADOW}
    assert a_rollout(Phase.HELD, paused_phase=Phase.SHADOW).shadow_sample_bp == 10_000


def test_phases_are_active_or_finished() -> None:
    assert set(Phase) == ACTIVE | FINISHED
    assert not ACTIVE & FINISHED


def test_a_stage_tells_the_judge_how_far_full_traffic_is() -> None:
    stage = stage_of(a_rollout(Phase.RAMPING, step=0), generation=7)

    assert (stage.share_bp, stage.next_share_bp, stage.advances_left, stage.generation) == (100, 2_500, 2, 7)
    assert stage.entered_at_ms == round(NOON.timestamp() * 1_000)


def test_time_at_home_is_no_time_at_the_step() -> None:
    rollout = a_rollout(Phase.RAMPING)
    went_home, came_back = rollout.entered_at + timedelta(hours=2), rollout.entered_at + timedelta(hours=5)

    after = back_from_home(rollout, home_since=went_home, now=came_back)

    assert came_back - after.entered_at == timedelta(hours=2)
    assert replace(after, entered_at=rollout.entered_at) == rollout


def test_a_step_entered_while_the_candidate_was_at_home_begins_when_it_comes_back() -> None:
    rollout = a_rollout(Phase.RAMPING)

    after = back_from_home(rollout, home_since=rollout.entered_at - timedelta(hours=2), now=NOON + timedelta(days=1))

    assert after.entered_at == NOON + timedelta(days=1)
