"""Schedulers in processes of their own that die, or stand still, in the middle of deliveries."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from control_plane.registry.session import Sessions
from tests.webhooks.receiver import Answer, Receiver, wait_until
from tests.webhooks.scene import KEY, in_text, known, queue, told, wait_until_all_told

LEASE_SECONDS = 1.5
SURFACES = ("home_feed", "search", "related_pins")

Process = subprocess.Popen[bytes]


@pytest.fixture
def start(sessions: Sessions, receiver: Receiver, tmp_path: Path) -> Iterator[Callable[[], Process]]:
    """Starts a `surefoot scheduler` on the registry, with the receiver as its subscriber."""
    setting = [{"name": "oncall", "url": receiver.url, "secret": in_text(KEY)}]
    environment = {
        **os.environ,
        "SUREFOOT_DATA_DIR": str(tmp_path),
        "SUREFOOT_DATABASE_URL": sessions.engine.url.render_as_string(hide_password=False),
        "SUREFOOT_WEBHOOKS": json.dumps(setting),
        "SUREFOOT_LEASE_SECONDS": str(LEASE_SECONDS),
    }
    started: list[Process] = []

    def begin() -> Process:
        command = [sys.executable, "-m", "control_plane", "scheduler"]
        started.append(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL))
        return started[-1]

    yield begin
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        process.wait()


@pytest.mark.slow
def test_nothing_is_lost_or_out_of_order_whenever_the_courier_is_killed(
    sessions: Sessions, receiver: Receiver, start: Callable[[], Process]
) -> None:
    known(sessions, "oncall")
    ids = [f"{surface}/{number}" for number in range(40) for surface in SURFACES]
    told(sessions, *ids)
    receiver.answers = lambda received: Answer(after_seconds=0.05)
    moments = random.Random(7)

    for _ in range(4):
        before, process = len(receiver.received), start()
        receiver.wait_for(before + 1)
        time.sleep(moments.uniform(0.0, 0.4))
        process.kill()
        process.wait()
    assert set(receiver.ids) != set(ids)  # it was killed in the middle
    start()
    wait_until_all_told(sessions)

    assert set(receiver.ids) == set(ids)
    for surface in SURFACES:
        sent = [event for event in receiver.ids if event.startswith(f"{surface}/")]
        assert [event for event, _ in itertools.groupby(sent)] == [f"{surface}/{number}" for number in range(40)]
    bodies = {received.id: received.body for received in receiver.received}
    assert all(bodies[received.id] == received.body for received in receiver.received)


@pytest.mark.slow
def test_another_process_goes_on_while_one_stands_still(
    sessions: Sessions, receiver: Receiver, start: Callable[[], Process]
) -> None:
    known(sessions, "oncall")
    told(sessions, "home_feed/1", "home_feed/2")
    receiver.answers = lambda received: (
        Answer(status=500, after_seconds=0.5) if len(receiver.received) == 1 else Answer()
    )
    first = start()
    receiver.wait_for(1)
    first.send_signal(signal.SIGSTOP)

    start()
    wait_until_all_told(sessions)
    first.send_signal(signal.SIGCONT)
    told(sessions, "home_feed/3")
    wait_until(lambda: "home_feed/3" in receiver.ids, "the event after the pause")
    wait_until_all_told(sessions)

    assert [event for event, _ in itertools.groupby(receiver.ids)] == ["home_feed/1", "home_feed/2", "home_feed/3"]
    assert queue(sessions).dead == 0
