"""One request, one change: what came under an `Idempotency-Key` once is answered again, not done again.

As in draft-ietf-httpapi-idempotency-key-header: the same key with the same request gets the same answer, with
another request 422; a twin of a request that is under way waits for its answer. Only what was done is remembered:
a refusal (4xx) or an outage (5xx) changed nothing, so the same key may try again.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from fastapi import Depends, Header, Request, Response, status
from pydantic import BaseModel
from sqlalchemy.orm import Session

from control_plane.api.deps import Operator, Sessions, WallNow, generation_tag
from control_plane.domain.errors import CommitUnknown, InvalidField
from control_plane.domain.model_version import digest_of
from control_plane.registry import idempotency
from control_plane.registry.idempotency import Answer, Keyed
from control_plane.registry.session import Sessions as RegistrySessions

KEY = re.compile(r'"([\x20\x21\x23-\x5b\x5d-\x7e]{1,255})"|([\x21\x23-\x5b\x5d-\x7e]{1,255})')  # quoted, or bare
REPLAYED = "Idempotency-Replayed"
JSON_TYPE = "application/json"

Change = Callable[[Session], Answer]


@dataclass(frozen=True, kw_only=True, slots=True)
class OncePerKey:
    """Carries out the request's change: called with it, answers it. Without a key it is simply carried out."""

    sessions: RegistrySessions
    request: Keyed | None
    now: datetime  # wall time: people and programs retry in it, whatever clock the rollouts follow

    def __call__(self, change: Change) -> Response:
        """In one transaction: the key, the change, and the answer. `change` may run again from the start."""
        if self.request is None:
            return _response(self.sessions.write(change))
        try:
            return self._carry_out(self.request, change)
        except CommitUnknown:  # the key is on record if the change is
            return self._carry_out(self.request, change)

    def replay(self) -> Response | None:
        """What the request was answered already: for routes that look at the outside world before they change."""
        if self.request is None:
            return None
        with self.sessions.reading() as session:
            before = idempotency.recall(session, self.request, now=self.now)
        return None if before is None else _response(before, is_replayed=True)

    def _carry_out(self, request: Keyed, change: Change) -> Response:
        def work(session: Session) -> tuple[Answer, bool]:
            before = idempotency.claim(session, request, now=self.now)
            if before is not None:
                return before, True
            answered = change(session)
            idempotency.record(session, request, answered)
            return answered, False

        answered, is_replayed = self.sessions.write(work)
        return _response(answered, is_replayed=is_replayed)


def answer(
    content: BaseModel | None,
    *,
    status: int = status.HTTP_200_OK,
    location: str | None = None,
    generation: int | None = None,
) -> Answer:
    """`generation` becomes the ETag."""
    headers = {"Location": location, "ETag": None if generation is None else generation_tag(generation)}
    told = {name: value for name, value in headers.items() if value is not None}
    return Answer(status=status, headers=told, body="" if content is None else content.model_dump_json())


async def _once(
    request: Request,
    operator: Operator,
    sessions: Sessions,
    now: WallNow,
    idempotency_key: Annotated[
        str | None,
        Header(
            description="a unique string of your own, up to 255 characters, kept for 24 h: repeats are answered alike"
        ),
    ] = None,
) -> OncePerKey:
    keyed = None
    if idempotency_key is not None:
        digest = await _digest_of(request)
        keyed = Keyed(operator=operator, key=_parsed(idempotency_key), request_digest=digest)
    return OncePerKey(sessions=sessions, request=keyed, now=now)


Once = Annotated[OncePerKey, Depends(_once)]


def _parsed(header: str) -> str:
    found = KEY.fullmatch(header.strip())
    if found is None:
        raise InvalidField("Idempotency-Key", "must be 1 to 255 printable ASCII characters, in quotes or bare")
    return found[1] or found[2]


async def _digest_of(request: Request) -> str:
    """Of what makes a request another one: method, target, the generation it is meant for, body."""
    target = f"{request.method} {request.url.path}?{request.url.query}\n{request.headers.get('if-match', '')}\n"
    return digest_of(target.encode() + await request.body())


def _response(answered: Answer, *, is_replayed: bool = False) -> Response:
    headers = {**answered.headers, **({REPLAYED: "true"} if is_replayed else {})}
    return Response(answered.body, answered.status, headers, media_type=JSON_TYPE if answered.body else None)
