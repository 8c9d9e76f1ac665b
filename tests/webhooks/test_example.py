"""The receiver that the documentation shows, in a process of its own, told by a real courier."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from control_plane.clock import system_clock
from control_plane.registry.session import Sessions
from control_plane.webhooks.signature import headers_of
from tests.webhooks.receiver import wait_until
from tests.webhooks.scene import KEY, OTHER_KEY, a_courier, a_subscriber, in_text, known, told, wait_until_all_told

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/webhooks/receiver.py"
BODY = b'{"id":"home_feed/1","type":"surefoot.test","subject":"home_feed","data":{}}'


@pytest.fixture
def registry_url(tmp_path: Path, sqlite_template: Path) -> str:
    (tmp_path / "registry.db").write_bytes(sqlite_template.read_bytes())
    return f"sqlite:///{tmp_path / 'registry.db'}"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "told.txt"


@pytest.fixture
def url(log: Path) -> Iterator[str]:
    """The running example's; what it prints is in `log`."""
    environment = {**os.environ, "WEBHOOK_SECRET": in_text(KEY)}
    with log.open("w") as said:
        process = subprocess.Popen(
            [sys.executable, EXAMPLE, "0"], env=environment, stdout=said, stderr=subprocess.DEVNULL
        )
        try:
            wait_until(lambda: log.read_text().endswith("/\n"), "the example to listen")
            yield log.read_text().split()[-1]
        finally:
            process.terminate()
            process.wait()


def test_the_example_acts_on_what_the_courier_sends(sessions: Sessions, url: str, log: Path) -> None:
    known(sessions, "oncall")
    told(sessions, "home_feed/1", "home_feed/2")

    with a_courier(sessions, [a_subscriber(url, secrets=(OTHER_KEY, KEY))]):  # while a secret is changed
        wait_until_all_told(sessions)

    assert len(_acted_on(log)) == 2


def test_the_example_acts_once_on_what_comes_twice(url: str, log: Path) -> None:
    headers = headers_of("home_feed/1", BODY, [KEY], now=system_clock())

    answers = [httpx.post(url, content=BODY, headers=headers) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [204, 204]
    assert len(_acted_on(log)) == 1


@pytest.mark.parametrize("what", ["another secret", "another body", "another id", "an old request", "no signature"])
def test_the_example_refuses_what_is_not_genuine(url: str, log: Path, what: str) -> None:
    headers = headers_of("home_feed/1", BODY, [OTHER_KEY if what == "another secret" else KEY], now=system_clock())
    match what:
        case "another id":
            headers["webhook-id"] = "home_feed/2"
        case "an old request":
            headers["webhook-timestamp"] = str(int(time.time()) - 3_600)
        case "no signature":
            del headers["webhook-signature"]

    body = BODY.replace(b"home_feed", b"search") if what == "another body" else BODY
    answer = httpx.post(url, content=body, headers=headers)

    assert answer.status_code == 401
    assert _acted_on(log) == []


def test_the_documentation_shows_the_example_as_it_is() -> None:
    (shown,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/webhooks.md").read_text(), re.DOTALL)

    assert shown in EXAMPLE.read_text()


def _acted_on(log: Path) -> list[str]:
    return log.read_text().splitlines()[1:]  # the first says where it listens
