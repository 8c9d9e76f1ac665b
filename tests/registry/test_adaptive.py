"""Raises within a step: written only on a verdict of what serves now that surely allows them."""

import json
from datetime import timedelta

import pytest
from sqlalchemy.orm import Session

from control_plane.domain import event_types
from control_plane.domain.errors import IllegalTransition, MissingVerdict
from control_plane.domain.rollout import Command, Phase, Rollout, RolloutId
from control_plane.domain.verdict import Outcome, Rule
from control_plane.registry import evidence, history, outbox, rollouts, surfaces
from control_plane.registry.session import Sessions
from tests.builders import HOME_FEED, a_plan, a_verdict
from tests.registry import scene
from tests.registry.scene import LATER


def an_adaptive_ramp(session: Session) -> RolloutId:
    """At 1 %, with 25 % next."""
    scene.a_serving_surface(session)
    rollout_id = scene.a_pending_rollout(session, plan=a_plan(adaptive=True))
    scene.walk(session, rollout_id, until=Phase.RAMPING)
    return rollout_id


def allowed(session: Session, rollout_id: RolloutId, safe_share_bp: int | None, *, behind: int = 0) -> int:
    generation = surfaces.get(session, HOME_FEED).generation - behind
    verdict = a_verdict(Outcome.HOLD, rule=Rule.NOT_SHOWN_SAFE, generation=generation, safe_share_bp=safe_share_bp)
    return evidence.record_verdict(session, rollout_id, verdict, b"inputs", now=LATER, next_check_at=LATER)


def raised(session: Session, rollout_id: RolloutId, weight_bp: int, verdict_id: int | None) -> Rollout:
    return rollouts.apply_command(
        session, rollout_id, Command.ADVANCE, by="ada", now=LATER, verdict_id=verdict_id, weight_bp=weight_bp
    )


def test_a_raise_is_a_new_stage_of_the_same_step(sessions: Sessions) -> None:
    with sessions.writing() as session:
        rollout_id = an_adaptive_ramp(session)
        before = surfaces.get(session, HOME_FEED)

        raised(session, rollout_id, 700, allowed(session, rollout_id, 700))

    with sessions.reading() as session:
        rollout, after = rollouts.get(session, rollout_id), surfaces.get(session, HOME_FEED)
        assert (rollout.phase, rollout.step, rollout.candidate_bp) == (Phase.RAMPING, 0, 700)
        assert (rollout.entered_at, rollout.acknowledged_at) == (LATER, None)
        assert (after.generation, after.candidate_bp) == (before.generation + 1, 700)
        assert rollout.stage_generation == after.generation
        assert (after.salt, after.lease_renewed_at) == (before.salt, LATER)
        assert surfaces.shares_since(session, HOME_FEED, after.generation) == {after.generation: 700}
        entry = history.list_history(session, HOME_FEED, 1)[0]
        assert (entry.command, entry.verdict_id is not None) == ("advance", True)
        assert history.verify(session) == []


@pytest.mark.parametrize("safe_share_bp", [None, 0, 699])
def test_a_raise_beyond_what_the_verdict_allows_is_refused(sessions: Sessions, safe_share_bp: int | None) -> None:
    with sessions.writing() as session:
        rollout_id = an_adaptive_ramp(session)
        verdict_id = allowed(session, rollout_id, safe_share_bp)

        with pytest.raises(MissingVerdict):
            raised(session, rollout_id, 700, verdict_id)


def test_a_raise_on_what_was_judged_before_the_last_change_is_refused(sessions: Sessions) -> None:
    with sessions.writing() as session:
        rollout_id = an_adaptive_ramp(session)

        with pytest.raises(MissingVerdict):
            raised(session, rollout_id, 700, allowed(session, rollout_id, 700, behind=1))


def test_a_raise_beyond_the_plans_next_step_is_refused(sessions: Sessions) -> None:
    with sessions.writing() as session:
        rollout_id = an_adaptive_ramp(session)

        with pytest.raises(IllegalTransition):
            raised(session, rollout_id, 2_501, allowed(session, rollout_id, 10_000))


def test_a_raised_rollout_is_held_resumed_and_rolled_back_like_any_other(sessions: Sessions) -> None:
    with sessions.writing() as session:
        rollout_id = an_adaptive_ramp(session)
        raised(session, rollout_id, 700, allowed(session, rollout_id, 700))

        held = scene.commanded(session, rollout_id, Command.HOLD, now=LATER)
        kept = surfaces.get(session, HOME_FEED).candidate_bp
        resumed = scene.commanded(session, rollout_id, Command.RESUME, now=LATER)
        scene.commanded(session, rollout_id, Command.ROLL_BACK, now=LATER)

        assert (held.candidate_bp, kept, resumed.candidate_bp) == (700, 700, 700)
        assert surfaces.get(session, HOME_FEED).candidate_bp == 0


def test_leaving_the_step_takes_the_plans_own_next_weight(sessions: Sessions) -> None:
    with sessions.writing() as session:
        rollout_id = an_adaptive_ramp(session)
        raised(session, rollout_id, 700, allowed(session, rollout_id, 700))
        verdict_id = scene.a_passing_verdict(session, rollout_id, now=LATER + timedelta(hours=1))

        rollout = scene.commanded(session, rollout_id, Command.ADVANCE, now=LATER, verdict_id=verdict_id)

        assert (rollout.step, rollout.candidate_bp, surfaces.get(session, HOME_FEED).candidate_bp) == (1, 2_500, 2_500)


def test_a_raise_is_told_as_one_and_with_its_weight(sessions: Sessions) -> None:
    with sessions.writing() as session:
        rollout_id = an_adaptive_ramp(session)
        verdict_id = allowed(session, rollout_id, 700)

        raised(session, rollout_id, 700, verdict_id)
        told = [json.loads(entry.event) for entry in outbox.read(session)][-1]

        assert (told["type"], told["data"]["phase"]) == ("surefoot.rollout.raised", "ramping")
        assert (told["data"]["candidate_bp"], told["data"]["verdict_id"]) == (700, verdict_id)
        assert event_types.matches("surefoot.rollout.*", told["type"])
