"""People at work while processes die: they create rollouts and releases, command, roll back, quarantine and freeze over
HTTP, ask again with the same key when an answer does not come, and remember what they were told."""

import http.client
import json
import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import count

from benchmarks.crash_run.answers import Answer, Answers, Asked
from benchmarks.crash_run.plans import Kind, a_plan_mapping
from benchmarks.crash_run.versions import a_version, register
from control_plane.clock import Clock
from control_plane.domain.errors import ControlPlaneError
from control_plane.domain.model_version import Surface, VersionId
from control_plane.domain.rollout import Command, OnBusy, Phase, Rollout
from control_plane.domain.surface_graph import OnUpstreamRollback
from control_plane.registry import freezes, model_versions, rollouts, surfaces
from control_plane.registry.session import Sessions

RELEASED = tuple(Surface(name) for name in ("boards", "closeup", "shopping"))
TRIES = 4
TIMEOUT_SECONDS = 15.0  # beyond SQLite's patience with a writer before
CREATORS, OPERATORS = ("ann", "bob"), ("cem", "dee", "eve")
WEIGHT_OF = {
    Command.START: 6,
    Command.ADVANCE: 2,
    Command.SKIP: 4,
    Command.APPROVE: 10,
    Command.HOLD: 3,
    Command.RESUME: 10,
    Command.ROLL_BACK: 1,
    Command.ABORT: 1,
    Command.EXPIRE: 0,
}
REPEATS_SILENTLY = frozenset({Command.HOLD, Command.APPROVE, Command.ROLL_BACK, Command.ABORT})


