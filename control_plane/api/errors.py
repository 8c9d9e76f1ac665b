"""Errors become problem details (RFC 9457): which class answers with which status stands in one dict."""

import json
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException

from control_plane.api.patterns import IN_WORDS
from control_plane.domain import errors

log = logging.getLogger(__name__)

PROBLEM_TYPE = "application/problem+json"
MAX_DETAIL = 2_000  # characters: a message repeats what it was given, and that may be megabytes
RETRY_AFTER_SECONDS = "1"
UNKNOWN = (
    "the registry was lost while it committed: whether the change was made is not known; look before you ask again"
)
MOMENT = "must be a moment in ISO 8601, like 2026-12-18T17:00 or 2026-12-18T17:00:00+01:00"
UNREADABLE = "There was an error parsing the body"  # FastAPI's words
NO_JSON = "cannot be read as JSON in UTF-8"


STATUS_OF: dict[type[Exception], HTTPStatus] = {
    errors.Unauthenticated: HTTPStatus.UNAUTHORIZED,
    errors.UnknownName: HTTPStatus.NOT_FOUND,
    errors.AlreadyExists: HTTPStatus.CONFLICT,
    errors.SurfaceBusy: HTTPStatus.CONFLICT,
    errors.StaleGeneration: HTTPStatus.CONFLICT,
    errors.IllegalTransition: HTTPStatus.CONFLICT,
    errors.MissingVerdict: HTTPStatus.CONFLICT,
    errors.NoSafeVersion: HTTPStatus.CONFLICT,
    errors.Deposed: HTTPStatus.CONFLICT,
    errors.InvalidField: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.DigestMismatch: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.CalibratorMismatch: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.UnsafeArtifact: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.GoldenMismatch: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.Quarantined: HTTPStatus.LOCKED,
    errors.Frozen: HTTPStatus.LOCKED,
    errors.CoolingDown: HTTPStatus.CONFLICT,
    errors.Forbidden: HTTPStatus.FORBIDDEN,
    errors.MissingReason: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.KeyReused: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.NothingServed: HTTPStatus.NOT_FOUND,
    errors.InputsPruned: HTTPStatus.GONE,
    errors.InvalidBackup: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.TargetNotEmpty: HTTPStatus.CONFLICT,
    errors.BackupFailed: HTTPStatus.INSUFFICIENT_STORAGE,
    errors.LogUnavailable: HTTPStatus.INSUFFICIENT_STORAGE,
    errors.RegistryUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.RegistryFull: HTTPStatus.INSUFFICIENT_STORAGE,
}
RENAMED = {"current": "current_generation", "seen": "seen_generation"}  # what the number is, for a reader without us


class FieldProblem(BaseModel):
    field: str
    rule: str


class Problem(BaseModel):
    """RFC 9457. `type` names the condition; members beside the standard ones are the condition's own data."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    field: str | None = None
    rule: str | None = None
    line: int | None = None
    current_generation: int | None = None
    errors: list[FieldProblem] | None = None


def problem(
    status: int, condition: str, detail: str, members: Mapping[str, Any] = {}, headers: Mapping[str, str] | None = None
) -> Response:
    """ASCII, so that a lone surrogate in what someone sent cannot break the answer about it."""
    body = {
        **members,
        "type": f"urn:surefoot:{condition}",
        "title": HTTPStatus(status).phrase,
        "status": int(status),
        "detail": detail[:MAX_DETAIL],
    }
    return Response(json.dumps(body, default=str), status, headers, media_type=PROBLEM_TYPE)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that reads: the problems it may answer with, beside those that every route may."""
    content = {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        int(status): {"description": HTTPStatus(status).phrase, "content": content}
        for status in sorted({422, 500, 503, *statuses})
    }


