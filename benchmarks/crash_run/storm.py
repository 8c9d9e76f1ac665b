"""Replicas are killed and stopped, at random moments and at failpoints, while people and schedulers act; after each
death the checker looks."""

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.crash_run import event_batches
from benchmarks.crash_run.answers import Answer, Answers
from benchmarks.crash_run.checker import Checker
from benchmarks.crash_run.driven_clock import DrivenClock
from benchmarks.crash_run.last_known_good import LastKnownGood
from benchmarks.crash_run.people import VIEW_TYPES, People, a_version, register
from benchmarks.crash_run.processes import Process, free_ports, started, warm_up
from benchmarks.crash_run.registry import url_of
from benchmarks.crash_run.replica import Deployment, follow, serve
from benchmarks.crash_run.violation import Violation
from benchmarks.crash_run.wrote import WROTE
from control_plane.domain.errors import RegistryUnavailable
from control_plane.domain.model_version import Surface
from control_plane.failpoints import POINTS
from control_plane.registry import rollouts
from control_plane.registry.session import Sessions

SURFACES = tuple(Surface(name) for name in ("home_feed", "search", "related_pins", "boards", "closeup", "shopping"))
REPLICAS = 3
STARTS_AT = datetime(2026, 3, 2, tzinfo=UTC)
RANDOM = "a random moment"
RUNTIME_POINTS = frozenset(point for point in POINTS if point.startswith("last_known_good."))
STOPS_FOR_SECONDS = (0.3, 1.2)  # longer than the lease of the storm
NEVER_REACHED_SECONDS = 4.0  # an armed replica that has not died by then is killed where it is


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """How fast the clock runs, and how long a process lives; the first third of a second goes into its start."""

    event_seconds_per_second: float = 1_800.0  # a check every 2 minutes is one every fifteenth of a second
    lives_for_seconds: tuple[float, float] = (0.1, 2.0)


@dataclass(kw_only=True)
class Toll:
    """What a storm came to."""

    kills: Counter[str] = field(default_factory=Counter)  # by failpoint, or RANDOM
    stops: int = 0
    transitions: int = 0
    verdicts: int = 0
    epochs: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)  # of the run itself
    seconds: float = 0.0

    @property
    def all_kills(self) -> int:
        return sum(self.kills.values())


@dataclass(kw_only=True)
class _Victim:
    """One process in its place, with the port that is always its own."""

    port: int
    points: frozenset[str]
    start: Callable[["_Victim"], Process]
    process: Process | None = None
    point: str = RANDOM
    armed: str = ""
    dies_at: float = 0.0  # monotonic
    goes_on_at: float | None = None


