"""Rollouts that find their surface busy: they are refused, wait in line, or take the other's place."""

from datetime import timedelta

import pytest
from sqlalchemy.orm import Session

from control_plane.domain.errors import Deposed, Frozen, IllegalTransition, InvalidField, SurfaceBusy
from control_plane.domain.model_version import ModelVersion
from control_plane.domain.rollout import Command, OnBusy, Phase, Rollout, RolloutId
from control_plane.registry import arrivals, freezes, history, leases, model_versions, rollouts, surfaces
from control_plane.registry.session import Sessions
from tests.builders import HOME_FEED, NOON, a_plan, a_version
from tests.registry import scene
from tests.registry.scene import LATER


def created(session: Session, version: ModelVersion, on_busy: OnBusy) -> Rollout:
    version_id = scene.registered(session, version)
    return arrivals.create(session, version.surface, version_id, a_plan(), by="grace", now=NOON, on_busy=on_busy)


def dequeued(session: Session) -> RolloutId | None:
    rollout = arrivals.dequeue(session, HOME_FEED, now=LATER)
    return None if rollout is None else rollout.rollout_id


@pytest.mark.parametrize("on_busy", OnBusy)
def test_on_a_free_surface_a_rollout_is_pending_at_once(sessions: Sessions, on_busy: OnBusy) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)

        rollout = created(session, a_version("b"), on_busy)

        assert rollout.phase is Phase.PENDING
        assert surfaces.get(session, HOME_FEED).rollout_id == rollout.rollout_id
        assert rollouts.due(session, now=NOON) == [rollout.rollout_id]


