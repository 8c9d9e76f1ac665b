"""The command line against a line that drops: a server of the test's own, which hangs up when it is told to."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from typer.testing import CliRunner

from control_plane.__main__ import app as command_line
from control_plane.commands import client

ANSWER = b'{"digest": "x", "surfaces": []}'


@contextmanager
def hanging_up(times: int) -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """A URL, and the method and key of each request that came; the first ones get no answer."""
    came: list[tuple[str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name it has there
            pass

        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            came.append((self.command, self.headers.get("Idempotency-Key")))
            if len(came) <= times:
                self.close_connection = True
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(ANSWER)))
            self.end_headers()
            self.wfile.write(ANSWER)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", came
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "RETRY_AFTER_SECONDS", 0.0)


def test_a_command_whose_connection_drops_is_sent_once_more_under_the_same_key(monkeypatch: pytest.MonkeyPatch) -> None:
    with hanging_up(1) as (url, came):
        monkeypatch.setenv("SUREFOOT_URL", url)
        done = CliRunner().invoke(command_line, ["quarantine", "add", "sha256:" + "0" * 64, "--reason", "x"])

    assert done.exit_code == 0, done.output
    assert [method for method, _ in came] == ["POST", "POST"]
    assert came[0][1] == came[1][1] is not None


def test_two_commands_have_two_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    with hanging_up(0) as (url, came):
        monkeypatch.setenv("SUREFOOT_URL", url)
        for _ in range(2):
            CliRunner().invoke(command_line, ["quarantine", "add", "sha256:" + "0" * 64, "--reason", "x"])

    assert len({key for _, key in came}) == 2


def test_a_line_that_drops_twice_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with hanging_up(2) as (url, came):
        monkeypatch.setenv("SUREFOOT_URL", url)
        done = CliRunner().invoke(command_line, ["quarantine", "add", "sha256:" + "0" * 64, "--reason", "x"])

    assert done.exit_code == 1
    assert "cannot reach the control plane" in done.stderr
    assert len(came) == 2
