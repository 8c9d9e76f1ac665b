import contextlib
import socket
import threading

import pytest

from model_runtime.control_link import Backoff, ControlLink, Event, Unreachable
from tests.model_runtime.conftest import NOWHERE, eventually
from tests.model_runtime.split_stub import split_stub


def test_a_kept_connection_that_was_closed_is_opened_again(control_plane: str) -> None:
    link = ControlLink(control_plane)
    assert link.request("GET", "/v1/splits").status == 200
    link._connection.sock.shutdown(socket.SHUT_RDWR)  # as if the other side had had enough

    assert link.request("GET", "/v1/splits").status == 200
    link.close()


def test_one_connection_serves_many_requests(control_plane: str) -> None:
    link = ControlLink(control_plane)
    link.request("GET", "/v1/splits")
    first = link._connection.sock

    link.request("GET", "/v1/splits")

    assert link._connection.sock is first
    link.close()


def test_nobody_there_is_unreachable() -> None:
    link = ControlLink(NOWHERE)

    with pytest.raises(Unreachable, match="refused"):
        link.request("GET", "/v1/splits")
    with pytest.raises(Unreachable, match="refused"):
        list(link.stream("/v1/splits/stream"))


def test_silence_ends_at_the_time_limit() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        link = ControlLink(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_seconds=0.05)

        with pytest.raises(Unreachable, match="timed out"):
            link.request("GET", "/v1/splits")
        link.close()


def test_closing_wakes_a_thread_that_reads_a_stream() -> None:
    with split_stub() as (stub, url):
        link = ControlLink(url, timeout_seconds=60.0)
        seen: list[Event] = []
        thread = threading.Thread(target=_read, args=(link, seen))
        thread.start()
        eventually(lambda: stub.streams == 1)
        stub.push()
        eventually(lambda: seen)

        link.close()
        thread.join(5.0)

        assert not thread.is_alive()
        assert [event.name for event in seen] == ["splits"]


def test_a_stream_that_is_none_is_unreachable() -> None:
    with split_stub() as (stub, url):
        stub.answers_with = 404

        with pytest.raises(Unreachable, match="answered 404"):
            list(ControlLink(url).stream("/v1/nothing"))


@pytest.mark.parametrize("url", ["", "127.0.0.1:8020", "ftp://127.0.0.1", "http://"])
def test_a_url_that_names_no_server_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        ControlLink(url)


def test_waits_double_up_to_a_limit_and_begin_anew_after_success() -> None:
    backoff = Backoff(0.1, longest_seconds=1.0)

    waits = [backoff.failed() for _ in range(6)]
    backoff.succeeded()

    for wait, ceiling in zip(waits, [0.1, 0.2, 0.4, 0.8, 1.0, 1.0], strict=True):
        assert ceiling / 2 <= wait <= ceiling
    assert backoff.failed() <= 0.1


def _read(link: ControlLink, seen: list[Event]) -> None:
    with contextlib.suppress(Unreachable):
        seen.extend(link.stream("/v1/splits/stream"))
