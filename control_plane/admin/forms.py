"""Forms that people send: where they come from, who signs them, what they saw; each is carried out once."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import parse_qsl, urlsplit

from fastapi import Depends, Request, Response

from control_plane.admin.problems import ForeignForm
from control_plane.api.deps import ANONYMOUS, OPERATOR_PATTERN, parts_of
from control_plane.api.idempotency import OncePerKey
from control_plane.clock import system_clock
from control_plane.domain.errors import InvalidField
from control_plane.domain.model_version import digest_of
from control_plane.registry import principals
from control_plane.registry.idempotency import Keyed

MAX_REASON = 1_000  # characters
MAX_FIELDS = 20
OPERATOR_COOKIE = "surefoot_operator"
YEAR_SECONDS = 31_536_000
KEY = re.compile(r"[0-9a-f]{32}")
NOT_ITS_OWN = frozenset({"key", "token"})  # fields that say nothing of what is asked for; a token is kept nowhere


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """`seen_generation` is that of the page the button stood on; None on forms about no surface.

    `fields` has all that was sent, as it was sent. `once` carries out what it asks for: the first time that it comes.
    """

    operator: str
    groups: frozenset[str]
    reason: str
    seen_generation: int | None
    digest: str
    fields: Mapping[str, str]
    once: OncePerKey


async def _sent_form(request: Request) -> Form:
    """Read a form that this page sent; anything from elsewhere is refused before it is read."""
    check_same_origin(request)
    fields = _fields(await request.body())
    operator = _operator(request, fields)
    return Form(
        operator=operator,
        groups=principals.groups_of(parts_of(request).settings.groups, operator),
        reason=_reason(fields.get("reason", "")),
        seen_generation=_generation(fields.get("seen_generation", "")),
        digest=fields.get("digest", ""),
        fields=fields,
        once=OncePerKey(
            sessions=parts_of(request).sessions, request=_keyed(request, fields, operator), now=system_clock()
        ),
    )


SentForm = Annotated[Form, Depends(_sent_form)]


def check_same_origin(request: Request) -> None:
    """Refuse forms of other sites. Browsers set both headers and let no page forge them."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        is_ours = site == "same-origin"
    else:
        is_ours = urlsplit(request.headers.get("origin", "")).netloc == request.headers.get("host", "?")
    if not is_ours:
        raise ForeignForm


def remember_operator(response: Response, form: Form) -> None:
    """So that the next form knows the name; it proves nothing and opens nothing."""
    response.set_cookie(OPERATOR_COOKIE, form.operator, max_age=YEAR_SECONDS, samesite="strict", httponly=True)


def _fields(body: bytes) -> dict[str, str]:
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS))
    except ValueError as error:
        raise InvalidField("form", f"cannot be read: {error}") from error


def _operator(request: Request, fields: dict[str, str]) -> str:
    tokens = parts_of(request).settings.tokens
    if tokens:
        return principals.authenticate(tokens, fields.get("token", "").strip())
    name = fields.get("operator", "").strip() or ANONYMOUS
    if not OPERATOR_PATTERN.fullmatch(name):
        raise InvalidField("your name", "must be 1 to 100 letters, digits, spaces or any of . @ _ + -")
    return name


def _keyed(request: Request, fields: Mapping[str, str], operator: str) -> Keyed | None:
    """None for a form without a key, which a program sent: it is carried out each time."""
    key = fields.get("key", "")
    if not key:
        return None
    if not KEY.fullmatch(key):
        raise InvalidField("key", "must be 32 hexadecimal digits, as the page wrote them")
    content = {name: text for name, text in fields.items() if name not in NOT_ITS_OWN}
    digest = digest_of(f"{request.url.path}\n{json.dumps(content, sort_keys=True)}".encode())
    return Keyed(operator=operator, key=f"form/{key}", request_digest=digest)


def _reason(text: str) -> str:
    reason = text.strip()
    if len(reason) > MAX_REASON or "\x00" in reason:
        raise InvalidField("reason", f"must be at most {MAX_REASON} characters of plain text")
    return reason


def _generation(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise InvalidField("seen_generation", f"must be a generation, not {text!r}")
    return int(text)