class Storm:
    """Over one registry, until `kills` processes were killed and every failpoint had its share."""

    def __init__(self, sessions: Sessions, folder: Path, *, seed: int = 1, pace: Pace | None = None) -> None:
        self.toll = Toll()
        self._pace = pace if pace is not None else Pace()
        self._chance = random.Random(seed)
        self._folder = folder
        self._deployment = Deployment(
            registry_url=url_of(sessions), folder=folder, lease_seconds=0.3, tick_seconds=0.04
        )
        self._sessions = sessions
        self.clock = DrivenClock(
            self._deployment.clock_file, STARTS_AT, seconds_per_second=self._pace.event_seconds_per_second
        )
        self._answers = Answers()
        self._checker = Checker(self._answers)
        self._events = event_batches.EventBatches(folder / "events")
        self._last_known_good = LastKnownGood(folder / "runtime" / "splits.json")
        ports = free_ports(REPLICAS)
        served = POINTS - RUNTIME_POINTS
        self._victims = [_Victim(port=port, points=served, start=self._serve) for port in ports]
        self._victims.append(_Victim(port=ports[0], points=RUNTIME_POINTS, start=self._follow))
        self._ports = ports

    def run(self, kills: int, *, each_point: int, patience_seconds: float, on_kill: Callable[[Toll], None]) -> Toll:
        self._open_surfaces()
        warm_up()
        began = time.monotonic()
        with self.clock.running(), self._people():
            for victim in self._victims:
                self._raise(victim, each_point)
            while not self._is_enough(kills, each_point) and time.monotonic() - began < patience_seconds:
                self._watch(each_point, on_kill)
        self._lay_down()
        self.toll.violations += [*self._checker.check_all(self._sessions), *self._events.problems()]
        return self._summed_up(time.monotonic() - began)

    def _summed_up(self, seconds: float) -> Toll:
        toll, checker = self.toll, self._checker
        toll.transitions, toll.verdicts, toll.seconds = checker.transitions, checker.verdicts, seconds
        toll.answers = Counter(asked.answer.value for asked in self._answers.asked)
        toll.answers.update({Answer.DONE.value: self._events.acknowledged})
        with self._sessions.reading() as session:
            toll.epochs = len(session.execute(WROTE.select().with_only_columns(WROTE.c.epoch).distinct()).all())
        return toll

    def _is_enough(self, kills: int, each_point: int) -> bool:
        return self.toll.all_kills >= kills and all(self.toll.kills[point] >= each_point for point in POINTS)

    def _watch(self, each_point: int, on_kill: Callable[[Toll], None]) -> None:
        for victim in self._victims:
            assert victim.process is not None
            now = time.monotonic()
            if victim.goes_on_at is not None and now >= victim.goes_on_at:
                os.kill(victim.process.pid or 0, signal.SIGCONT)
                victim.goes_on_at = None
            if victim.process.is_alive() and now >= victim.dies_at:
                victim.point = RANDOM
                victim.process.kill()
                victim.process.join()
            if not victim.process.is_alive():
                self._note_death(victim, on_kill)
                self._raise(victim, each_point)
        time.sleep(0.005)

    def _note_death(self, victim: _Victim, on_kill: Callable[[Toll], None]) -> None:
        assert victim.process is not None
        if victim.process.exitcode != -signal.SIGKILL:
            self.toll.problems.append(f"a replica ended by itself with {victim.process.exitcode}")
        else:
            self.toll.kills[victim.point] += 1
        victim.process.close()
        self._look()
        on_kill(self.toll)

    def _look(self) -> None:
        try:
            self.toll.violations += self._checker.check(self._sessions)
        except RegistryUnavailable as error:
            self.toll.problems.append(f"the checker could not read: {error}")
        self.toll.violations += self._last_known_good.problems()

    def _raise(self, victim: _Victim, each_point: int) -> None:
        """Start the process anew: armed with the failpoint that had fewest kills, or to die when its time comes."""
        victim.point, victim.armed = RANDOM, ""
        lives_for = self._chance.uniform(*self._pace.lives_for_seconds)
        lacking = sorted(victim.points, key=lambda point: (self.toll.kills[point], self._chance.random()))[0]
        if self.toll.kills[lacking] < each_point:
            victim.point = lacking
            victim.armed = f"{lacking}=kill@{self._chance.randint(1, 3)}"
            lives_for = NEVER_REACHED_SECONDS
        victim.goes_on_at = None
        victim.process = victim.start(victim)
        victim.dies_at = time.monotonic() + lives_for
        if not victim.armed and self._chance.random() < 0.1:
            self._stop_in_a_while(victim, lives_for)

    def _stop_in_a_while(self, victim: _Victim, lives_for: float) -> None:
        """SIGSTOP somewhere in its life, SIGCONT once its lease is another's, and death after that."""
        pause = self._chance.uniform(*STOPS_FOR_SECONDS)
        process = victim.process
        victim.dies_at += pause

        def stop() -> None:
            try:
                if process is not None and process.is_alive() and victim.process is process:
                    os.kill(process.pid or 0, signal.SIGSTOP)
                    victim.goes_on_at = time.monotonic() + pause
                    self.toll.stops += 1
            except (OSError, ValueError):
                pass  # it died first

        timer = threading.Timer(lives_for * 0.8, stop)
        timer.daemon = True
        timer.start()

    def _serve(self, victim: _Victim) -> Process:
        return started(serve, self._deployment, victim.port, victim.armed)

    def _follow(self, victim: _Victim) -> Process:
        return started(follow, self._ports, self._folder / "runtime", victim.armed)

    def _open_surfaces(self) -> None:
        now = self.clock.read()
        with self._sessions.writing() as session:
            for surface in SURFACES:
                rollouts.create_surface(session, surface, VIEW_TYPES, by="ann", now=now)
                for name in ("first", "second"):
                    stable = register(session, a_version(surface, name, trunk=name), now=now)
                    rollouts.adopt(session, surface, stable, seen_generation=None, by="ann", reason=name, now=now)

    @contextmanager
    def _people(self) -> Iterator[None]:
        people = [
            People(
                f"person-{number}",
                self._sessions,
                self._ports,
                self.clock.read,
                self._answers,
                seed=number,
                pause_seconds=0.08,
            )
            for number in range(3)
        ]
        reporter = event_batches.Reporter(self._events, self._ports, self._sessions, self.clock.read)
        threads: list[People | event_batches.Reporter] = [*people, reporter]
        for one in threads:
            one.start()
        yield
        for one in threads:
            one.rest.set()
        for one in threads:
            one.join()
            self.toll.problems += one.problems

    def _lay_down(self) -> None:
        for victim in self._victims:
            if victim.process is not None:
                victim.process.kill()
                victim.process.join()