def documented_write(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The same of a route that writes: it wants a token, and a body that parses and is not too large, and room for
    what it writes."""
    return documented(400, 401, 408, 413, 507, *statuses)


def install(app: FastAPI) -> None:
    """Register the handlers; Starlette finds the nearest class along an exception's bases."""
    for error in STATUS_OF:
        app.add_exception_handler(error, _known)
    app.add_exception_handler(errors.ControlPlaneError, _unlisted)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)


async def _known(request: Request, error: Exception) -> Response:
    status = _status_of(request, error)
    condition = _kebab(type(error).__name__)
    match error:
        case errors.RegistryFull():
            log.error("%s", error)
            return problem(status, condition, "the registry's disk is full; nothing was changed")
        case errors.CommitUnknown():
            log.error("%s", error)
            return problem(status, condition, UNKNOWN)
        case errors.RegistryLocked():
            log.error("%s", error)
            headers = {"Retry-After": RETRY_AFTER_SECONDS}
            return problem(status, condition, f"the registry: {error.problem}; nothing was changed", headers=headers)
        case errors.RegistryUnavailable():
            log.error("registry unavailable: %s", error)
            headers = {"Retry-After": RETRY_AFTER_SECONDS}
            return problem(status, condition, "the registry does not answer; try again", headers=headers)
        case errors.Unauthenticated():
            return problem(status, condition, str(error), headers={"WWW-Authenticate": "Bearer"})
        case _:
            return problem(status, condition, str(error), _members(error))


def _status_of(request: Request, error: Exception) -> HTTPStatus:
    """A stale `If-Match` is a precondition that failed; a stale `seen_generation` in the body is a conflict."""
    if isinstance(error, errors.StaleGeneration) and request.headers.get("if-match", "*").strip() != "*":
        return HTTPStatus.PRECONDITION_FAILED
    return STATUS_OF[next(base for base in type(error).__mro__ if base in STATUS_OF)]


def _members(error: Exception) -> dict[str, object]:
    is_stale = isinstance(error, errors.StaleGeneration)
    return {
        RENAMED.get(name, name) if is_stale else name: value
        for name, value in vars(error).items()
        if value is not None and isinstance(value, str | int | float | tuple) and name not in ("path",)
    }


async def _unlisted(request: Request, error: Exception) -> Response:
    return problem(HTTPStatus.CONFLICT, _kebab(type(error).__name__), str(error), _members(error))


async def _invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = [{"field": _field(entry["loc"]), "rule": _rule(entry)[:MAX_DETAIL]} for entry in error.errors()]
    first = found[0]
    detail = "; ".join(f"{entry['field']}: {entry['rule']}" for entry in found)
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid-request", detail, {**first, "errors": found})


def _rule(entry: Mapping[str, Any]) -> str:
    """What was expected, in words where a pattern or a parser says it to programs only."""
    if str(entry["type"]) in ("datetime_parsing", "datetime_from_date_parsing"):
        return MOMENT
    return IN_WORDS.get(entry.get("ctx", {}).get("pattern", ""), str(entry["msg"]))


def _field(loc: tuple[str | int, ...]) -> str:
    """'candidates.search' of ('body', 'candidates', 'search'); where it was looked for, if nothing is left."""
    path = ".".join(str(part) for part in loc[1:] if not (loc[0] == "body" and isinstance(part, int) and len(loc) == 2))
    return path or str(loc[0])


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.detail == UNREADABLE:
        return problem(error.status_code, "invalid-request", f"body: {NO_JSON}", {"field": "body", "rule": NO_JSON})
    is_named = type(error).__name__ != HTTPException.__name__
    name = type(error).__name__ if is_named else HTTPStatus(error.status_code).name.title().replace("_", "")
    return problem(error.status_code, _kebab(name), str(error.detail), headers=error.headers)


async def _unexpected(request: Request, error: Exception) -> Response:
    """Ours to fix: the log has it all (Starlette raises it again for the server), the answer nothing of it."""
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", "an error of ours; it was logged")


def _kebab(name: str) -> str:
    return "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in name).removeprefix("-")
