"""What must always be true, after any sequence of deeds, those that are refused included."""

import json
import random
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, event
from sqlalchemy.orm import Session

from control_plane.domain.errors import ControlPlaneError
from control_plane.domain.model_version import ModelVersion, Part, Surface
from control_plane.domain.rollout import ACTIVE, Command, OnBusy, Phase
from control_plane.domain.split import FULL_TRAFFIC_BP
from control_plane.domain.verdict import Outcome
from control_plane.registry import arrivals, evidence, history, model_versions, rollouts, stables, surfaces
from control_plane.registry.session import Sessions, make_engine
from tests.builders import HOME_FEED, NOON, a_plan, a_version
from tests.registry import scene
from tests.registry.scene import SEARCH

SURFACES = (HOME_FEED, SEARCH)
VERSIONS = {  # every trunk is on both surfaces, and two or three versions share one
    surface: tuple(a_version(f"v{number}", surface=surface, trunk=f"trunk {number // 3}") for number in range(14))
    for surface in SURFACES
}


@dataclass(frozen=True)
class Create:
    version: ModelVersion

    on_busy: OnBusy = OnBusy.REJECT

    def do(self, session: Session) -> None:
        arrivals.create(
            session,
            self.version.surface,
            self.version.version_id,
            a_plan(),
            by="ada",
            now=NOON,
            on_busy=self.on_busy,
        )


@dataclass(frozen=True)
class Dequeue:
    surface: Surface

    def do(self, session: Session) -> None:
        arrivals.dequeue(session, self.surface, now=NOON)


@dataclass(frozen=True)
class Restart:
    """Of the surface's latest rollout."""

    surface: Surface
    reason: str

    def do(self, session: Session) -> None:
        for rollout in rollouts.list_rollouts(session, surface=self.surface)[:1]:
            rollouts.restart(
                session,
                rollout.rollout_id,
                plan=a_plan(name="other"),
                by="ada",
                reason=self.reason,
                now=NOON,
                seen_generation=None,
            )


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
class Walk:
    """Start and advance on passing verdicts, some way."""

    surface: Surface
    steps: int

    def do(self, session: Session) -> None:
        for _ in range(self.steps):
            for rollout in rollouts.list_rollouts(session, surface=self.surface, active_only=True):
                pending = rollout.phase is Phase.PENDING
                passing = None if pending else scene.a_passing_verdict(session, rollout.rollout_id)
                command = Command.START if pending else Command.ADVANCE
                scene.commanded(session, rollout.rollout_id, command, verdict_id=passing)


@dataclass(frozen=True)
class Press:
    surface: Surface

    def do(self, session: Session) -> None:
        stables.roll_back_surface(session, self.surface, by="on-call", reason="", now=NOON)


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


Deed = Create | Dequeue | Restart | Adopt | Order | Walk | Press | Quarantine | Release
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
creations = st.builds(Create, versions, st.sampled_from(OnBusy))
walks = st.builds(Walk, surface_names, st.integers(1, 7))
deeds: st.SearchStrategy[Deed] = st.one_of(
    creations,
    creations,
    walks,
    walks,
    orders,
    orders,
    st.builds(Adopt, versions),
    st.builds(Dequeue, surface_names),
    st.builds(Restart, surface_names, st.sampled_from(["", "because"])),
    st.builds(Press, surface_names),
    st.builds(Quarantine, versions, parts),
    st.builds(Release, versions, parts),
)


@given(sequence=st.lists(deeds, min_size=10, max_size=30))
@settings(max_examples=15, deadline=None)
def test_invariants_hold_after_every_deed(sqlite_template: Path, sequence: list[Deed]) -> None:
    with a_registry(sqlite_template) as sessions:
        live(sessions, sequence)


@pytest.mark.parametrize("seed", range(4))
def test_invariants_hold_over_a_long_life(sqlite_template: Path, seed: int) -> None:
    """What Hypothesis rarely writes: lives that reach far, with rollouts that finish and are taken back."""
    chance = random.Random(seed)
    with a_registry(sqlite_template) as sessions:
        live(sessions, (a_deed(chance) for _ in range(100)))


def a_deed(chance: random.Random) -> Deed:
    surface = chance.choice(SURFACES)
    version, part = chance.choice(VERSIONS[surface]), chance.choice([Part.TRUNK, Part.CALIBRATOR])
    order = Order(
        surface=surface,
        command=chance.choice(list(Command)),
        outcome=chance.choice([None, *Outcome]),
        reason=chance.choice(["", "", "because"]),
        generations_behind=chance.choice([0, 0, 0, 1]),
    )
    choices: tuple[Deed, ...] = (
        Create(version, chance.choice(list(OnBusy))),
        Walk(surface, chance.randint(1, 7)),
        order,
        Dequeue(surface),
        Restart(surface, "because"),
        Adopt(version),
        Press(surface),
        Quarantine(version, part),
        Release(version, part),
    )
    return chance.choices(choices, weights=(25, 25, 25, 10, 3, 5, 3, 3, 14))[0]


def live(sessions: Sessions, sequence: Iterable[Deed]) -> None:
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
    with sessions.reading() as session:
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
        taken_back: set[str] = set()
        for entry in entries[1:]:
            before, after = json.loads(entry.before), json.loads(entry.after)
            assert not taken_back & {after["stable"], after["candidate"], after["shadow"]}
            was_queued = before.get("rollout", {}).get("phase") == Phase.QUEUED
            if entry.command in ("roll_back", "abort") and not was_queued:
                taken_back |= {before["candidate"], before["shadow"]} - {None}
                taken_back |= {before["stable"]} - {after["stable"]}
            grew = after["candidate_bp"] - before["candidate_bp"]
            assert grew <= 0 or may_grow(session, entry)


def may_grow(session: Session, entry: history.Entry) -> bool:
    """On a passing verdict, or by a person's skip with its reason."""
    match entry.command:
        case "advance":
            return passed(session, entry)
        case "skip":
            return bool(entry.reason)
        case _:
            return False


def passed(session: Session, entry: history.Entry) -> bool:
    if entry.verdict_id is None:
        return False
    stored = evidence.get_verdict(session, entry.verdict_id)
    return (stored.verdict.outcome, stored.verdict.generation, stored.rollout_id) == (
        Outcome.ADVANCE,
        entry.seq - 1,
        entry.rollout_id,
    )
