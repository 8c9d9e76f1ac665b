from datetime import timedelta

import pytest
from sqlalchemy import func, select

from control_plane.domain.errors import Deposed, UnknownName
from control_plane.domain.rollout import Command, Phase, RolloutId
from control_plane.domain.verdict import Answer, Finding, Outcome, Rule
from control_plane.registry import evidence, rollouts, surfaces
from control_plane.registry.session import Sessions
from control_plane.registry.tables import VerdictInputsRow
from tests.builders import HOME_FEED, NOON, a_plan, a_verdict
from tests.registry import scene
from tests.registry.scene import LATER


def test_a_verdict_comes_back_with_what_the_judge_saw(sessions: Sessions) -> None:
    finding = Finding(metric="ctr", segment="*", answer=Answer.UNDECIDED, gates=True, effect=0.1 + 0.2)
    verdict = a_verdict(findings=(finding,))
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, Phase.SHADOW)
        verdict_id = evidence.record_verdict(session, rollout_id, verdict, b"\x00\xff", now=NOON, next_check_at=LATER)

    with sessions.reading() as session:
        stored = evidence.get_verdict(session, verdict_id)

        assert (stored.rollout_id, stored.at) == (rollout_id, NOON)
        assert stored.verdict.to_json() == verdict.to_json()
        assert evidence.inputs(session, verdict_id) == b"\x00\xff"
        assert rollouts.due(session, now=NOON) == []
        assert rollouts.due(session, now=LATER) == [rollout_id]


def test_equal_inputs_are_kept_once(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_pending_rollout(session)
        for _ in range(3):
            evidence.record_verdict(session, rollout_id, a_verdict(), b"same", now=NOON, next_check_at=NOON)

        assert session.scalar(select(func.count()).select_from(VerdictInputsRow)) == 1
        assert len(evidence.list_verdicts(session, rollout_id, 2)) == 2


def test_the_latest_verdict_is_the_last_recorded(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_pending_rollout(session)
        assert evidence.latest(session, rollout_id) is None

        scene.a_stored_verdict(session, rollout_id, Outcome.HOLD)
        last = scene.a_stored_verdict(session, rollout_id, Outcome.ROLL_BACK)

        latest = evidence.latest(session, rollout_id)
        assert latest is not None
        assert latest.verdict_id == last


def test_a_completed_check_renews_the_candidates_lease(sessions: Sessions) -> None:
    plan = a_plan()
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, Phase.RAMPING)
        unwatched = NOON + timedelta(seconds=plan.unwatched_seconds / 2)

        before = surfaces.splits(session, now=unwatched)[HOME_FEED]
        scene.a_stored_verdict(session, rollout_id, Outcome.HOLD, now=unwatched)
        after = surfaces.splits(session, now=unwatched)[HOME_FEED]
        long_after = surfaces.splits(session, now=unwatched + timedelta(days=1))[HOME_FEED]

    assert before.unwatched_seconds_left == plan.unwatched_seconds / 2
    assert after.unwatched_seconds_left == plan.unwatched_seconds
    assert (after.generation, long_after.unwatched_seconds_left) == (before.generation, 0)


def test_a_check_that_failed_renews_nothing(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, Phase.RAMPING)

        evidence.record_verdict(session, rollout_id, a_verdict(rule=Rule.ERROR), b"", now=LATER, next_check_at=LATER)

        assert surfaces.get(session, HOME_FEED).lease_renewed_at == NOON


def test_a_verdict_out_of_order_takes_no_time_from_the_lease(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, Phase.RAMPING)

        scene.a_stored_verdict(session, rollout_id, Outcome.HOLD, now=NOON - timedelta(hours=1))

        assert surfaces.get(session, HOME_FEED).lease_renewed_at == NOON


def test_a_verdict_on_a_finished_rollout_neither_renews_nor_schedules(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, Phase.RAMPING)
        scene.commanded(session, rollout_id, Command.ROLL_BACK)

        scene.a_stored_verdict(session, rollout_id, Outcome.HOLD, now=LATER)

        assert surfaces.get(session, HOME_FEED).lease_renewed_at is None
        assert rollouts.due(session, now=LATER) == []


def test_resuming_does_not_count_as_a_check(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_rollout_in(session, Phase.HELD)

        scene.commanded(session, rollout_id, Command.RESUME, now=LATER)

        assert surfaces.get(session, HOME_FEED).lease_renewed_at == NOON
        assert rollouts.due(session, now=LATER) == [rollout_id], "so that a check follows at once"


def test_a_deposed_schedulers_verdict_is_not_kept(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_pending_rollout(session)

    with pytest.raises(Deposed), sessions.writing() as session:
        evidence.record_verdict(session, rollout_id, a_verdict(), b"", now=NOON, next_check_at=NOON, epoch=7)

    with sessions.reading() as session:
        assert evidence.latest(session, rollout_id) is None


def test_a_verdict_on_nothing_is_refused(sessions: Sessions) -> None:
    with sessions.writing() as session:
        with pytest.raises(UnknownName, match="rollout '404'"):
            evidence.record_verdict(session, RolloutId(404), a_verdict(), b"", now=NOON, next_check_at=NOON)
        with pytest.raises(UnknownName, match="verdict '404'"):
            evidence.get_verdict(session, 404)
