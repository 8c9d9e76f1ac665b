"""A deployment's metric sources, by name: URLs in, providers out."""

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NoReturn

import httpx
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from control_plane.domain.errors import InvalidField
from control_plane.domain.plan_reader import NAME
from control_plane.providers.contract import Provider
from control_plane.providers.prometheus import Prometheus
from control_plane.providers.redaction import SECRET_KEY, forms_of
from control_plane.providers.sql import SqlDatabase

SETTING = "SUREFOOT_METRIC_SOURCES"
PROMETHEUS = "prometheus+"
MAX_AT_ONCE = 8  # questions to one source; also the most threads that a source which never answers can keep


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Source:
    """One provider; `slots` are taken for as long as a question is out, even if nobody waits for it any more."""

    name: str
    provider: Provider
    secrets: tuple[str, ...] = ()  # every form of what must not be shown
    slots: threading.BoundedSemaphore = field(default_factory=lambda: threading.BoundedSemaphore(MAX_AT_ONCE))


def read_urls(setting: str) -> dict[str, str]:
    """URLs by name from a JSON object; `InvalidField` shows nothing of what it was given."""
    try:
        urls = json.loads(setting or "{}")
    except ValueError:
        _fail('must be a JSON object like {"prod": "prometheus+http://host:9090"}')
    if not isinstance(urls, dict) or not all(isinstance(url, str) for url in urls.values()):
        _fail("must be a JSON object of names to URLs")
    return urls


def make_sources(urls: Mapping[str, str]) -> dict[str, Source]:
    """Connects to nothing yet; `InvalidField` names the entry, and shows nothing of its URL but the scheme."""
    return {name: _source(name, url) for name, url in urls.items()}


def _source(name: str, url: str) -> Source:
    if not NAME.fullmatch(name):
        _fail(f"names must be 1 to 100 letters, digits, spaces, '.', '_' or '-', not {name!r}")
    scheme = url.partition("://")[0]
    if scheme in ("http", "https", "prometheus"):
        _fail(f"{name}: must begin with prometheus+http:// or prometheus+https://, not {scheme}://")
    return _prometheus(name, url) if url.startswith(PROMETHEUS) else _database(name, url)


def _prometheus(name: str, url: str) -> Source:
    try:
        parsed = httpx.URL(url.removeprefix(PROMETHEUS))
    except httpx.InvalidURL:
        _fail(f"{name}: must be a URL like prometheus+http://host:9090")
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.query or parsed.fragment:
        _fail(f"{name}: must be a URL like prometheus+http://host:9090/prefix, without a query or a fragment")
    bare = parsed.copy_with(username=None, password=None)
    if not parsed.userinfo:
        return Source(name=name, provider=Prometheus(bare))
    auth = (parsed.username, parsed.password)
    return Source(name=name, provider=Prometheus(bare, auth), secrets=forms_of(parsed.password, user=parsed.username))


def _database(name: str, url: str) -> Source:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        _fail(f"{name}: must be a URL like prometheus+http://host:9090 or postgresql+psycopg://user:password@host/name")
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() == "sqlite" and (parsed.database or ":memory:").startswith((":memory:", "file:")):
        _fail(f"{name}: must name a file, like sqlite:////var/lib/numbers.db")
    try:
        return Source(name=name, provider=SqlDatabase(parsed), secrets=_secrets_of(parsed))
    except NoSuchModuleError:
        _fail(f"{name}: SQLAlchemy knows no database {parsed.drivername!r}; a package with its dialect is missing")
    except ImportError as error:
        _fail(f"{name}: the driver of {parsed.drivername} is missing: {error}")
    except Exception as error:  # whatever a dialect makes of a URL it does not like
        _fail(f"{name}: {parsed.drivername} cannot take this URL: {type(error).__name__}")


def _secrets_of(url: URL) -> tuple[str, ...]:
    texts = [] if url.password is None else [str(url.password)]
    for key, values in url.query.items():
        if SECRET_KEY.search(key):
            texts += [values] if isinstance(values, str) else values
    return tuple(form for secret in texts for form in forms_of(secret, user=url.username or ""))


def _fail(rule: str) -> NoReturn:
    raise InvalidField(SETTING, rule)
