"""Bodies on their way in: bounded in size and time each, and in size all together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from model_runtime.settings import RuntimeSettings
from model_runtime.unavailable import Unavailable


class Bodies:
    """All that callers sent and that is not answered yet; for one event loop."""

    def __init__(self, settings: RuntimeSettings) -> None:
        self._settings = settings
        self._held_bytes = 0

    @asynccontextmanager
    async def whole(self, receive: Receive, max_bytes: int) -> AsyncIterator[bytes]:
        """One body, which counts as held until it is answered.

        Raises:
            HTTPException: it is too large, or too slow.
            Unavailable: all bodies together are too large.
            ClientDisconnect: the sender is gone.
        """
        chunks: list[bytes] = []
        try:
            await self._receive_in_time(receive, chunks, max_bytes)
            yield chunks[0] if len(chunks) == 1 else b"".join(chunks)
        finally:
            self._held_bytes -= sum(map(len, chunks))

    async def _receive_in_time(self, receive: Receive, chunks: list[bytes], max_bytes: int) -> None:
        try:
            async with asyncio.timeout(self._settings.body_seconds):
                await self._receive(receive, chunks, max_bytes)
        except TimeoutError:
            raise HTTPException(408, f"body: must come within {self._settings.body_seconds:g} s") from None

    async def _receive(self, receive: Receive, chunks: list[bytes], max_bytes: int) -> None:
        size, has_more = 0, True
        while has_more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            chunk, has_more = message.get("body", b""), message.get("more_body", False)
            chunks.append(chunk)
            size += len(chunk)
            self._held_bytes += len(chunk)
            if size > max_bytes:
                raise HTTPException(413, f"body: may have at most {max_bytes} bytes")
            if self._held_bytes > self._settings.max_held_bytes:
                raise Unavailable("the requests at hand fill the memory; try another replica, or later")
