"""The control plane dies under a ramp: the candidate goes home by itself, and comes back under a new generation."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from control_plane.domain.verdict import Rule, Verdict
from control_plane.registry import evidence, history
from control_plane.registry.session import Sessions, make_engine
from model_runtime.scoring_request import BATCH_FIELDS
from tests.builders import HOME_FEED
from tests.model_runtime.artifacts import export_all, some_keys, sound_batch
from tests.model_runtime.conftest import eventually, free_port, now_ms, set_up_home_feed
from tests.stories.test_kill import wait_until_up

pytestmark = pytest.mark.slow

NUM_USERS = 200  # the same ones all along; 6 of them in both arms would hold the rollout
DATATYPES = {"float32": "FP32", "int64": "INT64", "uint64": "UINT64"}
PLAN = {
    "name": "unwatched",
    "steps": [{"share": "50%", "bake": "1h"}, {"share": "100%", "bake": "1h"}],
    "guardrails": [{"metric": "ctr"}],
    "hard_stops": {"idle_intervals": 4},
    "check_every": "1s",
    "lateness": "0.1s",
    "unwatched": "2s",
}


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Who answered each user, and under which generation."""

    generation: int
    arm_U: NDArray[np.int64]


class Traffic:
    """The same users ask again and again, whatever becomes of the control plane."""

    def __init__(self, runtime: str) -> None:
        self._url = f"{runtime}/v2/models/{HOME_FEED}/infer"
        batch = sound_batch(num_users=NUM_USERS, num_rows=NUM_USERS)
        tensors = {"user_key": some_keys(NUM_USERS), **{name: getattr(batch, name) for name in BATCH_FIELDS}}
        inputs = [
            {"name": name, "shape": list(t.shape), "datatype": DATATYPES[str(t.dtype)], "data": t.ravel().tolist()}
            for name, t in tensors.items()
        ]
        self._body = {"inputs": inputs, "parameters": {"show": 1}}
        self.answers: list[Answer] = []
        self._stop = threading.Event()

    @contextmanager
    def flowing(self) -> Iterator["Traffic"]:
        thread = threading.Thread(target=self._flow)
        thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            thread.join()

    @property
    def latest(self) -> Answer:
        return self.answers[-1]

    def _flow(self) -> None:
        with httpx.Client(timeout=30) as http:
            while not self._stop.wait(0.1):
                answer = http.post(self._url, json=self._body).raise_for_status().json()
                (arm,) = (output["data"] for output in answer["outputs"] if output["name"] == "arm")
                self.answers.append(Answer(generation=answer["parameters"]["generation"], arm_U=np.array(arm)))


def test_a_candidate_whose_control_plane_was_killed_comes_back_and_is_held_for_nothing(tmp_path: Path) -> None:
    artifacts = export_all(tmp_path / "artifacts")
    control_port = free_port()
    control = f"http://127.0.0.1:{control_port}"
    with running(*control_plane(tmp_path, control_port)) as first:
        wait_until_up(control)
        set_up_home_feed(control, artifacts)
        with running(*scoring_runtime(tmp_path, control, port := free_port())):
            runtime = f"http://127.0.0.1:{port}"
            eventually(lambda: is_ready(runtime), seconds=60)
            rollout_id = ramp(control, artifacts.candidate.version_id)
            with Traffic(runtime).flowing() as traffic:
                eventually(lambda: traffic.answers and traffic.latest.arm_U.any())
                judged_after(tmp_path, rollout_id, now_ms())
                first.kill()
                first.wait()

                eventually(lambda: not traffic.latest.arm_U.any(), seconds=10)
                went_home, at_home = traffic.latest, len(traffic.answers)
                time.sleep(5)  # longer than the idle stop's patience, in which no user meets the candidate
                assert not any(answer.arm_U.any() for answer in traffic.answers[at_home:])

                with running(*control_plane(tmp_path, control_port)):
                    wait_until_up(control)
                    eventually(lambda: traffic.latest.arm_U.any(), seconds=30)
                    came_back = traffic.latest
                    httpx.post(f"{runtime}/v1/flush", timeout=60).raise_for_status()
                    last = judged_after(tmp_path, rollout_id, now_ms())
                    rollout = httpx.get(f"{control}/v1/rollouts/{rollout_id}").json()

    before = next(answer for answer in reversed(traffic.answers[:at_home]) if answer.arm_U.any())
    assert went_home.generation == before.generation < came_back.generation
    assert (before.arm_U == came_back.arm_U).all(), "the split is the same"
    assert 60 < before.arm_U.sum() < 140
    assert rollout["phase"] == "ramping"
    assert last.users_candidate == before.arm_U.sum()
    assert last.cross_exposure == 0
    assert_history_tells_it(tmp_path, rollout_id, generation=came_back.generation)


