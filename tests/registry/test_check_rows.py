"""What is read for many checks at once is what is read for each alone, and takes no more statements."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from control_plane.domain.errors import UnknownName
from control_plane.domain.model_version import Surface
from control_plane.domain.moments import ServingCounts
from control_plane.domain.rollout import Phase, RolloutId
from control_plane.registry import check_rows, freezes, gates, rollouts, runtimes, surfaces
from control_plane.registry.check_rows import CheckRows
from control_plane.registry.runtimes import Heartbeat
from control_plane.registry.session import Sessions
from tests.builders import HOME_FEED, NOON, a_version
from tests.registry import scene
from tests.registry.scene import LATER, RELATED_PINS, SEARCH


@contextmanager
def statements(sessions: Sessions) -> Iterator[list[str]]:
    sent: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        sent.append(statement)

    event.listen(sessions.engine, "before_cursor_execute", note)
    yield sent
    event.remove(sessions.engine, "before_cursor_execute", note)


def a_rollout_on(session: Session, surface: Surface, phase: Phase) -> RolloutId:
    scene.a_serving_surface(session, a_version("a", surface=surface))
    return scene.a_rollout_in(session, phase, a_version("b", surface=surface))


def a_beating_runtime(session: Session, runtime_id: str, *names: Surface, seen_ago: timedelta, scores: int) -> None:
    states = [surfaces.get(session, name) for name in names]
    loaded = tuple(version for state in states for version in (state.stable, state.candidate) if version is not None)
    beat = Heartbeat(
        runtime_id=runtime_id,
        generations={state.surface: state.generation for state in states},
        loaded=loaded,
        counts={version: ServingCounts(scores=scores, features=scores, latency_bins=(1, scores)) for version in loaded},
        shadow_dropped=2,
        splits_mode="stream",
    )
    runtimes.record_heartbeat(session, beat, now=LATER, seen_at=LATER - seen_ago)


@pytest.fixture
def rollout_ids(sessions: Sessions) -> list[RolloutId]:
    """In three phases on three surfaces, one of which is frozen; two live runtimes, and one that is gone."""
    with sessions.writing() as session:
        phases = {HOME_FEED: Phase.RAMPING, SEARCH: Phase.PENDING, RELATED_PINS: Phase.HELD}
        ids = [a_rollout_on(session, surface, phase) for surface, phase in phases.items()]
        freezes.declare(session, SEARCH, by="ann", reason="holidays", now=NOON)
        a_beating_runtime(session, "one", HOME_FEED, SEARCH, seen_ago=timedelta(), scores=3)
        a_beating_runtime(session, "two", HOME_FEED, RELATED_PINS, seen_ago=timedelta(minutes=1), scores=5)
        a_beating_runtime(session, "gone", *phases, seen_ago=timedelta(hours=9), scores=7)
    return ids


def read(session: Session, rollout_ids: list[RolloutId]) -> dict[RolloutId, CheckRows]:
    found = check_rows.read(session, rollout_ids, now=LATER, live_since=NOON)
    return {one: rows for one, rows in found.items() if isinstance(rows, CheckRows)}


def test_each_rollouts_rows_are_those_that_it_has_alone(sessions: Sessions, rollout_ids: list[RolloutId]) -> None:
    with sessions.reading() as session:
        found = read(session, rollout_ids)

        for rollout_id in rollout_ids:
            rollout, rows = rollouts.get(session, rollout_id), found[rollout_id]
            state = surfaces.get(session, rollout.surface)
            assert (rows.rollout, rows.state) == (rollout, state)
            assert rows.readiness == gates.readiness(session, rollout, now=LATER, live_since=NOON)
            assert rows.health == runtimes.health(session, state, rollout.stable, rollout.candidate, live_since=NOON)
            first = max(1, rollout.first_generation)
            assert rows.shares == surfaces.shares_since(session, rollout.surface, first)
    assert [bool(rows.readiness.frozen) for rows in found.values()] == [False, True, False]
    assert found[rollout_ids[0]].health.live_runtimes == 2
    assert found[rollout_ids[0]].shares


def test_many_take_the_statements_of_one(sessions: Sessions, rollout_ids: list[RolloutId]) -> None:
    ramping, _, held = rollout_ids
    with sessions.reading() as session, statements(sessions) as of_one:
        read(session, [ramping])
    with sessions.reading() as session, statements(sessions) as of_both:
        read(session, [ramping, held])

    assert len(of_both) == len(of_one) < 10


def test_one_that_is_not_there_or_cannot_be_read_does_not_keep_the_others(
    sessions: Sessions, rollout_ids: list[RolloutId]
) -> None:
    damaged, *sound = rollout_ids
    with sessions.writing() as session:
        session.execute(text("UPDATE rollout SET phase = 'nonsense' WHERE rollout_id = :one"), {"one": damaged})

    with sessions.reading() as session:
        found = check_rows.read(session, [damaged, RolloutId(404), *sound], now=LATER, live_since=NOON)

    assert isinstance(found[damaged], ValueError)
    assert isinstance(found[RolloutId(404)], UnknownName)
    assert all(isinstance(found[one], CheckRows) for one in sound)


def test_plans_that_ask_nothing_of_other_systems_are_left_out_unread(
    sessions: Sessions, rollout_ids: list[RolloutId]
) -> None:
    asking, damaged, _ = rollout_ids
    with sessions.writing() as session:
        for rollout_id, plan in ((asking, '{"external": [{"name": "errors"}]}'), (damaged, "[]")):
            session.execute(
                text("UPDATE rollout SET plan = :plan WHERE rollout_id = :one"), {"plan": plan, "one": rollout_id}
            )

    with sessions.reading() as session:
        assert check_rows.with_external_metrics(session, rollout_ids) == [asking]
