"""What callers see of a runtime that is told to end while it is under load."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.model_runtime.artifacts import Artifacts, sound_batch
from tests.model_runtime.conftest import (
    NOWHERE,
    eventually,
    free_port,
    running_control_plane,
    running_runtime,
    set_up_home_feed,
)
from tests.model_runtime.test_server import INFER, as_binary, tensors_of

DRAIN_SECONDS = 4.0  # far longer than these callers take to see that readiness fell, however busy the machine


@contextmanager
def a_runtime_process(
    control_plane: str, data_dir: Path, *, drain_seconds: float = DRAIN_SECONDS
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    port = free_port()
    options = {"--control-plane": control_plane, "--port": port, "--data-dir": data_dir, "--drain": drain_seconds}
    arguments = [str(each) for option in options.items() for each in option]
    command = [sys.executable, "-m", "model_runtime", "serve", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            eventually(lambda: is_ready(url), seconds=60.0)
            yield process, url
        finally:
            process.kill()


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/v2/health/ready").status_code == 200
    except httpx.TransportError:
        return False


class Callers:
    """Threads that ask without a pause while readiness, polled as a balancer does, says that they may."""

    def __init__(self, url: str, count: int) -> None:
        self.url, self.answered, self.problems = url, 0, list[str]()
        self._may_ask = True
        body, self._headers = as_binary(tensors_of(sound_batch()), parameters={"binary_data_output": True})
        self._body = body
        self._threads = [threading.Thread(target=self._ask, args=(number % 2 == 0,)) for number in range(count)]
        for thread in self._threads:
            thread.start()

    def watch(self) -> float:
        """Poll until readiness falls, and send nothing new from then on; when that was."""
        while is_ready(self.url):
            time.sleep(0.05)
        self._may_ask = False
        return time.monotonic()

    def join(self) -> None:
        self._may_ask = False
        for thread in self._threads:
            thread.join(20.0)

    def _ask(self, keeps_its_connection: bool) -> None:
        with httpx.Client(base_url=self.url) as kept:
            while self._may_ask:
                client = kept if keeps_its_connection else httpx
                path = INFER if keeps_its_connection else self.url + INFER
                try:
                    answer = client.post(path, content=self._body, headers=self._headers)
                except httpx.TransportError as error:
                    self.problems.append(repr(error))
                    continue
                if answer.status_code == 200:
                    self.answered += 1
                else:
                    self.problems.append(answer.text)


def test_no_request_fails_when_a_runtime_ends_under_load(artifacts: Artifacts, tmp_path: Path) -> None:
    with running_control_plane(tmp_path / "control") as control_plane:
        set_up_home_feed(control_plane, artifacts)
        with a_runtime_process(control_plane, tmp_path / "runtime") as (process, url):
            callers = Callers(url, 6)
            eventually(lambda: callers.answered >= 30)

            told_at = time.monotonic()
            process.send_signal(signal.SIGTERM)
            fell_at = callers.watch()
            callers.join()

            assert process.wait(20.0) == 0
            assert process.stderr is not None
            assert "Traceback" not in process.stderr.read()

    assert fell_at - told_at < DRAIN_SECONDS
    assert callers.problems == []


def test_callers_who_do_not_see_that_readiness_fell_keep_the_door_open(artifacts: Artifacts, tmp_path: Path) -> None:
    with running_control_plane(tmp_path / "control") as control_plane:
        set_up_home_feed(control_plane, artifacts)
        with a_runtime_process(control_plane, tmp_path / "runtime", drain_seconds=0.1) as (process, url):
            callers = Callers(url, 4)
            eventually(lambda: callers.answered >= 20)

            process.send_signal(signal.SIGTERM)
            time.sleep(2.0)
            still_runs = process.poll() is None
            callers.join()

            assert process.wait(20.0) == 0

    assert still_runs
    assert callers.problems == []


def test_a_draining_runtime_answers_and_ends_each_connection(artifacts: Artifacts, tmp_path: Path) -> None:
    with running_control_plane(tmp_path / "control") as control_plane:
        set_up_home_feed(control_plane, artifacts)
        with (
            a_runtime_process(control_plane, tmp_path / "runtime") as (process, url),
            httpx.Client(base_url=url) as http,
        ):
            body, headers = as_binary(tensors_of(sound_batch()))
            assert "connection" not in http.post(INFER, content=body, headers=headers).headers

            process.send_signal(signal.SIGTERM)
            eventually(lambda: http.get("/v2/health/ready").status_code == 503)

            answer = http.post(INFER, content=body, headers=headers)
            assert (answer.status_code, answer.headers["connection"]) == (200, "close")
            assert http.get("/v2/health/live").status_code == 200


def test_what_is_refused_says_when_to_ask_again(tmp_path: Path) -> None:
    with running_runtime(NOWHERE, tmp_path, max_waiting=0) as (_, url):
        answer = httpx.post(url + INFER, content=b"{}")

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
