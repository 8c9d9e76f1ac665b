"""Bodies in masses: what is too slow or too much together is refused, and nobody else notices."""

import socket
from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI, Request

from control_plane.api import errors
from control_plane.api.body_limit import BodyLimit
from tests.api.live_server import serving


@pytest.fixture
def url() -> Iterator[str]:
    app = FastAPI()
    errors.install(app)
    app.add_middleware(BodyLimit, max_held_bytes=1_000, body_seconds=0.5)

    @app.post("/size")
    async def size(request: Request) -> int:
        return len(await request.body())

    with serving(app) as address:
        yield address


def test_a_sender_that_does_not_finish_is_cut_off(url: str) -> None:
    with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])), timeout=10) as slow:
        slow.sendall(b"POST /size HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")

        assert b" 408 " in slow.recv(1_000)


def test_bodies_that_together_fill_the_memory_are_told_to_come_again_and_then_find_room(url: str) -> None:
    with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])), timeout=10) as slow:
        slow.sendall(b"POST /size HTTP/1.1\r\nHost: x\r\nContent-Length: 901\r\n\r\n" + b"x" * 900)
        crowded = httpx.post(f"{url}/size", content=b"x" * 200)
        slow.recv(1_000)
    alone = httpx.post(f"{url}/size", content=b"x" * 200)

    assert (crowded.status_code, crowded.json()["type"]) == (503, "urn:surefoot:too-busy")
    assert crowded.headers["Retry-After"] == "1"
    assert alone.json() == 200
