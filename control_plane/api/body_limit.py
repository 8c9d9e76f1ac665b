"""How much requests may send: a body beyond it is refused before it fills the memory, and so is one of too many."""

import anyio
from anyio import current_time
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from control_plane.api.errors import RETRY_AFTER_SECONDS, problem

EVENTS_PATH = "/v1/events"
MAX_EVENTS_BYTES = 64 * 1024 * 1024  # about a million exposures as an Arrow stream; senders cut larger batches
MAX_BODY_BYTES = 1024 * 1024  # plans, heartbeats: a hundred times what real ones need
MAX_HELD_BYTES = 8 * MAX_EVENTS_BYTES  # of all requests at hand: bodies wait in memory for their turn
BODY_SECONDS = 60.0  # a sender that takes longer for a body would hold that memory for nothing


class BodyTooLarge(HTTPException):
    """Passes through FastAPI's reading of a body, which hides every other kind of error."""

    def __init__(self, most: int) -> None:
        super().__init__(413, f"a body here has at most {most} bytes; send it in smaller batches")


class BodyTooSlow(HTTPException):
    def __init__(self, seconds: float) -> None:
        super().__init__(408, f"a body must come within {seconds:g} s")


class TooBusy(HTTPException):
    def __init__(self) -> None:
        super().__init__(503, "the requests at hand fill the memory; try again", {"Retry-After": RETRY_AFTER_SECONDS})


class BodyLimit:
    """ASGI middleware; counts what arrives, so that a missing or false Content-Length does not matter."""

    def __init__(
        self, app: ASGIApp, *, max_held_bytes: int = MAX_HELD_BYTES, body_seconds: float = BODY_SECONDS
    ) -> None:
        self._app = app
        self._max_held_bytes = max_held_bytes
        self._body_seconds = body_seconds
        self._held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = MAX_EVENTS_BYTES if scope["path"] == EVENTS_PATH else MAX_BODY_BYTES
        if _announced_bytes(scope) > most:
            refused = BodyTooLarge(most)
            await problem(refused.status_code, "body-too-large", refused.detail)(scope, receive, send)
            return
        arrived, is_whole = 0, False
        deadline = current_time() + self._body_seconds

        async def counted() -> Message:
            nonlocal arrived, is_whole
            message = await (receive() if is_whole else self._in_time(receive, deadline))
            is_whole = not message.get("more_body", False)
            arrived += len(message.get("body", b""))
            self._held_bytes += len(message.get("body", b""))
            if arrived > most:
                raise BodyTooLarge(most)
            if self._held_bytes > self._max_held_bytes:
                raise TooBusy
            return message

        try:
            await self._app(scope, counted, send)
        finally:
            self._held_bytes -= arrived

    async def _in_time(self, receive: Receive, deadline: float) -> Message:
        try:
            with anyio.fail_after(deadline - current_time()):
                return await receive()
        except TimeoutError:
            raise BodyTooSlow(self._body_seconds) from None


def _announced_bytes(scope: Scope) -> int:
    text = dict(scope["headers"]).get(b"content-length", b"0")
    return int(text) if text.isdigit() else 0
