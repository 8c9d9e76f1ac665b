"""One HTTP connection, with fewer turns of the event loop than uvicorn's own takes for a large body.

Every turn, and every call of the system, hands the interpreter to the threads that compute and waits to get it back.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

WHOLE_BYTES = 1 << 20  # of a body that the application is told of at once; larger ones come in parts
EXTENSION = "surefoot.joined"


class Joined:
    """A transport whose writes can be held back to go out as one."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._held: list[bytes] | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if self._held is None:
            self._transport.write(data)
        else:
            self._held.append(data)

    def close(self) -> None:
        self._let_go()
        self._transport.close()

    @contextmanager
    def one_write(self) -> Iterator[None]:
        """What is written meanwhile goes out together at the end."""
        self._held = []
        try:
            yield
        finally:
            self._let_go()

    def _let_go(self) -> None:
        held, self._held = self._held, None
        if held and not self._transport.is_closing():
            self._transport.write(b"".join(held))


class Connection(HttpToolsProtocol):
    """Tells the application of a body once it is whole, and lets it write an answer at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._joined = Joined(transport)
        super().connection_made(self._joined)  # type: ignore[arg-type]  # it has all that a transport has

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {EXTENSION: {"transport": self._joined}}

    def on_body(self, body: bytes) -> None:
        if self.cycle.response_complete:
            return
        self.cycle.body += body
        if len(self.cycle.body) > WHOLE_BYTES:
            self.flow.pause_reading()
            self.cycle.message_event.set()


@contextmanager
def one_write(scope: Scope) -> Iterator[None]:
    """What is sent meanwhile goes out as one, where the connection can do that."""
    joined = scope.get("extensions", {}).get(EXTENSION, {}).get("transport")
    if joined is None:
        yield
        return
    with joined.one_write():
        yield
