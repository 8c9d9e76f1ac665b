"""One attempt to tell one subscriber of one event. Whatever happens is an outcome, within a given time."""

import asyncio
import json
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from http import HTTPStatus
from importlib.metadata import version

import httpx

from control_plane.webhooks.signature import headers_of
from control_plane.webhooks.slack import message_of
from control_plane.webhooks.subscribers import Format, Subscriber

logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs every URL, and a URL may be a secret

USER_AGENT = f"surefoot/{version('surefoot')}"
CONTENT_TYPE = {Format.CLOUDEVENTS: "application/cloudevents+json; charset=utf-8", Format.SLACK: "application/json"}
MAX_SHOWN = 200  # characters of what a receiver says about a refusal
MAX_READ = 4_096  # bytes of its answer
ANSWER_SECONDS = 1.0  # for the body of an answer whose status is known already


class Ending(StrEnum):
    DELIVERED = "delivered"
    REFUSED = "refused"  # another status than 2xx
    GONE = "gone"  # 410: the receiver wants this no more
    TOO_SLOW = "too_slow"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    ending: Ending
    detail: str  # for people, and without secrets; empty if delivered
    retry_after_seconds: float | None = None


def make_client() -> httpx.AsyncClient:
    """Redirects are not followed: whoever may redirect would choose where signed events go."""
    return httpx.AsyncClient(follow_redirects=False, headers={"user-agent": USER_AGENT})


async def send(
    client: httpx.AsyncClient,
    subscriber: Subscriber,
    event: str,
    *,
    now: datetime,
    seconds: float,
    public_url: str,
) -> Outcome:
    """Post a CloudEvent in the subscriber's format and say what came of it; never raises.

    `seconds` are for all of it, from the name's look-up to the answer's status, however slowly its bytes drip in.
    """
    try:
        async with asyncio.timeout(seconds):
            return await _post(client, subscriber, event, now=now, public_url=public_url, seconds=seconds)
    except (TimeoutError, httpx.TimeoutException):
        return Outcome(ending=Ending.TOO_SLOW, detail=f"no answer within {seconds:g} s")
    except Exception as error:  # whatever a network, a certificate or a proxy does
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return Outcome(ending=Ending.UNREACHABLE, detail=_shown(subscriber, said))


async def _post(
    client: httpx.AsyncClient, subscriber: Subscriber, event: str, *, now: datetime, public_url: str, seconds: float
) -> Outcome:
    told = json.loads(event)
    is_slack = subscriber.format is Format.SLACK
    body = json.dumps(message_of(told, public_url=public_url)).encode() if is_slack else event.encode()
    headers = {"content-type": CONTENT_TYPE[subscriber.format]}
    headers |= headers_of(told["id"], body, subscriber.secrets, now=now)
    async with client.stream("POST", subscriber.url, content=body, headers=headers, timeout=seconds) as response:
        said = await _read(response)
        return _outcome(subscriber, response, said, now=now)


async def _read(response: httpx.Response) -> str:
    """The beginning of the answer's body: an answer that is read to its end leaves its connection for the next."""
    read = bytearray()
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            async for chunk in response.aiter_bytes():
                read += chunk
                if len(read) > MAX_READ:
                    break
    except (TimeoutError, httpx.HTTPError):
        pass  # its status has said what matters
    return bytes(read).decode("utf-8", "replace")


def _outcome(subscriber: Subscriber, response: httpx.Response, said: str, *, now: datetime) -> Outcome:
    if response.is_success:
        return Outcome(ending=Ending.DELIVERED, detail="")
    status = response.status_code
    detail = f"answered {status} {_phrase(status)}".rstrip()
    if response.is_redirect:
        detail += "; redirects are not followed"
    elif said.strip():
        detail += f": {said.strip()}"
    return Outcome(
        ending=Ending.GONE if status == HTTPStatus.GONE else Ending.REFUSED,
        detail=_shown(subscriber, detail),
        retry_after_seconds=_retry_after(response.headers.get("retry-after", ""), now=now),
    )


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase if status in list(HTTPStatus) else ""


def _retry_after(value: str, *, now: datetime) -> float | None:
    """Seconds, or an HTTP date; None where it is neither."""
    if value.strip().isascii() and value.strip().isdigit():
        return float(value.strip()[:9])
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, ((at if at.tzinfo is not None else at.replace(tzinfo=UTC)) - now).total_seconds())


def _shown(subscriber: Subscriber, text: str) -> str:
    """Cut after the secrets are out: a secret cut in two would not be found."""
    printable = "".join(letter if letter.isprintable() else " " for letter in text)
    return subscriber.hides(printable)[:MAX_SHOWN]
