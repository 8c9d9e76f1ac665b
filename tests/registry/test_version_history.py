"""What a registration leaves behind: a chain of each version's own, which no surface's generations know of."""

from dataclasses import replace
from datetime import datetime

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from control_plane.domain.manifest import FittedOn, Manifest
from control_plane.domain.model_version import VersionId
from control_plane.registry import history, model_versions, surfaces, version_history
from control_plane.registry.session import Sessions
from tests.builders import HOME_FEED, NOON, a_manifest, a_version
from tests.registry import scene
from tests.registry.scene import LATER
from tests.registry.tampering import tampering

VERSION = a_version("b")


def registered(
    session: Session,
    uri: str = "/artifacts/b",
    *,
    by: str = "training",
    now: datetime = NOON,
    manifest: Manifest | None = None,
) -> VersionId:
    manifest = manifest or a_manifest(VERSION)
    return model_versions.register(session, manifest, artifact_uri=uri, by=by, now=now).version_id


def told(session: Session) -> list[tuple[int, str, str, str]]:
    found = version_history.list_entries(session, VERSION.version_id)
    return [(entry.seq, entry.command, entry.by, entry.artifact_uri) for entry in found]


def test_a_registration_is_an_entry_and_no_generation_of_its_surface(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        before = surfaces.get(session, HOME_FEED)

        registered(session)

        assert told(session) == [(0, "register", "training", "/artifacts/b")]
        assert version_history.list_entries(session, VERSION.version_id)[0].at == NOON
        assert surfaces.get(session, HOME_FEED) == before
        assert history.verify(session) == []


def test_the_same_bytes_again_leave_nothing_and_from_elsewhere_another_entry(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        registered(session)

        registered(session, by="retry")
        registered(session, "/mnt/b", by="grace", now=LATER)

        assert told(session) == [(0, "register", "training", "/artifacts/b"), (1, "move", "grace", "/mnt/b")]
        assert history.verify(session) == []


def test_what_a_manifest_tells_more_is_an_entry_too(sessions: Sessions) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        registered(session)
        tie = FittedOn(trunk=VERSION.trunk, surface_export=VERSION.surface_export)

        registered(session, manifest=replace(a_manifest(VERSION), fitted_on=tie))
        first, second = version_history.list_entries(session, VERSION.version_id)

        assert first.manifest_digest != second.manifest_digest
        assert history.verify(session) == []


@pytest.mark.parametrize("change", ["UPDATE version_history SET by = 'nobody'", "DELETE FROM version_history"])
def test_the_database_refuses_to_rewrite_it(sessions: Sessions, change: str) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        registered(session)

    with pytest.raises(IntegrityError, match="append-only"), sessions.writing() as session:
        session.execute(text(change))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("UPDATE version_history SET by = 'nobody' WHERE seq = 0", "entry 0 of its history was altered"),
        ("DELETE FROM version_history WHERE seq = 0", "entry 1 of its history does not follow the one before"),
        ("DELETE FROM version_history WHERE seq = 1", "it is not what its history ends with"),
        ("DELETE FROM version_history", "has no history"),
        ("UPDATE model_version SET artifact_uri = '/tmp/evil'", "it is not what its history ends with"),
    ],
)
def test_whoever_gets_past_that_is_found_by_verify(sessions: Sessions, change: str, problem: str) -> None:
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        registered(session)
        registered(session, "/mnt/b")

    with tampering(sessions) as session:
        only = f"{'AND' if 'WHERE' in change else 'WHERE'} version_id = :version_id"
        session.execute(text(f"{change} {only}"), {"version_id": VERSION.version_id})

    with sessions.reading() as session:
        assert history.verify(session) == [f"version {VERSION.version_id}: {problem}"]
