"""A deployment's webhook subscribers, read from its setting. Nothing here shows a URL's path or a secret."""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NoReturn

import httpx

from control_plane.domain import event_types
from control_plane.domain.errors import InvalidField, UnknownName
from control_plane.providers.redaction import forms_of, without_secrets

SETTING = "SUREFOOT_WEBHOOKS"
NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}")  # it stands in a lease's name, which has 64 characters
SECRET_PREFIX = "whsec_"
SECRET_BYTES = range(24, 65)  # what Standard Webhooks asks for
MAX_SECRETS = 2  # the one in use, and the one before or after it while it is changed
KEYS = ("name", "url", "secret", "secrets", "format", "events")
EXAMPLE = '[{"name": "oncall", "url": "https://host/path", "secret": "whsec_…"}]'


class Format(StrEnum):
    CLOUDEVENTS = "cloudevents"
    SLACK = "slack"


DEFAULT_EVENTS = {
    Format.CLOUDEVENTS: ("*",),
    # Not splits, which say once more what a rollout says.
    Format.SLACK: (f"{event_types.ROLLOUT}.*", "surefoot.quarantine.*", "surefoot.freeze.*"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Subscriber:
    """Who is told; `secrets` are HMAC keys, the first one in use."""

    name: str
    url: str = field(repr=False)
    secrets: tuple[bytes, ...] = field(default=(), repr=False)
    format: Format = Format.CLOUDEVENTS
    events: tuple[str, ...] = ("*",)

    def wants(self, event_type: str) -> bool:
        return any(event_types.matches(pattern, event_type) for pattern in self.events)

    @property
    def origin(self) -> str:
        """What may be shown of the URL: some receivers know a caller by its path alone."""
        url = httpx.URL(self.url)
        return str(httpx.URL(scheme=url.scheme, host=url.host, port=url.port))

    def hides(self, text: str) -> str:
        """The text without anything that is this subscriber's secret."""
        url = httpx.URL(self.url)
        target = url.raw_path.decode("ascii")
        parts = [self.url, target.strip("/"), url.path.strip("/"), url.query.decode("ascii")]
        parts += [base64.b64encode(secret).decode() for secret in self.secrets]
        parts += [part for part in re.split(r"[/?&=]", target) if len(part) >= 8]  # a token, not "hooks"
        forms = [form for part in parts if len(part) >= 4 for form in forms_of(part)]
        if url.password:
            forms += forms_of(url.password, user=url.username)
        return without_secrets(text, sorted(set(forms), key=len, reverse=True))


def read_subscribers(setting: str) -> tuple[Subscriber, ...]:
    """Subscribers from a JSON array; `InvalidField` names the entry and its key, and shows no value of it."""
    try:
        entries = json.loads(setting.strip() or "[]")
    except ValueError:
        _fail("", f"must be a JSON array like {EXAMPLE}")
    if not isinstance(entries, list):
        _fail("", f"must be a JSON array like {EXAMPLE}")
    found = tuple(_subscriber(f"[{index}]", entry) for index, entry in enumerate(entries))
    for index, subscriber in enumerate(found):
        if subscriber.name in [other.name for other in found[:index]]:
            _fail(f"[{index}].name", f"{subscriber.name!r} stands there twice")
    return found


def named(subscribers: tuple[Subscriber, ...], name: str) -> Subscriber:
    for subscriber in subscribers:
        if subscriber.name == name:
            return subscriber
    raise UnknownName("webhook subscriber", name, known=[subscriber.name for subscriber in subscribers])


def _subscriber(where: str, entry: object) -> Subscriber:
    if not isinstance(entry, dict):
        _fail(where, f"must be an object with {', '.join(KEYS)}")
    for key in entry:
        if key not in KEYS:
            _fail(where, f"does not know the key {key[:40]!r}; known: {', '.join(KEYS)}")
    form = _format(f"{where}.format", entry.get("format", Format.CLOUDEVENTS.value))
    return Subscriber(
        name=_name(f"{where}.name", entry.get("name")),
        url=_url(f"{where}.url", entry.get("url")),
        secrets=_secrets(where, entry, is_needed=form is Format.CLOUDEVENTS),
        format=form,
        events=_events(f"{where}.events", entry.get("events", list(DEFAULT_EVENTS[form]))),
    )


def _name(where: str, name: object) -> str:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        _fail(where, "must be 1 to 40 lower-case letters, digits, '_' or '-', and begin with a letter")
    return name


def _url(where: str, url: object) -> str:
    rule = "must be a URL like https://host/path, without a fragment"
    if not isinstance(url, str):
        _fail(where, rule)
    try:
        parsed = httpx.URL(url)
        is_plain = parsed.scheme in ("http", "https") and bool(parsed.host) and not parsed.fragment
    except (httpx.InvalidURL, ValueError):
        is_plain = False
    if not is_plain:
        _fail(where, rule)
    return url


def _secrets(where: str, entry: Mapping[str, object], *, is_needed: bool) -> tuple[bytes, ...]:
    if "secret" in entry and "secrets" in entry:
        _fail(f"{where}.secrets", "must not stand beside secret")
    if "secret" in entry:
        return (_secret(f"{where}.secret", entry["secret"]),)
    given = entry.get("secrets", [])
    if not isinstance(given, list) or len(given) > MAX_SECRETS:
        _fail(f"{where}.secrets", f"must be an array of at most {MAX_SECRETS}")
    if is_needed and not given:
        _fail(f"{where}.secret", "is missing: receivers verify by it who is calling")
    return tuple(_secret(f"{where}.secrets[{index}]", secret) for index, secret in enumerate(given))


def _secret(where: str, secret: object) -> bytes:
    rule = f"must be '{SECRET_PREFIX}' and the base64 of {SECRET_BYTES[0]} to {SECRET_BYTES[-1]} random bytes"
    if not isinstance(secret, str) or not secret.startswith(SECRET_PREFIX):
        _fail(where, rule)
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) not in SECRET_BYTES:
        _fail(where, rule)
    return key


def _format(where: str, name: object) -> Format:
    if not isinstance(name, str) or name not in list(Format):
        _fail(where, f"must be {' or '.join(Format)}")
    return Format(name)


def _events(where: str, patterns: object) -> tuple[str, ...]:
    if not isinstance(patterns, list) or not patterns:
        _fail(where, "must be an array of event types, like surefoot.rollout.held or surefoot.rollout.*")
    for index, pattern in enumerate(patterns):
        if not isinstance(pattern, str) or not any(event_types.matches(pattern, kind) for kind in event_types.TYPES):
            _fail(f"{where}[{index}]", f"matches no type; there are {', '.join(event_types.TYPES)}, and * at an end")
    return tuple(patterns)


def _fail(where: str, rule: str) -> NoReturn:
    raise InvalidField(f"{SETTING}{where}", rule) from None
