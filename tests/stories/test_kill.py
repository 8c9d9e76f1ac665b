"""The control plane is killed at any moment and goes on where it was."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from control_plane.domain.rollout import Phase, RolloutId
from control_plane.registry import history
from tests.stories.world import LOOK, World

pytestmark = pytest.mark.slow

PATIENCE_SECONDS = 60.0


def test_a_killed_control_plane_resumes_where_it_was(tmp_path: Path) -> None:
    world = World(tmp_path, "home_feed")
    candidate = world.candidate("home_feed")
    rollout_id = world.roll_out("home_feed", candidate)
    seen: list[tuple[Phase, int]] = []

    for kill_after_looks, seconds_into_the_next in ((1, 0.05), (2, 0.15), (4, 0.25), (6, 0.4)):
        before = world.rollout(rollout_id)
        with control_plane(tmp_path, world) as (process, url):
            assert world.rollout(rollout_id).step >= before.step
            for _ in range(kill_after_looks):
                look(world, tmp_path, url)
            arrive(world, tmp_path)
            time.sleep(seconds_into_the_next)  # somewhere within the tick that just became due
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        after = world.rollout(rollout_id)
        seen.append((after.phase, after.step))

    assert seen == sorted(seen, key=lambda place: place[1])
    assert world.rollout(rollout_id).step >= 0
    assert_whole(world, rollout_id)


def look(world: World, root: Path, url: str) -> None:
    """Traffic comes, event time moves on, and the scheduler in the process has looked."""
    arrive(world, root)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        last = httpx.get(f"{url}/v1/health").json()["last_tick_at"]
        if last is not None and last >= world.now.isoformat().replace("+00:00", "Z"):
            return
        time.sleep(0.05)
    raise AssertionError("the scheduler did not tick in time")


def arrive(world: World, root: Path) -> None:
    world.heartbeat()
    world.serve(9_000)
    world.now += LOOK
    world.heartbeat()
    set_clock(root, world)


@contextmanager
def control_plane(root: Path, world: World) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    set_clock(root, world)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "SUREFOOT_DATA_DIR": str(root),
        "SUREFOOT_PORT": str(port),
        "SUREFOOT_CLOCK_FILE": str(root / "clock"),
        "SUREFOOT_TICK_SECONDS": "0.1",
        "SUREFOOT_LEASE_SECONDS": "1",
        "SUREFOOT_RUNTIME_SILENT_SECONDS": "1e9",
    }
    process = subprocess.Popen([sys.executable, "-m", "control_plane", "serve"], env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_up(url)
        yield process, url
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def wait_until_up(url: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/v1/health").is_success:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError(f"nothing answers at {url}")


def set_clock(root: Path, world: World) -> None:
    temporary = root / "clock.new"
    temporary.write_text(str(round(world.now.timestamp() * 1_000)))
    temporary.rename(root / "clock")


def assert_whole(world: World, rollout_id: RolloutId) -> None:
    """Generations without gaps, an unbroken chain, and a split that matches its rollout."""
    state, rollout = world.surface("home_feed"), world.rollout(rollout_id)
    with world.sessions.reading() as session:
        assert history.verify(session) == []
        entries = history.list_history(session, state.surface, limit=1_000)
    assert sorted(entry.seq for entry in entries) == list(range(state.generation + 1))
    assert state.candidate_bp == rollout.candidate_bp
