"""Pages from templates, with the headers that keep foreign scripts, frames and forms out."""

import hashlib
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from http import HTTPStatus
from pathlib import Path

from fastapi import Request, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from sqlalchemy.exc import SQLAlchemyError

from control_plane.admin import wording
from control_plane.admin.banners import FreezeBanner, freeze_banners
from control_plane.api.deps import parts_of
from control_plane.clock import system_clock
from control_plane.domain.errors import RegistryUnavailable

HERE = Path(__file__).parent
STATIC = HERE / "static"
MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
KEEP_SECONDS = 31_536_000  # static files carry their digest in the address
PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def render(
    request: Request, template: str, *, status: int = HTTPStatus.OK, page: str = "", **values: object
) -> Response:
    """`page` is the address of the navigation entry that the page belongs to."""
    parts = parts_of(request)
    now = _now_of(request)
    frame: Mapping[str, object] = {
        "now": now,
        "page": page,
        "is_replay": parts.settings.clock_file is not None,
        "asks_token": bool(parts.settings.tokens),
        "operator": request.cookies.get("surefoot_operator", ""),
        "frozen": _frozen(request, status, now),
    }
    body = _environment().get_template(template).render({**frame, **values})
    return Response(body, status, PAGE_HEADERS, media_type="text/html")


def static_file(name: str) -> Response | None:
    """One of the files that lie in static/, and nothing else; None for any other name."""
    path = STATIC / name
    if name not in _digests():
        return None
    headers = {"Cache-Control": f"public, max-age={KEEP_SECONDS}, immutable", "X-Content-Type-Options": "nosniff"}
    return Response(path.read_bytes(), headers=headers, media_type=MEDIA_TYPES[path.suffix])


def _now_of(request: Request) -> datetime:
    """The clock's time; a clock file that is not there yet must not take the error page down too."""
    try:
        return parts_of(request).clock()
    except (OSError, ValueError):
        return system_clock()


def _frozen(request: Request, status: int, now: datetime) -> tuple[FreezeBanner, ...]:
    """The freezes that stand. A page about a failure is shown all the same where they cannot be read."""
    if status == HTTPStatus.SERVICE_UNAVAILABLE:  # to wait for the registry a second time helps nobody
        return ()
    try:
        with parts_of(request).sessions.reading() as session:
            return freeze_banners(session, now)
    except (SQLAlchemyError, RegistryUnavailable):
        if status == HTTPStatus.OK:
            raise
        return ()


@cache
def _digests() -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:12] for path in STATIC.iterdir()}


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "share": wording.share,
        "percent": wording.percent,
        "number": wording.number,
        "count": wording.count,
        "moment": wording.moment,
        "ago": wording.ago,
        "duration": wording.duration,
        "full_moment": wording.full_moment,
        "iso": lambda at: at.astimezone(UTC).isoformat(timespec="seconds"),
        "metric_name": wording.metric_name,
        "surface_name": wording.surface_name,
        "surfaces_words": wording.surfaces_words,
        "until_words": wording.until_words,
        "short_version": wording.short_version,
        "short_digest": wording.short_digest,
        "phase_chip": wording.phase_chip,
        "outcome_chip": wording.OUTCOME_CHIPS.__getitem__,
        "blame_words": wording.BLAME_WORDS.__getitem__,
        "command_words": wording.COMMAND_WORDS.__getitem__,
        "command_icon": wording.COMMAND_ICONS.__getitem__,
    }
    environment.globals |= {
        "new_key": lambda: uuid.uuid4().hex,  # a form that is sent twice is carried out once
        "static": lambda name: f"/static/{name}?v={_digests()[name]}",
        "icons": Markup((HERE / "templates" / "icons.svg").read_text()),
    }
    return environment
