"""What keeps a rollout from growing, beside the judge: freezes, cool-down, runtimes that lag behind; and restarts."""

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy.orm import Session

from control_plane.domain.decision import Readiness
from control_plane.domain.errors import (
    CoolingDown,
    Deposed,
    Frozen,
    IllegalTransition,
    MissingReason,
    MissingVerdict,
    StaleGeneration,
)
from control_plane.domain.model_version import Part, Surface, digest_of
from control_plane.domain.plan import DAY
from control_plane.domain.rollout import Command, Phase, Rollout, RolloutId
from control_plane.registry import evidence, freezes, gates, history, leases, rollouts, runtimes, surfaces
from control_plane.registry.runtimes import Heartbeat
from control_plane.registry.session import Sessions
from tests.builders import HOME_FEED, NOON, a_plan, a_verdict, a_version
from tests.registry import scene
from tests.registry.scene import LATER, SEARCH

GROWTH = [
    (Phase.PENDING, Command.START),
    (Phase.WARMING, Command.ADVANCE),
    (Phase.RAMPING, Command.SKIP),
    (Phase.HELD, Command.RESUME),
]


def frozen(session: Session, *, bypass_group: str = "") -> None:
    freezes.declare(
        session,
        None,
        by="carol",
        reason="the holidays",
        now=NOON,
        ends_at=NOON + timedelta(days=2),
        bypass_group=bypass_group,
    )


@pytest.mark.parametrize(("phase", "command"), GROWTH)
def test_in_a_freeze_nothing_grows_but_for_its_bypass_group_with_a_reason(
    sessions: Sessions, phase: Phase, command: Command
) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, phase)
        frozen(session, bypass_group="oncall")

        with pytest.raises(Frozen, match="by carol: the holidays; oncall may overrule"):
            scene.commanded(session, rollout_id, command, by="bob", reason="now")
        after = scene.commanded(session, rollout_id, command, by="bob", reason="a fix", groups={"oncall"})

    assert (after.phase, after.step) != (phase, -1)


@pytest.mark.parametrize("command", [Command.ROLL_BACK, Command.ABORT, Command.HOLD, Command.EXPIRE])
def test_a_freeze_never_keeps_anything_from_becoming_safer(sessions: Sessions, command: Command) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, Phase.RAMPING)
        frozen(session)

        after = scene.commanded(session, rollout_id, command)

    assert after.phase in (Phase.ROLLED_BACK, Phase.HELD, Phase.EXPIRED)


def test_in_a_freeze_a_candidate_that_went_home_stays_there(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, Phase.RAMPING)
        frozen(session)
        verdict_id = scene.a_passing_verdict(session, rollout_id, now=LATER)

        with pytest.raises(Frozen):
            rollouts.renew_watch(
                session,
                rollout_id,
                by="scheduler",
                now=LATER,
                seen_generation=surfaces.get(session, HOME_FEED).generation,
                verdict_id=verdict_id,
            )


def a_rolled_back_trunk(session: Session, command: Command = Command.ROLL_BACK) -> RolloutId:
    """Its trunk is new on home_feed; then a pending rollout of another version with the same trunk on search."""
    scene.a_serving_surface(session)
    scene.a_serving_surface(session, a_version("a", surface=SEARCH))
    first = scene.a_rollout_in(session, Phase.SHADOW, a_version("b", trunk="new"))
    scene.commanded(session, first, command, now=LATER)
    return scene.a_pending_rollout(session, a_version("b", surface=SEARCH, trunk="new"))


def readiness_of(session: Session, rollout_id: RolloutId) -> Readiness:
    return gates.readiness(session, rollouts.get(session, rollout_id), now=LATER, live_since=NOON)


def test_what_was_rolled_back_cools_down_on_every_surface_before_it_starts_again(sessions: Sessions) -> None:
    with sessions.writing() as session:
        rollout_id = a_rolled_back_trunk(session)
        ends = LATER + timedelta(seconds=DAY)

        assert readiness_of(session, rollout_id).cools_until == ends
        with pytest.raises(CoolingDown, match="cools down until 2026-03-04 13:00 UTC"):
            scene.commanded(session, rollout_id, Command.START, now=ends - timedelta(seconds=1))
        assert scene.commanded(session, rollout_id, Command.START, now=ends).phase is Phase.WARMING


