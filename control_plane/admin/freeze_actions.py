"""Stopping the line and letting it go again."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from control_plane.admin import wording
from control_plane.admin.asking import Question, ask, carry_out, given_reason
from control_plane.admin.forms import Form, SentForm
from control_plane.admin.freezes import REPEATS, load_freezes
from control_plane.admin.problems import PageRoute
from control_plane.admin.rendering import render
from control_plane.api.deps import Id, Now, Sessions, Settings
from control_plane.api.freeze_schemas import FreezeIn
from control_plane.api.freezes import declaration
from control_plane.api.schemas import Name
from control_plane.registry import calendars, freezes, principals, surfaces

router = APIRouter(prefix="/freezes", route_class=PageRoute, include_in_schema=False)

FIELDS = ("surface", "owner", "starts_at", "ends_at", "duration", "recurrence", "time_zone", "bypass_group")


@router.get("")
def read_freezes(request: Request, sessions: Sessions, now: Now) -> Response:
    with sessions.reading() as session:
        view = load_freezes(session, now)
    return render(request, "freezes.html", page="/freezes", view=view)


@router.get("/declare")
def ask_to_stop_the_line(
    request: Request, sessions: Sessions, settings: Settings, surface: Annotated[Name | None, Query()] = None
) -> Response:
    with sessions.reading() as session:
        names = [state.surface for state in surfaces.list_surfaces(session)]
    groups = principals.group_names(settings.groups)
    return render(request, "declare.html", surfaces=names, surface=surface, groups=groups, repeats=REPEATS)


@router.post("/declare")
def stop_the_line(form: SentForm, settings: Settings, now: Now) -> Response:
    given_reason(form, "say why nothing may grow")
    declare = declaration(_freeze_in(form), groups=settings.groups, by=form.operator, now=now)
    return carry_out(form, declare, then="/freezes")


@router.get("/{freeze_id}/lift")
def ask_to_lift(request: Request, freeze_id: Id, sessions: Sessions, now: Now) -> Response:
    with sessions.reading() as session:
        freeze = freezes.get(session, freeze_id)
    names, stands = wording.surfaces_words(freeze.surface), calendars.window_at(freeze, now) is not None
    asked = f"{freeze.owner} declared it: {freeze.reason.rstrip('.')}. "
    may = f"Only {freeze.owner} and members of {freeze.bypass_group} may." if freeze.bypass_group else "Anyone may."
    again = "It recurs: lifting ends all of its times, not only the present one." if freeze.calendar else ""
    grows = "Rollouts that waited for it go on by themselves, at the scheduler's next check."
    question = Question(
        title=f"Lift freeze {freeze_id}, of {names[0].lower()}{names[1:]}?",
        consequences=tuple(filter(None, (asked + may, again, grows if stands else "It does not stand at present."))),
        button="Lift",
        icon="play",
        asks_why="Say why things may grow again. The reason stays with the freeze.",
    )
    return ask(request, question, None, way_back="/freezes")


@router.post("/{freeze_id}/lift")
def lift(freeze_id: Id, form: SentForm, now: Now) -> Response:
    reason = given_reason(form, "say why things may grow again")
    return carry_out(
        form,
        lambda session: freezes.lift(session, freeze_id, by=form.operator, groups=form.groups, reason=reason, now=now),
        then="/freezes",
    )


def _freeze_in(form: Form) -> FreezeIn:
    """What was filled in, read as the API reads it; `repeat` is the rule picked from a list."""
    given = {name: value for name in FIELDS if (value := form.fields.get(name, "").strip())}
    if "recurrence" not in given and (repeat := form.fields.get("repeat", "")):
        given["recurrence"] = repeat
    try:
        return FreezeIn.model_validate({**given, "reason": form.reason})
    except ValidationError as error:
        raise RequestValidationError([{**found, "loc": ("form", *found["loc"])} for found in error.errors()]) from error
