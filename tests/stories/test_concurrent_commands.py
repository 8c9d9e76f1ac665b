"""Many operators at once, over HTTP: one wins each generation, keys outlive kills, and the history is linearizable."""

import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from control_plane.domain.rollout import Phase, RolloutId
from control_plane.registry import history, rollouts, surfaces
from control_plane.registry.session import Sessions, make_engine, upgrade
from tests.builders import HOME_FEED, a_plan
from tests.linearizability import NEVER, Operation, linearization
from tests.postgres import PostgresCluster
from tests.registry import scene
from tests.stories.replicas import Replica, replicas

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PROMOTERS = 50
STEPS = [{"share": f"{share}%", "bake": "1h"} for share in (*range(1, 100), 100)]
REASON = "a test of many at once"
CONNECTION_LOST = (httpx.NetworkError, httpx.RemoteProtocolError)


@dataclass(kw_only=True)
class House:
    """A registry whose home_feed carries a rollout of a hundred steps, in its first one."""

    root: Path
    database_url: str
    sessions: Sessions
    rollout_id: RolloutId

    @property
    def path(self) -> str:
        return f"/v1/rollouts/{self.rollout_id}/commands"

    def generation(self) -> int:
        with self.sessions.reading() as session:
            return surfaces.get(session, HOME_FEED).generation

    def assert_whole(self) -> None:
        with self.sessions.reading() as session:
            assert history.verify(session) == []


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def house(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[House]:
    url = f"sqlite:///{tmp_path / 'registry.db'}"
    if request.param == "postgresql":
        cluster: PostgresCluster = request.getfixturevalue("postgres")
        url = cluster.registry()
    engine = make_engine(url)
    upgrade(engine)
    sessions = Sessions(engine)
    with sessions.writing() as session:
        scene.a_serving_surface(session)
        rollout_id = scene.a_pending_rollout(session, plan=a_plan(steps=STEPS))
        scene.walk(session, rollout_id, until=Phase.RAMPING)
    yield House(root=tmp_path, database_url=url, sessions=sessions, rollout_id=rollout_id)
    engine.dispose()


def test_of_fifty_promoters_exactly_one_wins_each_generation(house: House) -> None:
    """Half name the generation they saw in If-Match, half in the body; half press at either replica."""
    rounds = 5
    with replicas(2, house.root, house.database_url) as running, ThreadPoolExecutor(PROMOTERS) as pool:
        clients = [httpx.Client(base_url=replica.url, timeout=60) for replica in running for _ in range(PROMOTERS // 2)]
        for _ in range(rounds):
            seen = house.generation()
            barrier = threading.Barrier(PROMOTERS)

            def promote(number: int, seen: int = seen, barrier: threading.Barrier = barrier) -> httpx.Response:
                body: dict[str, Any] = {"command": "skip", "reason": REASON}
                headers = {"If-Match": f'"{seen}"'} if number % 2 else {}
                if not headers:
                    body["seen_generation"] = seen
                barrier.wait(timeout=60)
                return clients[number].post(house.path, json=body, headers=headers)

            answers = list(pool.map(promote, range(PROMOTERS)))

            by_header, by_body = (
                Counter(a.status_code for a in answers[1::2]),
                Counter(a.status_code for a in answers[::2]),
            )
            assert by_header[200] + by_body[200] == 1
            assert by_header[200] + by_header[412] == by_body[200] + by_body[409] == PROMOTERS // 2
            assert house.generation() == seen + 1
        for client in clients:
            client.close()
    house.assert_whole()
    with house.sessions.reading() as session:
        assert rollouts.get(session, house.rollout_id).step == rounds


@pytest.mark.parametrize(("point", "is_kept"), [("transaction.before_commit", False), ("transaction.committed", True)])
def test_a_key_is_kept_if_and_only_if_its_change_is_though_the_process_is_killed_beside_the_commit(
    house: House, point: str, is_kept: bool
) -> None:
    seen = house.generation()
    request: dict[str, Any] = {
        "json": {"command": "skip", "reason": REASON, "seen_generation": seen},
        "headers": {"Idempotency-Key": str(uuid.uuid4())},
    }
    dying = Replica(root=house.root, database_url=house.database_url)
    dying.start({"SUREFOOT_FAILPOINTS": f"{point}=kill"})
    with pytest.raises(CONNECTION_LOST):
        httpx.post(f"{dying.url}{house.path}", **request)
    dying.kill()
    assert house.generation() == seen + is_kept

    with replicas(1, house.root, house.database_url) as (replica,):
        again = [httpx.post(f"{replica.url}{house.path}", **request, timeout=60) for _ in range(2)]

    assert [answer.status_code for answer in again] == [200, 200]
    assert again[0].content == again[1].content
    assert ["Idempotency-Replayed" in answer.headers for answer in again] == [is_kept, True]
    assert house.generation() == seen + 1
    house.assert_whole()


# What a client may do, and what it is told: (status, generation, phase, step); of refusals, the status and, where it is
# told, the generation.
Call = tuple[str, int | None]  # name, and the generation that was seen
Told = tuple[int, int | None, str, int]
Place = tuple[int, str, int]  # generation, phase, step


class OneRollout:
    """The rules for a ramping rollout, as an operator knows them."""

    def step(self, state: Place, call: Call) -> tuple[Place, Told]:
        generation, phase, step = state
        name, seen = call
        if name == "read" or (name == "hold" and phase == "held"):
            return state, (200, generation, phase, step)
        if seen is not None and seen != generation:
            return state, (409, generation, "", 0)
        if (name == "resume") != (phase == "held"):
            return state, (409, None, "", 0)
        match name:
            case "skip":
                after = (generation + 1, phase, step + 1)
            case "hold":
                after = (generation + 1, "held", step)
            case "resume":
                after = (generation + 1, "ramping", step)
            case _:
                raise ValueError(name)
        return after, (200, *after)


@dataclass(kw_only=True)
class Operator:
    """One client after another call, at whichever replica; what it saw of each call is written down.

    Half of its changes carry a key, and are sent again elsewhere when the line drops; of the others nobody knows.
    """

    number: int
    house: House
    running: list[Replica]
    seconds: float
    called: list[Operation[Call, Told]]

    def work(self) -> None:
        rng = random.Random(self.number)
        until = time.monotonic() + self.seconds
        generation = self.house.generation()
        while time.monotonic() < until:
            name = rng.choice(("read", "skip", "skip", "hold", "resume", "resume"))
            seen = generation if name in ("skip", "resume") else None
            key = str(uuid.uuid4()) if rng.random() < 0.5 else ""
            invoked_at = time.monotonic()
            told = self._call(name, seen, key, rng)
            returned_at = NEVER if told is None else time.monotonic()
            self.called.append(
                Operation(call=(name, seen), result=told, invoked_at=invoked_at, returned_at=returned_at)
            )
            generation = told[1] if told is not None and told[1] is not None else generation

    def _call(self, name: str, seen: int | None, key: str, rng: random.Random) -> Told | None:
        """None where nobody knows what became of it. A call that met a dead port was never made: it is made again."""
        while True:
            replica = rng.choice(self.running)
            try:
                return _told(self._send(replica, name, seen, key))
            except httpx.ConnectError:
                continue
            except (*CONNECTION_LOST, httpx.TimeoutException):
                if not key and name != "read":
                    return None

    def _send(self, replica: Replica, name: str, seen: int | None, key: str) -> httpx.Response:
        if name == "read":
            return httpx.get(f"{replica.url}/v1/rollouts/{self.house.rollout_id}", timeout=30)
        body: dict[str, Any] = {"command": name, "reason": REASON}
        if seen is not None:
            body["seen_generation"] = seen
        headers = {"Idempotency-Key": key} if key else {}
        return httpx.post(f"{replica.url}{self.house.path}", json=body, headers=headers, timeout=30)


def _told(answer: httpx.Response) -> Told:
    body = answer.json()
    if answer.status_code == 200:
        return 200, body["generation"], body["phase"], body["step"]
    assert answer.status_code == 409, answer.text
    return 409, body.get("current_generation"), "", 0


def test_what_operators_saw_of_a_surface_is_linearizable_though_replicas_are_killed(house: House) -> None:
    seconds, operators, rng = 12.0, 6, random.Random(7)
    with house.sessions.reading() as session:
        rollout = rollouts.get(session, house.rollout_id)
    initial: Place = (house.generation(), "ramping", rollout.step)
    called: list[Operation[Call, Told]] = []
    with replicas(2, house.root, house.database_url) as running, ThreadPoolExecutor(operators) as pool:
        working = [
            pool.submit(Operator(number=n, house=house, running=running, seconds=seconds, called=called).work)
            for n in range(operators)
        ]
        kills, until = 0, time.monotonic() + seconds
        while time.monotonic() < until - 1:
            time.sleep(rng.uniform(0.5, 1.5))
            running[kills % 2].kill()
            running[kills % 2].start()
            kills += 1
        for work in working:
            work.result(timeout=120)

    changes = [operation for operation in called if operation.result is not None and operation.call[0] != "read"]
    assert kills >= 1
    assert len([change for change in changes if change.result is not None and change.result[0] == 200]) >= 10
    assert linearization(called, OneRollout(), initial) is not None
    house.assert_whole()
