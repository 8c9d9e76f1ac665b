from datetime import timedelta

import pytest

from control_plane.domain.model_version import Surface, VersionId
from control_plane.domain.rollout import Command, Phase
from control_plane.domain.verdict import Outcome
from control_plane.registry import evidence, history, model_versions, rollouts, surfaces
from control_plane.registry.session import Sessions
from tests.builders import HOME_FEED, NOON, VIEW_TYPES, a_manifest, a_plan, a_verdict, a_version


def test_a_candidate_walks_to_stable(sessions: Sessions) -> None:
    with sessions.writing() as s:
        rollouts.create_surface(s, HOME_FEED, VIEW_TYPES, by="ada", now=NOON)
        a = model_versions.register(s, a_manifest(a_version("a")), artifact_uri="/a", by="ada", now=NOON).version_id
        b = model_versions.register(s, a_manifest(a_version("b")), artifact_uri="/b", by="ada", now=NOON).version_id
        state = rollouts.adopt(s, HOME_FEED, a, seen_generation=0, by="ada", reason="first", now=NOON)
        assert state.generation == 1
        rollout = rollouts.create(s, HOME_FEED, b, a_plan(), by="ada", now=NOON)
        rollouts.apply_command(s, rollout.rollout_id, Command.START, by="ada", now=NOON)
        rollouts.apply_command(s, rollout.rollout_id, Command.ADVANCE, by="ada", now=NOON)
    for _ in range(4):
        with sessions.writing() as s:
            g = surfaces.get(s, HOME_FEED).generation
            v = evidence.record_verdict(
                s, rollout.rollout_id, a_verdict(Outcome.ADVANCE, generation=g), b"x", now=NOON, next_check_at=NOON
            )
            r = rollouts.apply_command(s, rollout.rollout_id, Command.ADVANCE, by="ada", now=NOON, verdict_id=v)
    with sessions.reading() as s:
        st = surfaces.get(s, HOME_FEED)
        assert (st.stable, st.last_proven, st.candidate) == (b, a, None)
        assert history.verify(s) == []