def test_a_queued_rollout_leaves_what_serves_alone_and_stands_in_the_history(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        first = scene.a_rollout_in(session, Phase.RAMPING)
        before = surfaces.get(session, HOME_FEED)

        queued = created(session, a_version("c"), OnBusy.QUEUE)
        after, entry = surfaces.get(session, HOME_FEED), history.list_history(session, HOME_FEED, 1)[0]

        assert (queued.phase, after.rollout_id) == (Phase.QUEUED, first)
        assert (after.candidate, after.candidate_bp) == (before.candidate, before.candidate_bp)
        assert (entry.command, entry.by, entry.rollout_id) == ("queue", "grace", queued.rollout_id)
        assert rollouts.due(session, now=LATER) == [first]
        assert [rollout.rollout_id for rollout in rollouts.list_queued(session)] == [queued.rollout_id]
        assert history.verify(session) == []


def test_queued_rollouts_come_to_the_surface_one_after_another_over_what_is_stable_then(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        first = scene.a_rollout_in(session, Phase.SHADOW)
        second, third = (created(session, a_version(name), OnBusy.QUEUE).rollout_id for name in ("c", "d"))

        assert dequeued(session) is None, "the surface is busy"
        scene.walk(session, first, until=Phase.DONE)
        assert rollouts.free_surfaces(session) == [HOME_FEED]
        assert dequeued(session) == second
        assert dequeued(session) is None
        taken, entry = rollouts.get(session, second), history.list_history(session, HOME_FEED, 1)[0]
        scene.commanded(session, second, Command.ABORT)

        assert (taken.phase, taken.stable, taken.entered_at) == (Phase.PENDING, a_version("b").version_id, LATER)
        assert (entry.command, entry.rollout_id) == ("dequeue", second)
        assert dequeued(session) == third
        assert rollouts.free_surfaces(session) == []


def test_who_queues_behind_others_waits_even_if_the_surface_is_free_for_a_moment(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        first = scene.a_pending_rollout(session)
        second = scene.a_queued_rollout(session, a_version("c"))
        scene.commanded(session, first, Command.ABORT)

        third = created(session, a_version("d"), OnBusy.QUEUE)

        assert third.phase is Phase.QUEUED
        assert dequeued(session) == second


def test_a_queued_rollout_that_may_not_serve_any_more_ends_with_the_reason(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        first = scene.a_rollout_in(session, Phase.SHADOW)
        barred = scene.a_queued_rollout(session, a_version("c", trunk="bad"))
        same = scene.a_queued_rollout(session, a_version("b"))
        sound = scene.a_queued_rollout(session, a_version("d"))
        rollouts.quarantine(session, a_version("c", trunk="bad").trunk, by="ann", reason="NaN scores", now=NOON)
        scene.walk(session, first, until=Phase.DONE)

        assert dequeued(session) == sound
        ends = [entry.reason for entry in history.list_history(session, HOME_FEED, 3)[::-1][:2]]

        assert [rollouts.get(session, rollout_id).phase for rollout_id in (barred, same)] == [Phase.ROLLED_BACK] * 2
        assert "quarantined (NaN scores)" in ends[0]
        assert ends[1].endswith("is home_feed's stable version already")
        assert history.verify(session) == []


@pytest.mark.parametrize("command", [Command.ABORT, Command.ROLL_BACK])
def test_taking_a_rollout_out_of_the_queue_harms_neither_what_serves_nor_its_version(
    sessions: Sessions, command: Command
) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        first = scene.a_rollout_in(session, Phase.RAMPING)
        queued = scene.a_queued_rollout(session, a_version("c"))
        before = surfaces.get(session, HOME_FEED)

        ended = scene.commanded(session, queued, command, reason="not this week")
        after = surfaces.get(session, HOME_FEED)

        assert ended.phase is Phase.ROLLED_BACK
        assert (after.rollout_id, after.candidate, after.candidate_bp) == (first, before.candidate, 100)
        assert after.lease_renewed_at == before.lease_renewed_at
        assert not model_versions.get(session, ended.candidate).is_aborted
        assert scene.a_queued_rollout(session, a_version("c")) != queued, "it may be tried again"


@pytest.mark.parametrize("command", [Command.START, Command.ADVANCE, Command.SKIP, Command.HOLD])
def test_a_queued_rollout_takes_no_command_but_its_end(sessions: Sessions, command: Command) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        scene.a_rollout_in(session, Phase.RAMPING)
        queued = scene.a_queued_rollout(session, a_version("c"))

        with pytest.raises(IllegalTransition, match="that is queued"):
            scene.commanded(session, queued, command, reason="at once")


@pytest.mark.parametrize("phase", [Phase.PENDING, Phase.SHADOW, Phase.RAMPING, Phase.HELD])
def test_a_replaced_rollout_is_aborted_and_says_by_what(sessions: Sessions, phase: Phase) -> None:
    with sessions.writing() as session:
        stable = scene.a_serving_surface(session)
        first = scene.a_rollout_in(session, phase)

        second = created(session, a_version("c"), OnBusy.REPLACE)
        state = surfaces.get(session, HOME_FEED)
        made, ended = history.list_history(session, HOME_FEED, 2)

        assert (rollouts.get(session, first).phase, second.phase) == (Phase.ROLLED_BACK, Phase.PENDING)
        assert (state.stable, state.candidate_bp, state.rollout_id) == (stable, 0, second.rollout_id)
        assert (ended.command, ended.by) == ("abort", "grace")
        assert ended.reason == f"replaced by rollout {second.rollout_id} of {second.candidate}"
        assert (made.command, made.rollout_id) == ("create", second.rollout_id)
        assert rollouts.due(session, now=NOON) == [second.rollout_id]
        assert history.verify(session) == []


def test_a_replacement_that_may_not_serve_replaces_nothing(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        first = scene.a_rollout_in(session, Phase.RAMPING)

    with pytest.raises(InvalidField, match="restart that one"), sessions.writing() as session:
        created(session, a_version("b"), OnBusy.REPLACE)
    with sessions.reading() as session:
        assert rollouts.get(session, first).phase is Phase.RAMPING
        assert len(rollouts.list_rollouts(session)) == 1


def test_refusing_stays_the_rule(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        scene.a_pending_rollout(session)

        with pytest.raises(SurfaceBusy):
            created(session, a_version("c"), OnBusy.REJECT)


def test_in_a_freeze_the_queue_stands_still(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        first = scene.a_pending_rollout(session)
        queued = scene.a_queued_rollout(session, a_version("c"))
        scene.commanded(session, first, Command.ABORT)
        freeze = freezes.declare(session, HOME_FEED, by="carol", reason="the holidays", now=NOON)

        with pytest.raises(Frozen):
            dequeued(session)
        freezes.lift(session, freeze.freeze_id, by="carol", reason="over", now=NOON + timedelta(minutes=1))

        assert dequeued(session) == queued


def test_a_deposed_scheduler_moves_no_queue(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        epoch = leases.acquire(session, leases.SCHEDULER, "one", 60)
        assert epoch is not None

        with pytest.raises(Deposed):
            arrivals.dequeue(session, HOME_FEED, now=LATER, epoch=epoch - 1)
