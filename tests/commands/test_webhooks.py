import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from control_plane.__main__ import app as command_line
from control_plane.app import create_app
from control_plane.clock import system_clock
from control_plane.registry.session import Sessions, make_engine
from control_plane.settings import Settings
from tests.api.live_server import serving
from tests.api.test_webhooks import given_up
from tests.webhooks.receiver import Answer, Receiver
from tests.webhooks.scene import KEY, in_text

Run = Callable[..., Result]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as started:
        yield started


@pytest.fixture
def settings(receiver: Receiver, tmp_path: Path) -> Settings:
    entry = {"name": "oncall", "url": f"{receiver.url}/a-secret-path", "secret": in_text(KEY)}
    setting = json.dumps([entry])
    return Settings(data_dir=tmp_path, runs_scheduler=False, webhooks=setting)


@pytest.fixture
def surefoot(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    with serving(create_app(settings, system_clock)) as url:
        monkeypatch.setenv("SUREFOOT_URL", url)
        monkeypatch.setenv("SUREFOOT_OPERATOR", "ann")

        def run(*arguments: object) -> Result:
            return CliRunner().invoke(command_line, ["webhooks", *(str(argument) for argument in arguments)])

        yield run


@pytest.fixture
def sessions(settings: Settings) -> Iterator[Sessions]:
    engine = make_engine(settings.registry_url)
    yield Sessions(engine)
    engine.dispose()


def test_what_was_given_up_is_shown_and_sent_again(surefoot: Run, sessions: Sessions) -> None:
    first, second = given_up(sessions, "home_feed/1", "search/1")

    dead, one, rest = surefoot("dead"), surefoot("replay", "oncall", first), surefoot("replay", "oncall")
    none, listed = surefoot("dead"), surefoot("list")

    assert f"{second}  oncall  surefoot.rollout.held of search" in dead.output
    assert "after 1 attempts: answered 500" in dead.output
    assert "1 event will be sent to oncall again" in one.output
    assert "1 event will be sent to oncall again" in rest.output
    assert "no event was given up" in none.output
    assert "2 pending, the oldest of 2026-03-03T12:00:00Z" in listed.output
    assert "a-secret-path" not in listed.output


def test_a_test_fails_where_the_receiver_does(surefoot: Run, receiver: Receiver) -> None:
    fine = surefoot("test", "oncall")
    receiver.answers = lambda received: Answer(status=500)
    refused, unknown = surefoot("test", "oncall"), surefoot("test", "nobody")

    assert (fine.exit_code, fine.output) == (0, "oncall took it\n")
    assert (refused.exit_code, refused.stderr) == (1, "error: oncall: answered 500 Internal Server Error\n")
    assert unknown.exit_code == 1
    assert "known: oncall" in unknown.stderr
