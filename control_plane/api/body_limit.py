"""How much a request may send: a body beyond it is refused with 413 before it fills the memory."""

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from control_plane.api.errors import problem

EVENTS_PATH = "/v1/events"
MAX_EVENTS_BYTES = 64 * 1024 * 1024  # about a million exposures as an Arrow stream; senders cut larger batches
MAX_BODY_BYTES = 1024 * 1024  # plans, heartbeats: a hundred times what real ones need


class BodyTooLarge(HTTPException):
    """Passes through FastAPI's reading of a body, which hides every other kind of error."""

    def __init__(self, most: int) -> None:
        super().__init__(413, f"a body here has at most {most} bytes; send it in smaller batches")


class BodyLimit:
    """ASGI middleware; counts what arrives, so that a missing or false Content-Length does not matter."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = MAX_EVENTS_BYTES if scope["path"] == EVENTS_PATH else MAX_BODY_BYTES
        if _announced_bytes(scope) > most:
            refused = BodyTooLarge(most)
            await problem(refused.status_code, "body-too-large", refused.detail)(scope, receive, send)
            return
        arrived = 0

        async def counted() -> Message:
            nonlocal arrived
            message = await receive()
            arrived += len(message.get("body", b""))
            if arrived > most:
                raise BodyTooLarge(most)
            return message

        await self._app(scope, counted, send)


def _announced_bytes(scope: Scope) -> int:
    text = dict(scope["headers"]).get(b"content-length", b"0")
    return int(text) if text.isdigit() else 0
