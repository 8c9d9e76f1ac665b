"""HTTP to the control plane over one kept connection; each thread has a link of its own."""

import contextlib
import http
import http.client
import random
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

LONGEST_BACKOFF_SECONDS = 10.0  # a control plane that comes back is noticed within this time


class Unreachable(Exception):
    """The control plane did not answer; whatever was asked may be asked again."""

    def __init__(self, url: str, problem: str) -> None:
        super().__init__(f"{url}: {problem}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    name: str
    data: str


class Backoff:
    """Doubling waits with jitter, so that a fleet does not come back in step."""

    def __init__(self, first_seconds: float = 0.2, *, longest_seconds: float = LONGEST_BACKOFF_SECONDS) -> None:
        self._first = first_seconds
        self._longest = longest_seconds
        self._failures = 0

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self) -> float:
        """Count a failure and return how long to wait, in seconds."""
        ceiling = min(self._longest, self._first * 2.0 ** min(self._failures, 30))
        self._failures += 1
        return ceiling * random.uniform(0.5, 1.0)


class ControlLink:
    """Not for two threads at once, except `close`, which also ends a stream that another thread reads."""

    def __init__(self, base_url: str, *, token: str = "", timeout_seconds: float = 5.0) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"the control plane's URL must be http(s)://host:port, not {base_url!r}")
        self._url = base_url
        self._path = parts.path.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        connect = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = connect(parts.hostname, parts.port, timeout=timeout_seconds)
        self._socket: socket.socket | None = None  # the connection forgets its own when a stream takes it over

    def request(
        self, method: str, path: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send and read one answer. A kept connection that the other side closed is opened again, once.

        Raises:
            Unreachable: no whole answer came.
        """
        was_open = self._connection.sock is not None
        try:
            return self._exchange(method, path, body, headers or {})
        except (ConnectionError, http.client.HTTPException) as error:
            self.close()
            if not was_open:
                raise Unreachable(self._url, _words(error)) from None
        except (OSError, ValueError, AttributeError) as error:
            # ValueError and AttributeError: `close` of another thread took the connection away in between.
            self.close()
            raise Unreachable(self._url, _words(error)) from None
        return self.request(method, path, body=body, headers=headers)

    def stream(self, path: str) -> Iterator[Event]:
        """Yield server-sent events as they come; ends when the stream does.

        Raises:
            Unreachable: no stream, or nothing was heard for the link's time limit.
        """
        try:
            self._connection.request("GET", self._path + path, headers={**self._headers, "Accept": "text/event-stream"})
            self._socket = self._connection.sock
            with self._connection.getresponse() as response:
                if response.status != http.HTTPStatus.OK:
                    raise Unreachable(self._url, f"GET {path} answered {response.status}")
                yield from _events(response)
        except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
            # ValueError and AttributeError: `close` of another thread took the file away under the reader.
            raise Unreachable(self._url, _words(error)) from None
        finally:
            self._connection.close()

    def close(self) -> None:
        """Close the connection; a thread blocked in `stream` wakes up and ends."""
        for connected in (self._socket, self._connection.sock):
            if connected is not None:
                with contextlib.suppress(OSError):  # the other side was faster
                    connected.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def _exchange(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        self._connection.request(method, self._path + path, body=body, headers={**self._headers, **headers})
        with self._connection.getresponse() as response:
            return Answer(
                status=response.status,
                headers={name.lower(): value for name, value in response.getheaders()},
                body=response.read(),
            )


def _events(response: http.client.HTTPResponse) -> Iterator[Event]:
    name, data = "message", list[str]()
    while line := response.readline():
        field, _, value = line.decode("utf-8", "replace").rstrip("\r\n").partition(":")
        if field == "event":
            name = value.removeprefix(" ")
        elif field == "data":
            data.append(value.removeprefix(" "))
        elif not field and not value:
            if data:
                yield Event(name=name, data="\n".join(data))
            name, data = "message", []


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
