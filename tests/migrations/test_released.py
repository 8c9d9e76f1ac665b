"""What a released version wrote is still there after an upgrade, means the same, and goes on."""

from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError

import migrations
from control_plane.domain.model_version import Surface
from control_plane.domain.rollout import Command, Phase, Rollout
from control_plane.domain.verdict import Outcome
from control_plane.guardrails.replay import replay
from control_plane.registry import evidence, history, leases, model_versions, rollouts, surfaces, version_history
from control_plane.registry.session import Sessions, at_head, downgrade, upgrade
from tests.builders import HOME_FEED, NOON
from tests.migrations import released_rows
from tests.registry import scene

SEARCH = Surface("search")
RELATED_PINS = Surface("related_pins")


@pytest.fixture(params=released_rows.REVISIONS)
def revision(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def filled(engine: Engine, revision: str) -> Engine:
    """A registry of a released revision, with everything in it that its version wrote."""
    upgrade(engine, revision)
    released_rows.fill(engine, revision)
    return engine


@pytest.fixture
def sessions(filled: Engine) -> Sessions:
    """The same after an upgrade to the present revision."""
    upgrade(filled)
    return Sessions(filled)


def the_rollout(sessions: Sessions, surface: Surface) -> Rollout:
    with sessions.reading() as session:
        (rollout,) = rollouts.list_rollouts(session, surface=surface, active_only=True)
    return rollout


def test_every_revision_before_the_present_one_has_rows_of_its_own() -> None:
    scripts = ScriptDirectory(str(Path(str(migrations.__file__)).parent))
    released = [script.revision for script in scripts.walk_revisions() if not script.is_head]

    assert sorted(released) == released_rows.REVISIONS


def test_every_table_of_a_released_revision_has_rows(filled: Engine) -> None:
    assert [table for table, rows in released_rows.read(filled).items() if not rows] == []


def test_an_upgrade_loses_and_changes_nothing(filled: Engine) -> None:
    before = released_rows.read(filled)

    upgrade(filled)

    assert at_head(filled)
    after = released_rows.read(filled, columns_of=before)
    assert {table: after[table] for table in before} == before


def test_an_upgrade_can_be_taken_back_with_everything_in_place(filled: Engine, revision: str) -> None:
    before = released_rows.read(filled)

    upgrade(filled)
    downgrade(filled, revision)

    assert released_rows.read(filled) == before
    upgrade(filled)
    assert at_head(filled)


def test_the_history_holds_after_an_upgrade(sessions: Sessions) -> None:
    with sessions.reading() as session:
        assert history.verify(session) == []
        assert history.count(session) > 10


def test_versions_of_before_have_a_history_from_the_upgrade_on(sessions: Sessions) -> None:
    with sessions.reading() as session:
        for record in model_versions.list_versions(session):
            (found,) = version_history.list_entries(session, record.version_id)
            assert (found.command, found.by, found.at) == ("found", record.registered_by, record.registered_at)
            assert found.artifact_uri == record.artifact_uri
            assert found.hash == version_history.hash_of(found)


def test_what_was_written_before_is_append_only_now(sessions: Sessions) -> None:
    with pytest.raises(IntegrityError, match="append-only"), sessions.writing() as session:
        session.execute(text("UPDATE history SET reason = 'nothing to see'"))


def test_verdicts_of_a_released_version_replay_bit_for_bit(sessions: Sessions) -> None:
    rollout_id = the_rollout(sessions, HOME_FEED).rollout_id
    with sessions.reading() as session:
        stored = [
            (v.verdict, evidence.inputs(session, v.verdict_id)) for v in evidence.list_verdicts(session, rollout_id)
        ]

    assert stored != []
    assert all(replay(inputs).to_json() == verdict.to_json() for verdict, inputs in stored)


def test_a_rollout_in_flight_goes_on_under_the_scheduler(sessions: Sessions) -> None:
    before = the_rollout(sessions, HOME_FEED)
    assert (before.phase, before.step) == (Phase.RAMPING, 0)

    with sessions.writing() as session:
        epoch = leases.acquire(session, leases.SCHEDULER, "another host", 15.0)
        generation = surfaces.get(session, HOME_FEED).generation
        after = rollouts.apply_command(
            session,
            before.rollout_id,
            Command.ADVANCE,
            by="scheduler",
            now=NOON,
            seen_generation=generation,
            verdict_id=scene.a_stored_verdict(session, before.rollout_id, Outcome.ADVANCE),
            epoch=epoch,
        )

    with sessions.reading() as session:
        state = surfaces.get(session, HOME_FEED)
        assert (after.step, state.candidate_bp, state.generation) == (1, 5_000, generation + 1)
        assert history.list_history(session, HOME_FEED, 1)[0].evidence_digest is not None
        assert history.verify(session) == []


@pytest.mark.parametrize("surface", [HOME_FEED, SEARCH, RELATED_PINS])
def test_a_rollout_in_flight_can_be_rolled_back(sessions: Sessions, surface: Surface) -> None:
    rollout = the_rollout(sessions, surface)

    with sessions.writing() as session:
        rollouts.apply_command(session, rollout.rollout_id, Command.ROLL_BACK, by="ann", now=NOON)

    with sessions.reading() as session:
        assert surfaces.get(session, surface).candidate_bp == 0
        assert history.verify(session) == []


def test_a_held_rollout_can_be_resumed(sessions: Sessions) -> None:
    held = the_rollout(sessions, SEARCH)
    assert held.phase is Phase.HELD

    with sessions.writing() as session:
        resumed = rollouts.apply_command(session, held.rollout_id, Command.RESUME, by="ann", now=NOON)

    assert resumed.phase is Phase.RAMPING


def test_what_was_rolled_back_before_stays_away(sessions: Sessions) -> None:
    with sessions.reading() as session:
        ended = [r for r in rollouts.list_rollouts(session, surface=SEARCH) if r.phase is Phase.ROLLED_BACK]
        quarantined = rollouts.list_quarantined(session)

    assert len(ended) == 1
    assert [entry.reason for entry in quarantined] == ["wrong checkpoint"]