def test_a_person_starts_what_cools_down_with_a_reason_and_a_scheduler_never(sessions: Sessions) -> None:
    with sessions.writing() as session:
        rollout_id = a_rolled_back_trunk(session)
        epoch = leases.acquire(session, leases.SCHEDULER, "one", 60)

        with pytest.raises(CoolingDown):
            rollouts.apply_command(
                session, rollout_id, Command.START, by="scheduler", reason="free", now=LATER, epoch=epoch
            )
        started = scene.commanded(session, rollout_id, Command.START, reason="search was fine", now=LATER)

    assert started.phase is Phase.WARMING


def test_an_abort_says_nothing_against_a_part(sessions: Sessions) -> None:
    with sessions.writing() as session:
        rollout_id = a_rolled_back_trunk(session, Command.ABORT)

        assert readiness_of(session, rollout_id).cools_until is None


def test_where_the_part_to_blame_was_quarantined_the_others_need_not_cool_down(sessions: Sessions) -> None:
    """A new calibrator for the same trunk and export may start at once."""
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        first = scene.a_rollout_in(session, Phase.SHADOW, a_version("b", trunk="new"))
        rollouts.apply_command(
            session, first, Command.ROLL_BACK, by="scheduler", now=LATER, quarantine_parts=(Part.CALIBRATOR,)
        )
        mended = replace(a_version("b", trunk="new"), calibrator=digest_of(b"fitted anew"))

        assert readiness_of(session, scene.a_pending_rollout(session, mended)).cools_until is None


def test_what_stable_shares_never_cools_down(sessions: Sessions) -> None:
    """A bad calibrator on stable's own trunk says nothing of the trunk."""
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        first = scene.a_rollout_in(session, Phase.SHADOW, a_version("b"))
        scene.commanded(session, first, Command.ROLL_BACK)

        assert readiness_of(session, scene.a_pending_rollout(session, a_version("c"))).cools_until is None


def heartbeat(session: Session, number: int, generation: int, surface: Surface = HOME_FEED) -> None:
    told = Heartbeat(
        runtime_id=f"runtime {number}",
        generations={surface: generation},
        loaded=(),
        counts={},
        shadow_dropped=0,
        splits_mode="push",
    )
    runtimes.record_heartbeat(session, told, now=NOON, seen_at=NOON)


def test_runtimes_that_serve_the_stage_or_a_later_generation_have_acknowledged_it(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, Phase.RAMPING)
        stage = rollouts.get(session, rollout_id).stage_generation
        for number, generation in enumerate([stage - 1, stage, stage + 1]):
            heartbeat(session, number, generation)
        heartbeat(session, 9, stage, surface=SEARCH)

        found = readiness_of(session, rollout_id)
        before = gates.acknowledged_stages(session, live_since=NOON)
        heartbeat(session, 0, stage)
        after = gates.acknowledged_stages(session, live_since=NOON)

    assert (found.acknowledged_runtimes, found.live_runtimes, found.is_acknowledged) == (2, 3, False)
    assert (before, after) == ({}, {rollout_id: stage})


def test_a_stage_is_acknowledged_once_and_each_stage_anew(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, Phase.SHADOW)
        generation = surfaces.get(session, HOME_FEED).generation

        for at in (NOON, LATER):
            rollouts.acknowledge(session, rollout_id, seen_generation=generation, at=at)
        shadow = rollouts.get(session, rollout_id)
        ramp = scene.walk(session, rollout_id, until=Phase.RAMPING)

        assert surfaces.get(session, HOME_FEED).generation == generation + 1, "to acknowledge changes nothing served"
        assert (shadow.acknowledged_at, rollouts.get(session, rollout_id)) == (NOON, ramp)
        assert ramp.acknowledged_at is None


def test_who_acknowledges_is_neither_late_nor_deposed(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, Phase.SHADOW)
        generation = surfaces.get(session, HOME_FEED).generation

        with pytest.raises(StaleGeneration):
            rollouts.acknowledge(session, rollout_id, seen_generation=generation - 1, at=NOON)
        with pytest.raises(Deposed):
            rollouts.acknowledge(session, rollout_id, seen_generation=generation, at=NOON, epoch=7)

        assert rollouts.get(session, rollout_id).acknowledged_at is None


def restarted(session: Session, rollout_id: RolloutId, *, reason: str = "wider margins", by: str = "ann") -> Rollout:
    return rollouts.restart(
        session,
        rollout_id,
        plan=a_plan(name="wider"),
        by=by,
        reason=reason,
        now=LATER,
        seen_generation=surfaces.get(session, HOME_FEED).generation,
    )


