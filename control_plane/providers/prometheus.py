"""Prometheus and what speaks its HTTP API (Thanos, Mimir, VictoriaMetrics): one instant query, one sample."""

import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import httpx

from control_plane.domain.errors import InvalidField
from control_plane.domain.queries import Language, fill, language_of
from control_plane.providers.contract import Ask, Sample, Subject, TooSlow, Unanswered, Unreachable

CONNECT_SECONDS = 1.5  # below what a question has, so that a host that is away is told from a slow query
MAX_BYTES = 1_000_000  # of an answer: a thousand times what one sample takes
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|NaN|[+-]?Inf", re.ASCII)
MATRIX_HINT = "the query is a range vector; wrap it in rate() or one of the …_over_time() functions"


class Prometheus:
    """Asks `url`/api/v1/query with the tick's time. Follows no redirect: it could lead the password elsewhere."""

    def __init__(self, url: httpx.URL, auth: tuple[str, str] | None = None) -> None:
        self.url = url.copy_with(path=url.path.rstrip("/") + "/api/v1/query")
        self._auth = None if auth is None else httpx.BasicAuth(*auth)
        self._tls = httpx.create_ssl_context()  # costs more than the rest of a query; made once

    def shown(self, query: str, subject: Subject) -> str:
        if language_of(query) is not Language.PROMQL:
            raise Unanswered("this source takes PromQL, the query is SQL")
        values = {
            "surface": subject.surface,
            "candidate": subject.candidate,
            "stable": subject.stable,
            "generation": str(subject.generation),
        }
        try:
            return fill(query, values)
        except InvalidField as error:
            raise Unanswered(str(error)) from None

    @contextmanager
    def opened(self) -> Iterator[Ask]:
        """Asynchronous for one reason: only so does the deadline hold against a server that drips."""
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}  # a compressed answer has no bound
        with asyncio.Runner() as runner:
            client = httpx.AsyncClient(verify=self._tls, auth=self._auth, headers=headers)
            try:
                yield partial(self._sample, runner, client)
            finally:
                runner.run(client.aclose())

    def _sample(
        self, runner: asyncio.Runner, client: httpx.AsyncClient, query: str, subject: Subject, *, seconds: float
    ) -> Sample:
        params = {
            "query": self.shown(query, subject),
            "time": f"{subject.now.timestamp():.3f}",
            "timeout": f"{seconds:.3f}",
        }
        try:
            status_code, body = runner.run(_answer_or_again(client, self.url, params, seconds))
        except httpx.ConnectTimeout:
            raise Unreachable(f"cannot be asked: no connection within {CONNECT_SECONDS:g} s") from None
        except (TimeoutError, httpx.TimeoutException):
            raise TooSlow(f"no answer within {seconds:.1f} s") from None
        except httpx.HTTPError as error:
            raise Unreachable(f"cannot be asked: {str(error) or type(error).__name__}") from None
        return _sample_of(status_code, body)


async def _answer_or_again(
    client: httpx.AsyncClient, url: httpx.URL, params: dict[str, str], seconds: float
) -> tuple[int, bytes]:
    """A kept connection may be closed just as it is used again: then the question goes out once more."""
    async with asyncio.timeout(seconds):
        try:
            return await _answer(client, url, params, seconds)
        except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError):
            return await _answer(client, url, params, seconds)


async def _answer(
    client: httpx.AsyncClient, url: httpx.URL, params: dict[str, str], seconds: float
) -> tuple[int, bytes]:
    timeout = httpx.Timeout(seconds, connect=min(seconds, CONNECT_SECONDS))
    body = b""
    async with client.stream("GET", url, params=params, timeout=timeout) as response:
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > MAX_BYTES:
                raise Unanswered(f"the answer is longer than {MAX_BYTES:_} bytes; aggregate with sum() or avg()")
        return response.status_code, body


def _sample_of(status_code: int, body: bytes) -> Sample:
    answer = _parsed(body)
    if answer.get("status") == "error":
        problem = f"{answer.get('errorType', 'error')}: {answer.get('error', 'without a word')}"
        raise TooSlow(problem) if answer.get("errorType") == "timeout" else Unanswered(problem)
    if status_code != httpx.codes.OK:
        raise Unreachable(_refusal(status_code, body))
    data = answer.get("data")
    if answer.get("status") != "success" or not isinstance(data, dict):
        raise Unanswered(f"not an answer of Prometheus: {_text(body)}")
    return Sample(value=_value_of(data.get("resultType"), data.get("result")), note=_warnings(answer))


def _parsed(body: bytes) -> dict[str, Any]:
    """Empty where the body is no JSON object."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _value_of(kind: object, result: object) -> float | None:
    match kind, result:
        case "vector", []:
            return None
        case "vector", [{"value": [_, str(number)]}]:
            return _number(number)
        case "vector", [{"histogram": _}]:
            raise Unanswered("the query is a histogram; take histogram_quantile() or histogram_avg() of it")
        case "vector", [_, _, *_] as series:
            raise Unanswered(f"{len(series)} series instead of one; aggregate them with sum() or avg()")
        case "scalar", [_, str(number)]:
            return _number(number)
        case "matrix", _:
            raise Unanswered(MATRIX_HINT)
        case _:
            raise Unanswered(f"neither a scalar nor a vector of one sample: {kind!r} {str(result)[:100]}")


def _number(text: str) -> float:
    if not NUMBER.fullmatch(text):
        raise Unanswered(f"the value is {text[:100]!r}, not a number")
    return float(text)


def _warnings(answer: dict[str, Any]) -> str:
    """Such as a Thanos store that was away: the number may be of a part of the data."""
    warnings = answer.get("warnings")
    return f"with a warning: {'; '.join(map(str, warnings))}" if isinstance(warnings, list) and warnings else ""


def _refusal(status_code: int, body: bytes) -> str:
    if 300 <= status_code < 400:
        return f"answered HTTP {status_code}; redirects are not followed, name the URL they lead to"
    return f"answered HTTP {status_code}: {_text(body)}"


def _text(body: bytes) -> str:
    return body.decode(errors="replace")
