"""What a page asks before anything happens, and where it leads once that was answered."""

from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

from fastapi import Request, Response
from sqlalchemy.orm import Session

from control_plane.admin.forms import Form, remember_operator
from control_plane.admin.rendering import render
from control_plane.domain.errors import InvalidField
from control_plane.registry.idempotency import Answer


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """`asks_why` says why a reason must be given; it may be left out where empty."""

    title: str
    consequences: tuple[str, ...]
    button: str
    icon: str
    is_danger: bool = False
    asks_why: str = ""


def ask(
    request: Request, question: Question, seen_generation: int | None, *, way_back: str, digest: str = ""
) -> Response:
    return render(
        request,
        "confirm.html",
        question=question,
        post_to=request.url.path,
        seen_generation=seen_generation,
        digest=digest,
        way_back=way_back,
    )


def carry_out(form: Form, change: Callable[[Session], object], *, then: str) -> Response:
    """Do it, once however often the form is sent, and lead to the address `then`.

    `change` may run again from the start where it is known that nothing was committed.
    """

    def work(session: Session) -> Answer:
        change(session)
        return Answer(status=HTTPStatus.SEE_OTHER, headers={"Location": then}, body="")

    response = form.once(work)
    remember_operator(response, form)
    return response


def given_reason(form: Form, why: str) -> str:
    if not form.reason:
        raise InvalidField("reason", f"is needed: {why}")
    return form.reason
