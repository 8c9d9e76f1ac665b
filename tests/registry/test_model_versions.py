from dataclasses import replace

import pytest

from control_plane.domain.errors import AlreadyExists, InvalidManifest, UnknownName
from control_plane.domain.model_version import VersionId, digest_of
from control_plane.registry import model_versions, stables
from control_plane.registry.session import Sessions
from tests.builders import HOME_FEED, NOON, VIEW_TYPES, a_manifest, a_version
from tests.registry import scene
from tests.registry.scene import LATER, SEARCH


def test_a_version_comes_back_as_it_was_registered(sessions: Sessions) -> None:
    manifest = a_manifest(config={"towers": [64, 32], "dropout": 0.1})
    with sessions.writing() as session:
        stables.create_surface(session, HOME_FEED, VIEW_TYPES, by="ada", now=NOON)
        model_versions.register(session, manifest, artifact_uri="/artifacts/a", by="ada", now=NOON)

    with sessions.reading() as session:
        record = model_versions.get(session, manifest.version.version_id)

    assert record.manifest == manifest
    assert (record.artifact_uri, record.registered_by, record.registered_at) == ("/artifacts/a", "ada", NOON)
    assert (record.is_aborted, record.quarantined_parts) == (False, ())


def test_the_same_bytes_again_are_the_same_version_in_its_new_place(sessions: Sessions) -> None:
    with sessions.writing() as session:
        stables.create_surface(session, HOME_FEED, VIEW_TYPES, by="ada", now=NOON)
        first = model_versions.register(session, a_manifest(), artifact_uri="/old", by="ada", now=NOON)

        second = model_versions.register(session, a_manifest(), artifact_uri="/new", by="grace", now=LATER)

        assert second == replace(first, artifact_uri="/new")
        assert len(model_versions.list_versions(session)) == 1


def test_the_same_parts_with_another_golden_check_are_refused(sessions: Sessions) -> None:
    with sessions.writing() as session:
        stables.create_surface(session, HOME_FEED, VIEW_TYPES, by="ada", now=NOON)
        model_versions.register(session, a_manifest(), artifact_uri="/a", by="ada", now=NOON)

        with pytest.raises(AlreadyExists):
            model_versions.register(
                session, a_manifest(golden=digest_of(b"easier")), artifact_uri="/a", by="ada", now=NOON
            )


def test_a_version_for_an_unknown_surface_is_refused(sessions: Sessions) -> None:
    with sessions.writing() as session, pytest.raises(UnknownName, match="surface 'home_feed'"):
        scene.registered(session, a_version())


def test_other_inputs_under_the_same_model_name_are_refused(sessions: Sessions) -> None:
    changed = replace(a_version("b"), feature_signature=digest_of(b"one feature more"))
    with sessions.writing() as session:
        stables.create_surface(session, HOME_FEED, VIEW_TYPES, by="ada", now=NOON)
        scene.registered(session, a_version("a"))

        with pytest.raises(InvalidManifest) as refusal:
            scene.registered(session, changed)
        manifest = a_manifest(changed, model_name="unified_2")
        model_versions.register(session, manifest, artifact_uri="/b", by="ada", now=NOON)

    assert refusal.value.field == "digests.feature_signature"


def test_a_view_type_of_the_surface_that_the_model_lacks_is_refused(sessions: Sessions) -> None:
    with sessions.writing() as session:
        stables.create_surface(session, HOME_FEED, VIEW_TYPES, by="ada", now=NOON)

        with pytest.raises(InvalidManifest, match="also serves position_3; the export has position_1, position_2"):
            model_versions.register(
                session, a_manifest(view_types=VIEW_TYPES[:2]), artifact_uri="/a", by="ada", now=NOON
            )


@pytest.mark.parametrize("name", ["with\x00nul", "with\ud800surrogate"])
def test_a_model_name_that_no_database_keeps_is_refused(sessions: Sessions, name: str) -> None:
    with sessions.writing() as session:
        stables.create_surface(session, HOME_FEED, VIEW_TYPES, by="ada", now=NOON)

        with pytest.raises(InvalidManifest, match="printable"):
            model_versions.register(session, a_manifest(model_name=name), artifact_uri="/a", by="ada", now=NOON)


def test_versions_are_listed_by_surface(sessions: Sessions) -> None:
    with sessions.writing() as session:
        here = scene.a_serving_surface(session, a_version("a"))
        there = scene.a_serving_surface(session, a_version("a", surface="search"))

        assert [record.version_id for record in model_versions.list_versions(session, SEARCH)] == [there]
        assert model_versions.known_version_ids(session) == {here, there}


def test_an_unknown_version_is_named(sessions: Sessions) -> None:
    with sessions.reading() as session, pytest.raises(UnknownName, match="version 'f00d'"):
        model_versions.get(session, VersionId("f00d"))
