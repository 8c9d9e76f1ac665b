"""What a release's edges ask for is found missing by the crash run's checker, and raises and approvals likewise."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from benchmarks.crash_run.checker import Checker
from benchmarks.crash_run.plans import Kind, a_plan_mapping
from benchmarks.crash_run.registry import opened
from benchmarks.crash_run.versions import VIEW_TYPES, a_version, register
from benchmarks.crash_run.wrote import written_down
from control_plane.domain.model_version import Surface
from control_plane.domain.plan_mapping import plan_from_mapping
from control_plane.domain.rollout import Command, Rollout, RolloutId
from control_plane.domain.surface_graph import Edge, OnUpstreamRollback
from control_plane.domain.verdict import Outcome
from control_plane.evidence.event_log import EventLog
from control_plane.registry import arrivals, evidence, leases, release_rows, rollouts, stables, surfaces
from control_plane.registry.session import Sessions, make_engine
from control_plane.scheduler.metronome import Metronome
from tests.benchmarks.test_crash_checker import tamper
from tests.builders import NOON, a_verdict

BOARDS, CLOSEUP, SHOPPING = (Surface(name) for name in ("boards", "closeup", "shopping"))
ALL = (BOARDS, CLOSEUP, SHOPPING)


class Release:
    """Three surfaces, of which two follow the first: one goes home with it, one is held."""

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
        self.rollouts: dict[Surface, RolloutId] = {}

    def live(self) -> None:
        with self.sessions.writing() as session:
            self.metronome.epoch = leases.acquire(session, leases.SCHEDULER, self.metronome.holder, 3_600)
            candidates = {}
            for surface in ALL:
                stables.create_surface(session, surface, VIEW_TYPES, by="ann", now=NOON)
                for name in ("first", "second"):
                    stable = register(session, a_version(surface, name, trunk=name), now=NOON)
                    stables.adopt(session, surface, stable, seen_generation=None, by="ann", reason=name, now=NOON)
                candidates[surface] = register(session, a_version(surface, "candidate", trunk="third"), now=NOON)
            edges = [an_edge(CLOSEUP, OnUpstreamRollback.CASCADE), an_edge(SHOPPING, OnUpstreamRollback.HOLD)]
            plan = plan_from_mapping(a_plan_mapping(Kind.ADAPTIVE))
            release_id = arrivals.create_release(session, candidates, plan, edges, by="ann", now=NOON)
            of_release = release_rows.rollouts_of(session, release_id)
            self.rollouts = {surface: of_release[surface].rollout_id for surface in ALL}
        self.walk(BOARDS, advances=2)
        self.command(BOARDS, Command.ADVANCE, verdict=True, weight_bp=900)
        self.now += timedelta(minutes=10)
        for surface in (CLOSEUP, SHOPPING):
            self.walk(surface, advances=1)
        self.command(BOARDS, Command.ROLL_BACK, by="bob", reason="bob's roll back")

    def walk(self, surface: Surface, *, advances: int) -> None:
        self.command(surface, Command.START)
        for _ in range(advances):
            self.command(surface, Command.ADVANCE, verdict=True)

    def command(
        self,
        surface: Surface,
        command: Command,
        *,
        by: str = "scheduler",
        reason: str = "",
        verdict: bool = False,
        weight_bp: int | None = None,
    ) -> Rollout:
        self.now += timedelta(minutes=1)
        epoch = self.metronome.epoch if by == "scheduler" else None
        with self.sessions.writing() as session:
            verdict_id = self._verdict(session, surface, weight_bp) if verdict else None
            return rollouts.apply_command(
                session,
                self.rollouts[surface],
                command,
                by=by,
                now=self.now,
                reason=reason,
                verdict_id=verdict_id,
                epoch=epoch,
                weight_bp=weight_bp,
            )

    def _verdict(self, session: Session, surface: Surface, weight_bp: int | None) -> int:
        generation = surfaces.get(session, surface).generation
        verdict = a_verdict(
            Outcome.ADVANCE if weight_bp is None else Outcome.HOLD, generation=generation, safe_share_bp=weight_bp
        )
        return evidence.record_verdict(
            session,
            self.rollouts[surface],
            verdict,
            b"inputs",
            now=self.now,
            next_check_at=self.now,
            epoch=self.metronome.epoch,
        )


RAISE = "surface = 'boards' AND command = 'advance' AND after LIKE '%\"candidate_bp\":900%'"
PLANTED = {
    "one below did not go home": (
        "releases",
        "below it had to go home",
        [
            "UPDATE crash_run_together SET written_in = 'another', number = number + 1000 "
            "WHERE surface = 'closeup' AND seq = 6"
        ],
    ),
    "one below was not held": (
        "releases",
        "below it had to be held",
        ["UPDATE crash_run_together SET written_in = 'another' WHERE surface = 'shopping' AND seq = 6"],
    ),
    "one went home that follows nothing": (
        "releases",
        "stands below nothing",
        ["UPDATE release SET edges = replace(edges, 'cascade', 'ignore')"],
    ),
    "one started too early": (
        "releases",
        "had not held 500 basis points for 3600 s",
        ["UPDATE release SET edges = replace(edges, '240.0', '3600.0')"],
    ),
    "one started below what had been rolled back": (
        "releases",
        "boards had been rolled back",
        ["UPDATE crash_run_together SET number = number + 1000 WHERE surface = 'shopping' AND seq = 4"],
    ),
    "a raise rests on no verdict": (
        "3",
        "and no verdict allows it",
        [f"UPDATE history SET verdict_id = NULL WHERE {RAISE}"],
    ),
    "a raise is larger than its verdict allows": (
        "3",
        "and no verdict allows it",
        ["UPDATE verdict SET verdict = replace(verdict, '\"safe_share_bp\":900', '\"safe_share_bp\":899')"],
    ),
    "a raise is larger than the next step": (
        "end state",
        "with 800 as the most",
        ["UPDATE rollout SET plan = replace(plan, '6000bp', '800bp')"],
    ),
    "a raise under a plan without any": (
        "end state",
        "stays ramping at step 0",
        ["UPDATE rollout SET plan = replace(plan, '\"adaptive\": true', '\"adaptive\": false')"],
    ),
    "a step was left without its approvals": (
        "3",
        "on 0 of 2 approvals",
        [
            "UPDATE rollout SET plan = replace(plan, '\"approvals\": 0', '\"approvals\": 2'), step = step",
            f"UPDATE history SET after = replace(after, '\"step\":0', '\"step\":1') WHERE {RAISE}",
        ],
    ),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    sessions = opened(f"sqlite:///{folder / 'registry.db'}")
    release = Release(sessions, folder)
    with written_down(release.metronome):
        release.live()
    sessions.engine.dispose()
    return folder / "registry.db"


@contextmanager
def a_copy(sound: Path, folder: Path) -> Iterator[Sessions]:
    shutil.copy(sound, folder / "registry.db")
    engine = make_engine(f"sqlite:///{folder / 'registry.db'}")
    yield Sessions(engine)
    engine.dispose()


def test_what_follows_goes_home_or_is_held_and_nothing_is_found(sound: Path, tmp_path: Path) -> None:
    with a_copy(sound, tmp_path) as sessions:
        checker = Checker()

        assert found_by(checker, sessions) == []

        assert checker.cascades.followed == 2
        assert checker.raises == 1


@pytest.mark.parametrize("planted", PLANTED)
def test_what_is_planted_in_a_release_is_found(sound: Path, tmp_path: Path, planted: str) -> None:
    invariant, words, statements = PLANTED[planted]
    with a_copy(sound, tmp_path) as sessions:
        tamper(sessions.engine, *statements)

        found = found_by(Checker(), sessions)

    assert any(f"[{invariant}]" in one and words in one for one in found), found


def found_by(checker: Checker, sessions: Sessions) -> list[str]:
    """Without what it says of the verdicts themselves, which are made up here."""
    return [str(one) for one in checker.check_all(sessions) if one.where != "verdicts"]


def an_edge(downstream: Surface, policy: OnUpstreamRollback) -> Edge:
    return Edge(upstream=BOARDS, downstream=downstream, share_bp=500, held_seconds=240.0, on_rollback=policy)
