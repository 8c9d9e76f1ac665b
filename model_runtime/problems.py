"""What callers are told when something is wrong: a status, and the protocol's one line of JSON."""

import logging
from collections.abc import Awaitable, Callable

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from control_plane.domain.errors import InvalidField, UnknownName
from model_runtime.repository import LoadFailed, NotUnloaded
from model_runtime.unavailable import Unavailable

log = logging.getLogger(__name__)

Handler = Callable[[Request, Exception], Awaitable[Response]]


async def told(request: Request, error: Exception) -> Response:
    """The answer of the most special handler."""
    kind = next(each for each in type(error).__mro__ if each in HANDLERS)
    return await HANDLERS[kind](request, error)


def _error(status_code: int) -> Handler:
    async def answer(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, status_code=status_code)

    return answer


async def _unavailable(_: Request, error: Exception) -> Response:
    assert isinstance(error, Unavailable)
    headers = {"Retry-After": str(error.retry_after_seconds)}
    return JSONResponse({"error": str(error)}, status_code=503, headers=headers)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, status_code=error.status_code)


async def _internal_error(request: Request, error: Exception) -> Response:
    log.exception("%s failed", request.url.path, exc_info=error)
    return JSONResponse({"error": "internal error; the runtime's log says more"}, status_code=500)


HANDLERS: dict[int | type[Exception], Handler] = {
    InvalidField: _error(400),
    ClientDisconnect: _error(400),
    UnknownName: _error(404),
    LoadFailed: _error(400),
    NotUnloaded: _error(409),
    Unavailable: _unavailable,
    HTTPException: _http_error,
    Exception: _internal_error,
}
