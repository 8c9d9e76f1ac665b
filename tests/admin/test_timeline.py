import json
from datetime import datetime, timedelta

import pytest

from control_plane.admin.rollout import legal_commands
from control_plane.admin.timeline import Mark, timeline
from control_plane.domain.model_version import Surface
from control_plane.domain.rollout import Command, Phase
from control_plane.registry.history import Entry
from tests.builders import NOON, a_plan, a_rollout


def test_the_way_has_every_share_between_shadow_and_done() -> None:
    labels = [step.label for step in timeline(a_rollout(Phase.PENDING))]

    assert labels == ["Warm up", "Shadow", "1 %", "25 %", "100 %, watched", "Done"]


@pytest.mark.parametrize(
    ("phase", "step", "marks"),
    [
        (Phase.QUEUED, -1, "c....."),
        (Phase.PENDING, -1, "c....."),
        (Phase.WARMING, -1, "c....."),
        (Phase.SHADOW, -1, "dc...."),
        (Phase.RAMPING, 0, "ddc..."),
        (Phase.RAMPING, 1, "dddc.."),
        (Phase.WATCHING, 2, "ddddc."),
        (Phase.DONE, 2, "dddddd"),
        (Phase.ROLLED_BACK, 1, "dddx.."),
        (Phase.ROLLED_BACK, -1, "dx...."),
    ],
)
def test_what_is_behind_is_done_and_what_is_ahead_is_next(phase: Phase, step: int, marks: str) -> None:
    letters = {Mark.DONE: "d", Mark.CURRENT: "c", Mark.PAUSED: "p", Mark.STOPPED: "x", Mark.NEXT: "."}

    assert "".join(letters[found.mark] for found in timeline(a_rollout(phase, step=step))) == marks


@pytest.mark.parametrize("phase", [Phase.HELD, Phase.EXPIRED])
def test_a_paused_rollout_stands_where_it_was(phase: Phase) -> None:
    steps = timeline(a_rollout(phase, step=1, paused_phase=Phase.RAMPING))

    assert [step.mark for step in steps].index(Mark.PAUSED) == 3


def test_approvals_are_announced() -> None:
    plan = a_plan(steps=[{"share": "1%", "approvals": 2}, {"share": "100%"}])

    assert "2 approvals" in timeline(a_rollout(Phase.SHADOW, plan=plan))[2].note


def test_what_a_step_asks_for_is_announced() -> None:
    steps = [
        {"share": "1%", "bake": "1h", "approvals": 1, "approval_group": "leads", "monitored": False},
        {"share": "50%", "bake": "1h", "min_impressions": 20_000, "max": "3d"},
        {"share": "100%", "bake": "1d"},
    ]

    notes = [step.note for step in timeline(a_rollout(Phase.SHADOW, plan=a_plan(steps=steps)))[2:5]]

    assert notes == [
        "bake 1 h, 1 approval of leads, unmonitored",
        "bake 1 h, 20\u202f000 impressions, at most 3 d",
        "bake 1 d",
    ]


@pytest.mark.parametrize(
    ("phase", "commands"),
    [
        (Phase.QUEUED, {Command.ABORT}),
        (Phase.PENDING, {Command.START, Command.ABORT}),
        (Phase.WARMING, {Command.SKIP, Command.HOLD, Command.ABORT}),
        (Phase.SHADOW, {Command.SKIP, Command.HOLD, Command.ABORT}),
        (Phase.RAMPING, {Command.SKIP, Command.HOLD, Command.ABORT}),
        (Phase.WATCHING, {Command.SKIP, Command.HOLD, Command.ABORT}),
        (Phase.HELD, {Command.RESUME, Command.ABORT}),
        (Phase.EXPIRED, {Command.RESUME, Command.ABORT}),
        (Phase.DONE, set()),
        (Phase.ROLLED_BACK, set()),
    ],
)
def test_only_what_the_phase_takes_gets_a_button(phase: Phase, commands: set[Command]) -> None:
    assert set(legal_commands(a_rollout(phase), NOON)) == commands


def test_approving_is_offered_while_approvals_are_missing() -> None:
    plan = a_plan(steps=[{"share": "1%", "approvals": 1}, {"share": "100%"}])

    waiting = a_rollout(Phase.RAMPING, plan=plan)
    approved = a_rollout(Phase.RAMPING, plan=plan, approvals=frozenset({"ada"}))

    assert Command.APPROVE in legal_commands(waiting, NOON)
    assert Command.APPROVE not in legal_commands(approved, NOON)


def test_each_step_tells_when_it_was_entered_first() -> None:
    changes = [
        a_change(4, "shadow", -1),
        a_change(3, "held", -1),
        a_change(2, "shadow", -1),
        a_change(1, "warming", -1),
    ]

    steps = timeline(a_rollout(Phase.SHADOW), changes)

    assert [step.entered_at for step in steps] == [at(1), at(2), None, None, None, None]


def test_a_rollout_that_ended_before_its_shadow_is_not_said_to_have_been_there() -> None:
    changes = [a_change(1, "warming", -1), a_change(2, "rolled_back", -1)]

    marks = [step.mark for step in timeline(a_rollout(Phase.ROLLED_BACK, step=-1), changes)]

    assert marks == [Mark.STOPPED, *[Mark.NEXT] * 5]


def a_change(seq: int, phase: str, step: int) -> Entry:
    return Entry(
        surface=Surface("home_feed"),
        seq=seq,
        at=at(seq),
        by="ada",
        command="advance",
        reason="",
        before="{}",
        after=json.dumps({"rollout": {"phase": phase, "step": step}}),
        rollout_id=1,
        verdict_id=None,
        code_version="1",
        previous_hash="",
        hash="",
    )


def at(hours: int) -> datetime:
    return NOON + timedelta(hours=hours)
