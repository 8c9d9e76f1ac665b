"""Closed-loop HTTP load: each connection sends its next request when the answer to the last one is whole.

Written on bare sockets, because on a small machine a costly client would measure itself; both sides get the same one.
"""

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

OK = range(200, 300)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    per_s: float
    p50_ms: float
    p99_ms: float


def get(path: str, *, port: int, **headers: str) -> bytes:
    return _head("GET", path, port, headers) + b"\r\n"


def post(path: str, body: dict[str, Any], *, port: int, method: str = "POST", **headers: str) -> bytes:
    content = json.dumps(body).encode()
    head = _head(method, path, port, {**headers, "Content-Type": "application/json"})
    return head + f"Content-Length: {len(content)}\r\n\r\n".encode() + content


def measure(port: int, requests: Iterator[bytes], *, connections: int, seconds: float) -> Measured:
    """Send from `requests` until the time is up or none is left; every answer must be a success."""
    return asyncio.run(_measure(port, requests, connections, seconds))


async def _measure(port: int, requests: Iterator[bytes], connections: int, seconds: float) -> Measured:
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    callers = [_Caller(requests, until=started + seconds, over=loop.create_future()) for _ in range(connections)]
    for caller in callers:
        await loop.create_connection(lambda caller=caller: caller, "127.0.0.1", port)  # type: ignore[misc]
    await asyncio.gather(*(caller.over for caller in callers))
    taken_seconds = max(caller.answered_at for caller in callers) - started
    latencies = sorted(latency for caller in callers for latency in caller.latencies)
    return Measured(
        per_s=len(latencies) / taken_seconds,
        p50_ms=latencies[len(latencies) // 2] * 1e3,
        p99_ms=latencies[int(len(latencies) * 0.99)] * 1e3,
    )


class _Caller(asyncio.Protocol):
    """One connection. Answers must say their length."""

    def __init__(self, requests: Iterator[bytes], *, until: float, over: "asyncio.Future[None]") -> None:
        self.latencies: list[float] = []
        self.answered_at = 0.0
        self.over = over
        self._requests = requests
        self._until = until
        self._sent_at = 0.0
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not _is_whole(self._received):
            return
        self.answered_at = time.perf_counter()
        self.latencies.append(self.answered_at - self._sent_at)
        if int(self._received[9:12]) not in OK:
            self._finish(AssertionError(self._received.decode(errors="replace")))
            return
        self._received = b""
        self._send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.over.done():
            self.over.set_exception(error or ConnectionError("the server closed the connection"))

    def _send(self) -> None:
        request = next(self._requests, None) if time.perf_counter() < self._until else None
        if request is None:
            self._finish(None)
            return
        assert self._transport is not None
        self._sent_at = time.perf_counter()
        self._transport.write(request)

    def _finish(self, error: Exception | None) -> None:
        assert self._transport is not None
        if error is None:
            self.over.set_result(None)
        else:
            self.over.set_exception(error)
        self._transport.close()


def _is_whole(answer: bytes) -> bool:
    head, ended, body = answer.partition(b"\r\n\r\n")
    if not ended:
        return False
    lower = head.lower()
    start = lower.index(b"content-length:") + len(b"content-length:")
    end = lower.find(b"\r\n", start)
    return len(body) >= int(lower[start:] if end < 0 else lower[start:end])


def _head(method: str, path: str, port: int, headers: dict[str, str]) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{port}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "".join(f"{line}\r\n" for line in lines).encode()
