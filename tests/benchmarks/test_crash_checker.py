"""The crash run's checker finds what is wrong: each invariant is broken in a copy of a sound registry."""

import shutil
from collections.abc import Collection, Iterator
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import Engine

from benchmarks.crash_run import answers, evidence
from benchmarks.crash_run.answers import Answer, Answers, Asked
from benchmarks.crash_run.checker import Checker
from benchmarks.crash_run.evidence import Worth, worth_of
from benchmarks.crash_run.last_known_good import LastKnownGood
from benchmarks.crash_run.plans import a_plan_mapping
from benchmarks.crash_run.registry import opened
from benchmarks.crash_run.versions import VIEW_TYPES, a_version, register
from benchmarks.crash_run.violation import Violation
from benchmarks.crash_run.wrote import written_down
from control_plane.domain.model_version import ModelVersion, Surface
from control_plane.domain.moments import ServingCounts
from control_plane.domain.plan_mapping import plan_from_mapping
from control_plane.domain.rollout import Command, Phase, RolloutId
from control_plane.domain.split import Split
from control_plane.evidence.event_log import EventLog
from control_plane.registry import arrivals, rollouts, runtimes, stables, surfaces
from control_plane.registry.runtimes import Heartbeat
from control_plane.registry.session import Sessions, make_engine
from control_plane.scheduler import tick
from control_plane.scheduler.metronome import Metronome
from model_runtime.split_client import write_last_known_good
from model_runtime.split_table import Snapshot
from tests.benchmarks.planted import PLANTED
from tests.builders import HOME_FEED, NOON, STABLE

SEARCH = Surface("search")
MINUTES = timedelta(minutes=3)


class Life:
    """A registry with a scheduler over it, in one process: sound rollouts, a harmful one, and people."""

    def __init__(self, sessions: Sessions, folder: Path) -> None:
        self.sessions = sessions
        self.now = NOON
        self.metronome = Metronome(
            sessions,
            EventLog(folder / "events"),
            lambda: self.now,
            tick_seconds=1,
            lease_seconds=60,
            runtime_silent_seconds=1e9,
        )
        self._names = count()

    def live(self) -> None:
        with self.sessions.writing() as session:
            for surface in (HOME_FEED, SEARCH):
                stables.create_surface(session, surface, VIEW_TYPES, by="ann", now=NOON)
                for name in ("first", "second"):
                    stable = register(session, a_version(surface, name, trunk=name), now=NOON)
                    stables.adopt(session, surface, stable, seen_generation=None, by="ann", reason=name, now=NOON)
        self.until(self.roll_out(HOME_FEED, Worth.SOUND), Phase.DONE)
        self.until(self.roll_out(SEARCH, Worth.HARMFUL), Phase.ROLLED_BACK)
        standing = self.roll_out(SEARCH, Worth.SOUND)
        self.until(standing, Phase.RAMPING)
        for command in (Command.HOLD, Command.RESUME):
            with self.sessions.writing() as session:
                rollouts.apply_command(session, standing, command, by="bob", reason=f"bob's {command}", now=self.now)

    def roll_out(self, surface: Surface, worth: Worth) -> RolloutId:
        with self.sessions.writing() as session:
            candidate = register(session, self._a_candidate(surface, worth), now=self.now)
            plan = plan_from_mapping(a_plan_mapping())
            return arrivals.create(session, surface, candidate, plan, by="ann", now=self.now).rollout_id

    def until(self, rollout_id: RolloutId, phase: Phase) -> None:
        for _ in range(60):
            with self.sessions.reading() as session:
                if rollouts.get(session, rollout_id).phase is phase:
                    return
            self.now += MINUTES
            self._beat()
        raise AssertionError(f"rollout {rollout_id} did not come to {phase}")

    def _beat(self) -> None:
        with self.sessions.writing() as session:
            splits = surfaces.splits(session, now=self.now)
            runtimes.record_heartbeat(session, a_heartbeat(splits.values(), self.now), now=self.now, seen_at=self.now)
        assert self.metronome.beat() is not None

    def _a_candidate(self, surface: Surface, worth: Worth) -> ModelVersion:
        versions = (a_version(surface, f"candidate {number}", trunk=f"trunk {number}") for number in self._names)
        return next(version for version in versions if worth_of(version.version_id) is worth)


