"""Rollouts in which weights and inputs stay and only the calibrator differs."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from sqlalchemy.orm import Session

from control_plane.domain.decision import parts_to_quarantine
from control_plane.domain.errors import AlreadyExists, CalibratorMismatch
from control_plane.domain.manifest import FittedOn, Manifest
from control_plane.domain.model_version import ModelVersion, Part, digest_of
from control_plane.domain.rollout import Command, Phase, RolloutId
from control_plane.domain.verdict import Blame, Outcome, Rule
from control_plane.registry import arrivals, history, model_versions, rollouts, stables, surfaces
from control_plane.registry.session import Sessions
from tests.builders import HOME_FEED, NOON, VIEW_TYPES, a_manifest, a_plan, a_verdict, a_version
from tests.registry import scene
from tests.registry.scene import LATER, SEARCH

STABLE = a_version("a")
RECALIBRATED = replace(STABLE, calibrator=digest_of(b"fitted anew"))


def tied(version: ModelVersion, to: ModelVersion | None = None) -> Manifest:
    weights = to or version
    return a_manifest(version, fitted_on=FittedOn(trunk=weights.trunk, surface_export=weights.surface_export))


def registered(session: Session, manifest: Manifest) -> None:
    model_versions.register(session, manifest, artifact_uri="/artifacts", by="ada", now=NOON)


def a_calibrator_only_rollout(session: Session) -> RolloutId:
    """Ramping, beside a search rollout on the very same trunk."""
    scene.a_serving_surface(session, STABLE)
    scene.a_serving_surface(session, a_version("a", surface=SEARCH))
    scene.a_rollout_in(session, Phase.RAMPING, a_version("b", surface=SEARCH))
    return scene.a_rollout_in(session, Phase.RAMPING, RECALIBRATED)


def test_a_calibrator_fitted_on_other_weights_is_not_registered(sessions: Sessions) -> None:
    with sessions.writing() as session:
        stables.create_surface(session, HOME_FEED, VIEW_TYPES, by="ada", now=NOON)
        registered(session, tied(STABLE))

        with pytest.raises(CalibratorMismatch, match="was fitted on trunk"):
            registered(session, tied(RECALIBRATED, to=a_version("a", trunk="other")))

        assert RECALIBRATED.version_id not in model_versions.known_version_ids(session)


def test_a_version_registered_before_ties_takes_its_tie_over_and_never_loses_it(sessions: Sessions) -> None:
    with sessions.writing() as session:
        stables.create_surface(session, HOME_FEED, VIEW_TYPES, by="ada", now=NOON)
        registered(session, a_manifest(STABLE))

        registered(session, tied(STABLE))
        registered(session, a_manifest(STABLE))

        assert model_versions.get(session, STABLE.version_id).manifest == tied(STABLE)
        with pytest.raises(AlreadyExists):
            registered(session, replace(tied(STABLE), training_run="another"))


def test_a_rollout_of_the_calibrator_alone_is_told_from_others(sessions: Sessions) -> None:
    with sessions.writing() as session:
        rollout = rollouts.get(session, a_calibrator_only_rollout(session))
        scene.registered(session, a_version("b", trunk="new"))

        assert model_versions.changed_parts(session, before=rollout.stable, after=rollout.candidate) == (
            Part.CALIBRATOR,
        )
        other = model_versions.changed_parts(
            session, before=rollout.stable, after=a_version("b", trunk="new").version_id
        )
        assert other == (Part.TRUNK, Part.SURFACE_EXPORT, Part.CALIBRATOR)


@pytest.mark.parametrize("blame", [Blame.CALIBRATOR, Blame.MODEL])
@pytest.mark.parametrize("rule", [Rule.HARM, Rule.HARD_STOP])
def test_whatever_is_blamed_nothing_but_the_calibrator_is_quarantined(blame: Blame, rule: Rule) -> None:
    verdict = a_verdict(Outcome.ROLL_BACK, rule=rule, blame=blame)

    assert parts_to_quarantine(verdict, candidate=RECALIBRATED, stable=STABLE, proven=()) == (Part.CALIBRATOR,)


@pytest.mark.parametrize("parts", [[Part.CALIBRATOR], [Part.TRUNK, Part.SURFACE_EXPORT, Part.CALIBRATOR]])
def test_rolling_a_calibrator_back_touches_neither_trunk_nor_export(sessions: Sessions, parts: Sequence[Part]) -> None:
    with sessions.writing() as session:
        rollout_id = a_calibrator_only_rollout(session)
        elsewhere = surfaces.get(session, SEARCH)

        rollouts.apply_command(
            session, rollout_id, Command.ROLL_BACK, by="scheduler", now=LATER, reason="harm", quarantine_parts=parts
        )

        assert [held.digest for held in rollouts.list_quarantined(session)] == [RECALIBRATED.calibrator]
        assert surfaces.get(session, SEARCH) == elsewhere
        assert surfaces.get(session, HOME_FEED).stable == STABLE.version_id
        assert model_versions.get(session, STABLE.version_id).quarantined_parts == ()
        assert history.verify(session) == []


def test_the_next_calibrator_of_the_same_weights_may_try(sessions: Sessions) -> None:
    with sessions.writing() as session:
        first = a_calibrator_only_rollout(session)
        rollouts.apply_command(
            session, first, Command.ROLL_BACK, by="scheduler", now=LATER, quarantine_parts=[Part.CALIBRATOR]
        )
        second = replace(STABLE, calibrator=digest_of(b"fitted once more"))
        registered(session, tied(second))

        made = arrivals.create(session, HOME_FEED, second.version_id, a_plan(), by="ada", now=LATER)

        assert made.phase is Phase.PENDING
