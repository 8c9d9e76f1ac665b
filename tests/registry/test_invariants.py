"""What must always be true, after any sequence of deeds, those that are refused included."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, event
from sqlalchemy.orm import Session

from control_plane.domain.errors import ControlPlaneError
from control_plane.domain.model_version import ModelVersion, Part, Surface
from control_plane.domain.rollout import ACTIVE, Command
from control_plane.domain.split import FULL_TRAFFIC_BP
from control_plane.domain.verdict import Outcome
from control_plane.registry import history, model_versions, rollouts, surfaces
from control_plane.registry.session import Sessions, make_engine
from tests.builders import HOME_FEED, NOON, a_plan, a_version
from tests.registry import scene
from tests.registry.scene import SEARCH

SURFACES = (HOME_FEED, SEARCH)
VERSIONS = {  # on each surface; every trunk is on both, and two versions share one
    surface: (
        a_version("first", surface=surface, trunk="old"),
        a_version("second", surface=surface, trunk="new"),
        a_version("third", surface=surface, trunk="new"),
        a_version("fourth", surface=surface, trunk="newest"),
    )
    for surface in SURFACES
}


@dataclass(frozen=True)
class Create:
    version: ModelVersion

    def do(self, session: Session) -> None:
        rollouts.create(session, self.version.surface, self.version.version_id, a_plan(), by="ada", now=NOON)


@dataclass(frozen=True)
class Adopt:
    version: ModelVersion

    def do(self, session: Session) -> None:
        scene.adopted(session, self.version.version_id, surface=self.version.surface)


@dataclass(frozen=True)
class Order:
    """A command to the surface's latest rollout."""

    surface: Surface
    command: Command
    outcome: Outcome | None
    reason: str
    generations_behind: int

    def do(self, session: Session) -> None:
        for rollout in rollouts.list_rollouts(session, surface=self.surface)[:1]:
            stored = None if self.outcome is None else scene.a_stored_verdict(session, rollout.rollout_id, self.outcome)
            rollouts.apply_command(
                session,
                rollout.rollout_id,
                self.command,
                by="ada",
                now=NOON,
                reason=self.reason,
                verdict_id=stored,
                seen_generation=surfaces.get(session, self.surface).generation - self.generations_behind,
                quarantine_parts=(Part.TRUNK,) if self.reason else (),
            )


@dataclass(frozen=True)
class Press:
    surface: Surface

    def do(self, session: Session) -> None:
        rollouts.roll_back_surface(session, self.surface, by="on-call", reason="", now=NOON)


@dataclass(frozen=True)
class Quarantine:
    version: ModelVersion
    part: Part

    def do(self, session: Session) -> None:
        digest = self.version.digest_of_part(self.part)
        rollouts.quarantine(session, digest, by="on-call", reason="bad", now=NOON)


@dataclass(frozen=True)
class Release:
    version: ModelVersion
    part: Part

    def do(self, session: Session) -> None:
        digest = self.version.digest_of_part(self.part)
        rollouts.release_quarantine(session, digest, by="ada", reason="", now=NOON)


Deed = Create | Adopt | Order | Press | Quarantine | Release
surface_names = st.sampled_from(SURFACES)
versions = surface_names.flatmap(lambda surface: st.sampled_from(VERSIONS[surface]))
parts = st.sampled_from([Part.TRUNK, Part.CALIBRATOR])
orders = st.builds(
    Order,
    surface=surface_names,
    command=st.sampled_from(Command),
    outcome=st.sampled_from([None, *Outcome]),
    reason=st.sampled_from(["", "because"]),
    generations_behind=st.sampled_from([0, 0, 0, 1]),
)
forward = st.builds(
    Order,
    surface=surface_names,
    command=st.sampled_from([Command.START, Command.ADVANCE]),
    outcome=st.just(Outcome.ADVANCE),
    reason=st.just(""),
    generations_behind=st.just(0),
)
deeds: st.SearchStrategy[Deed] = st.one_of(
    st.builds(Create, versions),
    forward,
    forward,
    orders,
    st.builds(Adopt, versions),
    st.builds(Press, surface_names),
    st.builds(Quarantine, versions, parts),
    st.builds(Release, versions, parts),
)


@given(sequence=st.lists(deeds, min_size=5, max_size=30))
@settings(max_examples=30, deadline=None)
def test_invariants_hold_after_every_deed(sqlite_template: Path, sequence: list[Deed]) -> None:
    with a_registry(sqlite_template) as sessions:
        for deed in sequence:
            try:
                with sessions.writing() as session:
                    before = everything(session)
                    deed.do(session)
            except ControlPlaneError:
                with sessions.reading() as session:
                    assert everything(session) == before, f"{deed} was refused, and changed something"
            with sessions.reading() as session:
                check_surfaces(session)
                check_histories(session)


@contextmanager
def a_registry(template: Path) -> Iterator[Sessions]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "registry.db"
        shutil.copy(template, path)
        engine = make_engine(f"sqlite:///{path}")
        _do_not_wait_for_the_disk(engine)
        sessions = Sessions(engine)
        with sessions.writing() as session:
            for surface in SURFACES:
                first, *others = VERSIONS[surface]
                scene.a_serving_surface(session, first)
                for version in others:
                    scene.registered(session, version)
        yield sessions
        engine.dispose()


def _do_not_wait_for_the_disk(engine: Engine) -> None:
    event.listen(engine, "connect", lambda connection, _record: connection.execute("PRAGMA synchronous = OFF"))


def everything(session: Session) -> object:
    return (
        surfaces.list_surfaces(session),
        rollouts.list_rollouts(session),
        rollouts.list_quarantined(session),
        model_versions.list_versions(session),
        len(history.list_history(session, limit=10_000)),
    )


def check_surfaces(session: Session) -> None:
    active = {rollout.surface: rollout for rollout in rollouts.list_rollouts(session) if rollout.phase in ACTIVE}
    may_serve = {
        record.version_id
        for record in model_versions.list_versions(session)
        if not record.is_aborted and not record.quarantined_parts
    }
    for state in surfaces.list_surfaces(session):
        split = state.split(now=NOON)
        assert split is not None
        assert sum(split.weights_bp.values()) == FULL_TRAFFIC_BP
        assert {state.stable, state.candidate or state.stable, state.shadow or state.stable} <= may_serve
        rollout = active.get(state.surface)
        assert state.rollout_id == (None if rollout is None else rollout.rollout_id)
        assert state.candidate_bp == (0 if rollout is None else rollout.candidate_bp)
        assert state.candidate in (None, None if rollout is None else rollout.candidate)


def check_histories(session: Session) -> None:
    assert history.verify(session) == []
    for state in surfaces.list_surfaces(session):
        entries = history.list_history(session, state.surface, limit=10_000)[::-1]
        assert [entry.seq for entry in entries] == list(range(state.generation + 1))
        for _, entry in pairwise(entries):
            grew = json.loads(entry.after)["candidate_bp"] - json.loads(entry.before)["candidate_bp"]
            assert grew <= 0 or (entry.command == "advance" and (entry.verdict_id is not None or entry.reason))