class People(threading.Thread):
    """One of them, acting until told to rest."""

    def __init__(
        self,
        name: str,
        sessions: Sessions,
        ports: Sequence[int],
        clock: Clock,
        answers: Answers,
        *,
        seed: int,
        pause_seconds: float,
    ) -> None:
        super().__init__(daemon=True)
        self.rest = threading.Event()
        self.problems: list[str] = []
        self._name = name
        self._sessions = sessions
        self._ports = ports
        self._clock = clock
        self._answers = answers
        self._chance = random.Random(seed)
        self._pause_seconds = pause_seconds
        self._numbers = count()

    def run(self) -> None:
        while not self.rest.is_set():
            try:
                self._act()
            except ControlPlaneError:
                pass  # what this person saw moved meanwhile
            except Exception as error:  # a person who falls silent would make the run easier
                self.problems.append(f"{type(error).__name__}: {error}")
            self.rest.wait(self._pause_seconds * self._chance.uniform(0.5, 1.5))

    def _act(self) -> None:
        deeds = {
            self._command: 60,
            self._create: 24,
            self._release: 14,
            self._take_back: 2,
            self._press: 2,
            self._quarantine: 3,
            self._freeze: 3,
            self._adopt: 2,
            self._restart: 2,
        }
        self._chance.choices(list(deeds), weights=list(deeds.values()))[0]()

    def _command(self) -> None:
        with self._sessions.reading() as session:
            active = rollouts.list_rollouts(session, active_only=True)
            generations = {state.surface: state.generation for state in surfaces.list_surfaces(session)}
        if not active:
            return
        rollout = self._chance.choice(active)
        command = self._sensible(rollout)
        seen = generations[rollout.surface] if self._chance.random() < 0.7 else None
        self._ask(
            "POST",
            f"/v1/rollouts/{rollout.rollout_id}/commands",
            {"command": command.value, "seen_generation": seen},
            must_show=command not in REPEATS_SILENTLY,
        )

    def _sensible(self, rollout: Rollout) -> Command:
        """Mostly what the phase takes; sometimes anything."""
        fitting = {
            Phase.PENDING: (Command.START, Command.ABORT),
            Phase.WARMING: (Command.HOLD, Command.SKIP, Command.ADVANCE),
            Phase.HELD: (Command.RESUME, Command.ROLL_BACK),
            Phase.EXPIRED: (Command.RESUME, Command.ROLL_BACK),
        }.get(rollout.phase, tuple(WEIGHT_OF))
        choices = fitting if self._chance.random() < 0.9 else tuple(Command)
        return self._chance.choices(choices, weights=[WEIGHT_OF.get(command, 1) + 0.01 for command in choices])[0]

    def _create(self) -> None:
        surface = self._a_surface()
        if surface in RELEASED and self._chance.random() < 0.8:
            return
        with self._sessions.reading() as session:
            is_busy = surfaces.get(session, surface).rollout_id is not None
            waiting = len(rollouts.list_queued(session, surface))
        if is_busy and self._chance.random() < 0.8:
            return
        on_busy = self._chance.choices(list(OnBusy), weights=(2, 8 if waiting < 2 else 0, 1))[0]
        body = {
            "surface": surface,
            "candidate": self._register(surface),
            "plan": a_plan_mapping(self._chance.choice(list(Kind))),
            "on_busy": on_busy.value,
        }
        self._ask("POST", "/v1/rollouts", body, must_show=False, by=self._chance.choice(CREATORS), has_reason=False)

    def _release(self) -> None:
        """Over those of its surfaces that are free, or now and then over all of them, busy or not."""
        with self._sessions.reading() as session:
            free = [s.surface for s in surfaces.list_surfaces(session) if s.rollout_id is None]
            waiting = len(rollouts.list_queued(session))
        is_pushy = self._chance.random() < 0.1 and waiting < 4
        over = RELEASED if is_pushy else [surface for surface in RELEASED if surface in free]
        if len(over) < 2:
            return
        trunk = f"trunk {self._name}/release {next(self._numbers)}"
        body = {
            "candidates": {surface: self._register(surface, trunk=trunk) for surface in over},
            "plan": a_plan_mapping(self._chance.choice(list(Kind))),
            "edges": list(self._edges(over)),
            "on_busy": self._chance.choice((OnBusy.QUEUE, OnBusy.REPLACE)).value,
        }
        self._ask("POST", "/v1/releases", body, must_show=False, by=self._chance.choice(CREATORS), has_reason=False)

    def _edges(self, over: Sequence[Surface]) -> Iterator[dict[str, object]]:
        """Each surface follows one or two of those before it."""
        for place, surface in enumerate(over[1:], start=1):
            for upstream in self._chance.sample(over[:place], self._chance.randint(1, min(2, place))):
                yield {
                    "upstream": upstream,
                    "downstream": surface,
                    "share": self._chance.choice(("5%", "25%")),
                    "held": "4m",
                    "needs_green": self._chance.random() < 0.5,
                    "on_rollback": self._chance.choice(list(OnUpstreamRollback)).value,
                }

    def _take_back(self) -> None:
        """A whole release."""
        with self._sessions.reading() as session:
            found = {r.release_id for r in rollouts.list_rollouts(session, active_only=True) if r.release_id}
        if found:
            path = f"/v1/releases/{self._chance.choice(sorted(found))}/rollback"
            self._ask("POST", path, {}, must_show=False)

    def _restart(self) -> None:
        with self._sessions.reading() as session:
            active = rollouts.list_rollouts(session, active_only=True)
        if active:
            rollout = self._chance.choice(active)
            self._ask("POST", f"/v1/rollouts/{rollout.rollout_id}/restart", {}, must_show=True)

    def _register(self, surface: Surface, *, trunk: str = "") -> VersionId:
        """Trunks are shared: several of a run's versions, over all surfaces, carry the same one."""
        number = next(self._numbers)
        trunk = trunk or f"trunk {self._name}/{number // 4}"
        version = a_version(surface, f"{self._name}/{number}", trunk=trunk)
        with self._sessions.writing() as session:
            return register(session, version, now=self._clock())

    def _press(self) -> None:
        self._ask("POST", f"/v1/surfaces/{self._a_surface()}/rollback", {}, must_show=False)

    def _quarantine(self) -> None:
        """And let it out again, some time later: what is quarantined for good leaves nothing to roll out."""
        with self._sessions.reading() as session:
            confined = rollouts.list_quarantined(session)
            named = [state.candidate or state.shadow for state in surfaces.list_surfaces(session)]
            serving = [model_versions.get(session, version).manifest.version for version in named if version]
        if len(confined) > 3 or (confined and self._chance.random() < 0.3):
            digest = confined[0].digest
            self._ask("DELETE", f"/v1/quarantine/{digest}?reason=sound", None, must_show=False, has_reason=False)
        elif serving:
            version = self._chance.choice(serving)
            digest = self._chance.choice((version.trunk, version.calibrator))
            self._ask("POST", "/v1/quarantine", {"digest": digest}, must_show=False)

    def _freeze(self) -> None:
        with self._sessions.reading() as session:
            standing = freezes.list_freezes(session, now=self._clock(), open_only=True)
        for freeze in standing:
            self._ask("POST", f"/v1/freezes/{freeze.freeze_id}/lift", {}, must_show=False)
        if not standing:
            body = {"surface": self._a_surface(), "owner": "ops", "duration": "10m"}
            self._ask("POST", "/v1/freezes", body, must_show=False)

    def _adopt(self) -> None:
        surface = self._a_surface()
        with self._sessions.reading() as session:
            state = surfaces.get(session, surface)
        if state.rollout_id is None:
            body = {"version_id": self._register(surface), "seen_generation": state.generation}
            self._ask("PUT", f"/v1/surfaces/{surface}/stable", body, must_show=True)

    def _a_surface(self) -> Surface:
        with self._sessions.reading() as session:
            return self._chance.choice([state.surface for state in surfaces.list_surfaces(session)])

    def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None,
        *,
        must_show: bool,
        by: str = "",
        has_reason: bool = True,
    ) -> None:
        """Until it is answered, each time by another replica and always under the same key."""
        reason = f"{self._name} asks for the {next(self._numbers)}th time"
        sent = None if body is None else json.dumps({**body, "reason": reason} if has_reason else body)
        headers = {
            "Content-Type": "application/json",
            "X-Surefoot-Operator": by or self._chance.choice(OPERATORS),
            "Idempotency-Key": f'"{reason}"',
        }
        answer = Answer.CUT_OFF
        for port in self._some_ports():
            status = _send(port, method, path, sent, headers)
            if status is not None and status < 500:
                answer = Answer.DONE if status < 400 else Answer.REFUSED
                break
            time.sleep(0.02)
        if has_reason:
            self._answers.note(Asked(reason=reason, answer=answer, must_show=must_show))

    def _some_ports(self) -> Iterator[int]:
        start = self._chance.randrange(len(self._ports))
        return (self._ports[(start + index) % len(self._ports)] for index in range(TRIES))


def _send(port: int, method: str, path: str, body: str | None, headers: Mapping[str, str]) -> int | None:
    """The status, or None where no answer came."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request(method, path, body, dict(headers))
        response = connection.getresponse()
        response.read()
        return response.status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