def a_heartbeat(splits: Collection[Split], now: datetime) -> Heartbeat:
    versions = {v for split in splits for v in (split.stable, split.candidate, split.shadow) if v is not None}
    told = round(now.timestamp())
    counts = {version: ServingCounts(requests=told, scores=told, distinct_scores=1_000) for version in versions}
    return Heartbeat(
        runtime_id="runtime-1",
        generations={split.surface: split.generation for split in splits},
        loaded=tuple(sorted(versions)),
        counts=counts,
        shadow_dropped=0,
        splits_mode="stream",
    )


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry in which everything is as it should be."""
    folder = tmp_path_factory.mktemp("sound")
    sessions = opened(f"sqlite:///{folder / 'registry.db'}")
    life = Life(sessions, folder)
    with pytest.MonkeyPatch.context() as patch, written_down(life.metronome):
        patch.setattr(tick, "MomentsReader", evidence.RecordedMoments)
        life.live()
    sessions.engine.dispose()
    return folder / "registry.db"


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Iterator[Engine]:
    shutil.copy(sound, tmp_path / "registry.db")
    engine = make_engine(f"sqlite:///{tmp_path / 'registry.db'}")
    yield engine
    engine.dispose()


def test_nothing_is_found_in_a_sound_registry(copy: Engine) -> None:
    checker = Checker()

    assert checker.check_all(Sessions(copy)) == []

    assert checker.transitions > 20
    assert checker.verdicts > 10


@pytest.mark.parametrize("planted", PLANTED)
def test_what_is_planted_is_found(copy: Engine, planted: str) -> None:
    invariant, words, statements = PLANTED[planted]
    tamper(copy, *statements)

    found = Checker().check_all(Sessions(copy))

    assert any(one.invariant == invariant and words in one.what for one in found), [str(one) for one in found]


def test_only_what_is_new_is_looked_at_again(copy: Engine) -> None:
    checker = Checker()
    checker.check(Sessions(copy))
    before = checker.transitions

    assert checker.check(Sessions(copy)) == []

    assert checker.transitions == before


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        (Asked(reason="never asked", answer=Answer.DONE, must_show=True), "was acknowledged, and is lost"),
        (Asked(reason="bob's hold", answer=Answer.REFUSED, must_show=True), "was refused, and happened"),
        (Asked(reason="first", answer=Answer.DONE, must_show=True), None),
        (Asked(reason="never asked", answer=Answer.DONE, must_show=False), None),
        (Asked(reason="bob's hold", answer=Answer.CUT_OFF, must_show=True), None),
    ],
)
def test_answers_are_compared_with_what_happened(copy: Engine, asked: Asked, problem: str | None) -> None:
    with Sessions(copy).reading() as session:
        found = [one.what for one in answers.problems(session, [asked])]

    assert found == ([] if problem is None else [problem])


def test_what_was_asked_for_once_may_not_happen_twice(copy: Engine) -> None:
    tamper(copy, "UPDATE history SET reason = 'bob''s hold' WHERE reason = 'bob''s resume'")
    told = Answers()
    told.note(Asked(reason="bob's hold", answer=Answer.CUT_OFF, must_show=True))

    found = Checker(told).check(Sessions(copy))

    assert any("happened 2 times" in one.what for one in found)


def test_a_runtimes_disk_that_goes_back_is_found(tmp_path: Path) -> None:
    path = tmp_path / "splits.json"
    known = LastKnownGood(path)
    write_last_known_good(path, a_snapshot(generation=5))
    assert list(known.problems()) == []

    write_last_known_good(path, a_snapshot(generation=4))

    assert list(known.problems()) == [
        Violation(invariant="6", where="home_feed", what="went from generation 5 back to 4")
    ]


def test_a_runtimes_disk_that_cannot_be_read_is_found(tmp_path: Path) -> None:
    path = tmp_path / "splits.json"
    known = LastKnownGood(path)
    write_last_known_good(path, a_snapshot(generation=5))
    assert list(known.problems()) == []

    path.write_text(path.read_text()[:-5])

    assert [one.what for one in known.problems()] == ["can be read no more"]


def a_snapshot(*, generation: int) -> Snapshot:
    split = Split(surface=HOME_FEED, generation=generation, salt="salt", stable=STABLE)
    return Snapshot(splits={HOME_FEED: split}, artifact_uris={})


def tamper(engine: Engine, *statements: str) -> None:
    """Whatever the database itself refuses: its triggers go first, and foreign keys do not count."""
    with engine.connect() as connection:
        connection.exec_driver_sql("ROLLBACK")
        connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        for (name,) in connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'").all():
            connection.exec_driver_sql(f"DROP TRIGGER {name}")
        for statement in statements:
            assert connection.exec_driver_sql(statement).rowcount, f"nothing was planted: {statement}"
        connection.commit()
