"""Errors as pages: the route class of every page here answers people, never with JSON."""

import logging
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

from anyio import to_thread
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException

from control_plane.admin.rendering import render
from control_plane.api.errors import STATUS_OF
from control_plane.domain import errors

log = logging.getLogger(__name__)

Handler = Callable[[Request], Coroutine[Any, Any, Response]]

ADVICE: dict[type[Exception], str] = {
    errors.StaleGeneration: "Nothing was changed. Go back, look at what serves now, and decide again.",
    errors.IllegalTransition: "Nothing was changed: the rollout has moved on since you loaded the page.",
    errors.MissingVerdict: "Nothing was changed. Say why you overrule the judge; the reason stays in the history.",
    errors.NoSafeVersion: "Nothing was changed. Register a sound version and adopt it as stable.",
    errors.Frozen: "Nothing was changed. Rolling back, holding and aborting work as ever while a freeze stands.",
    errors.Forbidden: "Nothing was changed.",
    errors.KeyReused: "This form was sent before, and carried out as it was then. To do something else, open it anew.",
    errors.UnknownName: "It may have been named wrongly, or it lives in another deployment.",
    OperationalError: "Runtimes keep serving what they have, and send an unwatched candidate home by themselves.",
}


class ForeignForm(errors.ControlPlaneError):
    """A form that another site sent in the operator's name."""

    def __init__(self) -> None:
        super().__init__("this form was not sent from the admin page itself, so it was not carried out")


class PageRoute(APIRoute):
    """A route whose errors are pages."""

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()

        async def handle_or_explain(request: Request) -> Response:
            try:
                return await handle(request)
            except Exception as error:
                return await to_thread.run_sync(_explain, request, error)  # the frame of a page reads the registry

        return handle_or_explain


def _explain(request: Request, error: Exception) -> Response:
    status = _status_of(error)
    if status is HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    advice = next((text for kind, text in ADVICE.items() if isinstance(error, kind)), "")
    return render(
        request,
        "problem.html",
        status=status,
        heading=status.phrase,
        detail=_detail_of(error, status),
        advice=advice,
        is_write=request.method == "POST",
        way_back=_way_back(request),
    )


def _status_of(error: Exception) -> HTTPStatus:
    if isinstance(error, ForeignForm):
        return HTTPStatus.FORBIDDEN
    if isinstance(error, HTTPException):
        return HTTPStatus(error.status_code)
    if isinstance(error, RequestValidationError):
        return HTTPStatus.UNPROCESSABLE_ENTITY
    known = next((STATUS_OF[base] for base in type(error).__mro__ if base in STATUS_OF), None)
    if known is not None:
        return known
    return HTTPStatus.CONFLICT if isinstance(error, errors.ControlPlaneError) else HTTPStatus.INTERNAL_SERVER_ERROR


def _detail_of(error: Exception, status: HTTPStatus) -> str:
    if isinstance(error, RequestValidationError):
        return "; ".join(f"{'.'.join(map(str, entry['loc'][1:]))}: {entry['msg']}" for entry in error.errors())
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        return "the registry does not answer"
    if status is HTTPStatus.INTERNAL_SERVER_ERROR:
        return "an error of ours; it was logged"
    return str(error.detail) if isinstance(error, HTTPException) else str(error)


def _way_back(request: Request) -> str:
    """The page that the failed form stood on: its address without the command."""
    path = request.url.path
    if path.startswith(("/rollouts/", "/releases/")) and path.count("/") > 2:
        return path.rsplit("/", 1)[0]
    return next((page for page in ("/freezes", "/webhooks", "/history") if path.startswith(f"{page}/")), "/")