def ramp(control: str, candidate: str) -> int:
    """A rollout that a person takes to its first step; return its id."""
    with httpx.Client(base_url=control, timeout=30) as http:
        body = {"surface": HOME_FEED, "candidate": candidate, "plan": PLAN}
        made = http.post("/v1/rollouts", json=body).raise_for_status().json()
        here = f"/v1/rollouts/{made['rollout_id']}"
        eventually(lambda: http.get(here).json()["phase"] == "shadow", seconds=30)
        override = {"command": "skip", "reason": "to see it in the ramp"}
        http.post(f"{here}/commands", json=override).raise_for_status()
        return int(made["rollout_id"])


def judged_after(root: Path, rollout_id: int, at_ms: int) -> Verdict:
    """A verdict on the log as of a later moment."""
    found: list[Verdict] = []

    def has_come() -> bool:
        found[:] = [verdict for verdict in verdicts(root, rollout_id) if verdict.as_of_ms > at_ms]
        return bool(found)

    eventually(has_come, seconds=30)
    return found[0]


def verdicts(root: Path, rollout_id: int) -> list[Verdict]:
    with registry(root) as sessions, sessions.reading() as session:
        found: Any = evidence.list_verdicts(session, rollout_id, 1_000)  # type: ignore[arg-type]  # as HTTP gave it
        return [stored.verdict for stored in found]


def assert_history_tells_it(root: Path, rollout_id: int, *, generation: int) -> None:
    """The chain is whole, the candidate's return has a line of its own, and nobody held anything."""
    with registry(root) as sessions, sessions.reading() as session:
        assert history.verify(session) == []
        entries = {entry.seq: entry for entry in history.list_history(session, HOME_FEED, limit=1_000)}
    came_back = entries[generation]
    assert (came_back.command, came_back.by) == ("renew_watch", "scheduler")
    assert "the candidate had gone home and comes back" in came_back.reason
    assert {entry.command for entry in entries.values()}.isdisjoint({"hold", "roll_back"})
    rules = {verdict.rule for verdict in verdicts(root, rollout_id)}
    assert rules.isdisjoint({Rule.SAMPLE_RATIO, Rule.HARD_STOP, Rule.ERROR})


@contextmanager
def registry(root: Path) -> Iterator[Sessions]:
    engine = make_engine(f"sqlite:///{root / 'control' / 'registry.db'}")
    yield Sessions(engine)
    engine.dispose()


def control_plane(root: Path, port: int) -> tuple[list[str], dict[str, str]]:
    facts = {
        "SUREFOOT_DATA_DIR": str(root / "control"),
        "SUREFOOT_PORT": str(port),
        "SUREFOOT_TICK_SECONDS": "0.2",
        "SUREFOOT_LEASE_SECONDS": "1",
    }
    return ["control_plane", "serve"], facts


def scoring_runtime(root: Path, control: str, port: int) -> tuple[list[str], dict[str, str]]:
    here = ["--port", str(port), "--data-dir", str(root / "runtime"), "--runtime-id", "one"]
    return ["model_runtime", "serve", "--control-plane", control, *here], {"OMP_NUM_THREADS": "1"}


@contextmanager
def running(arguments: list[str], facts: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-m", *arguments], env={**os.environ, **facts})
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def is_ready(runtime: str) -> bool:
    try:
        return httpx.get(f"{runtime}/v2/health/ready").is_success
    except httpx.TransportError:
        return False
