"""One process and how it ends: killed at a failpoint, at a random moment of its start or its life, or after a stop."""

import math
import os
import random
import signal
import socket
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from benchmarks.crash_run.processes import Process

RANDOM = "a random moment"
DIES_YOUNG = 0.1  # share of those that die while they start
YOUTH_SECONDS = (0.02, 0.8)
IS_STOPPED = 0.1  # share of those that are stopped and let go on before they die
STOPS_FOR_SECONDS = (0.9, 2.0)  # longer than the lease
NEVER_UP_SECONDS = 60.0
LIVELY = 0.15  # CPU seconds of a second's life; one that got less, on a crowded machine, lives on, three times as long
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")  # a second of CPU time in /proc


@dataclass(kw_only=True)
class Victim:
    """A place for one process after another, on a port that is always its own."""

    port: int
    points: frozenset[str]
    start: Callable[[str], Process]  # given what is armed
    last_word: Path  # where it writes the failpoint that it dies at
    answers: bool  # whether it serves: it is up once its port takes connections, not at once, and has work to do
    process: Process | None = None
    stops: int = 0
    _is_up: bool = False
    _lives_for: float = 0.0
    _is_to_stop: bool = False
    _dies_at: float = math.inf  # monotonic, like those that follow
    _dies_surely_at: float = math.inf
    _stops_at: float = math.inf
    _goes_on_at: float = math.inf

    @property
    def point(self) -> str:
        """Where it died."""
        return self.last_word.read_text() if self.last_word.exists() else RANDOM

    def rise(self, chance: random.Random, *, lives_for: float, armed_at: Collection[str]) -> None:
        """It dies at the first of its failpoints, or when its time comes, which begins once it is up."""
        self.last_word.unlink(missing_ok=True)
        self._is_up, self._stops_at, self._goes_on_at = False, math.inf, math.inf
        self._lives_for = lives_for
        self._is_to_stop = not armed_at and chance.random() < IS_STOPPED
        self._stops_for = chance.uniform(*STOPS_FOR_SECONDS)
        is_young = not armed_at and chance.random() < DIES_YOUNG
        self._dies_at = time.monotonic() + (chance.uniform(*YOUTH_SECONDS) if is_young else NEVER_UP_SECONDS)
        self._dies_surely_at = self._dies_at
        self.process = self.start(",".join(f"{point}=kill@{chance.randint(1, 3)}" for point in armed_at))

    def is_dead(self) -> bool:
        """Do what is due now; whether the process is gone."""
        assert self.process is not None
        now = time.monotonic()
        if not self._is_up and (not self.answers or _listens(self.port)):
            self._come_up(now)
        if now >= self._stops_at:
            self._stop(now)
        if now >= self._goes_on_at:
            self._signal(signal.SIGCONT)
            self._goes_on_at = math.inf
        if self.process.is_alive() and self._is_due(now):
            self.process.kill()
            self.process.join()
        return not self.process.is_alive()

    def _come_up(self, now: float) -> None:
        self._is_up = True
        if now + self._lives_for < self._dies_at:
            self._dies_at, self._dies_surely_at = now + self._lives_for, now + 3 * self._lives_for
        if self._is_to_stop:
            self._stops_at = now + self._lives_for * 0.8
            self._dies_at += self._stops_for
            self._dies_surely_at += self._stops_for

    def _is_due(self, now: float) -> bool:
        if now < self._dies_at:
            return False
        assert self.process is not None
        assert self.process.pid is not None
        if not self.answers or now >= self._dies_surely_at:
            return True
        return _cpu_seconds(self.process.pid) >= LIVELY * self._lives_for

    def _stop(self, now: float) -> None:
        self._signal(signal.SIGSTOP)
        self.stops += 1
        self._stops_at, self._goes_on_at = math.inf, now + self._stops_for

    def _signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        if self.process.is_alive() and self.process.pid is not None:
            os.kill(self.process.pid, number)


def _cpu_seconds(pid: int) -> float:
    """That the process has had; without end once it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return math.inf
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0
