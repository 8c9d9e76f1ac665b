"""Replicas are killed and stopped, at random moments and at failpoints, while people and schedulers act; after each
death the checker looks."""

import math
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from benchmarks.crash_run import event_batches
from benchmarks.crash_run.answers import Answer, Answers
from benchmarks.crash_run.checker import Checker
from benchmarks.crash_run.driven_clock import DrivenClock
from benchmarks.crash_run.last_known_good import LastKnownGood
from benchmarks.crash_run.people import RELEASED, People
from benchmarks.crash_run.processes import free_ports, started, warm_up
from benchmarks.crash_run.receiver import Receiver
from benchmarks.crash_run.registry import url_of
from benchmarks.crash_run.replica import Deployment, follow, serve
from benchmarks.crash_run.versions import VIEW_TYPES, a_version, register
from benchmarks.crash_run.victim import Victim
from benchmarks.crash_run.violation import Violation
from benchmarks.crash_run.wrote import WROTE
from control_plane.domain.errors import RegistryUnavailable
from control_plane.domain.model_version import Surface
from control_plane.failpoints import POINTS
from control_plane.registry import stables
from control_plane.registry.session import Sessions

SURFACES = (*(Surface(name) for name in ("home_feed", "search", "related_pins")), *RELEASED)
REPLICAS = 5
LEASE_SECONDS = 0.8  # so that a tick keeps it on a crowded machine, too, and the next one need not wait for long
STARTS_AT = datetime(2026, 3, 2, tzinfo=UTC)
RUNTIME_POINTS = frozenset(point for point in POINTS if point.startswith("last_known_good."))
IS_ARMED = 2 / 3  # share of those that start, as long as failpoints lack deaths
ARMED_WITH = 1 / 3  # of those failpoints: with all of them, none would come as far as the rare ones
LOOK_SECONDS = 0.005


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """How fast the clock runs, and how long a process lives once it is up."""

    event_seconds_per_second: float = 300.0  # a check every 2 minutes is one in two fifths of a second
    lives_for_seconds: tuple[float, float] = (0.1, 3.0)


@dataclass(kw_only=True)
class Toll:
    """What a storm came to."""

    kills: Counter[str] = field(default_factory=Counter)  # by failpoint, or `victim.RANDOM`
    runtimes: int = 0  # of them; the others are replicas of API and scheduler
    stops: int = 0
    gave_up: Counter[int] = field(default_factory=Counter)  # by exit code: 3 no start, 255 unseen
    transitions: int = 0
    followed: int = 0  # of them made for what happened above, in a release
    raises: int = 0  # of them to a weight between two steps
    verdicts: int = 0
    epochs: int = 0
    webhooks: int = 0  # requests that the receiver answered
    answers: Counter[str] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)  # of the run itself
    seconds: float = 0.0

    @property
    def all_kills(self) -> int:
        return sum(self.kills.values())


class Storm:
    """Over one registry."""

    def __init__(self, sessions: Sessions, folder: Path, *, seed: int = 1, pace: Pace | None = None) -> None:
        self.toll = Toll()
        self._pace = pace if pace is not None else Pace()
        self._chance = random.Random(seed)
        self._folder = folder
        self._receiver = Receiver()
        self._deployment = Deployment(
            registry_url=url_of(sessions),
            folder=folder,
            lease_seconds=LEASE_SECONDS,
            tick_seconds=0.04,
            webhooks=self._receiver.setting,
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
        self._victims = [
            Victim(
                port=port,
                points=served,
                start=partial(started, serve, self._deployment, port),
                last_word=self._deployment.last_word(port),
                answers=True,
            )
            for port in ports
        ]
        last_word = folder / "died-runtime"
        follows = partial(started, follow, ports, folder / "runtime", last_word)
        self._victims.append(
            Victim(port=ports[0], points=RUNTIME_POINTS, start=follows, last_word=last_word, answers=False)
        )
        self._ports = ports

    def run(
        self,
        *,
        each_point: int,
        patience_seconds: float,
        on_kill: Callable[[Toll], None] = lambda toll: None,
        is_enough: Callable[[], bool] = lambda: True,
    ) -> Toll:
        """Until each failpoint had so many kills and `is_enough` says so, or patience ends."""
        self._open_surfaces()
        warm_up()
        began = time.monotonic()
        with self._receiver.listening(), self.clock.running(), self._people():
            for victim in self._victims:
                self._raise(victim, each_point)
            while not (self._had_all(each_point) and is_enough()) and time.monotonic() - began < patience_seconds:
                self._watch(each_point, on_kill)
            self._lay_down()
        self.toll.violations += [
            *self._checker.check_all(self._sessions),
            *self._events.problems(),
            *self._receiver.problems(self._sessions),
        ]
        return self._summed_up(time.monotonic() - began)

    def _summed_up(self, seconds: float) -> Toll:
        toll, checker = self.toll, self._checker
        toll.webhooks = sum(self._receiver.ids.values())
        toll.stops = sum(victim.stops for victim in self._victims)
        toll.transitions, toll.verdicts, toll.seconds = checker.transitions, checker.verdicts, seconds
        toll.followed, toll.raises = checker.cascades.followed, checker.raises
        toll.answers = Counter(asked.answer.value for asked in self._answers.asked)
        toll.answers.update({Answer.DONE.value: self._events.acknowledged})
        with self._sessions.reading() as session:
            toll.epochs = len(session.execute(WROTE.select().with_only_columns(WROTE.c.epoch).distinct()).all())
        return toll

    def _had_all(self, each_point: int) -> bool:
        return all(self.toll.kills[point] >= each_point for point in POINTS)

    def _watch(self, each_point: int, on_kill: Callable[[Toll], None]) -> None:
        for victim in self._victims:
            if victim.is_dead():
                self._note_death(victim, on_kill)
                self._raise(victim, each_point)
        time.sleep(LOOK_SECONDS)

    def _note_death(self, victim: Victim, on_kill: Callable[[Toll], None]) -> None:
        assert victim.process is not None
        if victim.process.exitcode != -signal.SIGKILL:
            self.toll.gave_up[victim.process.exitcode or 0] += 1
        else:
            self.toll.kills[victim.point] += 1
            self.toll.runtimes += not victim.answers
        victim.process.close()
        self._look()
        on_kill(self.toll)

    def _look(self) -> None:
        try:
            self.toll.violations += self._checker.check(self._sessions)
        except RegistryUnavailable as error:
            self.toll.problems.append(f"the checker could not read: {error}")
        self.toll.violations += self._last_known_good.problems()

    def _raise(self, victim: Victim, each_point: int) -> None:
        """Start a process anew, two in three armed with some of the failpoints that lack deaths still."""
        lacking = sorted(point for point in victim.points if self.toll.kills[point] < each_point)
        armed_at = self._chance.sample(lacking, math.ceil(len(lacking) * ARMED_WITH))
        victim.rise(
            self._chance,
            lives_for=self._chance.uniform(*self._pace.lives_for_seconds),
            armed_at=armed_at if self._chance.random() < IS_ARMED else (),
        )

    def _open_surfaces(self) -> None:
        now = self.clock.read()
        with self._sessions.writing() as session:
            for surface in SURFACES:
                stables.create_surface(session, surface, VIEW_TYPES, by="ann", now=now)
                for name in ("first", "second"):
                    stable = register(session, a_version(surface, name, trunk=name), now=now)
                    stables.adopt(session, surface, stable, seen_generation=None, by="ann", reason=name, now=now)

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
