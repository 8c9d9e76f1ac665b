"""Talks to the control plane's API on behalf of the command line."""

import getpass
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import httpx
import typer
from rich.console import Console
from rich.markup import escape

DEFAULT_URL = "http://127.0.0.1:8020"
TIMEOUT_SECONDS = 30.0
RETRY_AFTER_SECONDS = 0.5  # where a connection dropped: a server that is being replaced, or one of several that died
VERSION_DIGITS = 16

Json = dict[str, Any]

out = Console()
err = Console(stderr=True, highlight=False)


def call(
    method: str,
    path: str,
    *,
    body: Json | None = None,
    params: dict[str, str] | None = None,
    flags: Mapping[str, str] | None = None,
) -> Any:
    """Send one request and return its JSON; on a refusal print its problem and exit with 1.

    A request whose connection drops is sent once more: under its key, a change is not made twice. `flags` are the
    options that fields of the body were given by: a refusal names those.
    """
    headers = {} if method == "GET" else {"Idempotency-Key": str(uuid.uuid4())}
    with _client() as client, _connection_errors():
        try:
            response = client.request(method, path, json=body, params=params, headers=headers)
        except (httpx.NetworkError, httpx.RemoteProtocolError):
            time.sleep(RETRY_AFTER_SECONDS)
            response = client.request(method, path, json=body, params=params, headers=headers)
    if response.is_error:
        fail(_problem(response, flags or {}))
    return response.json() if response.content else None


def stream_lines(path: str, *, params: dict[str, str] | None = None) -> Iterator[str]:
    """The lines of a long answer as they come, with their line breaks; exits with 1 as `call` does."""
    with _client() as client, _connection_errors(), client.stream("GET", path, params=params) as response:
        if response.is_error:
            response.read()
            fail(_problem(response))
        for line in response.iter_lines():
            yield f"{line}\n"


def fail(message: str, *, code: int = 1) -> typer.Exit:
    err.print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)
    raise typer.Exit(code)


def version_id(given: str) -> str:
    """A whole version id from its first digits, as the page and these commands show them."""
    if len(given) == VERSION_DIGITS:
        return given
    found = [known["version_id"] for known in call("GET", "/v1/versions")["versions"]]
    matching = [known for known in found if known.startswith(given)]
    if len(matching) != 1:
        what = "several versions begin" if matching else "no registered version begins"
        fail(f"{what} with {given!r}; `surefoot version list` shows all of them")
    return str(matching[0])


def url() -> str:
    return os.environ.get("SUREFOOT_URL", DEFAULT_URL).rstrip("/")


def _client() -> httpx.Client:
    headers = {"X-Surefoot-Operator": os.environ.get("SUREFOOT_OPERATOR") or getpass.getuser()}
    if token := os.environ.get("SUREFOOT_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    return httpx.Client(base_url=url(), headers=headers, timeout=TIMEOUT_SECONDS)


@contextmanager
def _connection_errors() -> Iterator[None]:
    try:
        yield
    except httpx.TransportError as error:
        fail(f"cannot reach the control plane at {url()} ({error}); is `surefoot up` running? SUREFOOT_URL says where")


def _problem(response: httpx.Response, flags: Mapping[str, str] = MappingProxyType({})) -> str:
    try:
        problem = response.json()
    except ValueError:
        return f"{response.status_code} {response.reason_phrase}"
    if not isinstance(problem, dict):
        return f"{response.status_code} {problem}"
    detail = str(problem.get("detail") or problem.get("title") or response.reason_phrase)
    field = str(problem.get("field"))
    if field in flags and detail.startswith(f"{field}: "):
        detail = flags[field] + detail.removeprefix(field)
    current = problem.get("current_generation")
    return detail if current is None else f"{detail} (the present generation is {current})"