@pytest.mark.parametrize("phase", [Phase.SHADOW, Phase.RAMPING, Phase.WATCHING, Phase.HELD, Phase.EXPIRED])
def test_a_restart_swaps_the_plan_and_begins_from_nothing(sessions: Sessions, phase: Phase) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, phase)
        salt = surfaces.get(session, HOME_FEED).salt

        after = restarted(session, rollout_id)
        state, entry = surfaces.get(session, HOME_FEED), history.list_history(session, HOME_FEED, 1)[0]

        assert rollouts.get(session, rollout_id) == after
        assert (after.phase, after.plan.name, after.step, after.started_at) == (Phase.SHADOW, "wider", -1, LATER)
        assert after.first_generation == after.stage_generation == state.generation
        assert (state.candidate_bp, state.shadow, state.lease_renewed_at) == (0, after.candidate, None)
        assert (entry.command, entry.by, entry.reason) == ("restart", "ann", "wider margins")
        assert state.salt not in (salt, f"{HOME_FEED}/stable"), "users who met the candidate are dealt anew"
        assert scene.walk(session, rollout_id, until=Phase.DONE).phase is Phase.DONE
        assert history.verify(session) == []


def test_evidence_from_before_a_restart_advances_nothing(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, Phase.SHADOW)
        passing = scene.a_passing_verdict(session, rollout_id)
        restarted(session, rollout_id)

        with pytest.raises(MissingVerdict):
            scene.commanded(session, rollout_id, Command.ADVANCE, verdict_id=passing)


def test_a_restart_needs_a_reason_and_the_generation_that_was_seen(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, Phase.RAMPING)

        with pytest.raises(MissingReason, match="to restart"):
            restarted(session, rollout_id, reason=" ")
        with pytest.raises(StaleGeneration):
            rollouts.restart(session, rollout_id, plan=None, by="ann", reason="?", now=LATER, seen_generation=1)


@pytest.mark.parametrize("phase", [Phase.PENDING, Phase.WARMING])
def test_a_rollout_that_is_not_in_the_shadow_yet_stays_where_it_is(sessions: Sessions, phase: Phase) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, phase)

        after = restarted(session, rollout_id)

        assert (after.phase, rollouts.get(session, rollout_id).plan.name) == (phase, "wider")


def test_a_queued_rollouts_plan_is_swapped_without_touching_what_serves(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        first = scene.a_rollout_in(session, Phase.RAMPING)
        queued = scene.a_queued_rollout(session, a_version("c"))

        after = restarted(session, queued)
        state = surfaces.get(session, HOME_FEED)

        assert (after.phase, after.plan.name) == (Phase.QUEUED, "wider")
        assert (state.rollout_id, state.candidate_bp) == (first, 100)
        assert rollouts.due(session, now=LATER) == [first]


def test_what_is_finished_is_not_restarted(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, Phase.DONE)

        with pytest.raises(IllegalTransition, match="does not take restart"):
            restarted(session, rollout_id)


def a_verdict_with_room(session: Session, rollout_id: RolloutId, *, safe_share_bp: int) -> int:
    verdict = a_verdict(generation=surfaces.get(session, HOME_FEED).generation, safe_share_bp=safe_share_bp)
    return evidence.record_verdict(session, rollout_id, verdict, b"inputs", now=NOON, next_check_at=NOON)


def test_within_a_step_a_weight_grows_as_far_as_a_verdict_of_what_serves_now_allows(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_pending_rollout(session, plan=a_plan(adaptive=True))
        scene.walk(session, rollout_id, until=Phase.RAMPING)

        def raised(weight_bp: int, *, verdict_id: int | None) -> Rollout:
            return rollouts.apply_command(
                session,
                rollout_id,
                Command.ADVANCE,
                by="scheduler",
                now=LATER,
                verdict_id=verdict_id,
                weight_bp=weight_bp,
            )

        for verdict_id in (
            a_verdict_with_room(session, rollout_id, safe_share_bp=799),
            scene.a_passing_verdict(session, rollout_id),
        ):
            with pytest.raises(MissingVerdict):
                raised(800, verdict_id=verdict_id)
        after = raised(800, verdict_id=a_verdict_with_room(session, rollout_id, safe_share_bp=800))
        state = surfaces.get(session, HOME_FEED)

    assert (after.step, after.weight_bp, state.candidate_bp) == (0, 800, 800)
    assert (after.stage_generation, after.acknowledged_at) == (state.generation, None)
