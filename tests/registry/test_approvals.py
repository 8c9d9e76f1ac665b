"""Approvals are of one candidate under one plan: they fall with either."""

import pytest

from control_plane.domain.errors import IllegalTransition
from control_plane.domain.rollout import Command, OnBusy, Phase, RolloutId
from control_plane.registry import arrivals, rollouts
from control_plane.registry.session import Sessions
from tests.builders import HOME_FEED, NOON, a_plan, a_version
from tests.registry import scene

APPROVED = a_plan(steps=[{"share": "1%", "approvals": 2}, {"share": "100%"}])
ANOTHER = a_plan(name="another", steps=[{"share": "1%", "approvals": 2}, {"share": "100%"}])


def approved_once(sessions: Sessions) -> RolloutId:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_pending_rollout(session, plan=APPROVED)
        scene.walk(session, rollout_id, until=Phase.RAMPING)
        assert scene.commanded(session, rollout_id, Command.APPROVE, by="grace").approvals == {"grace"}
    return rollout_id


def test_approvals_fall_when_the_plan_is_swapped(sessions: Sessions) -> None:
    rollout_id = approved_once(sessions)

    with sessions.writing() as session:
        rollouts.restart(
            session, rollout_id, plan=ANOTHER, by="ada", reason="two steps", now=NOON, seen_generation=None
        )
        again = scene.walk(session, rollout_id, until=Phase.RAMPING)

    assert (again.approvals, again.approvals_needed) == (frozenset(), 2)


def test_approvals_of_one_digest_are_none_of_another(sessions: Sessions) -> None:
    approved_once(sessions)

    with sessions.writing() as session:
        changed = scene.registered(session, a_version("c"))
        second = arrivals.create(session, HOME_FEED, changed, APPROVED, by="ada", now=NOON, on_busy=OnBusy.REPLACE)
        ramping = scene.walk(session, second.rollout_id, until=Phase.RAMPING)
        scene.commanded(session, second.rollout_id, Command.APPROVE, by="linus")

        with pytest.raises(IllegalTransition, match=r"lacks 1 approval\(s\)"):
            scene.walk(session, second.rollout_id, until=Phase.WATCHING)

    assert ramping.approvals == frozenset()


def test_approvals_do_not_fall_with_a_hold(sessions: Sessions) -> None:
    rollout_id = approved_once(sessions)

    with sessions.writing() as session:
        scene.commanded(session, rollout_id, Command.HOLD)
        resumed = scene.commanded(session, rollout_id, Command.RESUME)

    assert resumed.approvals == {"grace"}
