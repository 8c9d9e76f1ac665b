"""Named moments at which a process can be made to die, stop, wait or fail, to show that none of them matters.

SUREFOOT_FAILPOINTS="change.history_written=kill, tick.judged=pause:2.5, log.linked=raise@3" arms some of them at the
start of a process: `kill` is kill -9 of itself, `stop` is SIGSTOP, `pause:SECONDS` sleeps and `raise` raises
`Injected`; `@3` does so the third time the point is reached, and never again. What is not armed costs one look into an
empty dict.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial

ENVIRONMENT = "SUREFOOT_FAILPOINTS"

POINTS = frozenset(
    {
        "change.begun",  # a surface's change, nothing of it written
        "change.set",  # the surface's row has moved on
        "change.history_written",
        "change.split_written",
        "change.outbox_written",
        "transaction.before_commit",
        "transaction.committed",
        "verdict.stored",
        "lease.acquired",  # by a new holder
        "lease.renewed",
        "tick.loaded",
        "tick.judged",
        "tick.decided",
        "tick.applied",
        "quarantine.confined",  # the digest is written down, no surface has moved off it yet
        "rollback.aborted",  # the candidate is marked, the surface not moved yet
        "log.staged",  # a batch's files and its commit are written, but not visible
        "log.linked",  # visible, and not yet durable
        "heartbeat.recorded",
        "split.pushed",  # handed to the stream's connection
        "webhook.fanned_out",  # deliveries are made out, in a transaction still open
        "webhook.sent",  # the receiver has it, and nobody knows
        "webhook.recorded",
        "last_known_good.staged",
        "last_known_good.written",
    }
)


class Injected(RuntimeError):
    """Nobody's to handle: what a bug or a dead device would raise."""

    def __init__(self, point: str) -> None:
        super().__init__(f"failpoint {point}")


def reach(point: str) -> None:
    """Do what the point is armed with; nothing, nearly always."""
    act = _armed.get(point)
    if act is not None:
        act()


def arm(text: str, *, on_acting: Callable[[str], object] = lambda point: None) -> None:
    """Arm these points and no others. `ValueError` names what cannot be read.

    `on_acting` is told a point's name just before the point acts: what is killed there can leave word of where.
    """
    found = dict(_read(entry, on_acting) for entry in text.split(",") if entry.strip())
    _armed.clear()
    _armed.update(found)


def _read(entry: str, on_acting: Callable[[str], object]) -> tuple[str, Callable[[], None]]:
    point, _, told = entry.strip().partition("=")
    action, _, nth = told.partition("@")
    if point not in POINTS:
        raise ValueError(f"{ENVIRONMENT}: there is no point {point!r}; there are {', '.join(sorted(POINTS))}")
    acting = partial(on_acting, point)
    return point, _Countdown(int(nth) if nth else 1, acting, _action(point, action), is_once=bool(nth))


class _Countdown:
    """The action from the nth call on, or at the nth alone."""

    def __init__(self, nth: int, on_acting: Callable[[], object], action: Callable[[], None], *, is_once: bool) -> None:
        self._left = nth
        self._on_acting = on_acting
        self._action = action
        self._is_once = is_once

    def __call__(self) -> None:
        self._left -= 1
        if self._left == 0 or (self._left < 0 and not self._is_once):
            self._on_acting()
            self._action()


def _action(point: str, told: str) -> Callable[[], None]:
    kind, _, seconds = told.partition(":")
    match kind:
        case "kill":
            return partial(_signal_itself, signal.SIGKILL)
        case "stop":
            return partial(_signal_itself, signal.SIGSTOP)
        case "pause":
            return partial(time.sleep, float(seconds))
        case "raise":
            return partial(_raise, point)
        case _:
            raise ValueError(f"{ENVIRONMENT}: {point} takes kill, stop, pause:SECONDS or raise, not {told!r}")


def _signal_itself(number: signal.Signals) -> None:
    """To this very thread: one sent to the process may reach another first, and this one would go on for a while."""
    signal.pthread_kill(threading.get_ident(), number)


def _raise(point: str) -> None:
    raise Injected(point)


def _from_environment(environment: Mapping[str, str]) -> None:
    arm(environment.get(ENVIRONMENT, ""))


_armed: dict[str, Callable[[], None]] = {}
_from_environment(os.environ)
